"""The address space: declaring, realising, faulting, and taking everything back."""

from collections.abc import Iterator

import pytest

import format_lists
from stage2.address import SIZE_1G, SIZE_2M, SIZE_4K, Gpa, Hpa, Range
from stage2.errors import (
    AddressError,
    EncodingError,
    MisalignedError,
    NotMappedError,
    OutOfMemoryError,
    OutOfRangeError,
    OverlapError,
    OwnerConflictError,
    Stage2Error,
)
from stage2.flags import RWX, Access, MappingFlags, MapType
from stage2.formats.outcome import FaultKind
from stage2.formats.riscv import entry as riscv
from stage2.guest.memory import GuestMemory
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.place import Place
from stage2.space.address_space import AddressSpace
from stage2.space.faults import Resolution
from stage2.space.region import MemoryRegion, Populate, ViolationPolicy
from stage2.tables.result import Fault, Mapped

RAM = Range(0x8000_0000, 0x8080_0000)
RW = MappingFlags.READ | MappingFlags.WRITE
RX = MappingFlags.READ | MappingFlags.EXECUTE
SECOND_STAGES = format_lists.SECOND_STAGES
BASE, SIZE = 0x1_0000, 0x1_0000
"""Upstream's test space (inventory 5.1)."""


@pytest.fixture
def frames() -> Iterator[FrameAllocator]:
    with PhysicalMemory([RAM]) as memory:
        yield FrameAllocator(memory)


@pytest.fixture(params=SECOND_STAGES)
def space(request: pytest.FixtureRequest, frames: FrameAllocator) -> Iterator[AddressSpace]:
    """An empty space in every format; whatever a test does to it, destroying it must leak nothing."""
    made = AddressSpace.create(request.param, frames, size=BASE + SIZE)
    yield made
    made.destroy()
    made.destroy()
    assert frames.used_bytes == 0, "frames or tables leaked"
    assert list(frames.owners) == []


def snapshot(space: AddressSpace) -> tuple[object, ...]:
    memory = space.frames.memory
    return (
        memory.read(Hpa(RAM.start), RAM.size),
        space.frames.free_bytes,
        list(space.frames.owners),
        space.memory_regions,
    )


def unchanged(space: AddressSpace, error: type[Stage2Error], edit: object, match: str | None = None) -> None:
    before = snapshot(space)
    with pytest.raises(error, match=match):
        edit()  # type: ignore[operator]
    assert snapshot(space) == before, "a refused edit changed something"


def eager(start: int, size: int, flags: MappingFlags = RW, **more: object) -> MemoryRegion:
    return MemoryRegion(Gpa(start), size, flags, MapType.MAP_ALLOC, populate=Populate.EAGER, **more)  # type: ignore[arg-type]


def hpa_of(space: AddressSpace, gpa: int) -> int | None:
    found = space.query(gpa)
    return None if found is None else found.hpa


# --- upstream's eleven cases (inventory 5.1) ----------------------------------------------------------------


def test_creation_takes_the_root_and_destruction_gives_it_back(space: AddressSpace) -> None:
    assert space.frames.used_bytes == space.format.root_size
    assert space.root_page_table == space.page_table.root
    assert space.memory_regions == ()
    assert space.range == Range(0, BASE + SIZE)


@pytest.mark.parametrize(
    ("start", "size", "inside"),
    [
        (BASE + 0x1000, 1, True),
        (BASE + 0x1000, 0x2000, True),
        (BASE, SIZE, True),
        (BASE - 0x1000, 0x1000, False),
        (BASE + SIZE, 1, False),
        (BASE, SIZE + 0x1000, False),
        (BASE + 0x3000, 0xF000, False),
    ],
)
def test_contains_is_about_what_is_declared(space: AddressSpace, start: int, size: int, inside: bool) -> None:
    space.map(BASE, 0x8000, RW)
    space.map(BASE + 0x8000, 0x8000, RX)
    assert space.contains(start, size) is inside


def test_a_linear_map_translates_exactly(space: AddressSpace) -> None:
    space.map(MemoryRegion(Gpa(0x1_8000), 0x8000, RW, MapType.MMIO, hpa=Hpa(0x1_0000)))
    for offset in (0, 0x1000, 0x7FFF):
        found = space.translate(0x1_8000 + offset)
        assert isinstance(found, Mapped)
        assert found.hpa == 0x1_0000 + offset


def test_populating_takes_distinct_frames_of_host_memory(space: AddressSpace) -> None:
    used = space.frames.used_bytes
    space.map(eager(0x1_0000, 0x2000))
    assert space.frames.used_bytes >= used + 0x2000
    found = [hpa_of(space, gpa) for gpa in (0x1_0000, 0x1_1000)]
    assert None not in found
    assert len(set(found)) == 2
    assert all(RAM.contains(hpa) for hpa in found if hpa is not None)


def test_a_lazy_region_takes_nothing_until_a_fault(space: AddressSpace) -> None:
    used = space.frames.used_bytes
    space.map(0x1_3000, 0x3000, RW)
    assert space.frames.used_bytes == used
    assert space.query(0x1_4000) is None
    result = space.handle_page_fault(0x1_4123, Access.READ)
    assert (result.resolution, result.retry) == (Resolution.POPULATED, True)
    assert space.frames.used_by(space.owner) == SIZE_4K
    assert hpa_of(space, 0x1_4000) is not None
    assert space.query(0x1_3000) is None
    assert space.query(0x1_5000) is None


def test_unmapping_frees_the_frames(space: AddressSpace) -> None:
    space.map(eager(0x1_5000, 0x2000))
    space.unmap(0x1_5000, 0x2000)
    assert space.query(0x1_5000) is None
    assert space.query(0x1_6000) is None
    assert space.frames.used_bytes == space.format.root_size
    assert not space.contains(0x1_5000)


def test_clearing_unmaps_all_regions(space: AddressSpace) -> None:
    space.map(eager(0x1_6000, 0x1000))
    space.map(0x1_7000, 0x1000, RW)
    space.clear()
    assert space.memory_regions == ()
    assert space.frames.used_bytes == space.format.root_size


def test_translating_outside_is_a_fault_and_no_error(space: AddressSpace) -> None:
    for gpa in (0x1_9000, 0x3_0000, 1 << 60, (1 << 64) - 1):
        assert space.query(gpa) is None
        found = space.translate(gpa, Access.READ)
        assert isinstance(found, Fault)
        too_wide = gpa >> space.format.input_bits
        # To Arm an address beyond the width is a translation fault.
        assert found.kind == (space.format.wide_input_fault if too_wide else FaultKind.TRANSLATION)


def test_the_guests_memory_reads_and_writes_across_pages_but_not_beyond_what_is_declared(space: AddressSpace) -> None:
    space.map(0x1_9000, 0x2000, RW)
    guest = GuestMemory(space)
    assert guest.read(0x1_9000, 0x1100) == bytes(0x1100)
    assert space.query(0x1_9000) is None, "reading must not populate"
    guest.write(0x1_9FF8, bytes(range(16)))
    assert guest.read(0x1_9FF0, 32) == bytes(8) + bytes(range(16)) + bytes(8)
    for start, size in ((0x1_9000, 0x3000), (0x1_D000, 1)):
        with pytest.raises(OutOfRangeError):
            guest.read(start, size)
        with pytest.raises(OutOfRangeError):
            guest.write(start, bytes(size))


def test_two_spaces_with_the_same_gpa_do_not_meet(frames: FrameAllocator) -> None:
    one, two = (AddressSpace("sv39x4", frames, name=name) for name in ("one", "two"))
    for space, value in ((one, b"\xde\xad"), (two, b"\x12\x34")):
        space.map(0x1000, 0x1000, RW)
        GuestMemory(space).write(0x1008, value)
    assert GuestMemory(one).read(0x1008, 2) == b"\xde\xad"
    assert GuestMemory(two).read(0x1008, 2) == b"\x12\x34"
    one.destroy()
    assert GuestMemory(two).read(0x1008, 2) == b"\x12\x34"
    two.destroy()


def test_a_write_the_host_cannot_finish_is_not_begun(frames: FrameAllocator) -> None:
    space = AddressSpace("sv39x4", frames)
    space.map(0x4000_0000 - 0x1000, 0x1000, RW)
    space.map(MemoryRegion(Gpa(0x4000_0000), 0x1000, RW, MapType.MAP_RESERVED))
    guest = GuestMemory(space)
    with pytest.raises(OutOfRangeError, match="no host memory"):
        guest.write(0x4000_0000 - 4, b"12345678")
    assert guest.read(0x4000_0000 - 4, 4) == bytes(4)


@pytest.mark.parametrize("hpa", [0x1000, 0x1_0000, 0x5_0000_0000])
def test_an_hpa_above_or_below_its_gpa_is_the_same_to_us(space: AddressSpace, hpa: int) -> None:
    space.map(MemoryRegion(Gpa(0x1_0000), 0x2000, RW, MapType.MMIO, hpa=Hpa(hpa)))
    assert hpa_of(space, 0x1_1234) == hpa + 0x1234


def test_a_physical_range_that_overflows_is_refused(space: AddressSpace) -> None:
    for hpa in ((1 << 64) - SIZE_4K, 1 << 60):
        unchanged(
            space,
            AddressError,
            lambda hpa=hpa: space.map(MemoryRegion(Gpa(0x1_0000), 0x2000, RW, MapType.MMIO, hpa=Hpa(hpa))),
        )


# --- what is refused changes nothing ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "size", "error"),
    [
        (BASE + 8, SIZE_4K, MisalignedError),
        (BASE, SIZE_4K + 8, MisalignedError),
        (BASE, 0, AddressError),
        (BASE + SIZE, SIZE_4K, OutOfRangeError),
        (BASE, SIZE + SIZE_4K, OutOfRangeError),
        (1 << 62, 1 << 62, OutOfRangeError),
        (-SIZE_4K, SIZE_4K, OutOfRangeError),
        ((1 << 64) - SIZE_4K, 2 * SIZE_4K, OutOfRangeError),
    ],
)
def test_impossible_ranges_are_refused(space: AddressSpace, start: int, size: int, error: type[Stage2Error]) -> None:
    space.map(BASE, SIZE_4K, RW)
    unchanged(space, error, lambda: space.map(start, size, RW))
    unchanged(space, error, lambda: space.unmap(start, size))
    unchanged(space, error, lambda: space.protect(start, size, RW))


def test_overlapping_regions_are_refused_by_name_and_place(space: AddressSpace) -> None:
    space.map(MemoryRegion(Gpa(0x1_0000), 0x4000, RW, MapType.MAP_ALLOC, name="ram", place=Place("vm.toml", 7)))
    unchanged(
        space,
        OverlapError,
        lambda: space.map(MemoryRegion(Gpa(0x1_3000), 0x2000, RW, MapType.EMULATED, name="uart")),
        match=r"uart \[0x13000, 0x15000\).* overlaps ram .*vm\.toml:7.* in \[0x13000, 0x14000\)",
    )


@pytest.mark.parametrize("flags", [MappingFlags(0), MappingFlags.WRITE, MappingFlags.WRITE | MappingFlags.EXECUTE])
def test_flags_the_format_cannot_say_are_refused_even_for_lazy_regions(
    space: AddressSpace, flags: MappingFlags
) -> None:
    if space.format.family == "arm" and flags:
        return  # Arm can say write-only
    unchanged(space, EncodingError, lambda: space.map(BASE, SIZE_4K, flags))
    space.map(BASE, SIZE_4K, RW)
    unchanged(space, EncodingError, lambda: space.protect(BASE, SIZE_4K, flags))


def test_an_eager_region_without_enough_frames_takes_none(frames: FrameAllocator) -> None:
    space = AddressSpace("sv39x4", frames)
    unchanged(space, OutOfMemoryError, lambda: space.map(eager(0, RAM.size)))
    hoard = frames.allocate_extents(frames.free_bytes - 8 * SIZE_4K, owner=Owner(OwnerKind.VM, "hoard"))
    assert hoard
    # Frames for the pages, but not for the tables over them.
    unchanged(space, OutOfMemoryError, lambda: space.map(eager(SIZE_1G - SIZE_4K, 7 * SIZE_4K)))


def test_a_space_wider_than_its_format_is_refused(frames: FrameAllocator) -> None:
    with pytest.raises(OutOfRangeError, match="41-bit"):
        AddressSpace("sv39x4", frames, size=1 << 42)
    assert frames.used_bytes == 0


@pytest.mark.parametrize(
    ("flags", "map_type", "hpa"),
    [
        (RWX, MapType.ROM, None),
        (RW, MapType.ROM, None),
        (RX, MapType.MMIO, 0x1000),
        (RWX, MapType.EMULATED, None),
        (RX, MapType.SHARE, None),
        (RW, MapType.MMIO, None),
        (RW, MapType.MAP_ALLOC, 0x8000_0000),
        (RW, MapType.MAP_IDENTICAL, 0x8000_0000),
        (RW, MapType.MAP_RESERVED, 0x8000_0000),
        (MappingFlags.READ, MapType.ROM, 0x8000_0000),
    ],
)
def test_contradictory_regions_cannot_be_made(flags: MappingFlags, map_type: MapType, hpa: int | None) -> None:
    with pytest.raises(EncodingError):
        MemoryRegion(Gpa(0x8000_0000), SIZE_4K, flags, map_type, hpa=None if hpa is None else Hpa(hpa))


# --- faults ----------------------------------------------------------------


def test_a_second_fault_on_a_page_changes_nothing(space: AddressSpace) -> None:
    space.map(BASE, 0x2000, RW)
    space.handle_page_fault(BASE, Access.WRITE)
    GuestMemory(space).write(BASE, b"kept")
    before = snapshot(space)
    result = space.handle_page_fault(BASE + 4, Access.READ)
    assert (result.resolution, result.retry) == (Resolution.PRESENT, True)
    assert snapshot(space) == before
    assert GuestMemory(space).read(BASE, 4) == b"kept"


def test_a_hole_is_reported_with_the_policy_of_the_space(frames: FrameAllocator) -> None:
    space = AddressSpace("sv39x4", frames, violation=ViolationPolicy.INJECT)
    for gpa in (0x1000, 1 << 41, 1 << 63):
        result = space.handle_page_fault(gpa, Access.READ)
        assert (result.resolution, result.region, result.policy) == (Resolution.HOLE, None, ViolationPolicy.INJECT)
        assert not result.retry


def test_a_forbidden_access_is_a_violation_and_populates_nothing(space: AddressSpace) -> None:
    space.map(MemoryRegion(Gpa(BASE), 0x1000, MappingFlags.READ, MapType.MAP_ALLOC, violation=ViolationPolicy.DISCARD))
    for access in (Access.WRITE, Access.FETCH):
        result = space.handle_page_fault(BASE, access)
        assert (result.resolution, result.policy) == (Resolution.VIOLATION, ViolationPolicy.DISCARD)
    assert space.frames.used_by(space.owner) == 0
    assert space.handle_page_fault(BASE, Access.READ).retry


def test_an_emulated_device_traps_every_access_and_takes_nothing(space: AddressSpace) -> None:
    used = space.frames.used_bytes
    region = space.map(MemoryRegion(Gpa(BASE), 0x1000, RW, MapType.EMULATED, name="uart"))
    for access in Access:
        result = space.handle_page_fault(BASE + 5, access)
        assert (result.resolution, result.region) == (Resolution.DEVICE, region)
    assert space.query(BASE) is None
    assert space.frames.used_bytes == used


def test_a_rom_is_there_at_once_readable_executable_and_not_writable(space: AddressSpace) -> None:
    space.map(MemoryRegion(Gpa(BASE), 0x2000, RX, MapType.ROM))
    GuestMemory(space).write(BASE, b"rom")
    found = space.query(BASE)
    assert found is not None
    assert found.flags == RX
    assert isinstance(space.translate(BASE, Access.FETCH), Mapped)
    assert space.handle_page_fault(BASE, Access.WRITE).resolution is Resolution.VIOLATION
    assert GuestMemory(space).read(BASE, 3) == b"rom"


def test_faults_are_counted_by_how_they_ended(space: AddressSpace) -> None:
    space.map(BASE, 0x1000, RW)
    for access in (Access.WRITE, Access.READ, Access.FETCH):
        space.handle_page_fault(BASE, access)
    space.handle_page_fault(0, Access.READ)
    counted = {resolution: count for resolution, count in space.counters.faults.items() if count}
    assert counted == {
        Resolution.POPULATED: 1, Resolution.PRESENT: 1, Resolution.VIOLATION: 1, Resolution.HOLE: 1
    }  # fmt: skip
    assert space.counters.total == 4


def test_a_fault_without_a_frame_left_is_no_exception_and_leaks_nothing(frames: FrameAllocator) -> None:
    space = AddressSpace("sv39x4", frames)
    space.map(0, 0x4000, RW)
    hoard = frames.allocate_extents(frames.free_bytes - 2 * SIZE_4K, owner=Owner(OwnerKind.VM, "hoard"))
    # One page needs three frames: itself and two tables.
    before = snapshot(space)
    result = space.handle_page_fault(0, Access.WRITE)
    assert (result.resolution, result.retry) == (Resolution.OUT_OF_MEMORY, False)
    assert snapshot(space) == before
    frames.free(hoard[0], owner=Owner(OwnerKind.VM, "hoard"))
    assert space.handle_page_fault(0, Access.WRITE).retry


def test_a_leaf_that_cannot_be_repaired_by_population_is_a_violation_and_no_endless_loop(
    frames: FrameAllocator,
) -> None:
    space = AddressSpace("sv39x4", frames)
    space.map(0, 0x1000, RW)
    space.handle_page_fault(0, Access.WRITE)
    slot = Hpa(space.page_table.explain(0).steps[-1].slot)
    frames.memory.store_u64(slot, frames.memory.load_u64(slot) & ~riscv.U)
    assert space.handle_page_fault(0, Access.READ).resolution is Resolution.VIOLATION


@pytest.mark.parametrize("largest", [SIZE_2M, SIZE_1G])
def test_lazy_population_uses_blocks_where_the_region_and_the_memory_allow(
    frames: FrameAllocator, largest: int
) -> None:
    space = AddressSpace("sv39x4", frames, largest=largest)
    space.map(SIZE_2M - SIZE_4K, SIZE_2M + 2 * SIZE_4K, RW)
    for gpa in (SIZE_2M - SIZE_4K, SIZE_2M + 0x5678, 2 * SIZE_2M):
        assert space.handle_page_fault(gpa, Access.WRITE).resolution is Resolution.POPULATED
    assert space.page_table.statistics().leaves == {SIZE_4K: 2, SIZE_2M: 1}
    space.unmap(SIZE_2M + SIZE_4K, SIZE_4K)
    space.map(SIZE_2M + SIZE_4K, SIZE_4K, RW)
    assert space.handle_page_fault(SIZE_2M + SIZE_4K, Access.WRITE).resolution is Resolution.POPULATED
    assert space.page_table.statistics().leaves == {SIZE_4K: 514}
    space.destroy()
    assert frames.used_bytes == 0


# --- host memory with an owner ----------------------------------------------------------------


@pytest.mark.parametrize("map_type", [MapType.MAP_IDENTICAL, MapType.MAP_RESERVED])
def test_identity_maps_claim_their_memory_and_give_it_back(frames: FrameAllocator, map_type: MapType) -> None:
    space = AddressSpace("sv39x4", frames, name="one")
    other = AddressSpace("ept4", frames, name="two")
    region = MemoryRegion(Gpa(0x8000_0000), SIZE_2M, RWX, map_type)
    space.map(region)
    assert hpa_of(space, 0x8000_0123) == 0x8000_0123
    assert frames.owners.at(0x8000_0000) == space.owner
    unchanged(other, OwnerConflictError, lambda: other.map(region), match="VM one")
    assert space.handle_page_fault(0x8000_0000, Access.READ).resolution is Resolution.PRESENT
    space.unmap(0x8000_0000, SIZE_2M)
    other.map(region)
    for made in (space, other):
        made.destroy()
    assert frames.used_bytes == 0


def test_a_device_belongs_to_one_vm(frames: FrameAllocator) -> None:
    one, two = (AddressSpace("sv39x4", frames, name=name) for name in ("one", "two"))
    uart = MemoryRegion(Gpa(0x1000_0000), 0x1000, RW | MappingFlags.DEVICE, MapType.MMIO, hpa=Hpa(0x900_0000))
    one.map(uart)
    assert hpa_of(one, 0x1000_0008) == 0x900_0008
    assert frames.owners.at(0x900_0000) == Owner(OwnerKind.DEVICE, "MMIO of VM one")
    unchanged(two, OwnerConflictError, lambda: two.map(uart), match="VM one")
    one.destroy()
    two.map(uart)
    two.unmap(0x1000_0000, 0x1000)
    assert frames.owners.at(0x900_0000) is None


def test_what_a_vm_wrote_is_gone_before_the_next_one_gets_the_frame(frames: FrameAllocator) -> None:
    one = AddressSpace("sv39x4", frames, name="one")
    one.map(eager(0, SIZE_2M))
    GuestMemory(one).write(0, b"secret" * 100)
    hpa = hpa_of(one, 0)
    assert hpa is not None
    one.destroy()
    assert frames.memory.read(Hpa(hpa), 600) == bytes(600)


def test_frames_are_flushed_from_the_tlb_before_they_are_free(frames: FrameAllocator) -> None:
    held: list[int] = []
    owner = Owner(OwnerKind.VM, "vm")
    space = AddressSpace("sv39x4", frames, name="vm", flush=lambda ranges: held.append(frames.used_by(owner)))
    space.map(eager(0, 0x4000))
    space.unmap(0x1000, 0x1000)
    assert held == [0x4000]
    assert frames.used_by(space.owner) == 0x3000


# --- partial edits ----------------------------------------------------------------


def test_unmapping_the_middle_splits_the_region(space: AddressSpace) -> None:
    space.map(eager(BASE, 0x8000))
    kept = [hpa_of(space, gpa) for gpa in (BASE, BASE + 0x1FFF, BASE + 0x4000, BASE + 0x7FFF)]
    space.unmap(BASE + 0x2000, 0x2000)
    assert [(r.start, r.size) for r in space.memory_regions] == [(BASE, 0x2000), (BASE + 0x4000, 0x4000)]
    assert [hpa_of(space, gpa) for gpa in (BASE, BASE + 0x1FFF, BASE + 0x4000, BASE + 0x7FFF)] == kept
    assert space.query(BASE + 0x2000) is None
    assert space.handle_page_fault(BASE + 0x2000, Access.READ).resolution is Resolution.HOLE
    assert space.frames.used_by(space.owner) == 0x6000


def test_unmapping_part_of_a_device_keeps_the_offset_of_the_rest(space: AddressSpace) -> None:
    space.map(MemoryRegion(Gpa(BASE), 0x4000, RW, MapType.MMIO, hpa=Hpa(0x10_0000)))
    space.unmap(BASE, 0x1000)
    space.unmap(BASE + 0x2000, 0x1000)
    assert [(r.start, r.hpa) for r in space.memory_regions] == [(BASE + 0x1000, 0x10_1000), (BASE + 0x3000, 0x10_3000)]
    assert hpa_of(space, BASE + 0x3000) == 0x10_3000
    devices = [span for span, owner in space.frames.owners if owner.kind is OwnerKind.DEVICE]
    assert devices == [Range.sized(0x10_1000, 0x1000), Range.sized(0x10_3000, 0x1000)]


def test_unmapping_over_holes_and_several_regions(space: AddressSpace) -> None:
    space.map(eager(BASE, 0x1000))
    space.map(BASE + 0x2000, 0x1000, RW)
    space.map(MemoryRegion(Gpa(BASE + 0x4000), 0x1000, RW, MapType.EMULATED))
    space.unmap(BASE, SIZE)
    assert space.memory_regions == ()
    assert space.frames.used_bytes == space.format.root_size


def test_equal_neighbours_become_one_region_and_unequal_ones_do_not(space: AddressSpace) -> None:
    space.map(BASE, 0x1000, RW)
    space.map(BASE + 0x2000, 0x1000, RW)
    space.map(BASE + 0x1000, 0x1000, RW)
    space.map(BASE + 0x3000, 0x1000, RX)
    assert [(r.start, r.size) for r in space.memory_regions] == [(BASE, 0x3000), (BASE + 0x3000, 0x1000)]
    device = MapType.MMIO
    space.map(MemoryRegion(Gpa(BASE + 0x8000), 0x1000, RW, device, hpa=Hpa(0x10_0000)))
    space.map(MemoryRegion(Gpa(BASE + 0x9000), 0x1000, RW, device, hpa=Hpa(0x10_1000)))
    space.map(MemoryRegion(Gpa(BASE + 0xA000), 0x1000, RW, device, hpa=Hpa(0x20_0000)))
    assert [(r.start, r.size, r.hpa) for r in space.memory_regions[2:]] == [
        (BASE + 0x8000, 0x2000, 0x10_0000), (BASE + 0xA000, 0x1000, 0x20_0000)
    ]  # fmt: skip


def test_protecting_reaches_mapped_pages_and_those_to_come(space: AddressSpace) -> None:
    space.map(BASE, 0x4000, RW)
    space.handle_page_fault(BASE + 0x1000, Access.WRITE)
    space.protect(BASE + 0x1000, 0x2000, MappingFlags.READ)
    assert [(r.start, r.size, r.flags) for r in space.memory_regions] == [
        (BASE, 0x1000, RW), (BASE + 0x1000, 0x2000, MappingFlags.READ), (BASE + 0x3000, 0x1000, RW)
    ]  # fmt: skip
    denied = space.translate(BASE + 0x1000, Access.WRITE)
    assert isinstance(denied, Fault)
    assert denied.kind is FaultKind.PERMISSION
    assert space.handle_page_fault(BASE + 0x2000, Access.WRITE).resolution is Resolution.VIOLATION
    space.handle_page_fault(BASE + 0x2000, Access.READ)
    found = space.query(BASE + 0x2000)
    assert found is not None
    assert found.flags == MappingFlags.READ
    space.protect(BASE, 0x4000, RW)
    assert len(space.memory_regions) == 1


def test_protecting_what_is_not_declared_is_refused(space: AddressSpace) -> None:
    space.map(BASE, 0x1000, RW)
    space.map(BASE + 0x2000, 0x1000, RW)
    unchanged(space, NotMappedError, lambda: space.protect(BASE, 0x3000, MappingFlags.READ), match="0x11000, 0x12000")


def test_a_rom_cannot_be_made_writable(space: AddressSpace) -> None:
    space.map(MemoryRegion(Gpa(BASE), 0x1000, RX, MapType.ROM))
    unchanged(space, EncodingError, lambda: space.protect(BASE, 0x1000, RWX))


# --- free areas (inventory 5.3; numbers doubled, so that half pages of upstream are pages) ----------------


@pytest.mark.parametrize(
    ("hint", "size", "found"),
    [
        (0, 0x2000, 0x2000),
        (0x1000, 0x1000, 0x2000),
        (0x3000, 0x1000, 0x3000),
        (0x3000, 0x2000, 0x6000),
        (0x4000, 0x2000, 0x6000),
        (0x1_E000, 0x2000, 0x1_E000),
        (0x1_E002, 0x2000, None),
        (0x2_0000, 0x1000, None),
        (0, 0x3000, None),
    ],
)
def test_free_areas_are_found_from_a_hint_on(frames: FrameAllocator, hint: int, size: int, found: int | None) -> None:
    space = AddressSpace("sv39x4", frames, size=0x2_0000)
    for start in range(0, 0x2_0000, 0x4000):
        space.map(start, 0x2000, RW)
    assert space.find_free_area(hint, size) == found


def test_a_free_area_is_aligned_as_asked(frames: FrameAllocator) -> None:
    space = AddressSpace("sv39x4", frames)
    space.map(0, 0x1000, RW)
    assert space.find_free_area(0, SIZE_4K, align=SIZE_2M) == SIZE_2M
    assert space.find_free_area(SIZE_2M + 1, SIZE_4K, align=SIZE_2M) == 2 * SIZE_2M


# --- eager blocks ----------------------------------------------------------------


def test_an_eager_region_gets_blocks_even_where_its_edges_are_not_aligned(frames: FrameAllocator) -> None:
    space = AddressSpace("sv39x4", frames, populate=Populate.EAGER)
    space.map(SIZE_2M - SIZE_4K, SIZE_2M + 2 * SIZE_4K, RW)
    assert space.page_table.statistics().mapped_bytes == SIZE_2M + 2 * SIZE_4K
    space.map(4 * SIZE_2M, SIZE_2M, RW)
    assert space.page_table.statistics().leaves[SIZE_2M] >= 1
    space.destroy()
    assert frames.used_bytes == 0


def test_fragmented_memory_still_serves_an_eager_region(frames: FrameAllocator) -> None:
    hoard = Owner(OwnerKind.VM, "hoard")
    for hpa in range(RAM.start, RAM.end, SIZE_2M):
        frames.claim(Range.sized(hpa + SIZE_2M // 2, SIZE_4K), owner=hoard)
    space = AddressSpace("sv39x4", frames)
    space.map(eager(0, SIZE_2M + SIZE_2M // 2))
    assert space.page_table.statistics().mapped_bytes == SIZE_2M + SIZE_2M // 2
    used = frames.used_by(space.owner)
    assert used == SIZE_2M + SIZE_2M // 2
    space.destroy()
    assert frames.used_bytes == frames.used_by(hoard)


@pytest.mark.parametrize("name", SECOND_STAGES)
def test_a_whole_space_of_any_width_can_be_cleared(name: str, frames: FrameAllocator) -> None:
    space = AddressSpace(name, frames)
    space.map(eager(0, SIZE_2M))
    last = (1 << space.format.input_bits) - SIZE_4K
    space.map(last, SIZE_4K, RW)
    space.handle_page_fault(last, Access.WRITE)
    space.clear()
    assert frames.used_bytes == space.format.root_size
