"""Finding out which pages a guest used: by hardware's bits, or by write-protecting pages until their first write."""

from __future__ import annotations

from ..address import Range, align_down
from ..errors import NotMappedError
from ..flags import MappingFlags
from ..tables.pagetable import PageTable
from .dirty import Bitmap, WriteTracker, bitmap_of_runs, runs_of_bitmap
from .region import MemoryRegion
from .region_map import RegionMap, clip


class Tracking:
    """Tracks one address space; called under its lock.

    Args:
        regions, table: the space's own.
    """

    def __init__(self, regions: RegionMap, table: PageTable) -> None:
        self._regions, self._table = regions, table
        self._page = table.format.page_size
        self.tracker = WriteTracker(self._page)
        self._bits = table.tracks_writes

    # --- writes, by permission ---------------------------------------------------------------------------

    def start(self, span: Range) -> None:
        """Begin to track writes in a range; see `AddressSpace.track_writes`."""
        for gap in self._regions.gaps(span):
            raise NotMappedError(f"nothing is declared in {gap}")
        for region in self._regions.overlapping(span):
            if not region.flags & MappingFlags.WRITE:
                raise NotMappedError(f"{region} is not to be written, so there is nothing to track")
            # Refuse what the format cannot say before anything is changed.
            self._table.format.leaf_entry(
                0, 0, region.flags & ~MappingFlags.WRITE, controls=self._table.regime.controls
            )
        self.tracker.start(span)
        try:
            self.withhold(span)
        except BaseException:
            self.tracker.stop(span)
            raise

    def stop(self, span: Range) -> None:
        """Give a tracked range its write permission back."""
        self.tracker.take(span)
        self.tracker.stop(span)
        for region in self._regions.overlapping(span):
            part = clip(region, span)
            self._table.protect_range(part.start, part.size, region.flags)

    def harvest_writes(self, span: Range) -> Bitmap:
        """The pages written since the last harvest; they are tracked afresh."""
        written = self.tracker.take(span)
        for run in runs_of_bitmap(span, written, self._page):
            self.withhold(run)
        return written

    def covers(self, address: int) -> bool:
        """Whether writes to an address are tracked."""
        return self.tracker.covers(address)

    def note(self, span: Range) -> None:
        """Pages were written."""
        self.tracker.note(span)

    def note_host(self, span: Range) -> None:
        """The host wrote a range: its pages are written and, where hardware keeps count, dirty."""
        self.tracker.note(span)
        if self._bits:
            self._table.mark(span.start, span.size, write=True)

    def forget(self, span: Range) -> None:
        """Track nothing in a range any more, because it is no longer declared."""
        self.tracker.cut(span)

    def first_write(self, region: MemoryRegion, gpa: int) -> bool:
        """Let a tracked page be written and note it; False when its writes are not tracked."""
        if not self.tracker.covers(gpa):
            return False
        page = Range.sized(align_down(gpa, self._page), self._page)
        self._table.protect_range(page.start, page.size, region.flags)
        self.tracker.note(page)
        return True

    def clean_flags(self, address: int, flags: MappingFlags) -> MappingFlags:
        """What a page that was not written is mapped with: without write, where writes are tracked."""
        return flags & ~MappingFlags.WRITE if self.tracker.covers(address) else flags

    def withhold(self, span: Range) -> None:
        """Take write permission from the tracked parts of a range."""
        for tracked in self.tracker.parts(span):
            for region in self._regions.overlapping(tracked):
                part = clip(region, tracked)
                self._table.protect_range(part.start, part.size, region.flags & ~MappingFlags.WRITE)

    # --- accessed and dirty, by hardware's bits ----------------------------------------------------------

    def harvest_bits(self, span: Range, what: int) -> Bitmap:
        """The pages whose accessed or dirty bit was set, which is cleared."""
        return bitmap_of_runs(span, self._table.harvest(span.start, span.size, what), self._page)
