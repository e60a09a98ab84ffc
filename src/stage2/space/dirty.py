"""Write tracking without hardware's help: tracked pages are mapped read-only until their first write."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..address import Range
from ..errors import NotMappedError, OverlapError
from ..ranges import RangeMap

Bitmap = npt.NDArray[np.bool_]
"""One element for each smallest page of a range."""


def bitmap_of_runs(span: Range, runs: npt.NDArray[np.uint64], page_size: int) -> Bitmap:
    """The pages of `span` that lie in (start, HPA, size) runs."""
    steps = np.zeros(span.size // page_size + 1, np.int32)
    starts = np.maximum(runs[:, 0], np.uint64(span.start)) - np.uint64(span.start)
    ends = np.minimum(runs[:, 0] + runs[:, 2], np.uint64(span.end)) - np.uint64(span.start)
    np.add.at(steps, (starts // np.uint64(page_size)).astype(np.int64), 1)
    np.add.at(steps, (ends // np.uint64(page_size)).astype(np.int64), -1)
    pages: Bitmap = np.cumsum(steps[:-1]) > 0
    return pages


class WriteTracker:
    """Which pages of which ranges were written.

    Args:
        page_size: the format's smallest page in bytes.
    """

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._ranges: RangeMap[Bitmap] = RangeMap(merge=False)
        self.active = False
        """Whether anything is tracked."""

    def start(self, span: Range) -> None:
        """Track a range from now on.

        Raises:
            OverlapError: part of it is tracked already.
        """
        if self._ranges.overlapping(span):
            raise OverlapError(f"writes in part of {span} are tracked already")
        self._ranges.add(span, np.zeros(span.size // self._page_size, np.bool_))
        self.active = True

    def stop(self, span: Range) -> None:
        """Track it no longer."""
        self._require(span)
        self._ranges.remove(span)
        self.active = bool(self._ranges)

    def cut(self, span: Range) -> None:
        """Track nothing in a range any more; ranges that reach beyond it keep the rest."""
        for held, pages in self._ranges.overlapping(span):
            self._ranges.remove(held)
            for rest in (
                Range(held.start, span.start) if held.start < span.start else None,
                Range(span.end, held.end) if held.end > span.end else None,
            ):
                if rest is not None:
                    first = (rest.start - held.start) // self._page_size
                    self._ranges.add(rest, pages[first : first + rest.size // self._page_size].copy())
        self.active = bool(self._ranges)

    def parts(self, span: Range) -> list[Range]:
        """The parts of a range whose writes are tracked."""
        parts = (held.intersection(span) for held, _ in self._ranges.overlapping(span))
        return [part for part in parts if part is not None]

    def covers(self, address: int) -> bool:
        """Whether writes to an address are tracked."""
        return self.active and self._ranges.get(address) is not None

    def note(self, span: Range) -> None:
        """Pages were written."""
        for held, pages in self._ranges.overlapping(span):
            first = (max(held.start, span.start) - held.start) // self._page_size
            last = (min(held.end, span.end) - held.start - 1) // self._page_size
            pages[first : last + 1] = True

    def count(self, span: Range) -> int:
        """Pages of ranges that share a byte with `span` which were written since the last harvest."""
        return sum(int(pages.sum()) for _, pages in self._ranges.overlapping(span))

    def take(self, span: Range) -> Bitmap:
        """The pages written since tracking began or the last harvest; they count as clean from now on."""
        pages = self._require(span)
        written = pages.copy()
        pages[:] = False
        return written

    def _require(self, span: Range) -> Bitmap:
        found = self._ranges.find(span.start)
        if found is None or found[0] != span:
            raise NotMappedError(f"writes in {span} are not tracked as one range")
        return found[1]


def runs_of_bitmap(span: Range, pages: Bitmap, page_size: int) -> list[Range]:
    """The runs of set pages, as ranges."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], pages, [False])).astype(np.int8)))
    starts, ends = edges[::2].tolist(), edges[1::2].tolist()
    return [
        Range(span.start + first * page_size, span.start + last * page_size)
        for first, last in zip(starts, ends, strict=True)
    ]
