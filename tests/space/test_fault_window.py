"""Windows of faults: they grow in sequence, stay small elsewhere, and never leave region or memory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.address import MIB, Gpa, Range
from stage2.flags import RWX, Access, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.fault_window import FIRST, LIMIT, FaultWindow
from stage2.space.faults import Resolution
from stage2.space.region import MemoryRegion

PAGE = 4096
PLENTY = 1 << 40
BASE = 0x8000_0000


def faults_of(window: FaultWindow, addresses: list[int]) -> tuple[int, set[int]]:
    """How many faults a guest with these accesses has, and the pages that it has in the end."""
    present: set[int] = set()
    faults = 0
    for address in addresses:
        if address // PAGE not in present:
            faults += 1
            found = window.around(address, PLENTY)
            present |= set(range(found.start // PAGE, found.end // PAGE))
    return faults, present


@contextmanager
def adaptive(host: int, *, limit: int | None) -> Iterator[AddressSpace]:
    """A space whose windows adapt, with 16 MiB of RAM."""
    with PhysicalMemory([Range.sized(0x1_0000_0000, host)]) as memory:
        space = AddressSpace("arm-s2-4k-40", FrameAllocator(memory), fault_around="adaptive", limit=limit)
        space.map(MemoryRegion(Gpa(BASE), 16 * MIB, RWX, MapType.MAP_ALLOC))
        yield space
        space.destroy()


@given(
    first=st.integers(0, 5000),
    pages=st.integers(1, 5000),
    picks=st.lists(st.integers(0, 1 << 30), max_size=60),
    room=st.integers(0, 64 * MIB),
    base=st.sampled_from([PAGE, FIRST]),
)
def test_windows_are_aligned_hold_the_fault_and_stay_in_the_region_and_repeat(
    first: int, pages: int, picks: list[int], room: int, base: int
) -> None:
    span = Range.sized(first * PAGE, pages * PAGE)
    windows = FaultWindow(span, PAGE, first=base), FaultWindow(span, PAGE, first=base)
    for pick in picks:
        address = span.start + pick % span.size
        found, again = (window.around(address, room) for window in windows)
        assert found == again
        assert found.contains(address)
        assert span.covers(found)
        assert not (found.start | found.end) % PAGE
        assert found.size <= max(PAGE, min(LIMIT, room // 8))
        # An aligned power of two that the region may have cut.
        assert any(
            Range.sized(address & -size, size).intersection(span) == found for size in (PAGE << n for n in range(10))
        )


@given(first=st.integers(0, 5000), pages=st.integers(1, 20_000), down=st.booleans())
def test_a_sweep_takes_few_faults_in_either_direction(first: int, pages: int, *, down: bool) -> None:
    addresses = [PAGE * number for number in range(first, first + pages)]
    span = Range.sized(addresses[0], pages * PAGE)
    faults, present = faults_of(FaultWindow(span, PAGE, first=PAGE), addresses[::-1] if down else addresses)
    doublings = (LIMIT // PAGE).bit_length()
    assert faults <= 2 * min(doublings, pages.bit_length()) + pages * PAGE // LIMIT + 1
    assert len(present) == pages


@given(st.lists(st.integers(0, 4000), unique=True, min_size=1))
def test_scattered_faults_populate_no_more_than_the_first_window_each(numbers: list[int]) -> None:
    # Further apart than any window reaches.
    span = Range(0, 4001 * 4 * FIRST)
    faults, present = faults_of(FaultWindow(span, PAGE), [number * 4 * FIRST for number in numbers])
    assert faults == len(numbers)
    assert len(present) == len(numbers) * FIRST // PAGE


def test_random_faults_populate_a_small_multiple_of_what_is_touched() -> None:
    chance = random.Random(7)
    touched = [PAGE * chance.randrange(1 << 20) for _ in range(2000)]
    _, present = faults_of(FaultWindow(Range(0, PAGE << 20), PAGE), touched)
    assert len(present) <= 1.2 * len(set(touched)) * FIRST // PAGE


def test_streams_that_take_turns_are_each_seen() -> None:
    window = FaultWindow(Range(0, 1 << 34), PAGE)
    starts = [number << 31 for number in range(8)]
    faults, _ = faults_of(window, [start + PAGE * page for page in range(4096) for start in starts])
    assert faults <= len(starts) * (6 + 4096 * PAGE // LIMIT)


@pytest.mark.parametrize("step", [1, -1])
def test_a_space_with_adaptive_windows_needs_few_faults_for_a_sweep(step: int) -> None:
    with adaptive(64 * MIB, limit=None) as space:
        faults = 0
        for page in range(0, 4096)[::step]:
            if space.hpa_of(BASE + page * PAGE) is None:
                assert space.handle_page_fault(BASE + page * PAGE, Access.WRITE).resolution is Resolution.POPULATED
                faults += 1
        assert faults <= 16
        assert space.page_table.statistics().mapped_bytes == 16 * MIB


def test_windows_leave_what_is_populated_and_end_at_the_memory_limit() -> None:
    limit = 64 * PAGE
    with adaptive(64 * MIB, limit=limit) as space:
        populated = 0
        before: dict[int, int] = {}
        for page in range(64):
            result = space.handle_page_fault(BASE + page * PAGE, Access.WRITE)
            assert result.retry
            populated += result.resolution is Resolution.POPULATED
            for gpa, hpa in before.items():
                assert space.hpa_of(gpa) == hpa
            before[BASE + page * PAGE] = int(space.hpa_of(BASE + page * PAGE) or 0)
        # The sweep gets all of it: windows became smaller as memory ran short.
        assert space.page_table.statistics().mapped_bytes == limit
        assert populated > 8
        assert space.handle_page_fault(BASE + limit, Access.WRITE).resolution is Resolution.OUT_OF_MEMORY
