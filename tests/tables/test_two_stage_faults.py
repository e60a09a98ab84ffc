"""Two-stage translation, case by case: who refuses, where, and what hardware writes."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from test_walk_agreement import PAIRS

from stage2.address import SIZE_2M, SIZE_4K, Gpa, Gva, Hpa, Range
from stage2.errors import MisalignedError, OutOfRangeError
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats import by_name
from stage2.formats.outcome import FaultKind
from stage2.formats.record import Format
from stage2.formats.riscv import entry as riscv
from stage2.formats.riscv.formats import BARE_STAGE_1, BARE_STAGE_2
from stage2.formats.u64 import u64
from stage2.formats.x86 import ept
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tables.assembly import compiled_two_stage
from stage2.tables.batch import TwoStageBatch, translate_batch, translate_two_stage_batch
from stage2.tables.compiled import host_memory, inlined, kernel
from stage2.tables.explain import Walk, explain_stage, explain_two_stage
from stage2.tables.pagetable import PageTable
from stage2.tables.regime import Regime
from stage2.tables.result import Fault, Mapped

TABLES = Owner(OwnerKind.TABLES, "vm")
VM = Owner(OwnerKind.VM, "vm")
RAM = Range(0x8000_0000, 0x8080_0000)
GUEST_RAM = 0x4000_0000
"""GPA of 16 pages on as many frames: table pages first, then data."""
ROOT, MIDDLE, LAST, DATA = (GUEST_RAM + i * SIZE_4K for i in range(4))
GVA = Gva(0xFFFF_FFC0_0000_0000 + 5 * SIZE_4K + 0x123)
READ = MappingFlags.READ
READ_WRITE = MappingFlags.READ | MappingFlags.WRITE
DEVICE = READ_WRITE | MappingFlags.DEVICE


class Machine:
    """A guest with one Sv39 page mapped, on a stage 2 of any format."""

    def __init__(self, second: str = "sv39x4", *, controls_1: int = 0, controls_2: int | None = None) -> None:
        self.memory = PhysicalMemory([RAM])
        self.frames = FrameAllocator(self.memory)
        self.stage_2 = PageTable(by_name(second), self.frames, owner=TABLES, controls=controls_2)
        self.hpa = self.frames.allocate(16 * SIZE_4K, owner=VM)
        self.stage_2.map_range(GUEST_RAM, self.hpa, 16 * SIZE_4K, RWX)
        self.controls_1 = controls_1
        self.sv39 = by_name("sv39")
        top, middle, self.index = (self.sv39.index(GVA, level) for level in (2, 1, 0))
        self.put(ROOT + 8 * top, self.sv39.table_entry(MIDDLE))
        self.put(MIDDLE + 8 * middle, self.sv39.table_entry(LAST))
        self.leaf(riscv.V | riscv.R | riscv.W | riscv.A | riscv.D)

    def put(self, gpa: int, word: int) -> None:
        self.memory.store_u64(Hpa(self.hpa + gpa - GUEST_RAM), word)

    def leaf(self, bits: int, gpa: int = DATA) -> None:
        """Rewrite the stage-1 leaf."""
        self.put(LAST + 8 * self.index, self.sv39.pack_address(gpa) | bits)

    def stage_2_leaf(self, gpa: int) -> Hpa:
        """Where the stage-2 leaf of a GPA stands."""
        return Hpa(self.stage_2.explain(gpa).steps[-1].slot)

    @property
    def stage_1(self) -> Regime:
        return Regime.of(self.sv39, ROOT, controls=self.controls_1)

    def walk(self, access: Access | None = None, *, gva: Gva = GVA, user: bool = False) -> Walk:
        walk = explain_two_stage(self.memory, self.stage_1, self.stage_2.regime, gva, access, user=user)
        fault = self.batch(self.stage_1, gva, access, user=user).fault(0)
        assert (walk.result if isinstance(walk.result, Fault) else None) == fault, "the batch says otherwise"
        return walk

    def batch(self, stage_1: Regime, gva: Gva, access: Access | None, *, user: bool) -> TwoStageBatch:
        """By the kernel that looks ahead if other tests compile it too, or else by the one that is sooner compiled."""
        second = self.stage_2.regime
        if (stage_1.format.name, second.format.name) in PAIRS:
            return self.stage_2.translate_gva_many([gva], stage_1, access, user=user)
        host = host_memory(self.memory)
        return translate_two_stage_batch(host, stage_1, second, [gva], access, user=user, marks=True)

    def fault(self, access: Access | None = None, **more: Any) -> Fault:
        result = self.walk(access, **more).result
        assert isinstance(result, Fault), str(result)
        return result


@pytest.mark.parametrize("second", ["sv39x4", "sv48x4", "sv57x4", "ept4"])
def test_a_page_translates_through_both_stages_with_every_step_shown(second: str) -> None:
    machine = Machine(second)
    walk = machine.walk(Access.READ)
    assert walk.result == Mapped(Hpa(machine.hpa + DATA - GUEST_RAM + 0x123), 0b11, SIZE_4K, Gpa(DATA + 0x123))
    levels = machine.stage_2.format.levels
    assert [(step.stage, step.level) for step in walk.steps] == [
        (1, 2), (1, 1), (1, 0), *((2, level) for level in reversed(range(levels)))
    ]  # fmt: skip
    for step in walk.steps[:3]:
        assert [under.level for under in step.under] == list(reversed(range(levels)))
        assert step.slot_hpa == machine.hpa + step.slot - GUEST_RAM
        assert step.entry == machine.memory.load_u64(step.slot_hpa)
    assert walk.marks == ()


def test_permissions_are_those_that_both_stages_grant() -> None:
    machine = Machine()
    machine.leaf(riscv.V | riscv.R | riscv.W | riscv.X | riscv.A | riscv.D)
    machine.stage_2.protect_range(DATA, SIZE_4K, MappingFlags.READ | MappingFlags.EXECUTE)
    result = machine.walk().result
    assert isinstance(result, Mapped)
    assert result.permissions == 0b101
    fault = machine.fault(Access.WRITE)
    assert (fault.stage, fault.kind, fault.gpa) == (2, FaultKind.PERMISSION, DATA + 0x123)
    assert not fault.on_table


def test_the_smaller_leaf_of_both_stages_is_reported() -> None:
    machine = Machine()
    machine.stage_2.map_range(0x8000_0000, Hpa(0x8020_0000), SIZE_2M, RWX)
    machine.leaf(riscv.V | riscv.R | riscv.A, 0x8000_5000)
    result = machine.walk(Access.READ).result
    assert isinstance(result, Mapped)
    assert result.size == SIZE_4K
    assert result.hpa == 0x8020_5123


def test_a_stage_1_hole_is_a_stage_1_fault_without_a_gpa() -> None:
    machine = Machine()
    machine.leaf(0)
    fault = machine.fault(Access.READ)
    assert (fault.kind, fault.stage, fault.level, fault.gpa) == (FaultKind.TRANSLATION, 1, 0, None)
    assert fault.address == fault.gva == GVA


def test_a_stage_1_permission_is_checked_before_stage_2_is_asked() -> None:
    machine = Machine()
    machine.leaf(riscv.V | riscv.R | riscv.A, 0x7000_0000)
    fault = machine.fault(Access.WRITE)
    assert (fault.kind, fault.stage) == (FaultKind.PERMISSION, 1)
    assert machine.fault(Access.READ).gpa == 0x7000_0123


def test_the_final_gpa_in_a_hole_is_a_stage_2_fault() -> None:
    machine = Machine()
    machine.stage_2.unmap_range(DATA, SIZE_4K)
    fault = machine.fault(Access.READ)
    assert (fault.kind, fault.stage, fault.level, fault.gpa) == (FaultKind.TRANSLATION, 2, 0, DATA + 0x123)
    assert fault.gva == GVA
    assert not fault.on_table
    assert "stage 2, level 0: GPA 0x40003123 (read)" in str(fault)


@pytest.mark.parametrize("table", [ROOT, MIDDLE, LAST])
@pytest.mark.parametrize("access", [None, *Access])
def test_a_stage_1_table_in_a_stage_2_hole_is_a_fault_on_the_tables_gpa(table: int, access: Access | None) -> None:
    machine = Machine()
    machine.stage_2.unmap_range(table, SIZE_4K)
    fault = machine.fault(access)
    level = 2 - (table - ROOT) // SIZE_4K
    assert (fault.kind, fault.stage) == (FaultKind.TRANSLATION, 2)
    assert fault.gpa == table + 8 * machine.sv39.index(GVA, level)
    assert fault.on_table
    assert not fault.on_mark
    assert "reading a stage-1 table" in str(fault)


def test_a_stage_1_table_needs_stage_2_read_permission_even_for_a_fetch() -> None:
    machine = Machine()
    machine.leaf(riscv.V | riscv.X | riscv.A)
    machine.stage_2.protect_range(MIDDLE, SIZE_4K, MappingFlags.EXECUTE)
    fault = machine.fault(Access.FETCH)
    assert (fault.kind, fault.on_table) == (FaultKind.PERMISSION, True)


def test_mxr_at_both_stages_reads_execute_only_data_but_no_execute_only_table() -> None:
    """RISC-V Privileged, "Two-Stage Address Translation": MXR is of explicit loads; for reads of VS-level tables
    permissions are "checked as though for an implicit load" ("Guest Physical Address Translation")."""
    machine = Machine(controls_1=riscv.MXR, controls_2=by_name("sv39x4").controls_with("mxr"))
    machine.leaf(riscv.V | riscv.X | riscv.A | riscv.D)
    machine.stage_2.protect_range(DATA, SIZE_4K, MappingFlags.EXECUTE)
    assert isinstance(machine.walk(Access.READ).result, Mapped)
    for table in (ROOT, MIDDLE, LAST):
        machine.stage_2.protect_range(table, SIZE_4K, MappingFlags.EXECUTE)
        for access in Access:
            fault = machine.fault(access)
            assert (fault.kind, fault.stage, fault.on_table) == (FaultKind.PERMISSION, 2, True)
        # The walk shows what the leaf lets hardware do, not what it would let the instruction do.
        assert machine.walk(Access.READ).steps[-1].permissions == 0b100_100
        machine.stage_2.protect_range(table, SIZE_4K, READ)


@pytest.mark.parametrize(
    ("page_1", "page_2", "refused_by"),
    [
        (MappingFlags.EXECUTE, MappingFlags.EXECUTE, 0),
        (RWX, RWX, 0),
        (READ_WRITE, RWX, 1),
        (RWX, READ_WRITE, 2),
    ],
)
def test_hlvx_needs_execute_permission_at_both_stages_and_tables_that_are_readable(
    page_1: MappingFlags, page_2: MappingFlags, refused_by: int
) -> None:
    """RISC-V Privileged, "Hypervisor Virtual-Machine Load and Store Instructions": "the memory being read must be
    executable in both stages of address translation, but read permission is not required"."""
    machine = Machine(controls_1=riscv.HLVX, controls_2=by_name("sv39x4").controls_with("hlvx"))
    machine.leaf(riscv.V | int(page_1) << 1 | riscv.A | riscv.D)
    machine.stage_2.protect_range(DATA, SIZE_4K, page_2)
    machine.stage_2.protect_range(ROOT, 3 * SIZE_4K, READ)
    result = machine.walk(Access.READ).result
    if not refused_by:
        assert isinstance(result, Mapped)
        machine.stage_2.protect_range(MIDDLE, SIZE_4K, MappingFlags.EXECUTE)
        assert machine.fault(Access.READ).on_table
        return
    assert isinstance(result, Fault)
    assert (result.kind, result.stage, result.access) == (FaultKind.PERMISSION, refused_by, Access.READ)


@pytest.mark.parametrize(
    ("second", "switches", "refused"),
    [
        ("sv39x4", (), False), ("sv39x4", ("ad",), False),
        ("arm-s2-4k-40", (), False), ("arm-s2-4k-40", ("ptw",), False),
        ("ept4", (), False), ("ept5", ("ad",), True), ("ept4", ("ad",), True), ("npt4", (), True), ("npt5", (), True),
    ],
)  # fmt: skip
def test_a_read_of_a_stage_1_table_counts_as_a_write_where_the_manual_says_so(
    second: str, switches: tuple[str, ...], refused: bool
) -> None:
    """EPT with accessed and dirty flags (SDM 30.3.5), nested paging always (APM 15.25.5); nobody else."""
    machine = Machine(second, controls_2=by_name(second).controls_with(*switches))
    machine.stage_2.protect_range(ROOT, SIZE_4K, READ)
    if not refused:
        assert isinstance(machine.walk(Access.READ).result, Mapped)
        return
    fault = machine.fault(Access.READ)
    assert (fault.kind, fault.stage) == (FaultKind.PERMISSION, 2)


@pytest.mark.parametrize("fwb", [(), ("fwb",)])
def test_ptw_keeps_stage_1_walks_from_device_memory_only(fwb: tuple[str, ...]) -> None:
    for switches, memory, refused in (
        ((), DEVICE, False), (("ptw",), DEVICE, True), (("ptw",), READ_WRITE, False),
        (("ptw",), READ_WRITE | MappingFlags.UNCACHED, False),
    ):  # fmt: skip
        machine = Machine("arm-s2-4k-40", controls_2=by_name("arm-s2-4k-40").controls_with(*switches, *fwb))
        machine.stage_2.protect_range(MIDDLE, SIZE_4K, memory)
        assert isinstance(machine.walk(Access.READ).result, Fault) is refused
        machine.stage_2.protect_range(MIDDLE, SIZE_4K, READ_WRITE)
        machine.stage_2.protect_range(DATA, SIZE_4K, memory)
        assert isinstance(machine.walk(Access.READ).result, Mapped), "data may be Device memory"


def test_a_user_fetch_under_mode_based_execute_control_passes_the_tables_of_ours() -> None:
    fmt = by_name("ept4")
    with PhysicalMemory([RAM]) as memory:
        for switches in ((), ("mbec",)):
            table = PageTable(fmt, FrameAllocator(memory), owner=TABLES, controls=fmt.controls_with(*switches))
            table.map_range(0, Hpa(0), 2 * SIZE_2M, RWX)
            table.protect_range(SIZE_4K, SIZE_4K, READ)
            for address, allowed in ((0, True), (SIZE_4K, False), (2 * SIZE_4K, True), (SIZE_2M, True)):
                for user in (False, True):
                    found = table.translate(address, Access.FETCH, user=user)
                    assert isinstance(found, Mapped) is allowed
            table.destroy()


@pytest.mark.parametrize(("access", "written"), [(Access.READ, riscv.A), (Access.WRITE, riscv.A | riscv.D)])
def test_hardware_marks_a_stage_1_leaf_through_stage_2(access: Access, written: int) -> None:
    machine = Machine(controls_1=riscv.HARDWARE_AD)
    machine.leaf(riscv.V | riscv.R | riscv.W)
    walk = machine.walk(access)
    assert isinstance(walk.result, Mapped)
    slot = Hpa(machine.hpa + LAST - GUEST_RAM + 8 * machine.index)
    assert walk.marks == ((slot, machine.memory.load_u64(slot) | written),)
    assert len(walk.steps) == 3 + 3, "the walk of the mark's own write is not shown twice"
    machine.stage_2.protect_range(LAST, SIZE_4K, READ)
    fault = machine.fault(access)
    assert (fault.kind, fault.stage, fault.on_table, fault.on_mark) == (FaultKind.PERMISSION, 2, True, True)
    assert fault.gpa == LAST + 8 * machine.index
    assert "writing an accessed or dirty bit" in str(fault)


def test_a_leaf_that_is_marked_already_needs_no_write_permission_for_its_table() -> None:
    machine = Machine(controls_1=riscv.HARDWARE_AD)
    machine.stage_2.protect_range(ROOT, 3 * SIZE_4K, READ)
    assert isinstance(machine.walk(Access.WRITE).result, Mapped)


@pytest.mark.parametrize(("bits", "access"), [(0, Access.READ), (riscv.D, Access.READ), (riscv.A, Access.WRITE)])
def test_without_hardware_updates_a_clear_bit_is_an_access_flag_fault(bits: int, access: Access) -> None:
    machine = Machine()
    machine.leaf(riscv.V | riscv.R | riscv.W | bits)
    fault = machine.fault(access)
    assert (fault.kind, fault.stage, fault.level) == (FaultKind.ACCESS_FLAG, 1, 0)
    assert isinstance(machine.walk().result, Mapped), "a mere lookup does not mind"


def test_a_clean_page_is_granted_without_write_so_that_the_first_write_is_seen() -> None:
    machine = Machine(controls_1=riscv.HARDWARE_AD)
    machine.leaf(riscv.V | riscv.R | riscv.W | riscv.A)
    read, write = machine.walk(Access.READ).result, machine.walk(Access.WRITE).result
    assert isinstance(read, Mapped)
    assert isinstance(write, Mapped)
    assert (read.permissions, write.permissions) == (0b001, 0b011)


def test_a_stage_2_without_hardware_updates_faults_on_a_clear_accessed_bit_of_a_tables_page() -> None:
    machine = Machine()
    slot = machine.stage_2_leaf(LAST)
    machine.memory.store_u64(slot, machine.memory.load_u64(slot) & ~riscv.A)
    fault = machine.fault(Access.READ)
    assert (fault.kind, fault.stage, fault.on_table) == (FaultKind.ACCESS_FLAG, 2, True)


def test_user_mode_needs_a_user_page_and_stage_2_gives_it_what_it_gives_the_kernel() -> None:
    machine = Machine()
    assert machine.fault(Access.READ, user=True).kind is FaultKind.PERMISSION
    machine.leaf(riscv.V | riscv.R | riscv.U | riscv.A)
    assert isinstance(machine.walk(Access.READ, user=True).result, Mapped)
    assert machine.fault(Access.READ).stage == 1


def test_stage_2_is_asked_for_a_user_fetch_when_the_access_is_one() -> None:
    """Mode-based execute control: a page for supervisor fetches alone is none for a user's."""
    machine = Machine("ept4", controls_2=by_name("ept4").default_controls | ept.MODE_BASED_EXECUTE)
    machine.leaf(riscv.V | riscv.R | riscv.X | riscv.U | riscv.A)
    slot = machine.stage_2_leaf(DATA)
    assert isinstance(machine.walk(Access.FETCH, user=True).result, Mapped)
    machine.memory.store_u64(slot, machine.memory.load_u64(slot) & ~ept.X_USER)
    fault = machine.fault(Access.FETCH, user=True)
    assert (fault.kind, fault.stage) == (FaultKind.PERMISSION, 2)


@pytest.mark.parametrize(
    ("bits", "allowed"), [(ept.X, False), (ept.X_USER, True), (ept.X | ept.X_USER, True), (0, False)]
)
@pytest.mark.parametrize("user", [False, True])
def test_while_the_guests_paging_is_off_bit_10_decides_on_every_fetch(bits: int, allowed: bool, user: bool) -> None:
    """SDM Vol. 3C, table 29-7, bit 9: with CR0.PG = 0 every linear address is a user-mode one, so of mode-based execute
    control it is XU that counts, whatever the CPL."""
    machine = Machine("ept4", controls_2=by_name("ept4").default_controls | ept.MODE_BASED_EXECUTE)
    slot = machine.stage_2_leaf(DATA)
    machine.memory.store_u64(slot, machine.memory.load_u64(slot) & ~(ept.X | ept.X_USER) | bits)
    off = Regime.of(BARE_STAGE_1)
    gva = Gva(DATA + 0x123)
    result = explain_two_stage(machine.memory, off, machine.stage_2.regime, gva, Access.FETCH, user=user).result
    assert isinstance(result, Mapped) is allowed
    batch = machine.batch(off, gva, Access.FETCH, user=user)
    assert batch.fault(0) == (None if allowed else result)


def test_a_gpa_wider_than_stage_2_translates_is_an_address_size_fault_at_stage_2() -> None:
    machine = Machine()
    machine.leaf(riscv.V | riscv.R | riscv.A, 1 << 41)
    fault = machine.fault(Access.READ)
    assert (fault.kind, fault.stage, fault.gpa) == (FaultKind.ADDRESS_SIZE, 2, (1 << 41) + 0x123)


@pytest.mark.parametrize("gva", [1 << 38, (1 << 64) - (1 << 38) - 1, 1 << 63])
def test_a_gva_that_is_not_canonical_is_an_address_size_fault_at_stage_1(gva: int) -> None:
    fault = Machine().fault(Access.READ, gva=Gva(gva))
    assert (fault.kind, fault.stage) == (FaultKind.ADDRESS_SIZE, 1)


@pytest.mark.parametrize(
    ("first", "address", "end"),
    [
        (BARE_STAGE_1, GUEST_RAM + 0x42, None),
        (BARE_STAGE_1, 1 << 41, (FaultKind.ADDRESS_SIZE, 2)),
        (BARE_STAGE_1, (1 << 64) - 1, (FaultKind.ADDRESS_SIZE, 2)),
        (BARE_STAGE_1, 0x1000, (FaultKind.TRANSLATION, 2)),
    ],
)
def test_under_a_bare_stage_1_stage_2_alone_decides(first: Format, address: int, end: Any) -> None:
    machine = Machine()
    regime = Regime.of(first)
    result = explain_two_stage(machine.memory, regime, machine.stage_2.regime, Gva(address), Access.READ).result
    batch = machine.stage_2.translate_gva_many([address], regime, Access.READ)
    if end is None:
        assert isinstance(result, Mapped)
        assert (result.hpa, result.gpa) == (machine.hpa + address - GUEST_RAM, address)
        assert int(batch.hpa[0]) == result.hpa
    else:
        assert isinstance(result, Fault)
        assert (result.kind, result.stage) == end
        assert batch.fault(0) == result


def test_a_bare_stage_2_passes_56_bits_and_no_more() -> None:
    with PhysicalMemory([RAM]) as memory:
        regime = Regime.of(BARE_STAGE_2)
        found = explain_stage(memory, regime, (1 << 56) - 1).result
        assert isinstance(found, Mapped)
        assert (found.hpa, found.permissions) == ((1 << 56) - 1, 0x3F)
        beyond = explain_stage(memory, regime, 1 << 56, Access.READ).result
        assert isinstance(beyond, Fault)
        assert (beyond.kind, beyond.level) == (FaultKind.ADDRESS_SIZE, 0)


@pytest.mark.parametrize("fmt", [BARE_STAGE_1, BARE_STAGE_2], ids=lambda fmt: str(fmt.name))
def test_a_batch_under_a_bare_regime_says_what_the_explained_walk_says(fmt: Format) -> None:
    """RISC-V privileged manual, "satp": Bare is no translation, so no table is read."""
    addresses = [0, 0x1234, RAM.start + 0x10, (1 << 56) - 1, 1 << 56, (1 << 64) - 1]
    with PhysicalMemory([RAM]) as memory:
        regime = Regime.of(fmt)
        batch = translate_batch(host_memory(memory), regime, addresses)
        for address, hpa, status in zip(addresses, batch.hpa.tolist(), batch.status.tolist(), strict=True):
            found = explain_stage(memory, regime, address).result
            if isinstance(found, Fault):
                assert status == found.kind
            else:
                assert (status, hpa) == (0, found.hpa) == (0, address)


def test_a_regime_refuses_a_root_no_register_could_hold() -> None:
    with pytest.raises(MisalignedError, match="root table"):
        Regime.of(by_name("sv39x4"), 0x1000)
    with pytest.raises(OutOfRangeError):
        Regime.of(by_name("sv39"), 1 << 64)


# --- what hardware writes -----------------------------------------------------------------------------------


@cache
def storing_kernel(first: Format, second: Format) -> Any:
    """kernel(host, regime_1, regime_2, gvas, need, write, statuses): the engine's translation, with its stores."""
    translate = inlined(compiled_two_stage(first, second))

    def run(host: Any, regime_1: Any, regime_2: Any, gvas: Any, need: int, write: int, statuses: Any) -> None:
        for i in range(gvas.shape[0]):
            status, _, _, _, _, _ = translate(host, regime_1, regime_2, gvas[i], need, write)
            statuses[i] = status + u64(0)

    return kernel(run, first, second)


@pytest.mark.parametrize("access", Access)
@pytest.mark.parametrize("controls_2", [riscv.G_STAGE, riscv.G_STAGE | riscv.HARDWARE_AD])
def test_the_compiled_walk_stores_exactly_the_marks_that_the_explained_one_announces(
    access: Access, controls_2: int
) -> None:
    rng = np.random.default_rng(7)
    bits = np.array([riscv.A, riscv.D, riscv.A | riscv.D, 0])
    stored = 0
    for _ in range(60):
        machine = Machine(controls_1=riscv.HARDWARE_AD, controls_2=controls_2)
        machine.leaf(riscv.V | 0b111 << 1 | int(rng.choice(bits)))
        for gpa in (ROOT, MIDDLE, LAST, DATA):
            slot = machine.stage_2_leaf(gpa)
            tracked = int(rng.choice(bits)) if rng.random() < 0.4 else riscv.A | riscv.D
            writable = riscv.W if rng.random() < 0.8 else 0
            entry = machine.memory.load_u64(slot) & ~(riscv.A | riscv.D | riscv.W)
            machine.memory.store_u64(slot, entry | tracked | writable)
        walk = machine.walk(access)
        words = machine.memory.words.copy()
        for hpa, word in walk.marks:
            words[(hpa - RAM.start) >> 3] |= np.uint64(word)
        statuses = np.empty(1, np.uint64)
        first, second = machine.stage_1, machine.stage_2.regime
        storing_kernel(first.format, second.format)(
            host_memory(machine.memory), tuple(map(np.uint64, first.numbers)), tuple(map(np.uint64, second.numbers)),
            np.array([GVA], np.uint64), np.uint64(1 << access), np.uint64(access is Access.WRITE), statuses,
        )  # fmt: skip
        assert bool(statuses[0]) is isinstance(walk.result, Fault)
        assert np.array_equal(machine.memory.words, words)
        stored += len(walk.marks)
    assert stored


@pytest.mark.parametrize("user_page", [False, True])
@pytest.mark.parametrize("execute", [ept.X, ept.X_USER])
def test_mode_based_execute_goes_by_the_page_and_not_by_who_fetches(user_page: bool, execute: int) -> None:
    """SDM Vol. 3C 30.3.3.2: bit 10 governs fetches from user-mode linear addresses, bit 2 those from supervisor-mode
    ones; without SMEP a supervisor may fetch from both."""
    fmt = by_name("ept4")
    with PhysicalMemory([RAM]) as memory:
        frames = FrameAllocator(memory)
        inner = PageTable(by_name("x86-4level"), frames, owner=TABLES)
        inner.map_page(0x1000, Hpa(RAM.start + 0x1000), RWX | (MappingFlags.USER if user_page else MappingFlags(0)))
        outer = PageTable(fmt, frames, owner=TABLES, controls=fmt.default_controls | ept.MODE_BASED_EXECUTE)
        outer.map_range(RAM.start, Hpa(RAM.start), RAM.size, RWX, largest=SIZE_4K)
        slot = outer.explain(RAM.start + 0x1000).steps[-1]
        memory.store_u64(slot.slot_hpa, slot.entry & ~(ept.X | ept.X_USER) | execute)
        allowed = (execute == ept.X_USER) is user_page
        for user in (False, True) if user_page else (False,):
            walk = explain_two_stage(memory, inner.regime, outer.regime, Gva(0x1000), Access.FETCH, user=user)
            many = outer.translate_gva_many([0x1000], inner.regime, Access.FETCH, user=user)
            assert isinstance(walk.result, Mapped) is allowed is (int(many.status[0]) == 0)
            if isinstance(walk.result, Mapped):
                assert int(many.permissions[0]) == walk.result.permissions
