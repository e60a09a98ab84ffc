"""Pages that become blocks while a guest runs: in place, by copy, or not at all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stage2.address import MIB, Gpa, Hpa, Range
from stage2.flags import RWX, Access, MappingFlags, MapType
from stage2.formats.invalidation import Operation
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion
from stage2.tlb.checker import TlbChecker
from stage2.tlb.trace import EditTrace
from stage2.tlb.trace_check import check_trace

PAGE = 4096
BLOCK = 2 * MIB
BASE = 0x8000_0000
FORMATS = ("arm-s2-4k-40", "sv39x4", "npt4", "ept4")


@dataclass
class Bench:
    frames: FrameAllocator
    flushed: list[Operation] = field(default_factory=list)

    def space(self, fmt: str, *, still: bool = True, map_type: MapType = MapType.MAP_ALLOC, **how: Any) -> AddressSpace:
        space = AddressSpace(fmt, self.frames, flush=self.flushed.extend, promote=True, **how)
        TlbChecker(space.page_table)
        space.promoter.still = lambda: still
        space.map(MemoryRegion(Gpa(BASE), 2 * BLOCK, RWX, map_type))
        return space


@pytest.fixture
def bench() -> Iterator[Bench]:
    with PhysicalMemory([Range.sized(0x1_0000_0000, 32 * MIB)]) as memory:
        yield Bench(FrameAllocator(memory))


def touch(space: AddressSpace, pages: list[int]) -> dict[int, bytes]:
    """Fault pages in, each with bytes of its own; what is in them."""
    wrote = {}
    for page in pages:
        gpa = BASE + page * PAGE
        assert space.handle_page_fault(gpa, Access.WRITE).retry
        wrote[gpa] = page.to_bytes(8, "little") * (PAGE // 8)
        space.frames.memory.write(Hpa(space.hpa_of(gpa) or 0), wrote[gpa])
    return wrote


def populate_in_a_row(space: AddressSpace) -> None:
    """Give a stretch an aligned block of frames, as pages: nobody invalidates meanwhile, so nothing is promoted."""
    flush, space.page_table.flush = space.page_table.flush, None
    space.populate_range(Range.sized(BASE, BLOCK))
    space.page_table.flush = flush


def seen(space: AddressSpace) -> dict[int, bytes]:
    """All that is mapped, page by page."""
    return {
        gpa + at: space.frames.memory.read(Hpa(hpa + at), PAGE)
        for gpa, hpa, size, _ in space.page_table.rows().tolist()
        for at in range(0, size, PAGE)
    }


def counts(space: AddressSpace) -> tuple[int, int]:
    return space.promoter.done.in_place, space.promoter.done.by_copy


def scattered(seed: int = 3) -> list[int]:
    pages = list(range(512))
    random.Random(seed).shuffle(pages)
    return pages


@pytest.mark.parametrize("fmt", FORMATS)
def test_pages_whose_frames_lie_right_become_a_block_where_they_are(bench: Bench, fmt: str) -> None:
    space = bench.space(fmt, still=False)
    populate_in_a_row(space)
    wrote = touch(space, list(range(512)))
    where = space.hpa_of(BASE)
    assert space.page_table.statistics().leaves == {PAGE: 512}
    bench.flushed.clear()
    assert space.promoter.promote(BASE, may_copy=False)
    assert counts(space) == (1, 0)
    assert space.hpa_of(BASE) == where
    assert space.page_table.statistics().leaves == {BLOCK: 1}
    assert seen(space) == wrote
    assert bench.flushed
    space.destroy()


@pytest.mark.parametrize("fmt", FORMATS)
def test_pages_on_scattered_frames_are_copied_into_a_block_and_the_old_frames_freed(bench: Bench, fmt: str) -> None:
    space = bench.space(fmt)
    wrote = touch(space, scattered())
    assert counts(space) == (0, 1)
    assert space.page_table.statistics().leaves == {BLOCK: 1}
    assert seen(space) == wrote
    held = sum(span.size for span in bench.frames.owners.of(space.owner))
    assert held == BLOCK
    assert space.frames.memory.read(Hpa(space.hpa_of(BASE) or 0), 8) == bytes(8)
    space.destroy()
    assert bench.frames.used_bytes == 0


def test_a_page_that_is_not_there_yet_is_not_in_the_way_of_the_next_stretch(bench: Bench) -> None:
    space = bench.space("arm-s2-4k-40")
    touch(space, [page for page in range(1024) if page != 7])
    assert sum(counts(space)) == 1
    assert space.page_table.query(BASE + BLOCK).size == BLOCK  # type: ignore[union-attr]
    assert space.page_table.query(BASE).size == PAGE  # type: ignore[union-attr]
    space.destroy()


def test_nothing_is_copied_while_a_vcpu_may_write(bench: Bench) -> None:
    space = bench.space("arm-s2-4k-40", still=False)
    wrote = touch(space, scattered())
    assert counts(space) == (0, 0)
    assert seen(space) == wrote
    assert space.promoter.promote(BASE, may_copy=True)
    assert seen(space) == wrote
    assert not space.promoter.promote(BASE, may_copy=True)
    space.destroy()


def test_pages_that_allow_different_things_stay_pages(bench: Bench) -> None:
    space = bench.space("arm-s2-4k-40")
    space.protect(BASE + PAGE, PAGE, MappingFlags.READ | MappingFlags.WRITE)
    touch(space, list(range(512)))
    assert counts(space) == (0, 0)
    assert not space.promoter.promote(BASE, may_copy=True)
    space.destroy()


def test_pages_whose_writes_are_tracked_stay_pages_until_they_are_not(bench: Bench) -> None:
    space = bench.space("arm-s2-4k-40")
    space.track_writes(BASE, PAGE)
    space.populate_range(Range.sized(BASE, BLOCK))
    touch(space, list(range(512)))
    assert counts(space) == (0, 0)
    space.stop_tracking(BASE, PAGE)
    assert space.promoter.promote(BASE, may_copy=False)
    space.destroy()


def test_what_was_undeclared_and_declared_again_is_counted_again(bench: Bench) -> None:
    space = bench.space("arm-s2-4k-40")
    touch(space, list(range(100)))
    _ = space.unmap(BASE, 50 * PAGE).owed
    space.map(MemoryRegion(Gpa(BASE), 50 * PAGE, RWX, MapType.MAP_ALLOC))
    assert counts(space) == (0, 0)
    wrote = touch(space, list(range(512)))
    assert sum(counts(space)) == 1
    assert seen(space) == wrote
    space.destroy()


def test_nothing_is_copied_beyond_the_memory_limit_or_without_a_free_block(bench: Bench) -> None:
    space = bench.space("arm-s2-4k-40", limit=BLOCK + PAGE)
    wrote = touch(space, scattered())
    assert counts(space) == (0, 0)
    assert seen(space) == wrote
    assert not space.promoter.promote(BASE, may_copy=True)
    space.destroy()


def test_windows_that_grow_make_blocks_in_place(bench: Bench) -> None:
    space = bench.space("arm-s2-4k-40", still=False, fault_around="adaptive")
    for page in range(1024):
        if space.hpa_of(BASE + page * PAGE) is None:
            assert space.handle_page_fault(BASE + page * PAGE, Access.WRITE).retry
    assert counts(space)[0] >= 1
    space.destroy()


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("in_a_row", [True, False])
def test_a_trace_of_a_promotion_keeps_the_rules_of_the_architecture(
    bench: Bench, tmp_path: Path, fmt: str, *, in_a_row: bool
) -> None:
    space = AddressSpace(fmt, bench.frames, flush=bench.flushed.extend, promote=True)
    space.promoter.still = lambda: True
    with EditTrace(tmp_path / "trace") as trace:
        trace.watch(space.page_table, "vm")
        space.map(MemoryRegion(Gpa(BASE), 2 * BLOCK, RWX, MapType.MAP_ALLOC))
        if in_a_row:
            space.populate_range(Range.sized(BASE, BLOCK))
        touch(space, scattered())
        trace.stop()
    assert counts(space) == ((1, 0) if in_a_row else (0, 1))
    verdict = check_trace(tmp_path / "trace")
    assert verdict.refuted is None
    assert verdict.stores > 512
    space.destroy()
