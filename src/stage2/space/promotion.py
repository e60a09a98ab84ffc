"""Pages made into blocks while a guest runs, once all of a block is populated and every page allows the same.

A block is made in place where the frames already lie as it needs them; that changes no translation. Otherwise the pages
are copied into a block of frames, which nobody may write meanwhile: only while the vCPUs hold still. The old leaves are
then taken out and flushed first, so that there is no moment with two translations of an address (Arm DDI 0487 D8.16,
"break-before-make"; x86 and RISC-V have the same order here, since the output address changes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..address import MIB, Hpa, Range, align_down
from ..errors import OutOfMemoryError
from ..flags import MapType
from ..formats.outcome import ACCESSED, DIRTY
from ..tables.mapping import LEVEL_FIELD, U64Array
from ..tables.pagetable import PageTable
from .backing import Backing
from .region import MemoryRegion
from .region_map import RegionMap, clip
from .tracking import Tracking

_STATE = ACCESSED | DIRTY
_MOST_COPIED = 32 * MIB
"""A guest is not kept waiting for more to be copied."""


@dataclass(slots=True)
class Promotions:
    """How many blocks were made of pages.

    Args:
        in_place: of frames that lay as a block needs them.
        by_copy: by copying the pages.
    """

    in_place: int = 0
    by_copy: int = 0


class Promoter:
    """Makes blocks of one level up in one address space; called under its lock.

    Args:
        regions, table, backing, tracking: the space's own.
    """

    def __init__(self, regions: RegionMap, table: PageTable, backing: Backing, tracking: Tracking) -> None:
        self._regions, self._table, self._backing, self._tracking = regions, table, backing, tracking
        self._page, self.block = table.leaf_sizes[0], table.leaf_sizes[1]
        self._populated: dict[int, int] = {}
        """By address of a block: bytes of it that are populated. It says when to look; the table says what is so."""
        self.done = Promotions()
        self.still: Callable[[], bool] = lambda: False
        """Whether no vCPU can write memory now; an engine says so."""

    def populated(self, region: MemoryRegion, span: Range) -> None:
        """Pages of a region were populated: make blocks of those stretches that are full now."""
        for start in range(align_down(span.start, self.block), span.end, self.block):
            if not region.range.covers(Range.sized(start, self.block)):
                continue
            before = self._populated.get(start)
            if before is None:
                size = sum(self._table.rows(start, self.block)[:, 2].tolist())
            else:
                size = before + min(start + self.block, span.end) - max(start, span.start)
            self._populated[start] = size
            if size >= self.block:
                self.promote(start, may_copy=self.still())

    def forget(self, span: Range) -> None:
        """What is in a range is undeclared; what is left is counted when it is next populated."""
        for start in [start for start in self._populated if start < span.end and span.start < start + self.block]:
            del self._populated[start]

    def promote(self, start: int, *, may_copy: bool) -> bool:
        """Make a block of the pages at `start`, if they can be one.

        Args:
            start: GPA, a multiple of the block's size.
            may_copy: whether no vCPU can write them meanwhile.

        Returns:
            Whether there is a block now that was not there before.
        """
        span = Range.sized(start, self.block)
        region = self._regions.find(start)
        if region is None or region.map_type is not MapType.MAP_ALLOC or not region.range.covers(span):
            return False
        # Without somebody to invalidate nothing that is live is rewritten.
        if self._table.flush is None or self._tracking.tracker.parts(span):
            return False
        rows = self._table.rows(span.start, span.size)
        if not self._are_pages_of_a_block(rows, span):
            return False
        offsets = {hpa - gpa for gpa, hpa, _, _ in rows.tolist()}
        if len(offsets) == 1 and not (offsets.pop() + span.start) % self.block:
            if not self._table.coalesce(span.start, span.size).tables_freed:
                return False
            self.done.in_place += 1
            return True
        if not may_copy or self.block > _MOST_COPIED or not self._copy(region, span, rows):
            return False
        self.done.by_copy += 1
        return True

    def _are_pages_of_a_block(self, rows: U64Array, span: Range) -> bool:
        """Whether runs of leaves are all of a range, in smallest pages, and allow the same."""
        if not len(rows) or sum(rows[:, 2].tolist()) != span.size:
            return False
        kinds = {attributes & ~_STATE for attributes in rows[:, 3].tolist()}
        return len(kinds) == 1 and not kinds.pop() >> LEVEL_FIELD

    def _copy(self, region: MemoryRegion, span: Range, rows: U64Array) -> bool:
        try:
            frames = self._backing.frame(self.block)
        except OutOfMemoryError:
            return False
        table, memory = self._table, self._table.memory
        state = 0
        for attributes in rows[:, 3].tolist():
            state |= attributes & _STATE
        edit = table.unmap_range(span.start, span.size)
        try:
            target = memory.view(Hpa(frames.start), self.block)
            for gpa, hpa, size, _ in rows.tolist():
                target[gpa - span.start : gpa - span.start + size] = memory.view(Hpa(hpa), size)
            table.map_page(span.start, Hpa(frames.start), region.flags, self.block)
        except BaseException:
            # What was there before: its tables were just given back, so there is room for them.
            table.map_extents([(gpa, Hpa(hpa), size) for gpa, hpa, size, _ in rows.tolist()], region.flags,
                              largest=self._page)  # fmt: skip
            self._backing.undo([frames])
            raise
        if state:
            table.mark(span.start, span.size, write=bool(state & DIRTY))
        self._backing.give_back_runs(clip(region, span), edit.removed)
        return True
