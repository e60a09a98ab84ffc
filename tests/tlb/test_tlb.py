"""What each invalidation drops, on a TLB filled by real walks of both stages; CPUs, identifiers and roll-over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from stage2.address import Gva, Hpa, Range
from stage2.errors import OutOfRangeError
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats import by_name
from stage2.formats.arm import invalidation as arm
from stage2.formats.invalidation import Holds, Operation
from stage2.formats.riscv import invalidation as riscv
from stage2.formats.x86 import invalidation as x86
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tables.pagetable import PageTable
from stage2.tables.regime import Regime
from stage2.tables.result import Mapped
from stage2.tlb.identifiers import Identifiers
from stage2.tlb.model import Tlb
from stage2.tlb.shootdown import Cpus

TABLES = Owner(OwnerKind.TABLES, "tlb")
HOST = Range.sized(0x8000_0000, 16 << 20)
RW = MappingFlags.READ | MappingFlags.WRITE
USER = RWX | MappingFlags.USER
VA, OTHER_VA, GLOBAL_VA = Gva(0x10_0000), Gva(0x12_0000), Gva(0x14_0000)
GPA, OTHER_GPA, GLOBAL_GPA = 0x8040_0000, 0x8050_0000, 0x8060_0000
ASID, VMID = 3, 5
PAIRS = {"riscv": ("sv39", "sv39x4"), "ept": ("x86-4level", "ept4"), "npt": ("x86-4level", "npt4"),
         "arm": ("arm-s1-4k-39", "arm-s2-4k-40")}  # fmt: skip


@dataclass
class Guest:
    """A guest with three pages under a stage 2 of 4 KiB pages, and a CPU that has used all of them."""

    memory: PhysicalMemory
    frames: FrameAllocator
    second: PageTable
    stage_1: Regime
    tlb: Tlb

    @property
    def stage_2(self) -> Regime:
        return self.second.regime

    def touch(self, gva: Gva = VA, access: Access = Access.READ) -> bool:
        """Access an address; whether the TLB had it."""
        return self.tlb.translate(self.memory, self.stage_1, self.stage_2, gva, access, user=True).hit

    def kinds(self) -> dict[tuple[str, bool], int]:
        """How many entries there are, by what they hold and whether they are pointers."""
        return {
            (str(holds.name), table): len(self.tlb.of(holds, table=table))
            for holds in (Holds.STAGE_1, Holds.STAGE_2, Holds.COMBINED)
            for table in (False, True)
        }


@contextmanager
def guest(pair: str) -> Iterator[Guest]:
    first, second = PAIRS[pair]
    with PhysicalMemory([HOST]) as memory:
        frames = FrameAllocator(memory)
        # The guest's tables lie at GPAs equal to their HPAs; stage 2 maps all of it, identically, in pages.
        inner = PageTable(by_name(first), frames, owner=TABLES, identifier=ASID)
        for gva, gpa in ((VA, GPA), (OTHER_VA, OTHER_GPA), (GLOBAL_VA, GLOBAL_GPA)):
            inner.map_page(gva, Hpa(gpa), USER)
        slot = inner.explain(GLOBAL_VA).steps[-1]
        bit = {"riscv": 1 << 5, "ept": 1 << 8, "npt": 1 << 8}.get(pair, 0)
        # Arm marks what is not global.
        memory.store_u64(slot.slot_hpa, slot.entry & ~(1 << 11) if pair == "arm" else slot.entry | bit)
        outer = PageTable(by_name(second), frames, owner=TABLES, identifier=VMID)
        outer.map_range(HOST.start, Hpa(HOST.start), HOST.size, RWX, largest=4096)
        found = Guest(memory, frames, outer, inner.regime, Tlb())
        for gva in (VA, OTHER_VA, GLOBAL_VA):
            assert not found.touch(gva)
            assert found.touch(gva)
        yield found


@pytest.mark.parametrize("pair", PAIRS)
def test_a_walk_leaves_leaves_and_pointers_of_each_stage_and_of_both(pair: str) -> None:
    with guest(pair) as found:
        kinds = found.kinds()
        assert kinds["STAGE_1", False] == kinds["COMBINED", False] == 3
        # Three pages and the tables of stage 1.
        assert kinds["STAGE_2", False] == 3 + found.stage_1.format.levels
        assert kinds["STAGE_1", True] == kinds["COMBINED", True] == found.stage_1.format.levels - 1
        assert kinds["STAGE_2", True] >= found.stage_2.format.levels - 1


def page(address: int) -> Range:
    return Range.sized(address, 4096)


FAR_GPA, FAR_VA = page(0x9000_0000), page(0x5000_0000)

# (pair, operation, is VA's entry gone, GLOBAL_VA's, the stage-2 leaf of GPA, stage-2 pointers, stage-1 leaf of VA)
SCOPES: list[tuple[str, Operation, bool, bool, bool, bool, bool]] = [
    ("arm", arm.ipas2e1is(VMID, page(GPA), 4096), False, False, True, True, False),
    ("arm", arm.ipas2e1is(VMID, page(GPA), 4096, last_level=True), False, False, True, False, False),
    ("arm", arm.ipas2e1is(VMID + 1, page(GPA), 4096), False, False, False, False, False),
    ("arm", arm.vmalle1is(VMID), True, True, False, False, True),
    ("arm", arm.vmalle1is(VMID + 1), False, False, False, False, False),
    ("arm", arm.vmalls12e1is(VMID), True, True, True, True, True),
    ("arm", arm.alle1is(), True, True, True, True, True),
    ("arm", arm.vae1is(VMID, ASID, page(VA), 4096), True, False, False, False, True),
    ("arm", arm.vae1is(VMID, ASID + 1, page(VA), 4096), False, False, False, False, False),
    ("arm", arm.vae1is(VMID, ASID + 1, page(GLOBAL_VA), 4096), False, True, False, False, False),
    ("arm", arm.vaae1is(VMID, page(VA), 4096), True, False, False, False, True),
    ("arm", arm.aside1is(VMID, ASID), True, False, False, False, True),
    ("ept", x86.invept_all_contexts(), True, True, True, True, False),
    ("ept", x86.invvpid_address(VMID, page(VA)), True, False, False, False, True),
    ("ept", x86.invvpid_address(VMID, FAR_VA), False, False, False, False, False),
    ("ept", x86.invvpid_single_context(VMID), True, True, False, False, True),
    ("ept", x86.invvpid_single_context(VMID + 1), False, False, False, False, False),
    ("ept", x86.invvpid_all_contexts(), True, True, False, False, True),
    ("ept", x86.invvpid_retaining_globals(VMID), True, False, False, False, True),
    ("npt", x86.flush_asid(VMID), True, True, True, True, True),
    ("npt", x86.flush_asid_but_globals(VMID), True, False, True, True, True),
    ("npt", x86.flush_asid(VMID + 1), False, False, False, False, False),
    ("npt", x86.flush_all_asids(), True, True, True, True, True),
    ("npt", x86.invlpga(VMID, page(VA)), True, False, False, False, True),
    ("npt", x86.invlpg(VMID, page(GLOBAL_VA)), False, True, False, False, False),
    ("npt", x86.mov_cr3(VMID, ASID), True, False, False, False, True),
    ("riscv", riscv.hfence_gvma(VMID, page(GPA)), True, False, True, False, False),
    ("riscv", riscv.hfence_gvma(VMID, FAR_GPA), False, False, False, False, False),
    ("riscv", riscv.hfence_gvma(VMID + 1, page(GPA)), False, False, False, False, False),
    ("riscv", riscv.hfence_gvma_all(VMID), True, True, True, True, False),
    ("riscv", riscv.hfence_gvma_every(), True, True, True, True, False),
    ("riscv", riscv.hfence_vvma(VMID, ASID, page(VA)), True, False, False, False, True),
    ("riscv", riscv.hfence_vvma(VMID, ASID, page(GLOBAL_VA)), False, False, False, False, False),
    ("riscv", riscv.hfence_vvma_all(VMID), True, True, False, False, True),
    ("riscv", riscv.sfence_vma(VMID, None, page(GLOBAL_VA)), False, True, False, False, False),
    ("riscv", riscv.sfence_vma_all(VMID, ASID), True, False, False, False, True),
]


@pytest.mark.parametrize(("pair", "operation", "va", "shared", "leaf_2", "pointer_2", "leaf_1"), SCOPES,
                         ids=[f"{scope[0]}: {scope[1]}" for scope in SCOPES])  # fmt: skip
def test_an_operation_drops_what_its_manual_says(
    pair: str, operation: Operation, va: bool, shared: bool, leaf_2: bool, pointer_2: bool, leaf_1: bool
) -> None:
    def has(found: Guest, holds: Holds, address: int, *, table: bool = False) -> bool:
        entries = found.tlb.of(holds, table=table)
        return bool(((entries["start"] <= address) & (address <= entries["last"])).any())

    with guest(pair) as found:
        found.tlb.apply(operation)
        gone = (
            not has(found, Holds.COMBINED, VA),
            not has(found, Holds.COMBINED, GLOBAL_VA),
            not has(found, Holds.STAGE_2, GPA),
            not has(found, Holds.STAGE_2, GPA, table=True),
            not has(found, Holds.STAGE_1, VA),
        )
        assert gone == (va, shared, leaf_2, pointer_2, leaf_1)
        assert found.touch(VA) is not va


def test_invept_is_by_root_whatever_the_vpid() -> None:
    with guest("ept") as found:
        found.tlb.apply(x86.invept_single_context(found.second.root + 4096))
        assert found.touch()
        found.tlb.apply(x86.invept_single_context(found.second.root))
        assert not found.touch()


@pytest.mark.parametrize("pair", PAIRS)
def test_a_stale_translation_is_used_until_what_is_owed_is_done(pair: str) -> None:
    with guest(pair) as found:
        edit = found.second.unmap_range(GPA, 4096)
        assert found.touch(), "the TLB still has it"
        for operation in edit.owed:
            found.tlb.apply(operation)
        answer = found.tlb.translate(found.memory, found.stage_1, found.stage_2, VA, Access.READ, user=True)
        assert not answer.hit
        assert not isinstance(answer.result, Mapped)


# --- several CPUs ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pair", PAIRS)
def test_a_shootdown_reaches_every_cpu_that_may_hold_the_vm_and_interrupts_no_other(pair: str) -> None:
    with guest(pair) as found:
        cpus = Cpus(4, Identifiers(8))
        for cpu in (0, 2):
            cpus.enter(cpu, found.second)
            found.tlb = cpus.tlbs[cpu]
            assert not found.touch()
        cpus.leave(2)
        assert cpus.holders(found.second) == {0, 2}
        edit = found.second.unmap_range(GPA, 4096)
        for cpu in (0, 2):
            found.tlb = cpus.tlbs[cpu]
            assert not found.touch(), f"CPU {cpu} still had it"
        assert cpus.interrupts == (0 if edit.owed[0].broadcast else 1)


@pytest.mark.parametrize("pair", PAIRS)
def test_when_identifiers_start_again_nobody_sees_anothers_translations(pair: str) -> None:
    with guest(pair) as found:
        cpus = Cpus(2, Identifiers(2))
        others = [PageTable(found.second.format, found.frames, owner=TABLES) for _ in range(5)]
        for other in others:
            other.map_range(HOST.start, Hpa(HOST.start), HOST.size // 2, RWX)
        cpus.enter(0, found.second)
        found.tlb = cpus.tlbs[0]
        found.touch()
        mine = found.second.regime.identifier
        cpus.leave(0)
        numbers = []
        for other in others:
            cpus.enter(0, other)
            numbers.append(other.regime.identifier)
            seen = found.tlb.translate(found.memory, found.stage_1, other.regime, VA, Access.READ, user=True)
            assert not seen.hit, "a translation of another VM"
            cpus.leave(0)
        assert mine in numbers, "with 3 numbers for 6 VMs one comes back"


def test_a_vm_that_runs_keeps_its_identifier_when_they_start_again() -> None:
    numbers = Identifiers(1)
    kept = numbers.acquire("runs")
    with pytest.raises(OutOfRangeError, match="all 1 identifiers of 1 bits belong to running VMs"):
        numbers.acquire("second")
    numbers.leave("runs")
    second = numbers.acquire("second")
    assert (kept.number, second.number, second.rolled_over, numbers.generation) == (1, 1, True, 1)
    numbers = Identifiers(2)
    runs = numbers.acquire("runs").number
    for holder in ("a", "b", "c", "d"):
        assert numbers.acquire(holder).number != runs
        numbers.leave(holder)
    assert numbers.generation == 1
    assert numbers.number_of("runs") == runs


def test_a_retired_identifier_is_given_again_without_starting_again() -> None:
    numbers = Identifiers(1)
    assert numbers.acquire("first").number == 1
    numbers.retire("first")
    assert numbers.acquire("second").rolled_over is False
    assert numbers.generation == 0


def test_0_is_never_given_out_in_any_generation() -> None:
    """VPID 0 is the host's: VM entry fails with it (SDM Vol. 3C, 28.2.1.1); so is ASID 0 (APM Vol. 2, 15.5.1)."""
    numbers = Identifiers(2)
    given = []
    for holder in range(9):
        given.append(numbers.acquire(holder).number)
        numbers.leave(holder)
        if holder % 4 == 3:
            numbers.retire(holder)
    assert numbers.generation > 1
    assert set(given) == {1, 2, 3}


def test_an_identifier_needs_a_bit() -> None:
    with pytest.raises(OutOfRangeError, match="at least 1 bit"):
        Identifiers(0)
