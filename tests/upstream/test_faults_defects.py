"""Defects of upstream's fault handling that must not exist here (inventory 4.2)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from upstream_bench import (
    RW,
    RX,
    R,
    eager,
    every_format,
    give_back,
    host,
    leave_free,
    region,
    snapshot,
    space_on,
)  # fmt: skip

from stage2.address import SIZE_1G, SIZE_2M, SIZE_4K, Gpa, Gva, Hpa, Range
from stage2.errors import EncodingError
from stage2.flags import RWX, Access, MappingFlags, MapType
from stage2.formats.outcome import FaultKind
from stage2.guest.memory import GuestMemory
from stage2.space.address_space import AddressSpace
from stage2.space.faults import Resolution
from stage2.space.region import Populate, ViolationPolicy
from stage2.tables.result import Fault, Mapped
from stage2.vm.exits import Action, MemoryFault
from stage2.vm.vm import Vm

ACTIONS = {
    ViolationPolicy.STOP: Action.STOP,
    ViolationPolicy.INJECT: Action.INJECT,
    ViolationPolicy.DISCARD: Action.DISCARD,
}


def exit_at(gpa: int, access: Access, *, on_table: bool = False) -> MemoryFault:
    fault = Fault(FaultKind.TRANSLATION, 2, 0, gpa, Gva(gpa), access, on_table=on_table)
    return MemoryFault(0, Gpa(gpa), Gva(gpa), access, 0x8000_0000, fault)


@every_format
@pytest.mark.parametrize("populate", list(Populate))
def test_a_second_fault_keeps_the_frame_and_its_data(fmt: str, populate: Populate) -> None:
    with host() as frames, space_on(frames, fmt) as space:
        space.map(region(0x1_0000, 0x2000, populate=populate))
        space.handle_page_fault(0x1_0000, Access.WRITE)
        GuestMemory(space).write(0x1_0000, b"kept")
        before = snapshot(space)
        for access in (Access.READ, Access.WRITE, Access.WRITE):
            result = space.handle_page_fault(0x1_0FFF, access)
            assert (result.resolution, result.retry) == (Resolution.PRESENT, True)
            assert snapshot(space) == before


@every_format
def test_a_fault_whose_page_cannot_be_mapped_gives_its_frame_back(fmt: str) -> None:
    """Whatever is missing, the frame or a table, nothing stays behind; with one frame more it works."""
    with host() as frames, space_on(frames, fmt) as space:
        space.map(region(SIZE_1G, SIZE_4K))
        enough = space.format.levels
        for count in range(enough):
            hoard = leave_free(frames, count)
            before = snapshot(space)
            result = space.handle_page_fault(SIZE_1G, Access.WRITE)
            assert (result.resolution, result.retry) == (Resolution.OUT_OF_MEMORY, False)
            assert snapshot(space) == before
            give_back(frames, hoard)
        hoard = leave_free(frames, enough)
        assert space.handle_page_fault(SIZE_1G, Access.WRITE).resolution is Resolution.POPULATED
        give_back(frames, hoard)


@every_format
@pytest.mark.parametrize("populate", list(Populate))
def test_frames_of_a_dead_vm_are_zero_for_the_next(fmt: str, populate: Populate) -> None:
    size = 2 * SIZE_2M - 32 * SIZE_4K
    with host() as frames:
        with space_on(frames, fmt, "first") as first:
            first.map(eager(0, size))
            GuestMemory(first).write(0, b"\xa5" * size)
            held = {span.start for span in frames.owners.of(first.owner)}
        with space_on(frames, fmt, "second") as second:
            second.map(region(0, size, populate=populate))
            for gpa in range(0, size, SIZE_4K):
                second.handle_page_fault(gpa, Access.WRITE)
            assert second.page_table.statistics().mapped_bytes == size
            assert any(
                Range.sized(start, 1).overlaps(span) for start in held for span in frames.owners.of(second.owner)
            )
            for _, hpa, length, _ in second.page_table.rows().tolist():
                assert frames.memory.read(hpa, length) == bytes(length)


@every_format
def test_a_page_that_is_unmapped_and_faults_again_is_zero(fmt: str) -> None:
    with host() as frames, space_on(frames, fmt) as space:
        space.map(region(0, 0x2000))
        space.handle_page_fault(0, Access.WRITE)
        GuestMemory(space).write(0, b"secret")
        space.unmap(0, SIZE_4K)
        space.map(region(0, SIZE_4K))
        assert space.handle_page_fault(0, Access.READ).resolution is Resolution.POPULATED
        assert GuestMemory(space).read(0, SIZE_4K) == bytes(SIZE_4K)


@every_format
def test_a_lazy_page_does_not_translate_to_hpa_0(fmt: str) -> None:
    with host() as frames, space_on(frames, fmt) as space:
        space.map(region(0x1_0000, 0x4000))
        # Its neighbour is there, so every table on the way to it is.
        space.handle_page_fault(0x1_1000, Access.WRITE)
        for gpa in (0x1_0000, 0x1_2000):
            assert space.query(gpa) is None
            found = space.translate(gpa)
            assert isinstance(found, Fault)
            assert (found.kind, found.level) == (FaultKind.TRANSLATION, 0)
        batch = space.translate_many([0x1_0000, 0x1_1000, 0x1_2000])
        assert batch.status.tolist() == [FaultKind.TRANSLATION, 0, FaultKind.TRANSLATION]
        assert [start for start, _, _, _ in space.page_table.rows().tolist()] == [0x1_1000]


def legal(space: AddressSpace, flags: MappingFlags) -> bool:
    try:
        space.format.leaf_entry(0, 0, flags, controls=space.regime.controls)
    except EncodingError:
        return False
    return True


@every_format
@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("populate", list(Populate))
def test_an_access_is_repeated_only_if_it_then_succeeds(fmt: str, populate: Populate, tracked: bool) -> None:
    """Upstream's RISC-V faults carry no access, pass every check, and so fault forever on a read-only region."""
    every = [MappingFlags(bits) for bits in range(1, 8)]
    for flags, access in itertools.product(every, Access):
        with host() as frames, space_on(frames, fmt) as space:
            if not legal(space, flags) or (tracked and flags not in (RW, RWX)):
                continue
            space.map(region(0x1_0000, 0x1000, flags, populate=populate))
            if tracked:
                space.track_writes(0x1_0000, 0x1000)
            assert isinstance(space.translate(0x1_0000, access), Fault) or flags & access.flag
            for _ in range(3):
                result = space.handle_page_fault(0x1_0000, access)
                assert result.retry is bool(flags & access.flag)
                assert isinstance(space.translate(0x1_0000, access), Mapped) is result.retry
            if not result.retry:
                assert (result.resolution, result.policy) == (Resolution.VIOLATION, ViolationPolicy.STOP)


@every_format
@pytest.mark.parametrize("policy", list(ViolationPolicy))
def test_a_forbidden_access_ends_by_policy_and_not_in_an_endless_loop(fmt: str, policy: ViolationPolicy) -> None:
    with host() as frames, space_on(frames, fmt, violation=policy) as space:
        vm = Vm("vm", 1, "riscv64", space)
        space.map(eager(0x1_0000, 0x1000, R))
        space.map(region(0x2_0000, 0x1000, RX, MapType.ROM))
        space.map(region(0x3_0000, 0x1000, RW))
        cases = (
            (0x1_0000, Access.WRITE, "MAP_ALLOC"),
            (0x2_0008, Access.WRITE, "ROM"),
            (0x3_0000, Access.FETCH, "MAP_ALLOC"),
            (0x5_0000, Access.READ, "hole"),
            (1 << 62, Access.WRITE, "hole"),
        )
        for gpa, access, where in cases:
            before = snapshot(space)
            fault = exit_at(gpa, access)
            action, result = vm.memory_fault(fault)
            expected = ACTIONS[policy]
            if access is Access.FETCH and expected is Action.DISCARD:
                expected = Action.INJECT
            assert action is expected, (gpa, access)
            vm.record_violation(fault, action, result)
            assert (vm.violations[-1].gpa, vm.violations[-1].region) == (gpa, where)
            assert snapshot(space) == before
        assert len(vm.violations) == len(cases)


@pytest.mark.parametrize("policy", list(ViolationPolicy))
def test_a_regions_own_policy_comes_before_that_of_the_space(policy: ViolationPolicy) -> None:
    with host() as frames, space_on(frames, "sv39x4", violation=ViolationPolicy.STOP) as space:
        space.map(replace(region(0, 0x1000, R), violation=policy))
        assert space.handle_page_fault(0, Access.WRITE).policy is policy
        assert space.handle_page_fault(0x1000, Access.WRITE).policy is ViolationPolicy.STOP


def test_an_access_to_a_stage_1_table_is_never_dropped_or_emulated() -> None:
    """What a table walk reads cannot be made up: the guest gets a fault instead."""
    with host() as frames, space_on(frames, "sv39x4", violation=ViolationPolicy.DISCARD) as space:
        vm = Vm("vm", 1, "riscv64", space)
        space.map(region(0x1000, 0x1000, RW, MapType.EMULATED, name="uart"))
        for gpa in (0x1000, 0x5000):
            assert vm.memory_fault(exit_at(gpa, Access.READ, on_table=True))[0] is Action.INJECT


@every_format
def test_a_leaf_without_permission_does_not_fault_forever(fmt: str) -> None:
    """A present page that no population can repair is a violation, not a retry."""
    with host() as frames, space_on(frames, fmt) as space:
        space.map(eager(0, SIZE_4K, RW))
        space.page_table.protect_range(0, SIZE_4K, R)
        result = space.handle_page_fault(0, Access.WRITE)
        assert result.resolution is Resolution.VIOLATION
        assert not result.retry
        slot = Hpa(space.page_table.explain(0).steps[-1].slot)
        assert frames.memory.load_u64(slot)
        assert space.handle_page_fault(0, Access.READ).resolution is Resolution.PRESENT
