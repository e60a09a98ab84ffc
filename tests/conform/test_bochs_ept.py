"""Bochs' EPT on tables made by hand: every way in which an access can end, and that our answers are the machine's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import x86_world
from x86_world import (
    EVERYTHING,
    FETCH,
    GVA,
    NOT_MAPPED,
    READ,
    RSV,
    US,
    WR,
    WRITE,
    P,
    R,
    U,
    W,
    X,
    codes,
    kernel_accesses,
)

from opening import machine_fixture
from stage2.address import SIZE_1G, Gva, Hpa, Range
from stage2.conform.deviation import Difference
from stage2.conform.known.bochs_ept import DEVIATIONS
from stage2.conform.oracles.bochs_ept import ORACLE
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats.x86 import ept, longmode
from stage2.machines.bochs import DATA, BochsMachine
from stage2.tables.explain import explain_two_stage

GP, PF, VIOLATION, MISCONFIGURATION = 13 << 48, 14 << 48, 48 << 56, 49 << 56
LINEAR, FINAL = 1 << 7, 1 << 8
ACCESSES = {READ: 1, WRITE: 2, FETCH: 4}
GPA = 0x12_4000_0000
PAIR = ORACLE.pairs[0]
machine = machine_fixture(ORACLE.open)


class World(x86_world.World):
    oracle, gpa = ORACLE, GPA


def violation(access: Access, allowed: int, *, table: bool = False) -> int:
    """The code of an EPT violation, of the access itself or of one to a table."""
    return VIOLATION | ACCESSES[access] | allowed << 3 | LINEAR | (0 if table else FINAL)


def test_accesses_that_both_stages_allow_are_made(machine: BochsMachine) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    answers = world.ask(*((page + 8 * index, access, user) for index, (access, user) in enumerate(EVERYTHING)))
    assert answers["ok"].all()
    assert answers["value"].tolist() == [ORACLE.tag(1), ORACLE.tag(2), 0, 0, 0x5A5A_0005, 0x5A5A_0006]
    assert answers["hpa"].tolist() == [0, 0, DATA.start + 16, DATA.start + 24, 0, 0]
    assert machine.memory.load_u64(Hpa(DATA.start + 16)) == 0x5702


def test_each_stage_reports_what_is_not_mapped(machine: BochsMachine) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    answers = world.ask(*((GVA + 0x1008, access, user) for access, user in EVERYTHING))
    assert codes(answers) == [PF | error for error in NOT_MAPPED]
    assert set(answers["gva"].tolist()) == {GVA + 0x1008}
    world.second.unmap_range(GPA, 4096)
    answers = world.ask(*((page + 8, access, user) for access, user in EVERYTHING))
    assert codes(answers) == [violation(access, 0) for access, _ in EVERYTHING]
    assert set(answers["gpa"].tolist()) == {GPA + 8}
    assert set(answers["gva"].tolist()) == {GVA + 8}


def test_stage_1_reports_what_it_forbids(machine: BochsMachine) -> None:
    world = World(machine)
    probes, errors = zip(*world.forbidden(), strict=True)
    assert codes(world.ask(*probes)) == [PF | error for error in errors]


@pytest.mark.parametrize("flags", [R, R | W, R | X, X, RWX], ids=lambda flags: flags.short)
def test_ept_reports_what_it_forbids_and_what_it_allows(machine: BochsMachine, flags: MappingFlags) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    world.second.protect_range(GPA, 4096, flags)
    answers = world.ask(*((page + 8 * index, access, user) for index, (access, user) in enumerate(EVERYTHING)))
    assert codes(answers) == [0 if flags & access.flag else violation(access, flags) for access, _ in EVERYTHING]


def test_what_ept_allows_is_what_all_its_levels_allow(machine: BochsMachine) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    world.second.protect_range(GPA, 4096, R | X)
    world.change(world.slot(GPA, stage=2, level=2), clears=ept.X)
    assert codes(world.ask((page, WRITE, False), (page, FETCH, True), (page, READ, True))) == [
        violation(WRITE, R),
        violation(FETCH, R),
        0,
    ]


@pytest.mark.parametrize(
    ("level", "sets", "clears"),
    [
        (0, 0, ept.R),
        (1, 0, ept.R),
        (0, 0, ept.R | ept.X),
        (0, 7 << 3, 0),
        (0, 3 << 3, 6 << 3),
        (1, 1 << 4, 0),
        (2, 1 << 6, 0),
        (0, 1 << 40, 0),
        (2, 1 << 51, 0),
    ],
)
def test_entries_that_are_misconfigured(machine: BochsMachine, level: int, sets: int, clears: int) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    world.second.protect_range(GPA, 4096, R | W | X)
    world.second.protect_range(GPA + 4096, 4096, R)  # so that the block is split
    world.change(world.slot(GPA, stage=2, level=level), sets=sets, clears=clears)
    answers = world.ask((page + 8, READ, True), (page + 16, WRITE, False), (page, FETCH, False))
    assert codes(answers) == [MISCONFIGURATION] * 3
    assert answers["gpa"].tolist() == [GPA + 8, GPA + 16, GPA]


def test_bits_of_ept_that_are_ignored_change_nothing(machine: BochsMachine) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    world.second.protect_range(GPA + 4096, 4096, R)
    world.change(world.slot(GPA, stage=2), sets=0xFFF << 52 | 0xF << 7 | 1 << 6)
    world.change(world.slot(GPA, stage=2, level=2), sets=0xFFF << 52 | 0xF << 8)
    assert world.ask(*((page + 8 * index, access, user) for index, (access, user) in enumerate(EVERYTHING)))["ok"].all()


def test_a_table_of_the_guest_that_ept_refuses(machine: BochsMachine) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    slot = world.slot(page)
    world.second.protect_range(slot & ~0xFFF, 4096, X)
    answers = world.ask((page, WRITE, False), (page, FETCH, True))
    assert codes(answers) == [violation(READ, X, table=True)] * 2
    assert answers["gpa"].tolist() == [slot, slot]
    assert answers["gva"].tolist() == [page, page]
    world.second.unmap_range(slot & ~0xFFF, 4096)
    assert codes(world.ask((page, READ, False))) == [violation(READ, 0, table=True)]


@kernel_accesses
def test_what_the_kernel_may_do_hangs_on_its_registers(
    machine: BochsMachine, on: int, off: int, flags: MappingFlags, access: Access, error: int | None
) -> None:
    world = World(machine, on_1=on, off_1=off)
    code = 0 if error is None else PF | error
    assert codes(world.ask((world.page(0, flags), access, False))) == [code]


def test_without_nxe_bit_63_is_reserved_and_fetches_look_like_reads(machine: BochsMachine) -> None:
    world = World(machine, off_1=longmode.NXE)
    page, hole = world.page(0, RWX | U), GVA + 0x5000
    world.change(world.slot(page), sets=longmode.NX)
    assert codes(world.ask((page, READ, True), (hole, FETCH, True))) == [PF | P | RSV | US, PF | US]


@pytest.mark.parametrize("bit", [40, 51])
def test_address_bits_beyond_the_processor_are_reserved_for_the_guest_too(machine: BochsMachine, bit: int) -> None:
    world = World(machine)
    page = world.page(1, RWX | U)
    world.change(world.slot(page), sets=1 << bit)
    assert codes(world.ask((page, WRITE, True))) == [PF | P | RSV | WR | US]


def test_addresses_that_are_not_canonical_are_general_protection_faults(machine: BochsMachine) -> None:
    world = World(machine)
    edge = 1 << 47
    assert codes(world.ask(*((edge, access, user) for access, user in EVERYTHING))) == [GP] * 6
    assert codes(world.ask((edge - 8, READ, False), ((1 << 64) - edge, WRITE, True))) == [PF, PF | WR | US]


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("access", Access)
def test_accessed_and_dirty_bits_are_set_in_both_tables(machine: BochsMachine, access: Access, tracked: bool) -> None:
    world = World(machine, on_2=ept.AD_ENABLED if tracked else 0)
    page = world.page(0, RWX | U)
    leaf, of_table = world.slot(page), world.slot(page, level=1)
    marks, nested = longmode.A | longmode.D, ept.ACCESSED | ept.DIRTY
    final, final_table = world.slot(GPA, stage=2, level=1), world.slot(GPA, stage=2, level=3)
    under = world.slot(leaf, stage=2, level=1)
    for slot in (leaf, of_table):
        world.change(slot, clears=marks)
    for slot in (final, final_table, under):
        world.change(slot, clears=nested)
    world.ask((page + 8, access, True))
    word = machine.memory.load_u64
    dirty = access is WRITE
    assert word(leaf) & marks == longmode.A | (longmode.D if dirty else 0)
    assert word(of_table) & marks == longmode.A
    assert word(final) & nested == (ept.ACCESSED | (ept.DIRTY if dirty else 0) if tracked else 0)
    assert word(final_table) & ept.ACCESSED == (ept.ACCESSED if tracked else 0)
    assert word(under) & nested == (nested if tracked else 0)


def test_blocks_of_every_size_lead_where_we_say(machine: BochsMachine) -> None:
    World(machine).require_blocks(SIZE_1G << 6)


def test_a_write_that_went_elsewhere_is_seen(machine: BochsMachine) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    case, predictions = world.case((page, WRITE, False))
    predictions.hpa[:1] += np.uint64(4096)
    answers, expected = ORACLE.answers(machine, case), ORACLE.expected(case, predictions)
    assert answers["ok"].all()
    assert answers["hpa"] != expected["hpa"]


# --- what Bochs does otherwise --------------------------------------------------------------------------------------
DEVIATION = {found.name: found for found in DEVIATIONS}


def walk_of(world: World, probe: tuple[int, Access, bool]) -> Any:
    address, access, user = probe
    return explain_two_stage(world.machine.memory, *world.regimes, Gva(address), access, user=user)


def test_bochs_tells_accesses_to_tables_as_writes_only(machine: BochsMachine) -> None:
    world = World(machine, on_2=ept.AD_ENABLED)
    page = world.page(0, RWX | U)
    world.second.protect_range(world.slot(page) & ~0xFFF, 4096, R)
    probes = [(page, READ, False), (page + 8, FETCH, True)]
    answers = world.ask(*probes, agrees=False)
    assert codes(answers) == [VIOLATION | 2 | R << 3 | LINEAR] * 2
    assert codes(world.expected) == [VIOLATION | 3 | R << 3 | LINEAR] * 2
    explains_all = DEVIATION["accesses to tables told as writes only"].explains_all
    assert explains_all is not None
    assert explains_all(world.case(*probes)[0].probes, world.expected, answers).all()


@pytest.mark.parametrize("level", [0, 2])
def test_bochs_marks_tables_that_ept_protects(machine: BochsMachine, level: int) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    slot = world.slot(page, level=level)
    world.change(slot, clears=longmode.A | longmode.D)
    world.second.protect_range(slot & ~0xFFF, 4096, R)
    probe = (page, WRITE, True)
    walk = walk_of(world, probe)
    assert world.ask(probe, agrees=False)["ok"].all()
    assert codes(world.expected) == [VIOLATION | 3 | R << 3 | LINEAR]
    marks = longmode.A if level else longmode.A | longmode.D
    assert machine.memory.load_u64(slot) & (longmode.A | longmode.D) == marks
    reads_as = DEVIATION["marks in tables that EPT protects"].reads_as
    assert reads_as is not None
    assert reads_as(walk) == (slot, machine.memory.load_u64(slot))


def test_bochs_ignores_bit_12_of_blocks(machine: BochsMachine) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    slot = world.slot(GPA, stage=2, level=1)
    world.change(slot, sets=1 << 12)
    probe = (page, WRITE, False)
    walk = walk_of(world, probe)
    assert world.ask(probe, agrees=False)["ok"].all()
    assert codes(world.expected) == [MISCONFIGURATION]
    reads_as = DEVIATION["bit 12 of blocks"].reads_as
    assert reads_as is not None
    assert reads_as(walk) == (slot, machine.memory.load_u64(slot) & ~(1 << 12))
    # Bit 13 is as the manual says.
    world.change(slot, sets=1 << 13, clears=1 << 12)
    assert codes(world.ask(probe)) == [MISCONFIGURATION]


def test_what_is_explained_is_nothing_else(machine: BochsMachine) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    probe = (page, READ, False)
    answers = world.ask(probe)
    other = answers.copy()
    other["ok"], other["code"] = 0, violation(READ, 0)
    walk = walk_of(world, probe)
    for found in DEVIATIONS:
        assert not found.explains(Difference(world.case(probe)[0].probes[0], answers[0], other[0], walk))
        assert found.explains_all is None or not found.explains_all(world.case(probe)[0].probes, answers, other).any()
        assert found.reads_as is None or found.reads_as(walk) is None


# --- the oracle itself ----------------------------------------------------------------------------------------------
def test_tags_differ_and_are_the_code_they_should_be() -> None:
    tags = {ORACLE.tag(index) for index in range(1 << 16)}
    assert len(tags) == 1 << 16
    assert ORACLE.tag(0x1234).to_bytes(8, "little") == b"\xb8\x34\x12\x5a\x5a\x0f\x01\xc1"
    assert ORACLE.tag(1) & 7 == 0, "no entry that is present"


def test_places_begin_where_no_single_bit_leads_from_one_to_another(machine: BochsMachine) -> None:
    places = ORACLE.places(machine, PAIR)
    starts = [places.tables.start, places.data.start, *(part.target for part in places.fixtures if part.stage == 2)]
    assert all((a ^ b).bit_count() > 1 for a in starts for b in starts if a != b)
    assert Range(0, 1 << 40).contains(places.data.end)
    assert all(fixture.address < 1 << 40 for fixture in places.fixtures if fixture.stage == 2)
