"""Resolving stage-2 faults: which page gets a frame, and why an access is refused.

The resolver shares the regions, the table and the backing of its address space and is called under its lock.
"""

from __future__ import annotations

import contextlib

from ..address import Hpa, Range, align_down, align_up
from ..errors import MappingError, OutOfMemoryError
from ..flags import Access
from ..formats.outcome import WRITE, FaultKind
from ..ranges import RangeMap
from ..tables.pagetable import PageTable
from ..tables.result import Fault, Mapped
from ..tables.single import NO_FRAME, NOT_TRANSLATED, PLACED
from .backing import Backing
from .faults import FaultResult, Resolution
from .known import Known
from .policy import Policy
from .promotion import Promoter
from .region import MemoryRegion, Populate
from .region_map import RegionMap, clip
from .tracking import Tracking


class FaultResolver:
    """Populates pages and judges accesses for one address space.

    Args:
        regions, table, backing, tracking: the space's own.
        policy: the space's settings.
        promoter: makes blocks of pages, where the policy asks for it.
    """

    def __init__(
        self, regions: RegionMap, table: PageTable, backing: Backing, tracking: Tracking, policy: Policy,
        promoter: Promoter,
    ) -> None:  # fmt: skip
        self._promoter = promoter if policy.promote else None
        self._regions, self._table, self._backing = regions, table, backing
        self._tracking, self._policy = tracking, policy
        self._page = table.format.page_size
        self._hole = FaultResult(Resolution.HOLE, None, policy.violation_of(None))
        self._places = policy.gives_pages(self._page)
        self._known: dict[int, Known] = {}
        self._last: Known | None = None
        self._edits = 0

    def resolve(self, gpa: int, access: Access) -> FaultResult:
        """Resolve one fault."""
        known = self._last
        if known is None or not known.start <= gpa < known.end or self._edits != self._regions.edits:
            known = self.know(gpa)
            if known is None:
                return self._hole
        refused = known.refused[access]
        if refused is not None:
            return refused
        return self._at_once(known, gpa, access) or self._by_plan(known, gpa, access)

    def know(self, gpa: int) -> Known | None:
        """What is known of the region at an address; None in a hole."""
        if self._edits != self._regions.edits:
            self._known.clear()
            self._last, self._edits = None, self._regions.edits
        region = self._regions.find(gpa)
        if region is None:
            return None
        known = self._known.get(region.start)
        if known is None:
            known = self._known[region.start] = Known(region, self._table, self._policy)
        self._last = known
        return known

    def _at_once(self, known: Known, gpa: int, access: Access) -> FaultResult | None:
        """Place a page by one store, or find that it is there; None, and nothing changed, where it takes more.

        Frame, leaf and owner in one step, under both locks: the frame is the owner's once the page is there.
        """
        table, backing, tracker = self._table, self._backing, self._tracking.tracker
        single, editor = table.single, table.editor
        if single is None or editor.watcher is not None or gpa >= table.plain_end:
            return None
        if tracker.active and tracker.covers(gpa):
            return None
        with editor.lock, backing.lock:
            _words = table.memory.mapped
            if _words is None or editor.gone:
                return None
            run, frame = backing.run, NO_FRAME
            if known.lazy and self._places and (backing.limit is None or backing.held + self._page <= backing.limit):
                frame = run.next if run.next != run.end else NO_FRAME
            need = 1 << access
            answer = single.ask(single.at, gpa, need, need == WRITE, frame, known.page_bits)
            if answer == PLACED:
                backing.used(run)
                return known.populated
        if answer & NOT_TRANSLATED:
            return None
        # The TLB that faulted holds less than the table says: an old permission, or that nothing was there.
        table.refresh(gpa)
        return known.present

    def _by_plan(self, known: Known, gpa: int, access: Access) -> FaultResult:
        """The same for all that can be: with tables, blocks, tracked pages, without memory."""
        try:
            # Whether the page is there is asked first: that is one call, and to plan a leaf takes many.
            absent = known.lazy and self._table.hpa_of(gpa) is None
            if absent and (self._populate_window(known, gpa) or self._populate(known.region, gpa, access)):
                return known.populated
            return self._resolve_present(known, gpa, access)
        except OutOfMemoryError as error:
            return FaultResult(Resolution.OUT_OF_MEMORY, known.region, reason=str(error))

    def realise(self, region: MemoryRegion) -> None:
        """Take what a new region needs and map it; on failure everything taken is given back."""
        if not region.map_type.is_mapped:
            return
        lazy = self._policy.populate_of(region) is Populate.LAZY
        if region.map_type.may_be_lazy and lazy:
            return
        sizes = self._table.leaf_sizes
        wanted = self._policy.largest
        largest = sizes[-1] if wanted is None else max(leaf for leaf in sizes if leaf <= max(wanted, sizes[0]))
        taken = self._backing.take(region, largest)
        try:
            extents = [(gpa, span.start, span.size) for gpa, span in taken]
            self._table.map_extents(extents, region.flags, largest=largest)
        except BaseException:
            for _, span in taken:
                self._backing.give_back(region, span)
            raise

    def populate_range(self, span: Range) -> None:
        """Give every page of the MAP_ALLOC regions in `span` that has no frame one, in runs.

        Raises:
            OutOfMemoryError: not enough frames; what was populated before stays.
        """
        whole = Range(align_down(span.start, self._page), align_up(span.end, self._page))
        for region in self._regions.overlapping(whole):
            if region.map_type.may_be_lazy:
                for gap in self._absent(clip(region, whole).range):
                    self._populate_run(region, gap)

    def _absent(self, span: Range) -> list[Range]:
        """The parts of whole pages of a region that are not mapped."""
        present: RangeMap[bool] = RangeMap()
        for start, _, size, _ in self._table.rows(span.start, span.size).tolist():
            present.add(Range.sized(start, size), True)
        return present.gaps(span)

    def _resolve_present(self, known: Known, gpa: int, access: Access) -> FaultResult:
        """A fault on a page that is mapped: late, tracked, or waiting for its accessed bit."""
        if access is Access.WRITE and self._tracking.first_write(known.region, gpa):
            return known.tracked
        found = self._table.translate(gpa, access)
        if isinstance(found, Fault) and found.kind is FaultKind.ACCESS_FLAG:
            self._table.mark(gpa, write=access is Access.WRITE)
            return known.tracked
        if not isinstance(found, Mapped):
            return known.violation
        self._table.refresh(gpa)
        return known.present

    def _populate_window(self, known: Known, gpa: int) -> bool:
        """Populate the window that the faults of a region ask for, of which the absent page at `gpa` is a part.

        False, and nothing changed, where that is one page, its writes are tracked, or there is no memory for it.
        """
        if known.window is None:
            return False
        window = known.window.around(gpa, self._backing.room())
        if window.size <= max(self._page, self._policy.largest or 0) or self._tracking.tracker.parts(window):
            return False
        gaps = self._absent(window)
        try:
            self._populate_run(known.region, next(gap for gap in gaps if gap.contains(gpa)))
        except OutOfMemoryError:
            return False
        with contextlib.suppress(OutOfMemoryError):
            for gap in gaps:
                if not gap.contains(gpa):
                    self._populate_run(known.region, gap)
        return True

    def _populate(self, region: MemoryRegion, gpa: int, access: Access) -> bool:
        """Give the page at `gpa`, and what lies around it, frames; False if it has one."""
        wanted = max(self._policy.largest or 0, self._page)
        # Writes are tracked page by page, so a tracked block is populated so.
        if self._tracking.covers(gpa):
            wanted = self._page
        for size in reversed(self._table.leaf_sizes):
            start = align_down(gpa, size)
            if size > wanted or start < region.start or start + size > region.end:
                continue
            if size > self._page and len(self._table.rows(start, size)):
                # Part of the block is mapped in smaller pages already, so no block fits.
                continue
            try:
                if self._populate_leaf(region, Range.sized(start, size), access):
                    if self._policy.window > size:
                        self._populate_around(region, gpa)
                    return True
            except OutOfMemoryError:
                if size == self._page:
                    raise
        return False

    def _populate_leaf(self, region: MemoryRegion, leaf: Range, access: Access) -> bool:
        """Map one leaf on new frames; False when something is mapped there: part of the block, or the page."""
        frames = self._backing.frame(leaf.size)
        flags = region.flags if access is Access.WRITE else self._tracking.clean_flags(leaf.start, region.flags)
        try:
            self._table.map_page(leaf.start, Hpa(frames.start), flags, leaf.size)
        except MappingError:
            self._backing.undo([frames])
            return False
        except BaseException:
            self._backing.undo([frames])
            raise
        if access is Access.WRITE:
            self._tracking.note(leaf)
        if self._promoter is not None and leaf.size == self._page:
            self._promoter.populated(region, leaf)
        return True

    def _populate_around(self, region: MemoryRegion, gpa: int) -> None:
        """Populate the rest of the window; that there is no memory for it is no fault of the guest's."""
        window = Range.sized(align_down(gpa, self._policy.window), self._policy.window)
        inside = window.intersection(region.range)
        if inside is not None:
            with contextlib.suppress(OutOfMemoryError):
                self.populate_range(inside)

    def _populate_run(self, region: MemoryRegion, gap: Range) -> None:
        """Map a run of absent pages of a region on new frames, in leaves of the smallest size."""
        spans = self._backing.scattered(gap.size, self._page)
        extents, gpa = [], gap.start
        for span in spans:
            extents.append((gpa, span.start, span.size))
            gpa += span.size
        try:
            self._table.map_extents(extents, region.flags, largest=self._page)
        except BaseException:
            self._backing.undo(spans)
            raise
        self._tracking.withhold(gap)
        if self._promoter is not None:
            self._promoter.populated(region, gap)
