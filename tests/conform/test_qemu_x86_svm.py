"""QEMU's SVM on tables made by hand: every way in which an access can end, and that our answers are the machine's."""

from __future__ import annotations

import numpy as np
import pytest
import x86_world
from x86_world import EVERYTHING, FETCH, GVA, ID, NOT_MAPPED, READ, RSV, US, WR, WRITE, P, R, U, codes, kernel_accesses

from opening import machine_fixture
from stage2.address import SIZE_1G, Hpa
from stage2.conform.oracle import Case, Pair
from stage2.conform.oracles.qemu_x86_svm import DATA, ORACLE, QemuX86Svm
from stage2.conform.probe import Answers
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats.x86 import longmode
from stage2.machines.x86_svm import INVLPGA, TLB_CONTROL, X86SvmMachine

PF, NPF, GP = 0x4E << 48, 0x400 << 48, 0x4D << 48
FINAL, TABLE = 1 << 32, 1 << 33
GPA = 0x1234_0000_0000
PAIRS = pytest.mark.parametrize("pair", ORACLE.pairs, ids=[pair.name for pair in ORACLE.pairs])
machine = machine_fixture(ORACLE.open)


class World(x86_world.World):
    oracle, gpa = ORACLE, GPA

    def answers(self, case: Case) -> Answers:
        """The machine's answers, with the P that QEMU leaves out beside RSV."""
        answers = super().answers(case)
        reserved = answers["code"] & np.uint64(RSV) != 0
        answers["code"][reserved] |= np.uint64(P)
        return answers


@PAIRS
def test_accesses_that_both_stages_allow_are_made(machine: X86SvmMachine, pair: Pair) -> None:
    world = World(machine, pair)
    page = world.page(0, RWX | U)
    answers = world.ask(*((page + 8 * index, access, user) for index, (access, user) in enumerate(EVERYTHING)))
    assert answers["ok"].all()
    assert machine.memory.load_u64(Hpa(DATA.start + 16)) == 0x5702
    assert machine.memory.load_u64(Hpa(DATA.start + 24)) == 0x5703


@PAIRS
def test_each_stage_reports_what_is_not_mapped(machine: X86SvmMachine, pair: Pair) -> None:
    world = World(machine, pair)
    page = world.page(0, RWX | U)
    probes = [(GVA + 0x1008, access, user) for access, user in EVERYTHING]
    assert codes(world.ask(*probes)) == [PF | error for error in NOT_MAPPED]
    world.second.unmap_range(GPA, 4096)
    answers = world.ask(*((page + 8, access, user) for access, user in EVERYTHING))
    nested = NPF | US | FINAL
    assert codes(answers) == [nested, nested, nested | WR, nested | WR, nested | ID, nested | ID]
    assert set(answers["gpa"].tolist()) == {GPA + 8}


@PAIRS
def test_each_stage_reports_what_it_forbids(machine: X86SvmMachine, pair: Pair) -> None:
    world = World(machine, pair)
    probes, errors = zip(*world.forbidden(), strict=True)
    assert codes(world.ask(*probes)) == [PF | error for error in errors]
    page = world.page(3, RWX | U)
    world.second.protect_range(GPA + 0x3000, 4096, R)
    nested = NPF | P | US | FINAL
    assert codes(world.ask((page, READ, True), (page, WRITE, True), (page, FETCH, False))) == [
        0,
        nested | WR,
        nested | ID,
    ]


def test_a_nested_page_without_us_allows_nothing(machine: X86SvmMachine) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    slot = world.slot(GPA, stage=2, level=1)
    world.change(slot, clears=longmode.US)
    nested = NPF | P | US | FINAL
    assert codes(world.ask((page, READ, False), (page, WRITE, True))) == [nested, nested | WR]


@PAIRS
def test_an_access_to_a_table_of_the_guest_counts_as_a_write(machine: X86SvmMachine, pair: Pair) -> None:
    world = World(machine, pair)
    page = world.page(0, RWX | U)
    slot = world.slot(page)
    world.second.protect_range(slot & ~0xFFF, 4096, R)
    answers = world.ask((page, READ, False), (page, FETCH, True))
    assert codes(answers) == [NPF | P | WR | US | TABLE] * 2
    assert answers["gpa"].tolist() == [slot, slot]
    world.second.unmap_range(slot & ~0xFFF, 4096)
    assert codes(world.ask((page, READ, False))) == [NPF | WR | US | TABLE]


@kernel_accesses
def test_what_the_kernel_may_do_hangs_on_its_registers(
    machine: X86SvmMachine, on: int, off: int, flags: MappingFlags, access: Access, error: int | None
) -> None:
    world = World(machine, on_1=on, off_1=off)
    code = 0 if error is None else PF | error
    assert codes(world.ask((world.page(0, flags), access, False))) == [code]


def test_without_nxe_bit_63_is_reserved_and_fetches_look_like_reads(machine: X86SvmMachine) -> None:
    world = World(machine, off_1=longmode.NXE)
    page, hole = world.page(0, RWX | U), GVA + 0x5000
    slot = world.slot(page)
    world.change(slot, sets=longmode.NX)
    assert codes(world.ask((page, READ, True), (hole, FETCH, True))) == [PF | P | RSV | US, PF | US]
    world = World(machine, off_2=longmode.NXE)
    page, slot = world.page(0, RWX | U), world.slot(GPA, stage=2, level=1)
    world.change(slot, sets=longmode.NX)
    assert codes(world.ask((page, READ, True))) == [NPF | P | RSV | US | FINAL]


@pytest.mark.parametrize("bit", [50, 51])
def test_address_bits_beyond_the_processor_are_reserved_at_both_stages(machine: X86SvmMachine, bit: int) -> None:
    world = World(machine)
    page, other = world.page(0, RWX | U), world.page(1, RWX | U)
    slot = world.slot(other)
    world.change(slot, sets=1 << bit)
    assert codes(world.ask((page, READ, True), (other, WRITE, True))) == [0, PF | P | RSV | WR | US]
    slot = world.slot(GPA, stage=2, level=1)
    world.change(slot, sets=1 << bit)
    assert codes(world.ask((page, READ, True))) == [NPF | P | RSV | US | FINAL]


@PAIRS
def test_addresses_that_are_not_canonical_are_general_protection_faults(machine: X86SvmMachine, pair: Pair) -> None:
    world = World(machine, pair)
    edge = 1 << world.first.format.input_bits - 1
    probes = [(edge, access, user) for access, user in EVERYTHING]
    assert codes(world.ask(*probes)) == [GP] * 6
    assert codes(world.ask((edge - 8, READ, False), ((1 << 64) - edge, WRITE, True))) == [PF, PF | WR | US]


@pytest.mark.parametrize(
    ("access", "leaf_1"), [(READ, longmode.A), (FETCH, longmode.A), (WRITE, longmode.A | longmode.D)]
)
def test_accessed_and_dirty_bits_are_set_in_both_tables(machine: X86SvmMachine, access: Access, leaf_1: int) -> None:
    world = World(machine)
    page, marks = world.page(0, RWX | U), longmode.A | longmode.D
    of_table = world.slot(page, level=1)
    leaf, nested = world.slot(page), world.slot(GPA, stage=2, level=1)
    tables = world.slot(leaf, stage=2, level=1)
    for slot in (leaf, nested, of_table, tables):
        world.change(slot, clears=marks)
    world.ask((page + 8, access, True))
    left = [machine.memory.load_u64(slot) & marks for slot in (leaf, nested, of_table, tables)]
    assert left == [leaf_1, leaf_1, longmode.A, marks]


def test_blocks_of_every_size_lead_where_we_say(machine: X86SvmMachine) -> None:
    World(machine).require_blocks(SIZE_1G << 8)


def test_operations_on_the_tlb_are_done(machine: X86SvmMachine) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    world.ask((page, READ, True))
    machine.invalidate((TLB_CONTROL, 3), (INVLPGA, page), (TLB_CONTROL, 7), (TLB_CONTROL, 1))
    world.ask((page, READ, True))


def test_tags_differ_and_are_the_code_they_should_be() -> None:
    tags = {ORACLE.tag(index) for index in range(1 << 16)}
    assert len(tags) == 1 << 16
    assert (0x5A5A_1234).to_bytes(4, "little") in ORACLE.tag(0x1234).to_bytes(8, "little")
    assert ORACLE.tag(1) & 1 == 0, "no entry that is present"


def test_it_answers_for_what_it_says() -> None:
    assert isinstance(ORACLE, QemuX86Svm)
    assert {pair.second for pair in ORACLE.pairs} == {"npt4", "npt5"}
    assert {pair.first for pair in ORACLE.pairs} == {"x86-4level", "x86-5level"}
