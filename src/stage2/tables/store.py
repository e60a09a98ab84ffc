"""The frames that one table's tables lie in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..address import SIZE_2M, SIZE_4K, Hpa, Range, align_down
from ..formats.record import Format
from ..ranges import RangeMap
from .mapping import U64Array

if TYPE_CHECKING:
    from ..memory.owners import Owner
    from ..memory.window import TableFrames

NO_FRAMES: U64Array = np.zeros(0, np.uint64)


class TableStore:
    """Takes and gives back tables of one format, and knows which it holds.

    Args:
        fmt: the format.
        frames: where they come from.
        owner: who they belong to.

    Raises:
        OutOfMemoryError: there is no room for the root.
    """

    def __init__(self, fmt: Format, frames: TableFrames, owner: Owner) -> None:
        self._frames, self._owner, self._size = frames, owner, fmt.table_size
        self._huge_blocks: set[int] = set()
        self._held: RangeMap[bool] = RangeMap()
        self.root: Hpa = frames.allocate(fmt.root_size, align=fmt.root_size, owner=owner)
        self._held.add(Range.sized(self.root, fmt.root_size), True)
        self.count = 1
        """Tables held, the root among them."""

    @property
    def ranges(self) -> list[Range]:
        """The HPA ranges that hold tables, the root's among them, in order."""
        return [span for span, _ in self._held]

    def take(self, count: int) -> U64Array:
        """Addresses of so many zeroed tables, in few runs, with huge pages behind them where that can be.

        Raises:
            OutOfMemoryError: there are not so many frames.
        """
        if not count:
            return NO_FRAMES
        extents = self._frames.allocate_pages(count * self._size, max(self._size, SIZE_4K), owner=self._owner)
        self.count += count
        for extent in extents:
            if not self._held.extend(extent.start, extent.end, True):
                self._held.add(extent, True)
            self._advise_huge(extent)
        if count == 1:
            return np.array([extents[0].start], np.uint64)
        runs = [np.arange(span.start, span.end, self._size, dtype=np.uint64) for span in extents]
        return runs[0] if len(runs) == 1 else np.concatenate(runs)

    def give(self, tables: U64Array) -> None:
        """Give tables back; they are linked from nowhere and flushed."""
        if not len(tables):
            return
        self.count -= len(tables)
        for span in self._runs_of(tables):
            self._held.discard(span)
            self._frames.free(span, owner=self._owner)

    def clear(self) -> None:
        """Give everything back, the root too."""
        for span, _ in self._held:
            self._frames.free(span, owner=self._owner)
        self._held.clear()
        self.count = 0

    def _runs_of(self, tables: U64Array) -> list[Range]:
        """Distinct tables as ranges, in order."""
        if len(tables) == 1:
            return [Range.sized(int(tables[0]), self._size)]
        ordered = np.sort(tables)
        first, last = int(ordered[0]), int(ordered[-1])
        if last - first == (len(tables) - 1) * self._size:
            return [Range(first, last + self._size)]
        cuts = (ordered[1:] - ordered[:-1] != self._size).nonzero()[0]
        firsts, lasts = [first, *ordered[cuts + 1].tolist()], [*ordered[cuts].tolist(), last]
        return [Range(low, high + self._size) for low, high in zip(firsts, lasts, strict=True)]

    def _advise_huge(self, extent: Range) -> None:
        memory = self._frames.memory
        for block in range(align_down(extent.start, SIZE_2M), extent.end, SIZE_2M):
            if block not in self._huge_blocks:
                self._huge_blocks.add(block)
                if memory.contains(block, SIZE_2M):
                    memory.advise_huge(Range.sized(block, SIZE_2M))
