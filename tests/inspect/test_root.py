"""Roots as text, and the roots that registers select."""

from __future__ import annotations

import pytest

from stage2.errors import ConfigError
from stage2.formats import by_name, families, family_for
from stage2.inspect.root import given_roots, parse_root, root_text
from stage2.tables.regime import Regime

NAMES = [name for family in families().values() for name in family.names]


@pytest.mark.parametrize("name", NAMES)
def test_a_root_with_any_control_is_read_back_as_it_is_written(name: str) -> None:
    fmt = by_name(name)
    for switch in fmt.switches:
        regime = Regime(fmt, 0x4000_0000, fmt.controls_with(switch))
        assert parse_root(root_text(regime)) == regime
    odd = Regime(fmt, 0x4000_0000, fmt.default_controls ^ 1)
    assert parse_root(root_text(odd)) == odd


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sv39", "write FORMAT@ADDRESS"),
        ("sv39@", "write FORMAT@ADDRESS"),
        ("sv38@0x1000", "no format is called 'sv38'"),
        ("sv39@zz", "zz is no number"),
        ("sv39@0x1008", "not a multiple"),
        ("sv39@0x1000,nothing", "nothing means nothing for sv39"),
        ("sv39@0x1000,sum=maybe", "a control is on (1) or off (0)"),
    ],
)
def test_a_root_that_is_written_wrong_is_refused_with_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="--root") as caught:
        parse_root(text)
    assert said in str(caught.value)


def test_a_root_of_stage_1_goes_through_the_one_of_stage_2() -> None:
    first, second = given_roots(["sv39@0x8020_1000", "sv39x4@0x9000_0000"])
    assert first.under == second
    assert (first.stage, second.stage) == (1, 2)
    with pytest.raises(ConfigError, match="one root of each stage"):
        given_roots(["sv39@0x1000", "sv39@0x2000"])
    with pytest.raises(ConfigError, match="one architecture"):
        given_roots(["sv39@0x1000", "ept4@0x2000"])


def test_a_hart_that_runs_a_guest_tells_the_guests_tables_as_satp() -> None:
    registers = {"hgatp": 8 << 60 | 3 << 44 | 0x8_0000, "satp": 8 << 60 | 0x8_1000, "vsatp": 0, "virt": 1}
    found, problems = family_for("riscv64").roots(registers)
    assert not problems
    assert [(one.register, one.format.name, one.root, one.active, one.below) for one in found] == [
        ("hgatp", "sv39x4", 0x8000_0000, True, ""),
        ("satp", "sv39", 0x8100_0000, True, "hgatp"),
    ]


def test_a_stage_2_that_is_switched_off_is_told_all_the_same() -> None:
    vtcr, vttbr = 0x802A_3558, 0x1_0000_4413_6000
    registers = {"VTCR_EL2": vtcr, "VTTBR_EL2": vttbr, "HCR_EL2": 1 << 34 | 1 << 27, "cpsr": 0x3C9}
    (found,), problems = family_for("aarch64").roots(registers)
    assert not problems
    assert (found.format.name, found.root, found.active, found.identifier) == ("arm-s2-4k-40", 0x4413_6000, False, 1)
    assert "off" in found.role


def test_registers_that_make_no_sense_are_told_and_select_nothing() -> None:
    found, problems = family_for("riscv64").roots({"satp": 5 << 60})
    assert found == ()
    assert "MODE 5 is reserved" in problems[0]


def test_a_cpu_of_x86_with_five_levels_has_them_in_both_stages() -> None:
    registers = {"CR0": 1 << 31, "CR3": 0x123_4018, "CR4": 1 << 5 | 1 << 12, "EFER": 0xD00, "N_CR3": 0x567_8000}
    found, _ = family_for("x86_64").roots(registers)
    assert [(one.format.name, one.root) for one in found] == [("npt5", 0x567_8000), ("x86-5level", 0x123_4000)]
