"""A window of host memory for tables."""

from __future__ import annotations

import pytest

from stage2.address import MIB, SIZE_4K, Gpa, Range
from stage2.errors import OutOfMemoryError, OwnerConflictError
from stage2.flags import MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.memory.window import FrameWindow
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate

RAM = Range.sized(0x8000_0000, 64 * MIB)
WINDOW = Range.sized(0x8100_0000, 8 * SIZE_4K)
TABLES = Owner(OwnerKind.TABLES, "one")


def test_frames_come_from_the_lowest_place_that_fits_and_the_rest_belongs_to_nobody_else() -> None:
    with PhysicalMemory([RAM]) as memory:
        frames = FrameAllocator(memory)
        window = FrameWindow(frames, WINDOW)
        assert window.allocate(SIZE_4K, owner=TABLES) == WINDOW.start
        assert window.allocate(4 * SIZE_4K, owner=TABLES) == WINDOW.start + 4 * SIZE_4K
        assert window.allocate_pages(2 * SIZE_4K, SIZE_4K, owner=TABLES) == [
            Range.sized(WINDOW.start + SIZE_4K, 2 * SIZE_4K)
        ]
        with pytest.raises(OwnerConflictError):
            frames.claim(Range.sized(WINDOW.start + 3 * SIZE_4K, SIZE_4K), owner=TABLES)
        assert frames.owners.at(WINDOW.start) == TABLES


def test_a_window_that_is_too_small_says_so_and_takes_nothing() -> None:
    with PhysicalMemory([RAM]) as memory:
        frames = FrameAllocator(memory)
        window = FrameWindow(frames, WINDOW)
        with pytest.raises(OutOfMemoryError, match="larger size"):
            window.allocate_pages(9 * SIZE_4K, SIZE_4K, owner=TABLES)
        assert frames.used_by(TABLES) == 0
        assert window.allocate(8 * SIZE_4K, owner=TABLES) == WINDOW.start


def test_what_is_given_back_is_zeroed_and_given_out_again() -> None:
    with PhysicalMemory([RAM]) as memory:
        window = FrameWindow(FrameAllocator(memory), WINDOW)
        hpa = window.allocate(SIZE_4K, owner=TABLES)
        memory.write(hpa, b"\xff" * 8)
        window.free(Range.sized(hpa, SIZE_4K), owner=TABLES)
        assert window.allocate(SIZE_4K, owner=TABLES) == hpa
        assert memory.read(hpa, 8) == bytes(8)


def test_every_table_of_a_space_lies_in_its_window_and_no_other_memory_does() -> None:
    with PhysicalMemory([RAM]) as memory:
        frames = FrameAllocator(memory)
        window = FrameWindow(frames, Range.sized(0x8100_0000, 2 * MIB))
        space = AddressSpace("sv39x4", frames, table_frames=window, largest=SIZE_4K)
        flags = MappingFlags.READ | MappingFlags.WRITE
        region = space.map(MemoryRegion(Gpa(0x4000_0000), 4 * MIB, flags, MapType.MAP_ALLOC, populate=Populate.EAGER))
        assert space.page_table.statistics().tables > 1
        assert all(window.span.covers(span) for span in space.page_table.table_ranges)
        found = space.query(region.start)
        assert found is not None
        assert not window.span.contains(found.hpa)
        space.destroy()
        assert frames.owners.at(WINDOW.start) == Owner(OwnerKind.RESERVED, "set aside for tables")
