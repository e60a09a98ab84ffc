"""The accessor by GPA: bytes, integers, structures, views, and who is refused what."""

import ctypes
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import format_lists
from stage2.address import SIZE_2M, SIZE_4K, Gpa, Hpa, Range
from stage2.errors import (
    EncodingError,
    GuestAccessError,
    GuestDeniedError,
    GuestEndOfRegionError,
    GuestNotContiguousError,
    GuestNotMemoryError,
    GuestUnmappedError,
    OutOfMemoryError,
    OutOfRangeError,
    Stage2Error,
)
from stage2.flags import Access, MappingFlags, MapType
from stage2.guest.accessor import Actor
from stage2.guest.memory import GuestMemory
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate

RAM = Range(0x8000_0000, 0x8080_0000)
READ = MappingFlags.READ
RW = READ | MappingFlags.WRITE
RX = READ | MappingFlags.EXECUTE
BASE = 0x1_0000
SECOND_STAGES = format_lists.SECOND_STAGES


@pytest.fixture
def frames() -> Iterator[FrameAllocator]:
    with PhysicalMemory([RAM]) as memory:
        yield FrameAllocator(memory)


@pytest.fixture(params=SECOND_STAGES)
def space(request: pytest.FixtureRequest, frames: FrameAllocator) -> Iterator[AddressSpace]:
    made = AddressSpace(request.param, frames)
    yield made
    made.destroy()
    assert frames.used_bytes == 0, "frames or tables leaked"


@pytest.fixture
def guest(space: AddressSpace) -> GuestMemory:
    return GuestMemory(space)


def region(start: int, size: int, flags: MappingFlags = RW, kind: MapType = MapType.MAP_ALLOC, **more: Any) -> Any:
    return MemoryRegion(Gpa(start), size, flags, kind, **more)


def scatter(space: AddressSpace, start: int, pages: int) -> None:
    """Populate every page, so that no two neighbours lie side by side in host memory."""
    for page in [*range(0, pages, 2), *range(1, pages, 2)]:
        space.handle_page_fault(start + page * SIZE_4K, Access.WRITE)
    assert len(space.page_table.rows(start, pages * SIZE_4K)) == pages


def unchanged(space: AddressSpace, error: type[Stage2Error], write: Callable[[], object]) -> None:
    memory = space.frames.memory
    before = memory.read(Hpa(RAM.start), RAM.size)
    with pytest.raises(error):
        write()
    assert memory.read(Hpa(RAM.start), RAM.size) == before, "a refused write wrote something"


# --- upstream's accessor tests (inventory 5.2) ---------------------------------------------------------------


def test_a_u32_and_a_buffer_are_read_as_they_were_written(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(0, 0x1000))
    guest.write_u32(0x100, 0x1234_5678)
    guest.write(0x200, bytes(range(1, 9)))
    assert guest.read_u32(0x100) == 0x1234_5678
    assert guest.read(0x100, 4) == b"\x78\x56\x34\x12", "numbers are little-endian"
    assert guest.read(0x200, 8) == bytes(range(1, 9))
    with pytest.raises(GuestUnmappedError):
        guest.read_u32(0x1_0000)


def test_two_vms_with_one_gpa_keep_their_values_and_their_limits(frames: FrameAllocator) -> None:
    one, two = (AddressSpace("sv39x4", frames, name=name) for name in ("one", "two"))
    one.map(region(0, 0x1000))
    two.map(region(0, 0x2000))
    GuestMemory(one).write_u64(0x100, 0xDEAD_BEEF_CAFE_BABE)
    GuestMemory(two).write_u64(0x100, 0x1234_5678_90AB_CDEF)
    assert GuestMemory(one).read_u64(0x100) == 0xDEAD_BEEF_CAFE_BABE
    assert GuestMemory(two).read_u64(0x100) == 0x1234_5678_90AB_CDEF
    GuestMemory(two).write_u64(0x1800, 5)
    with pytest.raises(GuestUnmappedError, match="GPA 0x1800 of VM one"):
        GuestMemory(one).read_u64(0x1800)


def test_a_buffer_over_a_page_boundary_is_one_buffer(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(0, 0x4000))
    scatter(space, 0, 4)
    data = bytes(range(100, 116))
    guest.write(4096 - 8, data)
    assert guest.read(4096 - 8, 16) == data
    assert bytes(guest.read_u8(4096 - 8 + i) for i in range(16)) == data
    guest.write(4096, b"exactly here")
    assert guest.read(4096, 12) == b"exactly here"
    assert guest.read(4095, 1) == data[7:8]


@pytest.mark.parametrize("address", [0, 0x100, 0x1_0000, 1 << 63])
def test_an_empty_buffer_is_fine_anywhere(guest: GuestMemory, address: int) -> None:
    assert guest.read(address, 0) == b""
    guest.write(address, b"")
    guest.read_into(address, bytearray())
    assert guest.views(address, 0) == []
    assert len(guest.view(address, 0)) == 0


# --- upstream's defects (inventory 4.1 and 1.9) --------------------------------------------------------------


def test_the_limit_counts_from_the_address_and_is_not_the_size_of_the_area(
    space: AddressSpace, guest: GuestMemory
) -> None:
    space.map(region(0x1_A000, 0x3000, populate=Populate.EAGER))
    first = guest.contiguous(0x1_A000)
    assert first is not None
    assert first[1] == 0x3000
    assert guest.contiguous(0x1_B234) == (first[0] + 0x1234, 0x3000 - 0x1234)
    assert guest.contiguous(0x1_CFFF) == (first[0] + 0x2FFF, 1)
    assert guest.contiguous(0x1_E000) is None
    assert guest.contiguous(0x3_0000) is None


def test_the_limit_ends_where_frames_are_not_contiguous(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(BASE, 0x4000))
    scatter(space, BASE, 4)
    for page in range(4):
        found = guest.contiguous(BASE + page * SIZE_4K + 16)
        assert found is not None
        assert found[1] == SIZE_4K - 16
        with pytest.raises(GuestNotContiguousError) as refused:
            guest.view(BASE + page * SIZE_4K + 16, SIZE_4K) if page < 3 else guest.view(BASE, 0x4000)
        assert refused.value.available == (SIZE_4K - 16 if page < 3 else SIZE_4K)


def test_the_limit_covers_touching_areas_and_large_ones(frames: FrameAllocator) -> None:
    space = AddressSpace("sv39x4", frames)
    start = RAM.start + SIZE_2M
    space.map(region(start, 2 * SIZE_2M, RW, MapType.MAP_IDENTICAL))
    space.protect(start + SIZE_2M, SIZE_2M, READ)
    assert len(space.memory_regions) == 2
    assert GuestMemory(space).contiguous(start + 8) == (start + 8, 2 * SIZE_2M - 8)
    space.destroy()


def test_an_object_that_runs_past_its_area_is_refused_whatever_the_size_of_the_area(
    space: AddressSpace, guest: GuestMemory
) -> None:
    space.map(region(BASE, 0x3000, populate=Populate.EAGER))
    end = BASE + 0x3000
    guest.write_u64(end - 8, 7)
    assert guest.read_u64(end - 8) == 7
    for call in (guest.read_u64, lambda gpa: guest.write_u64(gpa, 1), lambda gpa: guest.view(gpa, 8)):
        with pytest.raises(GuestEndOfRegionError) as refused:
            call(end - 4)
        assert (refused.value.address, refused.value.available) == (end, 4)
    assert guest.read(end - 8, 8) == (7).to_bytes(8, "little")


def test_a_buffer_crosses_adjacent_areas_of_different_kinds(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(BASE, 0x1000))
    space.map(region(BASE + 0x1000, 0x1000, populate=Populate.EAGER, name="other"))
    space.map(region(BASE + 0x2000, 0x1000, RX, MapType.ROM))
    data = bytes(i % 251 for i in range(0x3000 - 2))
    guest.write(BASE + 1, data)
    assert guest.read(BASE + 1, len(data)) == data
    assert guest.read(BASE, 1) == b"\0"


def test_a_lazily_unmapped_page_reads_as_zero_and_stays_unmapped(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(BASE, 0x3000))
    guest.write(BASE + 0x1000, b"here")
    assert space.query(BASE) is None
    used = space.frames.used_bytes
    assert guest.read(BASE + 0xFFC, 0x1010) == bytes(4) + b"here" + bytes(0x1008)
    assert guest.read_u32(BASE + 0xFFE) == int.from_bytes(b"\0\0he", "little")
    assert guest.contiguous(BASE) is None
    filled = bytearray(b"x" * 0x3000)
    guest.read_into(BASE, filled)
    assert filled == bytes(0x1000) + b"here" + bytes(0x1FFC)
    assert space.frames.used_bytes == used, "reading must not populate"
    guest.write_u8(BASE, 1)
    assert space.query(BASE) is not None
    assert space.query(BASE + 0x2000) is None, "a write populates what it touches"


def test_the_guests_permissions_bind_the_guest(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(BASE, 0x1000))
    space.map(region(BASE + 0x1000, 0x1000, READ))
    guest.write(BASE + 0x1000, b"host")
    for actor in (Actor.GUEST, Actor.USER):
        bound = guest.acting_as(actor)
        assert bound.read(BASE + 0x1000, 4) == b"host"
        bound.write(BASE + 0xFFC, b"fits")
        for at, size in ((BASE + 0x1000, 1), (BASE + 0xFFC, 8), (BASE, 0x1001)):
            with pytest.raises(GuestDeniedError, match="does not allow to write") as refused:
                bound.write(at, bytes([9]) * size)
            assert refused.value.address == BASE + 0x1000
            assert refused.value.available == BASE + 0x1000 - at
        with pytest.raises(GuestDeniedError, match="does not allow to fetch"):
            bound.read(BASE, 4, access=Access.FETCH)
    assert guest.read(BASE + 0xFFC, 8) == b"fitshost"
    assert guest.read(BASE, 4, access=Access.FETCH) == bytes(4), "nothing binds the host"


# --- errors --------------------------------------------------------------------------------------------------


def test_unmapped_denied_and_end_of_region_are_told_apart_by_the_lowest_byte(
    space: AddressSpace, guest: GuestMemory
) -> None:
    space.map(region(BASE, 0x1000))
    space.map(region(BASE + 0x1000, 0x1000, READ))
    space.map(region(BASE + 0x3000, 0x1000, RW, MapType.EMULATED, name="uart"))
    bound = guest.acting_as(Actor.GUEST)
    cases: list[tuple[GuestMemory, int, int, type[GuestAccessError], int]] = [
        (guest, BASE - 1, 2, GuestUnmappedError, 0),
        (guest, BASE + 0x2000, 0x2000, GuestUnmappedError, 0),
        (guest, 1 << 60, 1, GuestUnmappedError, 0),
        (guest, BASE, 0x2001, GuestEndOfRegionError, 0x2000),
        (guest, BASE + 0x1FFF, 0x2000, GuestEndOfRegionError, 1),
        (guest, BASE + 0x3004, 4, GuestNotMemoryError, 0),
        (bound, BASE, 0x2001, GuestDeniedError, 0x1000),
        (bound, BASE + 0x1800, 0x2000, GuestDeniedError, 0),
    ]
    for memory, start, size, error, available in cases:
        with pytest.raises(error) as refused:
            memory.write(start, bytes(size))
        assert type(refused.value) is error
        assert (refused.value.address, refused.value.available) == (start + available, available)
        assert f"{start + available:#x}" in str(refused.value) or f"{available:#x}" in str(refused.value)
        assert "\n" not in str(refused.value)
    kinds = {GuestUnmappedError, GuestEndOfRegionError, GuestDeniedError}
    assert all(not issubclass(a, b) for a in kinds for b in kinds if a is not b)


@pytest.mark.parametrize(("start", "size"), [(-1, 1), ((1 << 64) - 4, 8), (1 << 64, 1), (BASE, -1)])
def test_what_is_no_range_at_all_is_refused(guest: GuestMemory, start: int, size: int) -> None:
    with pytest.raises(Stage2Error):
        guest.read(start, size)


def test_an_absurd_size_is_refused_before_memory_is_taken_for_it(frames: FrameAllocator) -> None:
    space = AddressSpace("sv57x4", frames)
    space.map(region(0, 1 << 50))
    for size in (RAM.size + 1, 1 << 50):
        with pytest.raises(OutOfRangeError, match="more than all of host memory"):
            GuestMemory(space).read(0, size)
    with pytest.raises(GuestUnmappedError):
        GuestMemory(space).read(1 << 51, 1 << 60)
    assert GuestMemory(space).read(12345, 1 << 20) == bytes(1 << 20)
    space.destroy()


def test_a_device_and_an_hpa_outside_host_memory_are_no_memory(space: AddressSpace, guest: GuestMemory) -> None:
    device = RW | MappingFlags.DEVICE
    space.map(region(BASE, 0x1000, device, MapType.MMIO, hpa=Hpa(0x900_0000)))
    space.map(region(BASE + 0x1000, 0x1000, RW, MapType.EMULATED))
    space.map(region(0x4000_0000, 0x1000, RW, MapType.MAP_RESERVED))
    for gpa in (BASE, BASE + 0x1000, 0x4000_0000):
        for call in (guest.read_u32, lambda gpa: guest.write_u32(gpa, 1), lambda gpa: guest.views(gpa, 4)):
            with pytest.raises(GuestNotMemoryError, match=r"device|no host memory"):
                call(gpa)
    with pytest.raises(GuestNotMemoryError, match="HPA 0x40000000, where there is no host memory"):
        guest.read(0x4000_0000, 1)


def test_a_failed_write_writes_nothing(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(BASE, 0x2000))
    space.map(region(BASE + 0x2000, 0x1000, READ))
    space.map(region(0x4000_0000 - 0x1000, 0x1000))
    space.map(region(0x4000_0000, 0x1000, RW, MapType.MAP_RESERVED))
    guest.write(BASE, b"old" * 0x1000)
    bound = guest.acting_as(Actor.GUEST)
    unchanged(space, GuestEndOfRegionError, lambda: guest.write(BASE + 1, bytes([1]) * 0x3000))
    unchanged(space, GuestDeniedError, lambda: bound.write(BASE + 1, bytes([1]) * 0x2000))
    unchanged(space, GuestNotMemoryError, lambda: guest.write(0x4000_0000 - 4, b"12345678"))
    unchanged(space, OutOfRangeError, lambda: guest.write_u32(BASE, 1 << 32))
    unchanged(space, OutOfRangeError, lambda: guest.write_u8(BASE, -1))
    assert space.query(0x4000_0000 - 4) is None, "what is refused populates nothing"


def test_a_write_for_which_there_are_no_frames_writes_nothing(frames: FrameAllocator) -> None:
    space = AddressSpace("sv39x4", frames, limit=0x4000)
    space.map(region(BASE, 0x8000))
    guest = GuestMemory(space)
    guest.write(BASE, b"kept")
    unchanged(space, OutOfMemoryError, lambda: guest.write(BASE, b"x" * 0x8000))
    assert guest.read(BASE, 4) == b"kept"
    space.destroy()


def test_a_failed_read_into_a_buffer_leaves_it(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(BASE, 0x1000))
    buffer = bytearray(b"untouched")
    with pytest.raises(GuestEndOfRegionError):
        guest.read_into(BASE + 0x1000 - 1, buffer)
    assert buffer == b"untouched"
    with pytest.raises(EncodingError, match="read-only"):
        guest.read_into(BASE, memoryview(bytes(4)))
    with pytest.raises(EncodingError, match="C order"):
        guest.write(BASE, np.arange(16)[::2])
    with pytest.raises(EncodingError, match="plain bytes"):
        guest.write(BASE, np.array([object()]))


# --- the host and ROM ----------------------------------------------------------------------------------------


def test_only_the_host_writes_a_rom(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(BASE, 0x2000, RX, MapType.ROM))
    guest.write(BASE + 0xFFE, b"firm")
    bound = guest.acting_as(Actor.GUEST)
    assert bound.read(BASE + 0xFFE, 4, access=Access.FETCH) == b"firm"
    with pytest.raises(GuestDeniedError):
        bound.write(BASE, b"x")
    with pytest.raises(TypeError):
        bound.view(BASE, 16)[0] = 1
    guest.view(BASE, 16)[0] = 1
    assert bound.read_u8(BASE) == 1


# --- integers and structures ---------------------------------------------------------------------------------


@given(st.data())
def test_integers_of_every_size_anywhere_are_what_was_written(data: st.DataObject) -> None:
    with PhysicalMemory([RAM]) as memory:
        space = AddressSpace("sv39x4", FrameAllocator(memory))
        space.map(region(BASE, 0x3000))
        if data.draw(st.booleans()):
            scatter(space, BASE, 3)
        guest, model = GuestMemory(space), bytearray(0x3000)
        for _ in range(8):
            size = data.draw(st.sampled_from([1, 2, 4, 8]))
            near = data.draw(st.sampled_from([0, 0x1000, 0x2000])) + data.draw(st.integers(-9, 9))
            at = min(max(near, 0), 0x3000 - size)
            value = data.draw(st.integers(0, (1 << 8 * size) - 1))
            getattr(guest, f"write_u{8 * size}")(BASE + at, value)
            model[at : at + size] = value.to_bytes(size, "little")
            assert getattr(guest, f"read_u{8 * size}")(BASE + at) == value
            with pytest.raises(OutOfRangeError, match="does not fit"):
                getattr(guest, f"write_u{8 * size}")(BASE + at, 1 << 8 * size)
        assert guest.read(BASE, 0x3000) == model


class Descriptor(ctypes.LittleEndianStructure):
    """A virtqueue descriptor."""

    _fields_ = (
        ("address", ctypes.c_uint64),
        ("length", ctypes.c_uint32),
        ("flags", ctypes.c_uint16),
        ("next", ctypes.c_uint16),
    )


DESCRIPTOR = np.dtype([("address", "<u8"), ("length", "<u4"), ("flags", "<u2"), ("next", "<u2")])


def test_a_structure_reads_the_same_by_every_kind_of_layout(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(BASE, 0x3000))
    scatter(space, BASE, 3)
    at = BASE + 0x1000 - 6
    values = (0x8000_1234_5678, 1500, 3, 7)
    guest.write_struct(at, values, "QIHH")
    assert guest.read_struct(at, "QIHH") == values
    assert guest.read_struct(at, struct.Struct("<QIHH")) == values
    found = guest.read_struct(at, Descriptor)
    assert (found.address, found.length, found.flags, found.next) == values
    assert guest.read_struct(at, DESCRIPTOR).tolist() == values
    assert guest.read_struct(at, ">Q") == (int.from_bytes(guest.read(at, 8), "big"),)
    assert int(guest.read_struct(at, np.uint64)) == values[0]

    guest.write_struct(at + 100, found)
    guest.write_struct(at + 200, found, Descriptor)
    guest.write_struct(at + 300, np.array(values, DESCRIPTOR))
    guest.write_struct(at + 400, values, DESCRIPTOR)
    for copy in (100, 200, 300, 400):
        assert guest.read(at + copy, 16) == guest.read(at, 16)

    ring = np.dtype((DESCRIPTOR, (256,)))
    made = np.zeros(256, DESCRIPTOR)
    made["address"] = np.arange(256) * 4096
    guest.write_struct(BASE + 0x800, made, ring)
    assert np.array_equal(guest.read_struct(BASE + 0x800, ring), made)


@pytest.mark.parametrize(
    ("value", "layout"),
    [
        ((1, 2), "Q"),
        ((1 << 64,), "Q"),
        ("text", "Q"),
        (1, "no format"),
        (1, "é"),
        ((1, 2), Descriptor),
        ("text", DESCRIPTOR),
        (1, np.dtype(object)),
        (1, np.dtype([])),
        (1, int),
        (5, None),
        (np.array([object()]), None),
    ],
)
def test_a_value_without_a_fitting_layout_is_refused(frames: FrameAllocator, value: object, layout: Any) -> None:
    space = AddressSpace("sv39x4", frames)
    space.map(region(BASE, 0x1000))
    unchanged(space, EncodingError, lambda: GuestMemory(space).write_struct(BASE, value, layout))
    assert space.query(BASE) is None
    space.destroy()


def test_reading_a_layout_that_is_none_is_refused(frames: FrameAllocator) -> None:
    space = AddressSpace("sv39x4", frames)
    space.map(region(BASE, 0x1000))
    for layout in ("no format", np.dtype(object), int, 5):
        with pytest.raises(EncodingError):
            GuestMemory(space).read_struct(BASE, layout)  # type: ignore[arg-type]  # on purpose
    space.destroy()


# --- views ---------------------------------------------------------------------------------------------------


def test_a_view_is_the_memory_itself(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(BASE, 0x2000))
    view = guest.view(BASE + 8, 0x1800)
    found = space.query(BASE + 8)
    assert found is not None, "a view populates"
    view[:5] = b"hello"
    assert guest.read(BASE + 8, 5) == b"hello"
    assert space.frames.memory.read(found.hpa, 5) == b"hello"
    guest.write_u8(BASE + 8, ord("J"))
    assert bytes(view[:5]) == b"Jello"
    assert guest.view(BASE, 0x2000, writable=False).readonly


def test_views_cover_scattered_memory_piece_by_piece(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(BASE, 0x4000))
    scatter(space, BASE, 4)
    data = bytes(i % 253 for i in range(0x2F00))
    guest.write(BASE + 0x80, data)
    pieces = guest.views(BASE + 0x80, len(data))
    assert [len(piece) for piece in pieces] == [0xF80, 0x1000, 0xF80]
    assert b"".join(pieces) == data
    pieces[1][0] ^= 0xFF
    assert guest.read_u8(BASE + 0x1000) == data[0xF80] ^ 0xFF
    with pytest.raises(GuestNotContiguousError, match=r"first 0xf80 are") as refused:
        guest.view(BASE + 0x80, len(data))
    assert (refused.value.address, refused.value.available) == (BASE + 0x1000, 0xF80)
    assert len(guest.view(BASE + 0x80, refused.value.available)) == 0xF80
    for piece in pieces:
        piece.release()


def test_views_of_the_guest_are_read_only_where_its_region_is(frames: FrameAllocator) -> None:
    space = AddressSpace("sv39x4", frames)
    start = RAM.start + SIZE_2M
    space.map(region(start, 0x4000, RW, MapType.MAP_IDENTICAL))
    space.protect(start + 0x1000, 0x2000, READ)
    guest = GuestMemory(space)
    bound = guest.acting_as(Actor.GUEST)
    assert [(len(v), v.readonly) for v in guest.views(start + 1, 0x3800)] == [(0x3800, False)]
    assert [(len(v), v.readonly) for v in guest.views(start, 0x4000, writable=False)] == [(0x4000, True)]
    assert [(len(v), v.readonly) for v in bound.views(start + 1, 0x3800)] == [
        (0xFFF, False), (0x2000, True), (0x801, False)
    ]  # fmt: skip
    assert bound.view(start, 0x4000).readonly
    assert not bound.view(start, 0x1000).readonly
    assert not guest.view(start, 0x4000).readonly
    space.destroy()


def test_guest_memory_is_copied_onto_itself_as_if_through_a_buffer(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(BASE, 0x8000, populate=Populate.EAGER))
    data = bytes(i * 7 % 256 for i in range(0x4000))
    guest.write(BASE, data)
    guest.write(BASE + 5, guest.view(BASE, 0x4000))
    assert guest.read(BASE + 5, 0x4000) == data
    guest.write(BASE, data)
    guest.read_into(BASE, guest.view(BASE + 0x1234, 0x4000))
    assert guest.read(BASE + 0x1234, 0x4000) == data


@pytest.mark.parametrize(("start", "size"), [(0, 200 * SIZE_4K), (1, 200 * SIZE_4K - 2), (4095, 150 * SIZE_4K + 2)])
def test_memory_in_hundreds_of_scattered_frames_is_copied_whole(frames: FrameAllocator, start: int, size: int) -> None:
    space = AddressSpace("sv39x4", frames)
    space.map(region(BASE, 300 * SIZE_4K))
    scatter(space, BASE, 200)
    guest = GuestMemory(space)
    model = bytearray(300 * SIZE_4K)
    data = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8).tobytes()
    guest.write(BASE + start, data)
    model[start : start + size] = data
    assert guest.read(BASE, 200 * SIZE_4K) == model[: 200 * SIZE_4K]
    assert guest.read(BASE + start, size) == data
    into = np.full(size + 50 * SIZE_4K, 0xFF, np.uint8)
    guest.read_into(BASE + start, into)
    assert into.tobytes() == model[start : start + len(into)], "what is absent is zero in between and behind"
    space.destroy()


def test_scattered_guest_memory_is_copied_onto_itself_as_if_through_a_buffer(
    space: AddressSpace, guest: GuestMemory
) -> None:
    space.map(region(BASE, 0x3000))
    scatter(space, BASE, 3)
    data = bytes(i * 7 % 256 for i in range(SIZE_4K))
    guest.write(BASE, data)
    guest.write(BASE + SIZE_4K - 8, guest.view(BASE, SIZE_4K))
    assert guest.read(BASE + SIZE_4K - 8, SIZE_4K) == data
    guest.write(BASE, data * 2)
    before = guest.read(BASE + SIZE_4K - 8, SIZE_4K)
    guest.read_into(BASE + SIZE_4K - 8, guest.view(BASE + SIZE_4K, SIZE_4K))
    assert guest.read(BASE + SIZE_4K, SIZE_4K) == before


# --- tracking ------------------------------------------------------------------------------------------------


def test_what_the_host_writes_is_seen_by_write_tracking(space: AddressSpace, guest: GuestMemory) -> None:
    space.map(region(BASE, 0x8000))
    guest.write(BASE, b"before")
    space.track_writes(BASE, 0x8000)
    guest.read(BASE, 0x8000)
    guest.view(BASE, 8, writable=False)
    assert not space.harvest_writes(BASE, 0x8000).any()
    guest.write(BASE + 0x1FFF, b"ab")
    guest.write_u32(BASE + 0x4000, 1)
    guest.acting_as(Actor.GUEST).write_u8(BASE + 0x5000, 1)
    guest.view(BASE + 0x7000, 1)
    assert np.flatnonzero(space.harvest_writes(BASE, 0x8000)).tolist() == [1, 2, 4, 5, 7]
    assert not space.harvest_writes(BASE, 0x8000).any()


# --- against a model -----------------------------------------------------------------------------------------

LAYOUT = [(0, 40, RW), (40, 100, RW), (140, 20, READ), (160, 10, None), (170, 30, RW)]
"""First page, pages and flags of the model's regions; None is a hole."""
PAGES = 200
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "guest", "views", "into"]),
        st.integers(0, PAGES * SIZE_4K - 1),
        st.one_of(st.integers(1, 64), st.integers(1, 150 * SIZE_4K)),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=8,
)


def refused_at(start: int, size: int, *, write: bool) -> tuple[type[GuestAccessError], int] | None:
    """What the model says of an access: the error and the bytes before it."""
    for page in range(start // SIZE_4K, (start + size - 1) // SIZE_4K + 1):
        flags = next((flags for first, count, flags in LAYOUT if first <= page < first + count), None)
        before = max(page * SIZE_4K - start, 0)
        if flags is None:
            return GuestEndOfRegionError if before else GuestUnmappedError, before
        if write and flags is READ:
            return GuestDeniedError, before
    return None


@given(OPERATIONS, st.permutations(range(PAGES)), st.integers(0, PAGES))
def test_guest_memory_is_like_a_bytearray(
    operations: list[tuple[str, int, int, int]], order: list[int], populated: int
) -> None:
    with PhysicalMemory([RAM]) as memory:
        frames = FrameAllocator(memory)
        space = AddressSpace("sv39x4", frames)
        for index, (first, count, flags) in enumerate(LAYOUT):
            if flags is not None:
                space.map(region(BASE + first * SIZE_4K, count * SIZE_4K, flags, name=str(index)))
        for page in order[:populated]:
            space.handle_page_fault(BASE + page * SIZE_4K, Access.READ)
        host = GuestMemory(space)
        bound = host.acting_as(Actor.GUEST)
        model = bytearray(PAGES * SIZE_4K)
        for what, start, size, seed in operations:
            expected = refused_at(start, size, write=what == "guest")
            data = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
            gpa = BASE + start
            try:
                if what in ("write", "guest"):
                    (bound if what == "guest" else host).write(gpa, data)
                    model[start : start + size] = data.tobytes()
                elif what == "views":
                    assert b"".join(host.views(gpa, size)) == model[start : start + size]
                elif what == "into":
                    host.read_into(gpa, data)
                    assert data.tobytes() == model[start : start + size]
                else:
                    assert host.read(gpa, size) == model[start : start + size]
                outcome = None
            except GuestAccessError as error:
                outcome = type(error), error.available
            assert outcome == expected
        for first, count, flags in LAYOUT:
            if flags is not None:
                low, length = first * SIZE_4K, count * SIZE_4K
                assert host.read(BASE + low, length) == model[low : low + length]
        space.destroy()
        assert frames.used_bytes == 0
