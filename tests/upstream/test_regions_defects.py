"""Defects of upstream's address spaces and regions that must not exist here (inventory 4.1), and its cases of 5.3."""

from __future__ import annotations

from functools import partial

import pytest
from upstream_bench import (
    RAM,
    RW,
    R,
    device,
    eager,
    every_format,
    give_back,
    host,
    leave_free,
    refused,
    region,
    snapshot,
    space_on,
)  # fmt: skip

from stage2.address import SIZE_1G, SIZE_2M, SIZE_4K, Hpa, Range
from stage2.errors import AddressError, OutOfMemoryError, OutOfRangeError, Stage2Error
from stage2.flags import Access, MapType
from stage2.guest.memory import GuestMemory
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.space.address_space import AddressSpace
from stage2.space.faults import Resolution
from stage2.space.region import MemoryRegion
from stage2.tables.result import Fault, Mapped

LAST = (1 << 64) - SIZE_4K


@every_format
@pytest.mark.parametrize("hpa", [SIZE_2M, 0x80_0000_0000], ids=["below", "above"])
def test_hpa_below_or_above_gpa_makes_no_difference(fmt: str, hpa: int) -> None:
    gpa, size = 0x1_0000_0000, 2 * SIZE_2M + 2 * SIZE_4K
    with host() as frames, space_on(frames, fmt) as space:
        space.map(device(gpa, size, hpa))
        for offset in (0, SIZE_2M + 0x1234, size - 1):
            found = space.translate(gpa + offset)
            assert isinstance(found, Mapped)
            assert found.hpa == hpa + offset
        assert space.page_table.statistics().leaves == {SIZE_2M: 2, SIZE_4K: 2}
        space.unmap(gpa + SIZE_2M + SIZE_4K, SIZE_4K)
        assert [(part.start - gpa, part.hpa) for part in space.memory_regions] == [
            (0, hpa), (SIZE_2M + 2 * SIZE_4K, hpa + SIZE_2M + 2 * SIZE_4K)
        ]  # fmt: skip
        found = space.translate(gpa + SIZE_2M + 2 * SIZE_4K)
        assert isinstance(found, Mapped)
        assert found.hpa == hpa + SIZE_2M + 2 * SIZE_4K


@every_format
def test_a_range_that_wraps_is_an_error_and_no_panic(fmt: str) -> None:
    with host() as frames, space_on(frames, fmt) as space:
        space.map(0, SIZE_4K, RW)
        guest = GuestMemory(space)
        for use in (
            lambda: space.contains(LAST, 2 * SIZE_4K),
            lambda: space.map(LAST, 2 * SIZE_4K, RW),
            lambda: space.unmap(LAST, 2 * SIZE_4K),
            lambda: space.protect(LAST, 2 * SIZE_4K, R),
            lambda: space.track_writes(LAST, 2 * SIZE_4K),
            lambda: space.harvest_dirty(LAST, 2 * SIZE_4K),
            lambda: space.map(device(SIZE_4K, 2 * SIZE_4K, LAST)),
            lambda: guest.read(LAST, 2 * SIZE_4K),
            lambda: guest.write(LAST, bytes(2 * SIZE_4K)),
        ):
            refused(space, AddressError, use)
        assert not space.contains(LAST, SIZE_4K)
        assert space.find_free_area(0, 1 << 63) is None
        assert space.find_free_area(LAST, SIZE_4K) is None


@every_format
def test_a_buffer_is_bounded_by_what_is_left_of_its_region(fmt: str) -> None:
    """Upstream compares with the whole region's size, so a buffer from the last page runs over the end."""
    with host() as frames, space_on(frames, fmt) as space:
        space.map(0x1_0000, 0x4000, RW)
        guest = GuestMemory(space)
        guest.write(0x1_3FF0, b"x" * 16)
        assert guest.read(0x1_3FF0, 16) == b"x" * 16
        for start, size in ((0x1_3FF0, 17), (0x1_3000, 0x2000), (0x1_0001, 0x4000), (0xFFFF, 2)):
            refused(space, Stage2Error, partial(guest.read, start, size))
            refused(space, Stage2Error, partial(guest.write, start, bytes(size)))


@every_format
def test_a_buffer_crosses_regions_that_touch_and_pages_that_are_not_there_yet(fmt: str) -> None:
    with host() as frames, space_on(frames, fmt) as space:
        space.map(eager(0x1_0000, 0x1000))
        space.map(region(0x1_1000, 0x3000, name="lazy"))
        space.map(region(0x1_4000, 0x1000, R, MapType.ROM))
        guest = GuestMemory(space)
        assert guest.read(0x1_0FFC, 0x3008) == bytes(0x3008)
        data = bytes(range(256)) * 0x20
        guest.write(0x1_0800, data)
        assert guest.read(0x1_0800, len(data)) == data
        assert guest.read(0x1_2800, 0x2800) == bytes(0x2800)


@every_format
def test_the_size_of_a_translation_is_its_leaf_and_not_the_region(fmt: str) -> None:
    """Upstream says the whole region's size, whatever the offset and however scattered the frames."""
    other = Owner(OwnerKind.VM, "other")
    with host() as frames, space_on(frames, fmt) as space:
        space.map(0, 0x4000, RW)
        for page in range(4):
            space.handle_page_fault(page * SIZE_4K, Access.WRITE)
            frames.allocate(owner=other)
        guest = GuestMemory(space)
        guest.write(0, b"".join(bytes([page]) * SIZE_4K for page in range(4)))
        for gpa in (0, 0x1008, 0x3FFF):
            found, translated = space.query(gpa), space.translate(gpa)
            assert found is not None
            assert isinstance(translated, Mapped)
            assert found.size == translated.size == SIZE_4K
            assert frames.owners.at(found.hpa) == space.owner
            assert frames.memory.read(found.hpa, 1) == bytes([gpa >> 12])
        frames.free_owner(other)


@every_format
def test_guest_memory_never_takes_an_hpa_for_a_pointer(fmt: str) -> None:
    with host(Range.sized(0x1000, 1 << 20)) as frames, space_on(frames, fmt) as space:
        # Nothing of this process lies at these addresses: whoever dereferenced an HPA would crash.
        space.map(eager(0x5000, 0x2000))
        GuestMemory(space).write(0x5FFC, b"12345678")
        found = space.query(0x5FFC)
        assert found is not None
        assert frames.memory.read(found.hpa, 4) == b"1234"
        assert frames.memory.hva - frames.memory.base != 0


def wanted(map_type: MapType) -> MemoryRegion:
    """Three pages on both sides of a gigabyte: every level but the root needs two tables."""
    if map_type is MapType.MAP_IDENTICAL:
        return region(SIZE_1G - SIZE_4K, 3 * SIZE_4K, RW, map_type)
    if map_type is MapType.MMIO:
        return device(SIZE_1G - SIZE_4K, 3 * SIZE_4K, 0x10_0000)
    if map_type is MapType.ROM:
        return region(SIZE_1G - SIZE_4K, 3 * SIZE_4K, R, map_type)
    return eager(SIZE_1G - SIZE_4K, 3 * SIZE_4K)


@every_format
@pytest.mark.parametrize("map_type", [MapType.MAP_ALLOC, MapType.MAP_IDENTICAL, MapType.MMIO, MapType.ROM])
def test_a_map_that_fails_halfway_leaves_no_frame_behind(fmt: str, map_type: MapType) -> None:
    identical = Range.sized(SIZE_1G - SIZE_4K, 3 * SIZE_4K)
    with host(Range.sized(0x1000_0000, 40 * SIZE_4K), identical) as frames:
        # The root must not lie where identical memory is to be.
        aside = Owner(OwnerKind.RESERVED, "aside")
        frames.claim(identical, owner=aside)
        with space_on(frames, fmt) as space:
            fail_halfway(frames, space, map_type, identical, aside)
            frames.claim(identical, owner=aside)
        frames.free(identical, owner=aside)


def fail_halfway(
    frames: FrameAllocator, space: AddressSpace, map_type: MapType, identical: Range, aside: Owner
) -> None:
    # Frames at the addresses of MAP_IDENTICAL stay free for it alone.
    failures = 0
    for count in range(40):
        hoard = leave_free(frames, count)
        frames.free(identical, owner=aside)
        if map_type is not MapType.MAP_IDENTICAL:
            frames.claim(identical, owner=aside)
        try:
            space.map(wanted(map_type))
        except OutOfMemoryError:
            failures += 1
            refused(space, OutOfMemoryError, lambda: space.map(wanted(map_type)))
            give_back(frames, hoard)
            if map_type is MapType.MAP_IDENTICAL:
                frames.claim(identical, owner=aside)
            continue
        give_back(frames, hoard)
        break
    # Two tables on level 0, and on level 1; then the pages themselves, where they come from free frames.
    assert failures >= 4
    assert space.page_table.statistics().mapped_bytes == 3 * SIZE_4K
    space.clear()
    if map_type is not MapType.MAP_IDENTICAL:
        frames.free(identical, owner=aside)
    assert frames.used_bytes == space.format.root_size


@every_format
def test_an_unmap_or_protect_that_fails_keeps_regions_frames_and_tables(fmt: str) -> None:
    with host() as frames, space_on(frames, fmt) as space:
        space.map(eager(0, SIZE_2M))
        assert space.page_table.statistics().leaves == {SIZE_2M: 1}
        hoard = leave_free(frames, 0)
        refused(space, OutOfMemoryError, lambda: space.unmap(SIZE_4K, SIZE_4K))
        refused(space, OutOfMemoryError, lambda: space.protect(SIZE_4K, SIZE_4K, R))
        give_back(frames, hoard)
        space.unmap(SIZE_4K, SIZE_4K)
        assert frames.used_by(space.owner) == SIZE_2M - SIZE_4K


@every_format
def test_clearing_reaches_the_last_region_of_every_kind(fmt: str) -> None:
    with host(RAM, Range.sized(0x4000_0000, SIZE_2M)) as frames, space_on(frames, fmt) as space:
        space.map(region(0x4000_0000, SIZE_2M, RW, MapType.MAP_IDENTICAL))
        share = frames.allocate(owner=Owner(OwnerKind.SHARE, "box"))
        space.map(eager(0, 0x3000))
        space.map(region(0x10_0000, 0x3000))
        space.handle_page_fault(0x10_1000, Access.WRITE)
        space.map(device(0x20_0000, 0x1000, 0x900_0000))
        space.map(region(0x30_0000, 0x1000, RW, MapType.EMULATED))
        space.map(region(0x31_0000, 0x1000, R, MapType.ROM))
        space.map(region(0x32_0000, 0x1000, RW, MapType.SHARE, hpa=share))
        space.map(region(0x6000_0000, SIZE_2M, RW, MapType.MAP_RESERVED))
        space.clear()
        assert space.memory_regions == ()
        assert [str(owner) for _, owner in frames.owners if owner != space.page_table.owner] == ["share box"]
        assert frames.used_bytes == space.format.root_size + SIZE_4K
        frames.free(Range.sized(share, SIZE_4K), owner=Owner(OwnerKind.SHARE, "box"))
        space.map(eager(0, 0x3000))


@every_format
def test_gpa_beyond_the_width_is_refused_not_aliased(fmt: str) -> None:
    with host() as frames, space_on(frames, fmt) as space:
        width = 1 << space.format.input_bits
        space.map(eager(0x5000, 0x1000))
        GuestMemory(space).write(0x5000, b"mine")
        for beyond in (width + 0x5000, 2 * width + 0x5000, (1 << 63) + 0x5000):
            found = space.translate(beyond, Access.READ)
            assert isinstance(found, Fault)
            # To Arm it is a translation fault.
            assert found.kind == space.format.wide_input_fault
            assert space.translate_many([beyond, 0x5000]).status.tolist() == [space.format.wide_input_fault, 0]
            assert space.query(beyond) is None
            assert not space.contains(beyond)
            assert space.handle_page_fault(beyond, Access.WRITE).resolution is Resolution.HOLE
            refused(space, OutOfRangeError, partial(space.map, beyond, SIZE_4K, RW))
            refused(space, OutOfRangeError, partial(space.unmap, beyond, SIZE_4K))
            refused(space, Stage2Error, partial(GuestMemory(space).write, beyond, b"yours"))
        assert space.range == Range(0, width), "the guest's space is what the format translates, no fixed 47 bits"
        assert GuestMemory(space).read(0x5000, 4) == b"mine"


@every_format
def test_protecting_the_middle_of_regions_splits_them_and_equal_flags_change_nothing(fmt: str) -> None:
    """Upstream's protect sequence (5.3) in whole pages; equal neighbours are one region here."""
    with host() as frames, space_on(frames, fmt) as space:
        starts = range(0, 0x8_0000, 0x1_0000)
        for start in starts:
            space.map(start, 0x8000, RW)
        assert len(space.memory_regions) == 8
        for start in starts:
            space.protect(start + 0x2000, 0x4000, R)
        assert len(space.memory_regions) == 24
        before = snapshot(space)
        for start in starts:
            space.protect(start + 0x3000, 0x2000, R)
            space.protect(start, 0x1000, RW)
        assert snapshot(space) == before
        for start in starts:
            space.protect(start, 0x8000, RW)
        assert len(space.memory_regions) == 8


def test_five_frames_keep_five_patterns() -> None:
    """Upstream's frame cycle (5.2)."""
    owner = Owner(OwnerKind.VM, "vm")
    with host(Range.sized(0x8000_0000, 5 * SIZE_4K)) as frames:
        taken = [frames.allocate(owner=owner) for _ in range(5)]
        for number, hpa in enumerate(taken):
            assert frames.memory.read(hpa, SIZE_4K) == bytes(SIZE_4K)
            frames.memory.write(hpa, bytes([0xA0 + number]) * SIZE_4K)
        for number, hpa in enumerate(taken):
            assert frames.memory.read(hpa, SIZE_4K) == bytes([0xA0 + number]) * SIZE_4K
        before = list(frames.owners)
        with pytest.raises(OutOfMemoryError):
            frames.allocate(owner=owner)
        assert list(frames.owners) == before
        for hpa in taken:
            frames.free(Range.sized(hpa, SIZE_4K), owner=owner)
        assert frames.used_bytes == 0
        assert frames.memory.read(Hpa(0x8000_0000), 5 * SIZE_4K) == bytes(5 * SIZE_4K)
