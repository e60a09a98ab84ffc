"""QEMU's SVM on tables made by hand: every way in which an access can end, and that our answers are the machine's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from stage2.address import SIZE_1G, SIZE_2M, Hpa, Range
from stage2.conform.oracle import Case, Pair, Predictions
from stage2.conform.oracles.qemu_x86_svm import DATA, ORACLE, TABLES, QemuX86Svm
from stage2.conform.probe import PROBE, Answers
from stage2.errors import HostToolError
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats import by_name
from stage2.formats.record import Format
from stage2.formats.x86 import longmode
from stage2.machines.x86_svm import INVLPGA, TLB_CONTROL, X86SvmMachine
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.tables.batch import translate_two_stage_batch
from stage2.tables.compiled import host_memory
from stage2.tables.explain import explain_two_stage
from stage2.tables.pagetable import PageTable

OWNER = Owner(OwnerKind.TABLES, "test")
R, RW, RX = MappingFlags.READ, MappingFlags.READ | MappingFlags.WRITE, MappingFlags.READ | MappingFlags.EXECUTE
U = MappingFlags.USER
PF, NPF, GP = 0x4E << 48, 0x400 << 48, 0x4D << 48
P, W, US, RSV, ID = 1, 2, 4, 8, 16
FINAL, TABLE = 1 << 32, 1 << 33
GVA, GPA = 0x7000_0000_0000, 0x1234_0000_0000
"""2 MiB windows for the tests' own pages: GVA leads to GPA, GPA to DATA."""
PAIRS = pytest.mark.parametrize("pair", ORACLE.pairs, ids=[pair.name for pair in ORACLE.pairs])
PAIR = ORACLE.pairs[0]


@pytest.fixture(scope="module")
def machine() -> Iterator[X86SvmMachine]:
    try:
        found = ORACLE.open()
    except HostToolError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with found:
        yield found


class World:
    """Tables of both stages: the guest's own lie where GPA equals HPA, GVA leads to GPA and GPA to DATA.

    Args:
        off_1, on_1, off_2: control bits that differ from the judge's usual ones.
    """

    def __init__(
        self, machine: X86SvmMachine, pair: Pair = PAIR, *, on_1: int = 0, off_1: int = 0, off_2: int = 0
    ) -> None:
        machine.memory.zero(TABLES)
        machine.memory.zero(Range.sized(DATA.start, 4 * SIZE_2M))
        self.machine, self.pair, self.places = machine, pair, ORACLE.places(machine, pair)
        frames = FrameAllocator(machine.memory)
        for start, end in ((0, TABLES.start), (TABLES.end, machine.RAM.end)):
            frames.claim(Range(start, end), owner=Owner(OwnerKind.RESERVED, "rest"))

        def table(fmt: Format, controls: int) -> PageTable:
            return PageTable(fmt, frames, owner=OWNER, controls=controls)

        self.second = table(by_name(pair.second), ORACLE.controls(pair, 2) & ~off_2)
        self.first = table(by_name(pair.first or ""), ORACLE.controls(pair, 1) & ~off_1 | on_1)
        self.second.map_range(TABLES.start, Hpa(TABLES.start), TABLES.size, RWX)
        self.second.map_range(GPA, Hpa(DATA.start), SIZE_2M, RWX)
        for fixture in self.places.fixtures:
            stage = self.first if fixture.stage == 1 else self.second
            stage.map_range(fixture.address, Hpa(fixture.target), fixture.size, fixture.flags)

    def page(self, number: int, flags: MappingFlags) -> int:
        """Map one page of GVA; its address."""
        self.first.map_page(GVA + 4096 * number, Hpa(GPA + 4096 * number), flags)
        return GVA + 4096 * number

    def slot(self, address: int, stage: int = 1, level: int = 0) -> Hpa:
        """Where the entry for an address is, at a level."""
        if stage == 2:
            return next(step.slot_hpa for step in self.second.explain(address).steps if step.level == level)
        walk = explain_two_stage(self.machine.memory, self.first.regime, self.second.regime, address)  # type: ignore[arg-type]
        return next(step.slot_hpa for step in walk.steps if step.stage == 1 and step.level == level)

    def ask(self, *probes: tuple[int, Access, bool]) -> Answers:
        """The machine's answers to (address, access, user), which ours must equal but for P beside RSV."""
        made = np.zeros(len(probes), PROBE)
        for index, (address, access, user) in enumerate(probes):
            made[index] = (address, 0x5700 + index if access is Access.WRITE else 0, access, user, 0)
        case = Case(self.pair, self.first.regime, self.second.regime, made)
        predictions = self.predict(case)
        arrives = (predictions.status == 0) & (made["access"] != Access.WRITE)
        for index in np.flatnonzero(arrives).tolist():
            predictions.memory[index] = ORACLE.tag(index + 1)
            self.machine.memory.store_u64(Hpa(int(predictions.hpa[index])), ORACLE.tag(index + 1))
        assert ORACLE.allows(case, predictions).all()
        answers, expected = ORACLE.answers(self.machine, case), ORACLE.expected(case, predictions)
        reserved = answers["code"] & np.uint64(RSV) != 0
        answers["code"][reserved] |= np.uint64(P)
        assert (answers == expected).all(), (answers, expected)
        return answers

    def predict(self, case: Case) -> Predictions:
        host, first, second = host_memory(self.machine.memory), self.first.regime, self.second.regime
        found = [
            translate_two_stage_batch(host, first, second, [address], Access(int(access)), user=bool(user))
            for address, _, access, user, _ in case.probes
        ]

        def column(name: str) -> Any:
            return np.concatenate([getattr(batch, name) for batch in found])

        return Predictions(
            column("status"), column("hpa"), column("gpa"), column("permissions"), np.zeros(len(found), np.uint64)
        )


def codes(answers: Answers) -> list[int]:
    return [int(code) for code in answers["code"]]


READ, WRITE, FETCH = Access.READ, Access.WRITE, Access.FETCH
EVERYTHING = [(access, user) for access in Access for user in (False, True)]


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
    assert codes(world.ask(*probes)) == [PF, PF | US, PF | W, PF | W | US, PF | ID, PF | ID | US]
    world.second.unmap_range(GPA, 4096)
    answers = world.ask(*((page + 8, access, user) for access, user in EVERYTHING))
    nested = NPF | US | FINAL
    assert codes(answers) == [nested, nested, nested | W, nested | W, nested | ID, nested | ID]
    assert set(answers["gpa"].tolist()) == {GPA + 8}


@PAIRS
def test_each_stage_reports_what_it_forbids(machine: X86SvmMachine, pair: Pair) -> None:
    world = World(machine, pair)
    kernel, fixed, data = world.page(0, RWX), world.page(1, RX | U), world.page(2, RW | U)
    probes = [
        (kernel, READ, True),
        (fixed, WRITE, False),
        (fixed, WRITE, True),
        (data, FETCH, False),
        (data, FETCH, True),
    ]
    assert codes(world.ask(*probes)) == [PF | P | US, PF | P | W, PF | P | W | US, PF | P | ID, PF | P | ID | US]
    page = world.page(3, RWX | U)
    world.second.protect_range(GPA + 0x3000, 4096, R)
    nested = NPF | P | US | FINAL
    assert codes(world.ask((page, READ, True), (page, WRITE, True), (page, FETCH, False))) == [
        0,
        nested | W,
        nested | ID,
    ]


def test_a_nested_page_without_us_allows_nothing(machine: X86SvmMachine) -> None:
    world = World(machine)
    page = world.page(0, RWX | U)
    slot = world.slot(GPA, stage=2, level=1)
    machine.memory.store_u64(slot, machine.memory.load_u64(slot) & ~longmode.US)
    nested = NPF | P | US | FINAL
    assert codes(world.ask((page, READ, False), (page, WRITE, True))) == [nested, nested | W]


@PAIRS
def test_an_access_to_a_table_of_the_guest_counts_as_a_write(machine: X86SvmMachine, pair: Pair) -> None:
    world = World(machine, pair)
    page = world.page(0, RWX | U)
    slot = world.slot(page)
    world.second.protect_range(slot & ~0xFFF, 4096, R)
    answers = world.ask((page, READ, False), (page, FETCH, True))
    assert codes(answers) == [NPF | P | W | US | TABLE] * 2
    assert answers["gpa"].tolist() == [slot, slot]
    world.second.unmap_range(slot & ~0xFFF, 4096)
    assert codes(world.ask((page, READ, False))) == [NPF | W | US | TABLE]


@pytest.mark.parametrize(
    ("on", "off", "flags", "access", "code"),
    [
        (0, 0, RX, WRITE, PF | P | W),
        (0, longmode.WP, RX, WRITE, 0),
        (0, 0, RWX | U, FETCH, 0),
        (longmode.SMEP, 0, RWX | U, FETCH, PF | P | ID),
        (longmode.SMEP, 0, RWX | U, READ, 0),
        (longmode.SMAP, 0, RWX | U, READ, PF | P),
        (longmode.SMAP, 0, RWX | U, WRITE, PF | P | W),
        (longmode.SMAP, 0, RWX | U, FETCH, 0),
        (longmode.SMAP | longmode.SMEP, 0, RWX, FETCH, 0),
        (0, longmode.NXE, RWX, FETCH, 0),
    ],
)
def test_what_the_kernel_may_do_hangs_on_its_registers(
    machine: X86SvmMachine, on: int, off: int, flags: MappingFlags, access: Access, code: int
) -> None:
    world = World(machine, on_1=on, off_1=off)
    assert codes(world.ask((world.page(0, flags), access, False))) == [code]


def test_without_nxe_bit_63_is_reserved_and_fetches_look_like_reads(machine: X86SvmMachine) -> None:
    world = World(machine, off_1=longmode.NXE)
    page, hole = world.page(0, RWX | U), GVA + 0x5000
    slot = world.slot(page)
    machine.memory.store_u64(slot, machine.memory.load_u64(slot) | longmode.NX)
    assert codes(world.ask((page, READ, True), (hole, FETCH, True))) == [PF | P | RSV | US, PF | US]
    world = World(machine, off_2=longmode.NXE)
    page, slot = world.page(0, RWX | U), world.slot(GPA, stage=2, level=1)
    machine.memory.store_u64(slot, machine.memory.load_u64(slot) | longmode.NX)
    assert codes(world.ask((page, READ, True))) == [NPF | P | RSV | US | FINAL]


@pytest.mark.parametrize("bit", [50, 51])
def test_address_bits_beyond_the_processor_are_reserved_at_both_stages(machine: X86SvmMachine, bit: int) -> None:
    world = World(machine)
    page, other = world.page(0, RWX | U), world.page(1, RWX | U)
    slot = world.slot(other)
    machine.memory.store_u64(slot, machine.memory.load_u64(slot) | 1 << bit)
    assert codes(world.ask((page, READ, True), (other, WRITE, True))) == [0, PF | P | RSV | W | US]
    slot = world.slot(GPA, stage=2, level=1)
    machine.memory.store_u64(slot, machine.memory.load_u64(slot) | 1 << bit)
    assert codes(world.ask((page, READ, True))) == [NPF | P | RSV | US | FINAL]


@PAIRS
def test_addresses_that_are_not_canonical_are_general_protection_faults(machine: X86SvmMachine, pair: Pair) -> None:
    world = World(machine, pair)
    edge = 1 << world.first.format.input_bits - 1
    probes = [(edge, access, user) for access, user in EVERYTHING]
    assert codes(world.ask(*probes)) == [GP] * 6
    assert codes(world.ask((edge - 8, READ, False), ((1 << 64) - edge, WRITE, True))) == [PF, PF | W | US]


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
        machine.memory.store_u64(slot, machine.memory.load_u64(slot) & ~marks)
    world.ask((page + 8, access, True))
    left = [machine.memory.load_u64(slot) & marks for slot in (leaf, nested, of_table, tables)]
    assert left == [leaf_1, leaf_1, longmode.A, marks]


def test_blocks_of_every_size_lead_where_we_say(machine: X86SvmMachine) -> None:
    world = World(machine)
    world.second.map_range(SIZE_1G << 8, Hpa(DATA.start), SIZE_1G, RWX)
    world.first.map_range(SIZE_1G, Hpa(SIZE_1G << 8), SIZE_1G, RWX | U)
    world.first.map_range(0, Hpa((SIZE_1G << 8) + SIZE_2M), SIZE_2M, RWX | U)
    probes = [(SIZE_1G + 0x123_4568, READ, True), (SIZE_1G + 0x3FFF_F008, FETCH, False), (0x1F_F008, WRITE, True)]
    assert world.ask(*probes)["ok"].all()
    assert machine.memory.load_u64(Hpa(DATA.start + SIZE_2M + 0x1F_F008)) == 0x5702


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


def test_it_judges_what_it_says() -> None:
    assert isinstance(ORACLE, QemuX86Svm)
    assert {pair.second for pair in ORACLE.pairs} == {"npt4", "npt5"}
    assert {pair.first for pair in ORACLE.pairs} == {"x86-4level", "x86-5level"}
