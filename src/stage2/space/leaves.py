"""Which leaves a space has of memory, as arrays; and a space made to have exactly such leaves, whatever it had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..address import Range
from ..errors import MappingError, OutOfMemoryError
from ..flags import MappingFlags
from ..ranges import RangeMap
from ..tables.mapping import U64Array
from .backing import Backing
from .region import MemoryRegion
from .region_map import RegionMap
from .tracking import Tracking

if TYPE_CHECKING:
    from ..tables.pagetable import PageTable

START, HPA, SIZE = 0, 1, 2
"""Columns of an array of leaves."""


def expand(starts: U64Array, sizes: U64Array, step: U64Array) -> tuple[U64Array, U64Array]:
    """Runs cut into pieces: the index of the run that each piece is of, and the piece's offset in it.

    Args:
        starts, sizes: the runs.
        step: bytes of a piece of each.
    """
    counts = (sizes // step).astype(np.int64)
    which: U64Array = np.repeat(np.arange(len(starts), dtype=np.uint64), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    offsets: U64Array = (np.arange(len(which)) - first).astype(np.uint64) * step[which]
    return which, offsets


def runs_of(starts: U64Array, sizes: U64Array) -> list[Range]:
    """Touching ranges joined; they come in order of address."""
    if not len(starts):
        return []
    ends = starts + sizes
    cut = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    firsts, lasts = np.concatenate(([0], cut)), np.concatenate((cut - 1, [len(starts) - 1]))
    return [Range(start, end) for start, end in zip(starts[firsts].tolist(), ends[lasts].tolist(), strict=True)]


def _names(starts: U64Array, sizes: U64Array) -> U64Array:
    """A number for each leaf: what is below its alignment says its size."""
    found: U64Array = starts | np.log2(sizes.astype(np.float64)).astype(np.uint64)
    return found


class Leaves:
    """The leaves of one space; called under its lock.

    Args:
        regions, table, backing, tracking: the space's own.
    """

    def __init__(self, regions: RegionMap, table: PageTable, backing: Backing, tracking: Tracking) -> None:
        self._regions, self._table, self._backing, self._tracking = regions, table, backing, tracking

    def of_memory(self) -> U64Array:
        """(start, HPA, size) of every leaf of memory, in order, shape (n, 3)."""
        parts: list[U64Array] = [np.zeros((0, 3), np.uint64)]
        parts += [self._table.rows(region.start, region.size, merge=False)[:, :3] for region in self._memory()]
        return np.concatenate(parts)

    def set(self, wanted: U64Array) -> U64Array:
        """Let the leaves of memory be `wanted`, with their regions' permissions.

        What was populated and is no longer goes back, zeroed. A leaf of another size than before keeps its host memory
        where that fits.

        Args:
            wanted: (start, size) in order, shape (n, 2); each lies in one region.

        Returns:
            (start, size) of the leaves that got new frames, whose content is zero.

        Raises:
            MappingError: a leaf lies in no region of memory, or cannot be one of the format; nothing changed.
            OutOfMemoryError: there are not enough frames; nothing changed.
        """
        present = self.of_memory()
        self._require(wanted)
        had, want = _names(present[:, START], present[:, SIZE]), _names(wanted[:, 0], wanted[:, 1])
        missing = [(start, size) for start, size in wanted[~np.isin(want, had)].tolist()]
        gone = present[~np.isin(had, want)]
        if not missing and not len(gone):
            return np.zeros((0, 2), np.uint64)
        reused, fresh = self._reuse(missing, gone)
        self._require_tables(missing)
        placed, taken = self._take(fresh, reused, gone)
        try:
            self._swap(gone, sorted(reused + placed))
        except BaseException:
            self._backing.undo(taken)
            raise
        self._give_back(gone, reused)
        return np.array([(start, size) for start, _, size in placed if self._owns(start)], np.uint64).reshape(-1, 2)

    # --- inside ------------------------------------------------------------------------------------------

    def _memory(self) -> list[MemoryRegion]:
        return [region for region in self._regions if region.map_type.holds_bytes]

    def _owns(self, gpa: int) -> bool:
        region = self._regions.find(gpa)
        return region is not None and region.map_type.takes_frames

    def _require(self, wanted: U64Array) -> None:
        memory: RangeMap[bool] = RangeMap(merge=False)
        for region in self._memory():
            memory.add(region.range, True)
        known = np.isin(wanted[:, 1], np.array(self._table.leaf_sizes, np.uint64))
        aligned = wanted[:, 0] & (wanted[:, 1] - np.uint64(1)) == 0
        for start, size in wanted[~(known & aligned)].tolist():
            raise MappingError(f"a leaf of {size:#x} bytes at {start:#x} is none of {self._table.format.name}")
        if (wanted[1:, 0] < wanted[:-1, 0] + wanted[:-1, 1]).any():
            raise MappingError("the leaves overlap, or are out of order")
        for span in runs_of(wanted[:, 0], wanted[:, 1]):
            for gap in memory.gaps(span):
                raise MappingError(f"no memory is declared in {gap}")

    def _reuse(
        self, missing: list[tuple[int, int]], gone: U64Array
    ) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
        """(start, HPA, size) of leaves that host memory is behind already, and (start, size) of the others."""
        reused: list[tuple[int, int, int]] = []
        fresh: list[tuple[int, int]] = []
        if len(gone):
            joins = (gone[1:, START] == gone[:-1, START] + gone[:-1, SIZE]) & (
                gone[1:, HPA] == gone[:-1, HPA] + gone[:-1, SIZE]
            )
            cut = np.flatnonzero(~joins) + 1
            firsts, lasts = np.concatenate(([0], cut)), np.concatenate((cut - 1, [len(gone) - 1]))
            run_start, run_hpa = gone[firsts, START], gone[firsts, HPA]
            run_end = gone[lasts, START] + gone[lasts, SIZE]
        for start, size in missing:
            if len(gone):
                at = int(np.searchsorted(run_start, np.uint64(start), "right")) - 1
                if at >= 0 and start + size <= int(run_end[at]):
                    hpa = int(run_hpa[at]) + start - int(run_start[at])
                    if hpa % size == 0:
                        reused.append((start, hpa, size))
                        continue
            fresh.append((start, size))
        return reused, fresh

    def _require_tables(self, missing: list[tuple[int, int]]) -> None:
        """Make sure that there are frames for all the tables that could be needed."""
        fmt = self._table.format
        starts = np.array([start for start, _ in missing], np.uint64)
        need = 0
        for level in range(1, fmt.levels):
            need += len(np.unique(starts // np.uint64(fmt.leaf_size(level)))) * fmt.table_size
        if need > self._backing.free_bytes:
            raise OutOfMemoryError(
                f"{need:#x} bytes of tables could be needed, and the host has {self._backing.free_bytes:#x}"
            )

    def _take(
        self, fresh: list[tuple[int, int]], reused: list[tuple[int, int, int]], gone: U64Array
    ) -> tuple[list[tuple[int, int, int]], list[Range]]:
        """Host memory for the leaves that have none: (start, HPA, size) of each, and the frames that were taken."""
        placed: list[tuple[int, int, int]] = []
        taken: list[Range] = []
        limit, self._backing.limit = self._backing.limit, None
        try:
            # What goes back does so in the end; the limit is about what is held then.
            own = sum(size for start, size in fresh if self._owns(start))
            back = sum(size for start, _, size in gone.tolist() if self._owns(start))
            back -= sum(size for start, _, size in reused if self._owns(start))
            if limit is not None and self._backing.held + own - back > limit:
                raise OutOfMemoryError(f"{own - back:#x} bytes more are beyond the VM's limit of {limit:#x}")
            page = self._table.format.page_size
            singles = [start for start, size in fresh if size == page and self._owns(start)]
            if singles:
                taken += self._backing.singles(len(singles))
                hpas = [hpa for span in taken for hpa in range(span.start, span.end, page)]
                placed += [(start, hpa, page) for start, hpa in zip(singles, hpas, strict=True)]
            for start, size in fresh:
                region = self._regions.find(start)
                assert region is not None, "what is wanted was checked"
                if not region.map_type.takes_frames:
                    host = region.host_range
                    assert host is not None, "memory that is not taken from frames has its HPA said"
                    placed.append((start, host.start + start - region.start, size))
                elif size != page:
                    taken.append(self._backing.frame(size))
                    placed.append((start, taken[-1].start, size))
        except BaseException:
            self._backing.undo(taken)
            raise
        finally:
            self._backing.limit = limit
        return placed, taken

    def _swap(self, gone: U64Array, leaves: list[tuple[int, int, int]]) -> None:
        """Unmap some leaves and map others; on failure all is as it was."""
        for span in runs_of(gone[:, START], gone[:, SIZE]):
            _ = self._table.unmap_range(span.start, span.size).owed
        try:
            self._map(leaves)
        except BaseException:
            for start, _, size in leaves:
                _ = self._table.unmap_range(start, size).owed
            self._map([(start, hpa, size) for start, hpa, size in gone.tolist()])
            raise

    def _map(self, leaves: list[tuple[int, int, int]]) -> None:
        groups: dict[tuple[MappingFlags, int], list[tuple[int, int, int]]] = {}
        region: MemoryRegion | None = None
        for leaf in leaves:
            if region is None or not region.start <= leaf[0] < region.end:
                region = self._regions.find(leaf[0])
            assert region is not None, "what is wanted was checked"
            groups.setdefault((region.flags, leaf[2]), []).append(leaf)
        for (flags, size), extents in groups.items():
            _ = self._table.map_extents(extents, flags, largest=size).owed
        starts = np.array([leaf[0] for leaf in leaves], np.uint64)
        sizes = np.array([leaf[2] for leaf in leaves], np.uint64)
        for span in runs_of(starts, sizes):
            self._tracking.withhold(span)

    def _give_back(self, gone: U64Array, reused: list[tuple[int, int, int]]) -> None:
        """Give back the frames behind leaves that are gone and whose memory was not used again."""
        kept: RangeMap[bool] = RangeMap()
        for _, hpa, size in sorted(reused, key=lambda leaf: leaf[1]):
            kept.add(Range.sized(hpa, size), True)
        for start, hpa, size in gone.tolist():
            region = self._regions.find(start)
            if region is not None and region.map_type.takes_frames:
                for span in kept.gaps(Range.sized(hpa, size)):
                    self._backing.give_back(region, span)
