"""The monitor in HS-mode comes up, makes a guest's accesses, survives every guest, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from opening import machine_fixture, or_skip
from stage2.address import Hpa, Range
from stage2.errors import MachineError
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats import by_name, family_of
from stage2.formats.arm import invalidation as arm_invalidation
from stage2.formats.invalidation import Operation
from stage2.formats.riscv import entry, invalidation
from stage2.machines.emulator import Emulator
from stage2.machines.mailbox import TRANSLATE, UNPRIVILEGED, Command
from stage2.machines.riscv64 import GUEST_CODE, Registers, Riscv64Machine
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.processor import named
from stage2.tables.pagetable import PageTable

TABLES = Range.sized(0x9B00_0000, 0x100_0000)
DATA = 0x1_0000_0000
CODE = 0x40_0000
OWNER = Owner(OwnerKind.TABLES, "test")
ILLEGAL = 2
TIMER = 1 << 63 | 5
VS_ECALL, VU_ECALL, LOAD_GUEST_PAGE_FAULT = 10, 8, 21
machine = machine_fixture(Riscv64Machine)


@pytest.fixture
def table(machine: Riscv64Machine) -> Iterator[PageTable]:
    """A stage 2 that maps the guest's code at CODE and 2 MiB of data at DATA."""
    made = stage_2(machine)
    yield made
    made.flush = None
    made.destroy()


def stage_2(machine: Riscv64Machine) -> PageTable:
    frames = FrameAllocator(machine.memory)
    frames.claim(Range(machine.RAM.start, TABLES.start), owner=OWNER)
    frames.claim(Range(TABLES.end, machine.RAM.end), owner=OWNER)
    fmt = by_name("sv39x4")
    made = PageTable(fmt, frames, owner=OWNER, controls=fmt.controls_with("ad"), identifier=1)
    made.map_range(CODE, Hpa(GUEST_CODE.start), GUEST_CODE.size, RWX)
    made.map_range(DATA, Hpa(DATA), 2 << 20, RWX, largest=4096)
    load(machine, made)
    return made


def load(machine: Riscv64Machine, table: PageTable, *, keep_tlb: bool = False) -> None:
    registers = family_of(table.format).stage_2_registers(
        table.format, table.root, table.regime.controls, table.regime.identifier
    )
    machine.set_registers(Registers(registers["hgatp"], vs_code=CODE, vu_code=CODE), keep_tlb=keep_tlb)


def ask(
    machine: Riscv64Machine, address: int, access: Access, kind: int = 0, *, value: int = 0, renew: int = 0
) -> tuple[int, int, list[int]]:
    """One probe: its outcome, its value, and scause, stval, htval, htinst, hstatus and sepc."""

    def one(number: int) -> npt.NDArray[np.uint64]:
        return np.array([number], np.uint64)

    result = machine.probe(one(address), one(value), one(access | kind), one(renew))
    return int(result["outcome"][0]), int(result["value"][0]), result["syndrome"][0].tolist()


def put(machine: Riscv64Machine, hpa: int, *instructions: int) -> None:
    machine.memory.write(Hpa(hpa), np.array(instructions, np.uint32))


def custom(index: int) -> int:
    """An illegal instruction that holds a number."""
    return index << 7 | 0x0B


def test_a_guest_reads_and_writes_in_either_mode(machine: Riscv64Machine, table: PageTable) -> None:
    machine.memory.store_u64(Hpa(DATA), 0x1234)
    for kind, cause in ((0, VS_ECALL), (UNPRIVILEGED, VU_ECALL)):
        outcome, value, syndrome = ask(machine, DATA, Access.READ, kind)
        assert (outcome, value, syndrome[0]) == (1, 0x1234, cause)
        assert ask(machine, DATA + 8, Access.WRITE, kind, value=cause)[2][0] == cause
        assert machine.memory.load_u64(Hpa(DATA + 8)) == cause


def test_an_access_of_the_hypervisor_for_a_guest_needs_no_trap(machine: Riscv64Machine, table: PageTable) -> None:
    machine.memory.store_u64(Hpa(DATA + 16), 99)
    assert ask(machine, DATA + 16, Access.READ, TRANSLATE)[:2] == (0, 99)
    assert ask(machine, DATA + 24, Access.WRITE, TRANSLATE | UNPRIVILEGED, value=77)[0] == 0
    assert machine.memory.load_u64(Hpa(DATA + 24)) == 77


def test_a_refused_access_reports_where(machine: Riscv64Machine, table: PageTable) -> None:
    hole = DATA + (4 << 20) + 0x128
    outcome, _, syndrome = ask(machine, hole, Access.READ)
    assert outcome == 1
    assert syndrome[:3] == [LOAD_GUEST_PAGE_FAULT, hole, hole >> 2]


def test_a_fetch_runs_what_stands_there_now(machine: Riscv64Machine, table: PageTable) -> None:
    for number in (1, 2, 0xFFFF):
        put(machine, DATA + 0x100, custom(number))
        _, _, syndrome = ask(machine, DATA + 0x100, Access.FETCH, renew=DATA + 0x100)
        assert syndrome[:2] == [ILLEGAL, custom(number)]


def test_a_guest_may_lose_all_registers(machine: Riscv64Machine, table: PageTable) -> None:
    spoil = [0xFFF00013 | register << 7 for register in range(1, 32)]  # addi register, x0, -1
    put(machine, DATA + 0x200, *spoil, custom(5))
    _, _, syndrome = ask(machine, DATA + 0x200, Access.FETCH)
    assert syndrome[:2] == [ILLEGAL, custom(5)]
    assert ask(machine, DATA, Access.READ)[2][0] == VS_ECALL


def test_a_guest_that_does_not_come_back_is_fetched(machine: Riscv64Machine, table: PageTable) -> None:
    put(machine, DATA + 0x300, 0x0000006F)  # j .
    assert ask(machine, DATA + 0x300, Access.FETCH)[2][0] == TIMER
    assert ask(machine, DATA, Access.READ)[2][0] == VS_ECALL


def test_a_guest_that_cannot_run_its_code_has_its_accesses_made_for_it(
    machine: Riscv64Machine, table: PageTable
) -> None:
    table.protect_range(CODE, GUEST_CODE.size, MappingFlags.READ)
    load(machine, table)
    machine.memory.store_u64(Hpa(DATA), 0x4321)
    assert ask(machine, DATA, Access.READ)[:2] == (0, 0x4321)


def test_an_exception_of_the_monitor_is_told(machine: Riscv64Machine) -> None:
    with pytest.raises(MachineError, match="monitor met an exception"):
        machine.command(Command.INVALIDATE, list=1 << 45, count=1)
    machine.command(Command.NOTHING)


def test_another_hart_starts_on_the_same_memory() -> None:
    with or_skip(Riscv64Machine) as machine:
        machine.memory.store_u64(Hpa(DATA), 0x55)
        first = machine.pid
        machine.have(())
        assert machine.pid == first
        machine.have(("svnapot",))
        assert machine.pid != first
        stage_2(machine)
        assert ask(machine, DATA, Access.READ)[:2] == (1, 0x55)


# --- invalidation --------------------------------------------------------------------------------------------

OPERATIONS: list[Operation] = [
    invalidation.hfence_gvma(1, Range.sized(DATA, 4096)),
    invalidation.hfence_gvma_all(1),
    invalidation.hfence_gvma_every(),
    invalidation.hfence_vvma(1, 7, Range.sized(DATA, 4096)),
    invalidation.hfence_vvma_all(1),
    invalidation.sfence_vma(1, None, Range.sized(DATA, 4096)),
    invalidation.sfence_vma(1, 7, Range.sized(DATA, 4096)),
    invalidation.sfence_vma_all(1),
    invalidation.sfence_vma_all(1, 7),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_what_is_cached_stays_until_a_fence(machine: Riscv64Machine, table: PageTable, operation: Operation) -> None:
    def reads() -> bool:
        return ask(machine, DATA, Access.READ, TRANSLATE)[0] == 0

    assert reads()
    table.unmap_range(DATA, 4096)
    assert reads(), "QEMU shows what its TLB still holds, from HLV to HLV"
    machine.invalidate([operation])
    assert not reads()


def test_the_fences_that_edits_owe_are_enough(machine: Riscv64Machine, table: PageTable) -> None:
    table.flush = machine.invalidate
    for page in range(DATA, DATA + 0x4000, 4096):
        assert ask(machine, page, Access.READ, TRANSLATE)[0] == 0
        table.unmap_range(page, 4096)
        assert ask(machine, page, Access.READ, TRANSLATE)[0] == 1


def test_loading_registers_can_keep_what_is_cached(machine: Riscv64Machine, table: PageTable) -> None:
    assert ask(machine, DATA, Access.READ, TRANSLATE)[0] == 0
    table.unmap_range(DATA, 4096)
    load(machine, table, keep_tlb=True)
    assert ask(machine, DATA, Access.READ, TRANSLATE)[0] == 0
    load(machine, table)
    assert ask(machine, DATA, Access.READ, TRANSLATE)[0] == 1


def test_fences_that_this_hart_cannot_do_are_refused(machine: Riscv64Machine, table: PageTable) -> None:
    with pytest.raises(MachineError, match="which is another"):
        machine.invalidate([invalidation.hfence_vvma_all(2)])
    with pytest.raises(MachineError, match="no operation"):
        machine.invalidate(arm_invalidation.roll_over(by_name("arm-s2-4k-40")))


# --- life ----------------------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_left_after_closing() -> None:
    before = descriptors()
    machine = or_skip(Riscv64Machine)
    pid = machine.pid
    assert pid is not None
    machine.close()
    machine.close()
    assert not os.path.exists(f"/proc/{pid}")
    assert descriptors() == before


def test_a_killed_machine_is_one_error() -> None:
    before = descriptors()
    with or_skip(Riscv64Machine) as machine:
        assert machine.pid is not None
        os.kill(machine.pid, signal.SIGKILL)
        with pytest.raises(MachineError, match=r"^qemu-system-riscv64 was killed by signal 9 \(SIGKILL\)"):
            machine.command(Command.NOTHING)
    assert descriptors() == before


def test_too_long_a_list_is_refused(machine: Riscv64Machine) -> None:
    many = np.zeros((1 << 20) + 1, np.uint64)
    with pytest.raises(MachineError, match="more than a list holds"):
        machine.probe(many, many, many, many)


@pytest.mark.parametrize(
    ("name", "generation", "model"),
    [
        ("qemu-7-rv64", 7, None),
        ("qemu-10-rv64", 10, "rv64"),
        ("veyron-v1", 10, "veyron-v1"),
        ("tt-ascalon", 10, "tt-ascalon"),
    ],
)
def test_a_processor_of_qemu_is_as_its_registers_and_its_mmu_say(name: str, generation: int, model: str | None) -> None:
    described = named("riscv64")[name]
    with or_skip(lambda: Riscv64Machine(Emulator("qemu", generation), model=model)) as machine:
        told = {"h", "sv48", "sv57", "svadu", "svpbmt"}
        # QEMU 7.2 keeps menvcfg.PBMTE on a hart without Svpbmt too.
        assert machine.features - ({"svpbmt"} if generation == 7 else set()) == described.features & told
        assert machine.widths == {width: described.numbers[width] for width in ("asid", "vmid")}
        table = stage_2(machine)
        hgatp = family_of(table.format).stage_2_registers(table.format, table.root, table.regime.controls, 1)["hgatp"]
        # STCE alone: the monitor has its clock by it.
        machine.set_registers(Registers(hgatp, vs_code=CODE, vu_code=CODE, henvcfg=0, menvcfg=1 << 63))
        slot = table.explain(DATA).steps[-1].slot_hpa
        leaf = machine.memory.load_u64(slot)
        # Without Svade and Svadu hardware sets A whatever menvcfg.ADUE says.
        machine.memory.store_u64(slot, leaf & ~entry.A)
        refused, _, syndrome = ask(machine, DATA, Access.READ, TRANSLATE)
        assert not refused or syndrome[0] == LOAD_GUEST_PAGE_FAULT
        assert bool(refused) == bool(described.features & {"svade", "svadu"})
        # Without Svnapot bit 63 is reserved.
        machine.memory.store_u64(slot, table.format.group(leaf, 0))
        load(machine, table)
        assert (ask(machine, DATA, Access.READ, TRANSLATE)[0] == 0) == described.has("svnapot")
