"""Accessed and dirty tracking, fault-around, limits, and faults on present pages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import format_lists
from stage2.address import MIB, Gpa, Range
from stage2.errors import MappingError, NotMappedError, OutOfMemoryError, OverlapError
from stage2.flags import RWX, Access, MappingFlags, MapType
from stage2.formats.invalidation import Operation
from stage2.guest.memory import GuestMemory
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.faults import Resolution
from stage2.space.region import MemoryRegion, Populate
from stage2.tables.result import Fault, Mapped
from stage2.tlb.checker import TlbChecker

PAGE = 4096
BASE = 0x8000_0000
STAGE_2 = format_lists.SECOND_STAGES


@dataclass
class Bench:
    frames: FrameAllocator
    flushed: list[Operation]

    def space(self, fmt: str, *, checked: bool = True, **settings: Any) -> AddressSpace:
        """A space whose edits are checked, unless it is large: none may owe an invalidation."""
        space = AddressSpace.create(fmt, self.frames, flush=self.flushed.extend, **settings)
        if checked:
            TlbChecker(space.page_table)
        return space


@pytest.fixture
def bench() -> Iterator[Bench]:
    with PhysicalMemory([Range.sized(0x1_0000_0000, 32 * MIB)]) as memory:
        yield Bench(FrameAllocator(memory), [])


def ram(size: int = 4 * MIB, populate: Populate | None = None, flags: MappingFlags = RWX) -> MemoryRegion:
    return MemoryRegion(Gpa(BASE), size, flags, MapType.MAP_ALLOC, populate=populate)


def pages(bitmap: np.ndarray) -> list[int]:
    return np.flatnonzero(bitmap).tolist()


@pytest.mark.parametrize("fmt", STAGE_2)
def test_writes_to_a_tracked_range_are_found_page_by_page_even_in_blocks(bench: Bench, fmt: str) -> None:
    space = bench.space(fmt)
    space.map(ram(populate=Populate.EAGER))
    space.track_writes(BASE, 4 * MIB)
    assert isinstance(space.translate(BASE + 5 * PAGE, Access.WRITE), Fault)
    assert isinstance(space.translate(BASE + 5 * PAGE, Access.FETCH), Mapped)
    for page in (5, 700):
        assert space.handle_page_fault(BASE + page * PAGE, Access.WRITE).resolution is Resolution.TRACKED
        assert isinstance(space.translate(BASE + page * PAGE, Access.WRITE), Mapped)
    assert isinstance(space.translate(BASE + 6 * PAGE, Access.WRITE), Fault)
    assert pages(space.harvest_writes(BASE, 4 * MIB)) == [5, 700]
    assert pages(space.harvest_writes(BASE, 4 * MIB)) == []
    assert isinstance(space.translate(BASE + 5 * PAGE, Access.WRITE), Fault)
    assert bench.flushed
    space.stop_tracking(BASE, 4 * MIB)
    assert isinstance(space.translate(BASE + 6 * PAGE, Access.WRITE), Mapped)


@pytest.mark.parametrize("fmt", STAGE_2)
def test_a_tracked_page_populated_by_a_read_still_shows_its_first_write(bench: Bench, fmt: str) -> None:
    space = bench.space(fmt)
    space.map(ram())
    space.track_writes(BASE, 4 * MIB)
    assert space.handle_page_fault(BASE, Access.READ).resolution is Resolution.POPULATED
    assert space.handle_page_fault(BASE + PAGE, Access.WRITE).resolution is Resolution.POPULATED
    assert pages(space.harvest_writes(BASE, 4 * MIB)) == [1]
    assert space.handle_page_fault(BASE, Access.WRITE).resolution is Resolution.TRACKED
    assert pages(space.harvest_writes(BASE, 4 * MIB)) == [0]


def test_tracking_is_refused_where_there_is_nothing_to_write(bench: Bench) -> None:
    space = bench.space("sv39x4")
    space.map(ram(flags=MappingFlags.READ))
    with pytest.raises(NotMappedError, match="not to be written"):
        space.track_writes(BASE, PAGE)
    with pytest.raises(NotMappedError, match="nothing is declared"):
        space.track_writes(BASE + 8 * MIB, PAGE)
    with pytest.raises(NotMappedError, match="not tracked"):
        space.harvest_writes(BASE, PAGE)


def test_a_range_is_tracked_once(bench: Bench) -> None:
    space = bench.space("sv39x4")
    space.map(ram())
    space.track_writes(BASE, MIB)
    with pytest.raises(OverlapError):
        space.track_writes(BASE + MIB - PAGE, 2 * PAGE)


def test_protecting_a_tracked_range_keeps_it_tracked_and_unmapping_ends_it(bench: Bench) -> None:
    space = bench.space("sv39x4")
    space.map(ram(populate=Populate.EAGER))
    space.track_writes(BASE, 2 * MIB)
    space.protect(BASE, 4 * MIB, MappingFlags.READ | MappingFlags.WRITE)
    assert isinstance(space.translate(BASE, Access.WRITE), Fault)
    assert isinstance(space.translate(BASE + 2 * MIB, Access.WRITE), Mapped)
    space.unmap(BASE, 4 * MIB)
    space.map(ram(populate=Populate.EAGER))
    assert isinstance(space.translate(BASE, Access.WRITE), Mapped)


def test_what_fault_around_populates_in_a_tracked_range_is_clean(bench: Bench) -> None:
    space = bench.space("sv39x4", fault_around=16 * PAGE)
    space.map(ram())
    space.track_writes(BASE + 8 * PAGE, 64 * PAGE)
    assert space.handle_page_fault(BASE + PAGE, Access.WRITE).retry
    assert isinstance(space.translate(BASE + 7 * PAGE, Access.WRITE), Mapped)
    assert isinstance(space.translate(BASE + 8 * PAGE, Access.WRITE), Fault)
    assert not space.harvest_writes(BASE + 8 * PAGE, 64 * PAGE).any()


@pytest.mark.parametrize("fmt", STAGE_2)
def test_hardware_bits_are_harvested_and_cleared(bench: Bench, fmt: str) -> None:
    space = bench.space(fmt, hardware_ad=True)
    space.map(ram(populate=Populate.EAGER))
    # A new leaf has both bits set, so that nothing faults or updates for their sake.
    assert space.harvest_dirty(BASE, 4 * MIB).all()
    assert not space.harvest_dirty(BASE, 4 * MIB).any()
    assert space.harvest_accessed(BASE, 4 * MIB).all()
    space.page_table.mark(BASE + 3 * MIB, write=False)
    assert not space.harvest_dirty(BASE, 4 * MIB).any()
    space.page_table.mark(BASE + 3 * MIB, write=True)
    accessed = space.harvest_accessed(BASE + 2 * MIB + 4 * PAGE, 2 * PAGE)
    assert accessed.tolist() == [True, True]
    dirty = space.harvest_dirty(BASE, 4 * MIB)
    assert pages(dirty) == list(range(512, 1024))


@pytest.mark.parametrize("fmt", STAGE_2)
def test_what_the_host_writes_is_dirty_too(bench: Bench, fmt: str) -> None:
    space = bench.space(fmt, hardware_ad=True)
    space.map(ram(populate=Populate.EAGER))
    space.harvest_dirty(BASE, 4 * MIB)
    before = space.page_table.statistics().leaves
    GuestMemory(space).write(BASE + 2 * MIB + 5, b"from the host")
    assert space.page_table.statistics().leaves == before, "a mark splits no block"
    assert pages(space.harvest_dirty(BASE, 4 * MIB)) == list(range(512, 1024))


def test_without_hardware_updates_a_cleared_bit_faults_once_and_is_set_by_us(bench: Bench) -> None:
    space = bench.space("sv39x4")
    space.map(ram(populate=Populate.EAGER))
    space.harvest_dirty(BASE, 4 * MIB)
    assert isinstance(space.translate(BASE, Access.READ), Mapped)
    assert isinstance(space.translate(BASE, Access.WRITE), Fault)
    assert space.handle_page_fault(BASE, Access.WRITE).resolution is Resolution.TRACKED
    assert isinstance(space.translate(BASE, Access.WRITE), Mapped)
    assert space.harvest_dirty(BASE, 4 * MIB)[:512].all()


def test_a_fault_populates_the_window_around_it_but_not_beyond_its_region(bench: Bench) -> None:
    space = bench.space("sv39x4", fault_around=16 * PAGE)
    space.map(MemoryRegion(Gpa(BASE + 8 * PAGE), 100 * PAGE, RWX, MapType.MAP_ALLOC))
    assert space.handle_page_fault(BASE + 9 * PAGE, Access.READ).retry
    mapped = space.page_table.mappings()
    assert (mapped[0].start, mapped[-1].start + mapped[-1].size) == (BASE + 8 * PAGE, BASE + 16 * PAGE)
    assert space.page_table.statistics().leaves == {PAGE: 8}
    assert space.handle_page_fault(BASE + 40 * PAGE, Access.READ).retry
    assert space.page_table.statistics().leaves == {PAGE: 24}


def test_a_space_never_holds_more_frames_than_its_limit(bench: Bench) -> None:
    space = bench.space("sv39x4", limit=3 * PAGE)
    space.map(ram())
    for page in range(3):
        assert space.handle_page_fault(BASE + page * PAGE, Access.WRITE).resolution is Resolution.POPULATED
    result = space.handle_page_fault(BASE + 3 * PAGE, Access.WRITE)
    assert result.resolution is Resolution.OUT_OF_MEMORY
    assert "may hold 0x3000" in result.reason
    space.unmap(BASE, PAGE)
    assert space.handle_page_fault(BASE + 3 * PAGE, Access.WRITE).resolution is Resolution.POPULATED
    with pytest.raises(OutOfMemoryError, match="too many"):
        space.map(MemoryRegion(Gpa(BASE + 64 * MIB), MIB, RWX, MapType.MAP_ALLOC, populate=Populate.EAGER))
    assert space.region_at(BASE + 64 * MIB) is None


def test_regions_may_promise_more_than_the_host_has(bench: Bench) -> None:
    space = bench.space("sv39x4", checked=False)
    space.map(ram(64 * MIB))
    last = None
    for page in range(16 * 1024):
        last = space.handle_page_fault(BASE + page * PAGE, Access.WRITE)
        if not last.retry:
            break
    assert last is not None
    assert last.resolution is Resolution.OUT_OF_MEMORY
    assert bench.frames.free_bytes < MIB


def test_two_vcpus_that_fault_on_the_same_pages_get_one_frame_each(bench: Bench) -> None:
    space = bench.space("sv39x4")
    space.map(ram())
    barrier = threading.Barrier(4)
    failures: list[object] = []

    def vcpu() -> None:
        barrier.wait()
        for page in range(200):
            result = space.handle_page_fault(BASE + page * PAGE, Access.WRITE)
            if not result.retry:
                failures.append(result)

    threads = [threading.Thread(target=vcpu) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert space.counters.faults[Resolution.POPULATED] == 200
    assert space.counters.faults[Resolution.PRESENT] == 600
    assert bench.frames.used_by(space.owner) == 200 * PAGE


def test_a_block_is_populated_only_where_nothing_of_it_is_mapped(bench: Bench) -> None:
    space = bench.space("sv39x4", largest=2 * MIB)
    space.map(ram())
    space.populate_range(Range.sized(BASE, PAGE))
    assert space.handle_page_fault(BASE + PAGE, Access.READ).retry
    assert space.handle_page_fault(BASE + 2 * MIB + PAGE, Access.READ).retry
    assert space.page_table.statistics().leaves == {PAGE: 2, 2 * MIB: 1}


def test_a_destroyed_space_takes_no_region(bench: Bench) -> None:
    space = bench.space("sv39x4")
    space.destroy()
    with pytest.raises(MappingError, match="was destroyed"):
        space.map(ram())


def test_fault_latencies_are_counted_in_powers_of_two(bench: Bench) -> None:
    space = bench.space("sv39x4")
    space.map(ram())
    for page in range(10):
        space.handle_page_fault(BASE + page * PAGE, Access.READ)
    histogram = space.counters.histogram()
    assert sum(histogram.values()) == 10
    assert all(bound & (bound - 1) == 0 for bound in histogram)


def test_freed_frames_are_flushed_before_another_space_can_have_them(bench: Bench) -> None:
    order: list[str] = []
    space = AddressSpace.create("sv39x4", bench.frames, name="first", flush=lambda _: order.append("flush"))
    space.map(ram(populate=Populate.EAGER))
    free = bench.frames.free

    def note(span: Range, *, owner: object) -> None:
        order.append("free")
        free(span, owner=owner)  # type: ignore[arg-type]  # passed on

    bench.frames.free = note  # type: ignore[method-assign]  # to see the order
    space.unmap(BASE, MIB)
    assert order.index("flush") < order.index("free")
    assert order.count("flush") == 1


@pytest.mark.parametrize("fmt", STAGE_2)
def test_a_fault_on_a_page_that_is_there_by_now_invalidates_what_made_it_where_the_fault_does_not(
    bench: Bench, fmt: str
) -> None:
    space = bench.space(fmt)
    space.map(ram(populate=Populate.EAGER))
    bench.flushed.clear()
    assert space.handle_page_fault(BASE, Access.READ).resolution is Resolution.PRESENT
    # An EPT violation drops what caused it (SDM 30.4.3.1).
    assert bool(bench.flushed) is not space.format.name.startswith("ept")
