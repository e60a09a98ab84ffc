"""QEMU's RISC-V answers for tables made by hand: every kind of probe, both stages, and what is special of RISC-V."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from opening import or_skip
from stage2.address import Hpa, Range
from stage2.conform.oracle import Case, Machine, Pair, Places
from stage2.conform.oracles.qemu_riscv64 import ORACLE, QemuRiscv64
from stage2.conform.probe import PROBE, Answers, Means
from stage2.conform.trial import Trial
from stage2.conform.world import Builder
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats import by_name
from stage2.formats.riscv import entry
from stage2.formats.riscv.syndromes import GUEST_PAGE_FAULTS, PAGE_FAULTS
from stage2.machines.riscv64 import Riscv64Machine
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tables.explain import explain_stage
from stage2.tables.pagetable import PageTable

R, W, X, U = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE, MappingFlags.USER
OWNER = Owner(OwnerKind.TABLES, "test")
PAIRS = {pair.name: pair for pair in ORACLE.pairs}
PLAIN = [name for name in PAIRS if "," not in name]
GVA = 0x1234_5000
"""Where stage 1 maps the page under test; DATA is its GPA and its HPA."""


class Witness(QemuRiscv64):
    """The oracle, who remembers what the machine said."""

    said: Answers

    def answers(self, machine: Machine, case: Case) -> Answers:
        self.said = super().answers(machine, case)
        return self.said


@dataclass(frozen=True)
class Said:
    """What the machine said of one access."""

    ok: bool
    stage: int
    cause: int
    htinst: int
    gva: int
    gpa: int


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    made = Trial(Witness(), or_skip(ORACLE.version))
    yield made
    made.close()


@pytest.fixture(scope="module")
def machine(trial: Trial) -> Iterator[Riscv64Machine]:
    with ORACLE.open() as found:
        yield found


@dataclass
class Bench:
    """Tables of a pair, with the page DATA mapped by both stages, and what the machine says of them."""

    trial: Trial
    machine: Riscv64Machine
    pair: Pair
    switches_1: tuple[str, ...] = ()
    deviations: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.places = self.trial.oracle.places(self.machine, self.pair)
        self.data = self.places.data.start
        self.frames = FrameAllocator(self.machine.memory)
        tables = self.places.tables
        self.frames.claim(Range(self.machine.RAM.start, tables.start), owner=OWNER)
        self.frames.claim(Range(tables.end, self.machine.RAM.end), owner=OWNER)
        self.stage_2 = self.table(2)
        self.stage_1 = None if self.pair.first is None else self.table(1)
        for fixture in self.places.fixtures:
            table = self.stage_2 if fixture.stage == 2 else self.stage_1
            if table is not None:
                table.map_range(fixture.address, Hpa(fixture.target), fixture.size, fixture.flags)
        # The guest's tables are at GPAs that equal their HPAs.
        self.stage_2.map_range(tables.start, Hpa(tables.start), tables.size, R | W)

    def table(self, stage: int) -> PageTable:
        controls = self.trial.oracle.controls(self.pair, stage)
        fmt = by_name(self.pair.second if stage == 2 or self.pair.first is None else self.pair.first)
        if stage == 1:
            controls |= fmt.controls_with(*self.switches_1)
        return PageTable(fmt, self.frames, owner=OWNER, controls=controls, identifier=stage)

    def map(self, first: MappingFlags, second: MappingFlags) -> int:
        """Map the page; where it is to be reached."""
        self.stage_2.map_page(self.data, Hpa(self.data), second)
        if self.stage_1 is None:
            return self.data
        self.stage_1.map_page(GVA, Hpa(self.data), first)
        return GVA

    def leaf(self, stage: int) -> Hpa:
        """Where the leaf of the page is."""
        table = self.stage_2 if stage == 2 else self.stage_1
        assert table is not None
        return table.explain(self.data if stage == 2 else GVA).steps[-1].slot_hpa

    def patch(self, stage: int, *, clear: int = 0, set_: int = 0) -> None:
        slot = self.leaf(stage)
        word = self.machine.memory.load_u64(slot)
        self.machine.memory.store_u64(slot, word & ~clear | set_)

    def ask(self, address: int, access: Access, *, user: bool = False, means: Means = Means.ACCESS) -> Said:
        """What the machine says of one access, after the trial has found that our walker says the same."""
        probes = np.zeros(1, PROBE)
        probes["address"] = address | (0x808 if access is Access.WRITE else 0x8)
        probes["access"], probes["user"], probes["means"], probes["value"] = access, user, means, 0x5757
        stage_1 = None if self.stage_1 is None else self.stage_1.regime
        case = Case(self.pair, stage_1, self.stage_2.regime, probes)
        verdict = self.trial.case(self.machine, case, self.places, self.places.tables)
        assert not verdict.mismatches, verdict.mismatches
        assert verdict.cases == 1, "the oracle was not asked"
        self.deviations |= set(verdict.deviations)
        witness = self.trial.oracle
        assert isinstance(witness, Witness)
        answer = witness.said[0]
        code = int(answer["code"])
        return Said(
            bool(answer["ok"]), int(answer["stage"]), code & 0x3F, code >> 16, int(answer["gva"]), int(answer["gpa"])
        )


@pytest.fixture
def bench(trial: Trial, machine: Riscv64Machine, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(trial, machine, *request.param)
    yield made
    machine.memory.zero(made.places.tables)


def benches(*names: str, switches_1: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    given = [pytest.param((PAIRS[name], switches_1), id=name) for name in names]
    return pytest.mark.parametrize("bench", given, indirect=True)


@benches(*PLAIN)
def test_what_both_stages_allow_is_made(bench: Bench) -> None:
    for user in (False, True):
        address = bench.map(RWX | U if user else RWX, RWX)
        assert all(bench.ask(address, access, user=user).ok for access in Access)
        for access in (Access.READ, Access.WRITE):
            assert bench.ask(address, access, user=user, means=Means.TRANSLATE).ok
        bench.stage_2.unmap_page(bench.data)
        if bench.stage_1 is not None:
            bench.stage_1.unmap_page(GVA)


@benches(*PLAIN)
def test_what_stage_2_forbids_is_a_guest_page_fault_with_its_gpa(bench: Bench) -> None:
    address = bench.map(RWX, R)
    for access in (Access.WRITE, Access.FETCH):
        answer = bench.ask(address, access)
        assert answer.cause == GUEST_PAGE_FAULTS[access]
        assert answer.gpa & ~0xFFF == bench.data
        assert answer.gva & ~0xFFF == address


@benches(*[name for name in PLAIN if " over " in name])
def test_what_stage_1_forbids_is_a_page_fault_without_a_gpa(bench: Bench) -> None:
    address = bench.map(R, RWX)
    for access in (Access.WRITE, Access.FETCH):
        answer = bench.ask(address, access)
        assert answer.cause == PAGE_FAULTS[access]
        assert answer.gpa == 0
    assert bench.ask(address, Access.READ, user=True).cause == PAGE_FAULTS[Access.READ]


@benches("sv39 over sv39x4", "sv57 over sv57x4")
def test_a_supervisor_does_not_touch_user_pages(bench: Bench) -> None:
    address = bench.map(RWX | U, RWX)
    assert not any(bench.ask(address, access).ok for access in Access)


@benches("sv39 over sv39x4", "sv57 over sv57x4", switches_1=("sum",))
def test_with_sum_it_reads_and_writes_them_but_does_not_run_them(bench: Bench) -> None:
    address = bench.map(RWX | U, RWX)
    assert [bench.ask(address, access).ok for access in Access] == [True, True, False]


@benches("sv39 over sv39x4", "sv39 over sv39x4, MXR", "sv48x4 alone", "sv48x4 alone, MXR", switches_1=("sum",))
def test_executable_pages_are_read_with_mxr_only(bench: Bench) -> None:
    address = bench.map(X, X)
    allowed = "MXR" in bench.pair.name
    assert bench.ask(address, Access.READ).ok == allowed
    assert bench.ask(address, Access.READ, means=Means.TRANSLATE).ok == allowed
    assert bench.ask(address, Access.FETCH).ok


@benches("sv39 over sv39x4", "sv48 over sv57x4")
def test_hardware_sets_accessed_and_dirty_at_both_stages(bench: Bench) -> None:
    address = bench.map(RWX, RWX)
    tracked = entry.A | entry.D
    for stage in (1, 2):
        bench.patch(stage, clear=tracked)
    for access, expected in ((Access.READ, entry.A), (Access.WRITE, tracked)):
        assert bench.ask(address, access).ok
        for stage in (1, 2):
            assert bench.machine.memory.load_u64(bench.leaf(stage)) & tracked == expected


@benches(*[name for name in PLAIN if " over " in name])
def test_a_table_that_stage_2_hides_is_told_by_its_gpa(bench: Bench) -> None:
    address = bench.map(RWX, RWX)
    slot = bench.leaf(1)
    bench.stage_2.unmap_range(slot & ~0xFFF, 4096)
    answer = bench.ask(address, Access.READ)
    assert answer.htinst == 0x3000
    assert answer.gpa == slot
    # The page may be fetched from and written to just as little; QEMU 7.2 calls that a load.
    for access in (Access.WRITE, Access.FETCH):
        assert bench.ask(address, access).gpa & ~0xFFF == slot & ~0xFFF
    assert bench.deviations <= {"riscv-walk-is-a-load"}


@benches("sv39 over sv39x4, MXR")
def test_a_table_behind_an_execute_only_leaf_is_read_by_qemu_under_mxr_and_not_by_us(bench: Bench) -> None:
    address = bench.map(RWX, RWX)
    bench.stage_2.protect_range(bench.leaf(1) & ~0xFFF, 4096, X)
    assert bench.ask(address, Access.READ).ok
    assert bench.deviations == {"riscv-mxr-reads-tables"}


@benches("sv39 over sv39x4")
def test_a_table_behind_an_execute_only_leaf_is_not_read_without_mxr(bench: Bench) -> None:
    address = bench.map(RWX, RWX)
    bench.stage_2.protect_range(bench.leaf(1) & ~0xFFF, 4096, X)
    assert bench.ask(address, Access.READ).htinst == 0x3000


def test_leaves_of_every_kind_lead_to_a_guests_tables() -> None:
    """Execute-only ones, blocks, groups and memory types: a rule about them is judged."""
    seen: set[str] = set()
    second = by_name("sv39x4")
    places = Places(Range.sized(0x9B00_0000, 0x100_0000), Range.sized(0x1_0000_0000, 0x4000_0000), ())
    controls = second.controls_with("ad", "mxr", "napot", "pbmt")
    with PhysicalMemory([places.tables]) as memory:
        for seed in range(40):
            builder = Builder(memory, places, np.random.default_rng(seed), 1.0)
            world = builder.build(by_name("sv39"), second, by_name("sv39").controls_with("ad", "mxr"), controls)
            assert world.stage_1 is not None
            for page in range(28):
                leaf = explain_stage(memory, world.stage_2, world.stage_1.root + page * 4096).steps[-1]
                seen |= {f"level {leaf.level}", f"PBMT {leaf.entry >> entry.PBMT_SHIFT & 3}"}
                seen |= {"group"} if leaf.entry & entry.N else set()
                seen |= {"execute-only"} if leaf.entry & (entry.R | entry.X) == entry.X else set()
            memory.zero(world.used)
    assert seen >= {"level 0", "level 1", "group", "PBMT 0", "PBMT 1", "PBMT 2", "execute-only"}


@benches("sv39 over sv39x4", "sv48x4 alone")
def test_reserved_bits_are_refused(bench: Bench) -> None:
    address = bench.map(RWX, RWX)
    for stage in (2,) if bench.stage_1 is None else (1, 2):
        for bit in range(54, 64):
            bench.patch(stage, set_=1 << bit)
            answer = bench.ask(address, Access.READ)
            bench.patch(stage, clear=1 << bit)
            assert not answer.ok
            assert answer.stage == stage


@benches("sv39 over sv39x4, Svnapot", "sv48 over sv48x4, Svnapot and Svpbmt")
def test_a_leaf_of_a_group_leads_to_the_page_that_the_address_names(bench: Bench) -> None:
    address = bench.map(RWX, RWX)
    group = entry.N | entry.NAPOT_PPN << entry.PPN_SHIFT
    bench.patch(2, set_=group)
    assert bench.ask(address, Access.READ).ok, "the first of the group's pages, whose other entries are holes"
    bench.patch(1, set_=group)
    answer = bench.ask(address, Access.READ)
    assert (answer.stage, answer.gpa) == (2, bench.data + (GVA & 0xF000) + 8)


@benches("sv39 over sv39x4, Svnapot", "sv48x4 alone, Svnapot and Svpbmt")
def test_groups_of_another_size_are_refused(bench: Bench) -> None:
    address = bench.map(RWX, RWX)
    for size in (1, 2, 4):
        bench.patch(2, set_=entry.N | size << entry.PPN_SHIFT)
        answer = bench.ask(address, Access.READ)
        assert (answer.cause, answer.gpa) == (GUEST_PAGE_FAULTS[Access.READ], bench.data + 8)
        bench.patch(2, clear=entry.N | 0xF << entry.PPN_SHIFT)


@benches("sv39 over sv39x4, Svpbmt", "sv48x4 alone, Svnapot and Svpbmt")
def test_memory_types_are_accepted_where_there_are_some(bench: Bench) -> None:
    address = bench.map(RWX, RWX)
    for stage in (2,) if bench.stage_1 is None else (1, 2):
        for memory_type in (1, 2):
            bench.patch(stage, clear=3 << entry.PBMT_SHIFT, set_=memory_type << entry.PBMT_SHIFT)
            assert bench.ask(address, Access.READ).ok
        bench.patch(stage, clear=3 << entry.PBMT_SHIFT)


@benches("sv39 over sv39x4")
def test_a_guest_whose_code_is_not_mapped_is_compared_all_the_same(bench: Bench) -> None:
    address = bench.map(R, R)
    for fixture in bench.places.fixtures:
        if fixture.stage == 2:
            bench.stage_2.unmap_range(fixture.address, fixture.size)
    assert bench.ask(address, Access.READ).ok
    assert bench.ask(address, Access.WRITE).cause == PAGE_FAULTS[Access.WRITE]


def test_tags_are_all_different_and_trap() -> None:
    tags = {ORACLE.tag(index) for index in range(1 << 16)}
    assert len(tags) == 1 << 16
    assert {tag & 0x7F for tag in tags} == {0x0B}


def test_pairs_hold_every_format_and_have_names_of_their_own() -> None:
    assert len(PAIRS) == len(ORACLE.pairs)
    assert {(pair.first, pair.second) for pair in ORACLE.pairs} == {
        (first, second) for first in (None, "sv39", "sv48", "sv57") for second in ("sv39x4", "sv48x4", "sv57x4")
    }
