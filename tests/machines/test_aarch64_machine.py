"""QEMU's AArch64 machine: its monitor does what it is told, and a guest's accesses end as the Arm ARM says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest

from opening import machine_fixture, or_skip
from stage2.address import Hpa, Range
from stage2.errors import EncodingError, MachineError
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats import by_name
from stage2.formats.arm.invalidation import alle1is, aside1is, ipas2e1is, vaae1is, vae1is, vae2is, vmalle1is
from stage2.formats.arm.layout import HA
from stage2.formats.arm.stage1 import PAN, WXN
from stage2.formats.arm.syndromes import DABT_LOWER, DABT_SAME, IABT_LOWER
from stage2.formats.invalidation import Operation
from stage2.machines import mailbox
from stage2.machines.aarch64 import (
    BATCH,
    ESR_EL1,
    ESR_EL2,
    FAR_EL1,
    FAR_EL2,
    HPFAR_EL2,
    MADE,
    OWN,
    STRANGE,
    TAKEN_BY_EL1,
    TAKEN_BY_EL2,
    WINDOW,
    WINDOW_GPA,
    AArch64Machine,
)
from stage2.machines.mailbox import PROBE_ENTRY, TRANSLATE, UNPRIVILEGED
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.tables.pagetable import PageTable

HYPERVISOR, DATA_OWNER = Owner(OwnerKind.TABLES, "stage 2"), Owner(OwnerKind.TABLES, "data")
GUEST = Owner(OwnerKind.TABLES, "stage 1")
R, RW, RX = MappingFlags.READ, MappingFlags.READ | MappingFlags.WRITE, MappingFlags.READ | MappingFlags.EXECUTE
DATA = Range(0x8000_0000, 0xA000_0000)
TABLES = Range(0x7F00_0000, 0x8000_0000)
GPA = 0x4000_0000
GVA = 0x12_0000_0000
BRK = 0xD420_0000
machine = machine_fixture(AArch64Machine)


@contextmanager
def stage_2(machine: AArch64Machine, name: str = "arm-s2-4k-40", *, controls: int | None = None) -> Iterator[PageTable]:
    """A table that maps the window and nothing else; only `TABLES` is used for it."""
    frames = FrameAllocator(machine.memory)
    for span in (Range(machine.RAM.start, TABLES.start), Range(TABLES.end, machine.RAM.end)):
        frames.claim(span, owner=DATA_OWNER)
    table = PageTable(by_name(name), frames, owner=HYPERVISOR, controls=controls, identifier=3)
    table.map_range(WINDOW_GPA, Hpa(WINDOW.start), WINDOW.size, RX)
    yield table
    frames.free_owner(GUEST)
    table.destroy()


@contextmanager
def both_stages(
    machine: AArch64Machine,
    first: str = "arm-s1-4k-39",
    second: str = "arm-s2-4k-40",
    *,
    switches: tuple[str, ...] = (),
) -> Iterator[tuple[PageTable, PageTable]]:
    """(stage 1, stage 2): the guest's tables have the same GPAs as HPAs."""
    with stage_2(machine, second) as outer:
        outer.map_range(TABLES.start, Hpa(TABLES.start), TABLES.size, RW)
        frames = FrameAllocator(machine.memory)
        for span in (Range(machine.RAM.start, 0x7F80_0000), Range(TABLES.end, machine.RAM.end)):
            frames.claim(span, owner=DATA_OWNER)
        fmt = by_name(first)
        inner = PageTable(fmt, frames, owner=GUEST, controls=fmt.controls_with(*switches), identifier=7)
        yield inner, outer
        inner.destroy()


def probe(
    machine: AArch64Machine, address: int, access: Access, *, user: bool = False, value: int = 0, kind: int = 0
) -> tuple[int, int, list[int]]:
    """(outcome, value, syndrome) of one probe."""
    listed = np.zeros(1, PROBE_ENTRY)
    listed[0] = (address, value, access | (UNPRIVILEGED if user else 0) | kind, 0)
    found = machine.probe(listed)[0]
    return int(found["outcome"]), int(found["value"]), [int(word) for word in found["syndrome"]]


def ec(esr: int) -> int:
    return esr >> 26


def status(esr: int) -> int:
    return esr & 0x3F


def test_it_has_all_granules_and_52_bits(machine: AArch64Machine) -> None:
    assert machine.word(mailbox.MAGIC) == mailbox.MAGIC_VALUE
    assert machine.pa_bits == 52
    assert machine.mmfr0 >> 28 & 0xF == 1, "LPA2 with 4 KiB"
    assert machine.mmfr0 >> 32 & 0xFF == 0x23, "stage 2: 16 KiB with LPA2, 64 KiB"


@pytest.mark.parametrize(
    "name",
    [
        "arm-s2-4k-40", "arm-s2-4k-40-4level", "arm-s2-4k-48", "arm-s2-4k-52-lpa2", "arm-s2-16k-40", "arm-s2-16k-48",
        "arm-s2-64k-40", "arm-s2-64k-48", "arm-s2-64k-52",
    ],
)  # fmt: skip
def test_a_guest_reads_writes_and_executes_by_stage_2_alone(machine: AArch64Machine, name: str) -> None:
    with stage_2(machine, name) as table:
        table.map_range(GPA, Hpa(DATA.start), 1 << 16, RWX)
        machine.memory.store_u64(Hpa(DATA.start + 0x10), 0x1122_3344_5566_7788)
        machine.memory.store_u64(Hpa(DATA.start + 0x20), BRK | 0xABCD << 5)
        machine.enter(None, table.regime)
        for user in (False, True):
            assert probe(machine, GPA + 0x10, Access.READ, user=user)[:2] == (MADE, 0x1122_3344_5566_7788)
            assert probe(machine, GPA + 0x40, Access.WRITE, user=user, value=9 + user)[0] == MADE
            assert machine.memory.load_u64(Hpa(DATA.start + 0x40)) == 9 + user
            assert probe(machine, GPA + 0x20, Access.FETCH, user=user)[:2] == (MADE, 0xABCD)


def test_stage_2_faults_come_to_el2_with_address_and_syndrome(machine: AArch64Machine) -> None:
    with stage_2(machine) as table:
        table.map_range(GPA, Hpa(DATA.start), 4096, R)
        machine.enter(None, table.regime)
        outcome, _, syndrome = probe(machine, GPA + 0x1008, Access.READ)
        assert outcome == TAKEN_BY_EL2
        assert (ec(syndrome[ESR_EL2]), status(syndrome[ESR_EL2])) == (DABT_LOWER, 0b000111)
        assert (syndrome[FAR_EL2], syndrome[HPFAR_EL2]) == (GPA + 0x1008, GPA + 0x1000 >> 8)
        outcome, _, syndrome = probe(machine, GPA + 8, Access.WRITE, user=True)
        assert outcome == TAKEN_BY_EL2
        assert (ec(syndrome[ESR_EL2]), status(syndrome[ESR_EL2])) == (DABT_LOWER, 0b001111)
        assert syndrome[ESR_EL2] >> 6 & 1 == 1, "WnR"
        outcome, _, syndrome = probe(machine, GPA + 8, Access.FETCH)
        assert outcome == TAKEN_BY_EL2
        assert (ec(syndrome[ESR_EL2]), status(syndrome[ESR_EL2])) == (IABT_LOWER, 0b001111)


def test_stage_1_faults_are_seen_although_el1_has_no_vectors(machine: AArch64Machine) -> None:
    with both_stages(machine) as (inner, outer):
        outer.map_range(GPA, Hpa(DATA.start), 1 << 16, RWX)
        inner.map_range(GVA, Hpa(GPA), 1 << 16, R)
        machine.enter(inner.regime, outer.regime)
        machine.memory.store_u64(Hpa(DATA.start + 8), 77)
        assert probe(machine, GVA + 8, Access.READ)[:2] == (MADE, 77)
        outcome, _, syndrome = probe(machine, GVA + 8, Access.WRITE)
        assert outcome == TAKEN_BY_EL1
        assert (ec(syndrome[ESR_EL1]), status(syndrome[ESR_EL1])) == (DABT_SAME, 0b001111)
        assert syndrome[FAR_EL1] == GVA + 8
        outcome, _, syndrome = probe(machine, GVA + 8, Access.READ, user=True)
        assert outcome == TAKEN_BY_EL1
        assert ec(syndrome[ESR_EL1]) == DABT_LOWER
        outcome, _, syndrome = probe(machine, 1 << 40, Access.READ)
        assert outcome == TAKEN_BY_EL1
        assert status(syndrome[ESR_EL1]) == 0b000100, "a translation fault at level 0: the address is too wide"


def test_stage_2_refuses_a_stage_1_table(machine: AArch64Machine) -> None:
    with both_stages(machine) as (inner, outer):
        inner.map_range(GVA, Hpa(GPA), 4096, RW)
        outer.protect_range(inner.root, 4096, RX & ~R)
        machine.enter(inner.regime, outer.regime)
        outcome, _, syndrome = probe(machine, GVA, Access.WRITE)
        assert outcome == TAKEN_BY_EL2
        assert syndrome[ESR_EL2] >> 7 & 1 == 1, "S1PTW"
        assert syndrome[HPFAR_EL2] << 8 == inner.root & ~0xFFF


@pytest.mark.parametrize("switch", ["pan", "wxn"])
def test_pan_and_wxn_reach_the_guest(machine: AArch64Machine, switch: str) -> None:
    with both_stages(machine, switches=(switch,)) as (inner, outer):
        assert inner.regime.controls & (PAN | WXN)
        outer.map_range(GPA, Hpa(DATA.start), 1 << 16, RWX)
        inner.map_range(GVA, Hpa(GPA), 4096, RWX | MappingFlags.USER)
        machine.memory.store_u64(Hpa(DATA.start + 0x20), BRK)
        machine.enter(inner.regime, outer.regime)
        by_kernel = probe(machine, GVA, Access.READ)[0]
        by_user = probe(machine, GVA + 0x20, Access.FETCH, user=True)[0]
        assert (by_kernel, by_user) == ((TAKEN_BY_EL1, MADE) if switch == "pan" else (MADE, TAKEN_BY_EL1))


def test_hardware_sets_the_access_flag_in_our_bytes(machine: AArch64Machine) -> None:
    fmt = by_name("arm-s2-4k-40")
    with stage_2(machine, controls=fmt.default_controls | HA) as table:
        table.map_range(GPA, Hpa(DATA.start), 4096, RW)
        table.harvest(GPA, 4096, 1 << 8)
        slot = table.explain(GPA).steps[-1].slot_hpa
        machine.enter(None, table.regime)
        assert not machine.memory.load_u64(slot) >> 10 & 1
        assert probe(machine, GPA, Access.READ)[0] == MADE
        assert machine.memory.load_u64(slot) >> 10 & 1


def test_translations_by_instruction_say_where_they_lead_and_why_not(machine: AArch64Machine) -> None:
    with stage_2(machine) as table:
        table.map_range(GPA, Hpa(DATA.start + 0x3000), 4096, R)
        machine.enter(None, table.regime)
        outcome, par, _ = probe(machine, GPA + 0x123, Access.READ, kind=TRANSLATE)
        assert (outcome, par & 0x000F_FFFF_FFFF_F000) == (MADE, DATA.start + 0x3000)
        outcome, par, _ = probe(machine, GPA, Access.WRITE, user=True, kind=TRANSLATE)
        assert (outcome, par & 0x3FF) == (TAKEN_BY_EL1, 1 | 0b001111 << 1 | 1 << 9)


def test_a_walk_that_leaves_memory_ends_the_probe_not_the_monitor(machine: AArch64Machine) -> None:
    with stage_2(machine, "arm-s2-4k-48") as table:
        fmt = table.format
        nowhere = 0x30_0000_0000
        slot = Hpa(table.root + 8 * 5)
        machine.memory.store_u64(slot, fmt.table_entry(nowhere))
        machine.enter(None, table.regime)
        address = 5 << fmt.level_shift(3)
        for kind in (0, TRANSLATE):
            outcome, _, syndrome = probe(machine, address, Access.READ, kind=kind)
            assert outcome in (TAKEN_BY_EL1, TAKEN_BY_EL2)
            assert outcome == TAKEN_BY_EL1 or syndrome[ESR_EL2] & 0b111100 == 0b010100, "an external abort on a walk"
        table.map_range(GPA, Hpa(DATA.start), 4096, RW)
        assert probe(machine, GPA, Access.READ)[0] == MADE
        machine.memory.store_u64(slot, 0)


def test_a_guest_executes_one_instruction_and_no_more(machine: AArch64Machine) -> None:
    with stage_2(machine) as table:
        table.map_range(GPA, Hpa(DATA.start), 4096, RWX)
        machine.memory.store_u64(Hpa(DATA.start + 0x80), 0x1400_0000_1400_0000)  # B . for ever
        machine.memory.store_u64(Hpa(DATA.start + 0x88), 0)  # UDF: EL1 would take that
        machine.enter(None, table.regime)
        assert probe(machine, GPA + 0x80, Access.FETCH)[0] == MADE
        assert probe(machine, GPA + 0x88, Access.FETCH)[0] == TAKEN_BY_EL1
        machine.memory.store_u64(Hpa(DATA.start + 0x90), 0xD400_0002)  # HVC
        assert probe(machine, GPA + 0x90, Access.FETCH)[0] == STRANGE


def test_a_fetch_sees_code_that_python_has_changed(machine: AArch64Machine) -> None:
    with stage_2(machine) as table:
        table.map_range(GPA, Hpa(DATA.start), 4096, RWX)
        machine.enter(None, table.regime)
        for index in range(20):
            machine.memory.store_u64(Hpa(DATA.start), BRK | index << 5)
            assert probe(machine, GPA, Access.FETCH, value=DATA.start)[:2] == (MADE, index)


def seen(machine: AArch64Machine, address: int) -> int:
    outcome, value, _ = probe(machine, address, Access.READ)
    return value if outcome == MADE else -1


@pytest.mark.parametrize(
    "operation",
    [
        vmalle1is(3), alle1is(), vae1is(3, 7, Range.sized(GVA, 4096), 4096),
        vae1is(3, 7, Range.sized(GVA, 4096), 4096, last_level=True), vaae1is(3, Range.sized(GVA, 4096), 4096),
        aside1is(3, 7),
    ],
    ids=str,
)  # fmt: skip
def test_a_stale_translation_is_seen_until_it_is_invalidated(machine: AArch64Machine, operation: Operation) -> None:
    with both_stages(machine) as (inner, outer):
        outer.map_range(GPA, Hpa(DATA.start), 1 << 16, RW)
        inner.map_range(GVA, Hpa(GPA), 4096, RW)
        for page in range(2):
            machine.memory.store_u64(Hpa(DATA.start + 0x1000 * page), 100 + page)
        machine.enter(inner.regime, outer.regime)
        assert seen(machine, GVA) == 100
        inner.unmap_range(GVA, 4096)
        inner.map_range(GVA, Hpa(GPA + 0x1000), 4096, RW)
        assert seen(machine, GVA) == 100, "QEMU's TLB holds the old page"
        machine.invalidate([operation])
        assert seen(machine, GVA) == 101


def test_operations_of_other_regimes_and_longer_lists_are_told_apart(machine: AArch64Machine) -> None:
    with pytest.raises(EncodingError, match="VAE2IS"):
        machine.invalidate([vae2is(Range.sized(0, 4096), 4096)])
    machine.invalidate([ipas2e1is(3, Range.sized(0, 4096 * 200_000), 4096), alle1is()])
    with pytest.raises(MachineError, match="at once"):
        machine.probe(np.zeros(BATCH + 1, PROBE_ENTRY))


def test_a_long_list_is_done_in_order(machine: AArch64Machine) -> None:
    with stage_2(machine) as table:
        table.map_range(GPA, Hpa(DATA.start), 16 << 20, RW)
        machine.enter(None, table.regime)
        listed: npt.NDArray[np.void] = np.zeros(BATCH, PROBE_ENTRY)
        listed["address"] = GPA + 8 * (np.arange(BATCH) % 4096)
        listed["value"] = np.arange(BATCH)
        listed["kind"] = Access.WRITE
        assert (machine.probe(listed)["outcome"] == MADE).all()
        assert machine.memory.load_u64(Hpa(DATA.start + 8 * 5)) == BATCH - 4096 + 5


def test_gicv3_works_and_nothing_is_left_after_close() -> None:
    with pytest.raises(EncodingError, match="GICv4"):
        AArch64Machine(gic_version=4)
    with or_skip(AArch64Machine):
        pass
    before = set(os.listdir("/proc/self/fd"))
    found = AArch64Machine(gic_version=3)
    pid = found.pid
    assert pid is not None
    assert os.path.exists(f"/proc/{pid}")
    assert found.memory.contains(OWN.start, OWN.size)
    found.close()
    found.close()
    assert not os.path.exists(f"/proc/{pid}")
    assert set(os.listdir("/proc/self/fd")) == before
