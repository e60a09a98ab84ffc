"""What Bochs can be asked since version 3: mode-based execute control, and guests with five levels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import x86_world
from x86_world import EVERYTHING, FETCH, READ, WRITE, U, codes

from opening import oracle_or_skip
from stage2.conform.oracles.bochs_ept import BochsEpt
from stage2.flags import RWX
from stage2.formats.x86 import ept
from stage2.machines.bochs import FIVE_LEVELS, FOUR_LEVELS, BochsMachine

GPA = 0x12_4000_0000
ORACLE = BochsEpt(3)
FETCHED, READABLE, WRITABLE, USER_FETCHES, LINEAR, FINAL = 1 << 2, 1 << 3, 1 << 4, 1 << 6, 1 << 7, 1 << 8
VIOLATION = 48 << 56


@pytest.fixture(scope="module")
def machine() -> Iterator[BochsMachine]:
    oracle_or_skip(ORACLE.name)
    with ORACLE.open() as found:
        yield found


class World(x86_world.World):
    oracle, gpa = ORACLE, GPA


@pytest.mark.parametrize("user_page", [False, True], ids=["supervisor page", "user page"])
@pytest.mark.parametrize("allowed", [ept.X, ept.X_USER, ept.X | ept.X_USER], ids=["XS", "XU", "both"])
def test_under_mode_based_execute_control_the_pages_mode_says_which_bit_decides(
    machine: BochsMachine, allowed: int, user_page: bool
) -> None:
    """SDM Vol. 3C, 30.3.2, bits 2 and 10 of a leaf: fetches from supervisor-mode and user-mode linear addresses."""
    world = World(machine, on_2=ept.MODE_BASED_EXECUTE)
    page = world.page(0, RWX | U if user_page else RWX)
    world.change(world.slot(GPA, stage=2, level=1), sets=allowed, clears=(ept.X | ept.X_USER) & ~allowed)
    made = bool(allowed & (ept.X_USER if user_page else ept.X))
    (answer,) = world.ask((page, FETCH, user_page))
    # SDM Vol. 3C, 29.2.1: bit 5 tells of supervisor-mode fetches, bit 6 of user-mode ones.
    told = READABLE | WRITABLE | (1 << 5 if allowed & ept.X else 0) | (USER_FETCHES if allowed & ept.X_USER else 0)
    assert int(answer["code"]) == (0 if made else VIOLATION | FETCHED | told | LINEAR | FINAL)
    assert int(answer["ok"]) == made


def test_a_guest_with_five_levels_runs_and_is_refused_as_one_with_four(machine: BochsMachine) -> None:
    four, five = (next(pair for pair in ORACLE.pairs if pair.first == name) for name in ("x86-4level", "x86-5level"))
    world = World(machine, five)
    page = world.page(0, RWX | U)
    assert world.ask(*((page + 8 * index, access, user) for index, (access, user) in enumerate(EVERYTHING)))["ok"].all()
    assert machine.model == FIVE_LEVELS
    assert machine.capabilities.linear_bits == 57
    world.second.protect_range(GPA, 4096, RWX & ~ept.W)
    assert codes(world.ask((page, WRITE, True), (page, READ, True))) == [
        VIOLATION | 1 << 1 | READABLE | 1 << 5 | LINEAR | FINAL, 0,
    ]  # fmt: skip
    # SDM Vol. 1, 3.3.7.1: bits 63:56 of an address with five levels are alike, or it is a general protection fault.
    assert codes(world.ask((1 << 56, READ, False), (1 << 55, READ, False))) == [13 << 48, 14 << 48]
    world = World(machine, four)
    assert world.ask((world.page(0, RWX), READ, False))["ok"].all()
    assert machine.model == FOUR_LEVELS


def test_an_older_bochs_is_not_asked_for_either() -> None:
    (pair,) = BochsEpt(2).pairs
    assert pair.first == "x86-4level"
    assert "mbec" not in pair.switches_2
    assert any("mbec" in sentence for sentence in BochsEpt(2).unjudged)
