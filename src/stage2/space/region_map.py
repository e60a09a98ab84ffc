"""The regions of an address space: disjoint, found by address, split and joined by edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ..address import Gpa, Hpa, Range, align_up
from ..errors import NotMappedError, OverlapError
from ..ranges import RangeMap
from .region import MemoryRegion


def clip(region: MemoryRegion, span: Range) -> MemoryRegion:
    """The part of a region that lies in `span` (which must overlap it)."""
    part = region.range.intersection(span)
    if part is None:
        raise NotMappedError(f"{region} has no part in {span}")
    hpa = None if region.hpa is None else Hpa(region.hpa + part.start - region.start)
    return replace(region, start=Gpa(part.start), size=part.size, hpa=hpa)


def joined(first: MemoryRegion, second: MemoryRegion) -> MemoryRegion | None:
    """One region for two neighbours that differ in nothing but their place, or None."""
    if first.end != second.start:
        return None
    if (second.hpa is not None) if first.hpa is None else (second.hpa != first.hpa + first.size):
        return None
    alike = replace(second, start=first.start, size=first.size, hpa=first.hpa, place=first.place)
    return replace(first, size=first.size + second.size) if alike == first else None


class RegionMap:
    """Disjoint regions in order of address."""

    def __init__(self) -> None:
        self._regions: RangeMap[MemoryRegion] = RangeMap(merge=False)
        self.edits = 0
        """How often it was changed; what was found before the last time may hold no longer."""

    def __iter__(self) -> Iterator[MemoryRegion]:
        return iter([region for _, region in self._regions])

    def __len__(self) -> int:
        return len(self._regions)

    def find(self, gpa: int) -> MemoryRegion | None:
        """The region that holds `gpa`."""
        return self._regions.get(gpa)

    def overlapping(self, span: Range) -> list[MemoryRegion]:
        """The regions, whole, that share a byte with `span`."""
        return [region for _, region in self._regions.overlapping(span)]

    def check_free(self, region: MemoryRegion) -> None:
        """Raise OverlapError naming both parties if something is declared in the region's range."""
        for held in self.overlapping(region.range):
            common = held.range.intersection(region.range)
            where = "" if held.place is None else f" (declared at {held.place})"
            raise OverlapError(f"{region} overlaps {held}{where} in {common}")

    def add(self, region: MemoryRegion) -> None:
        """Enter a region, joining it with equal neighbours.

        Raises:
            OverlapError: part of its range is taken.
        """
        self.check_free(region)
        self.edits += 1
        before = self.find(region.start - 1) if region.start else None
        after = self.find(region.end)
        for neighbour in (before, after):
            if neighbour is None:
                continue
            pair = (neighbour, region) if neighbour.start < region.start else (region, neighbour)
            merged = joined(*pair)
            if merged is not None:
                self._regions.remove(neighbour.range)
                region = merged
        self._regions.add(region.range, region)

    def remove(self, span: Range) -> list[MemoryRegion]:
        """Take everything in `span` out; regions that reach beyond it are cut. Returns the removed parts."""
        removed = []
        self.edits += 1
        for held in self.overlapping(span):
            self._regions.remove(held.range)
            removed.append(clip(held, span))
            if held.start < span.start:
                left = clip(held, Range(held.start, span.start))
                self._regions.add(left.range, left)
            if held.end > span.end:
                right = clip(held, Range(span.end, held.end))
                self._regions.add(right.range, right)
        return removed

    def update(self, span: Range, change: Callable[[MemoryRegion], MemoryRegion]) -> None:
        """Replace every part of a region in `span` by what `change` makes of it."""
        for part in self.remove(span):
            self.add(change(part))

    def gaps(self, span: Range) -> list[Range]:
        """The parts of `span` in which nothing is declared."""
        return self._regions.gaps(span)

    def find_free(self, hint: int, size: int, limit: Range, align: int = 1) -> int | None:
        """The lowest address from `hint` on, within `limit`, where `size` bytes are free.

        Args:
            align: alignment of the result, a power of two.

        Returns:
            None when there is no such place.
        """
        start = max(hint, limit.start)
        if start >= limit.end:
            return None
        for gap in self.gaps(Range(start, limit.end)):
            candidate = align_up(gap.start, align)
            if candidate + size <= gap.end:
                return candidate
        return None
