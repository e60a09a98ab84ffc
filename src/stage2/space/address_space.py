"""An address space: what one VM sees as physical memory, declared in regions and realised in a stage-2 table."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ..address import SIZE_4K, Gpa, Gva, Hpa, Range, align_down, align_up, require_aligned
from ..errors import MappingError, NotMappedError, OutOfMemoryError, OutOfRangeError
from ..flags import Access, MappingFlags, MapType
from ..formats import by_name
from ..formats.outcome import ACCESSED, DIRTY, FaultKind
from ..formats.record import Format
from ..memory.owners import Owner, OwnerKind
from ..ranges import RangeMap
from ..tables.batch import Batch, TwoStageBatch
from ..tables.explain import Walk, explain_two_stage
from ..tables.pagetable import Edit, PageTable
from ..tables.regime import Regime
from ..tables.result import Fault, Mapped
from .backing import Backing
from .dirty import Bitmap, WriteTracker, bitmap_of_runs, runs_of_bitmap
from .faults import FaultCounters, FaultResult, Resolution
from .region import MemoryRegion, Populate, ViolationPolicy
from .region_map import RegionMap, clip

if TYPE_CHECKING:
    from ..memory.frames import FrameAllocator


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What is at a GPA.

    Args:
        hpa: host physical address of that byte.
        flags: what the guest may do there.
        size: bytes of the leaf.
        region: the region it belongs to.
    """

    hpa: Hpa
    flags: MappingFlags
    size: int
    region: MemoryRegion


class AddressSpace:
    """The guest physical memory of one VM.

    Args:
        fmt: stage-2 format, a record or its name.
        frames: host memory.
        name: the VM's name; its frames and tables are owned under it.
        size: bytes from GPA 0 on that may be used; None for all that the format translates.
        identifier: VMID.
        populate: when MAP_ALLOC regions get frames, unless the region says otherwise.
        violation: what a forbidden access does, unless the region says otherwise.
        largest: bytes of the largest leaf to use; None for the format's largest when eager, its smallest page
            when lazy.
        limit: bytes of frames it may hold in all (MAP_ALLOC and ROM); None for no limit. Regions may promise
            more than the limit, or than the host has: whoever touches too much gets OUT_OF_MEMORY.
        fault_around: bytes, a power of two: a fault populates the absent pages of the aligned window of this size
            around it, as far as they are in the region.
        hardware_ad: let hardware set accessed and dirty bits; otherwise a cleared bit faults and is set here.
        flush: called with GPA ranges to invalidate before frames or tables are given back.
    """

    def __init__(
        self,
        fmt: Format | str,
        frames: FrameAllocator,
        *,
        name: str = "vm",
        size: int | None = None,
        identifier: int = 0,
        populate: Populate = Populate.LAZY,
        violation: ViolationPolicy = ViolationPolicy.STOP,
        largest: int | None = None,
        limit: int | None = None,
        fault_around: int = SIZE_4K,
        hardware_ad: bool = False,
        flush: Callable[[tuple[Range, ...]], None] | None = None,
    ) -> None:
        self.format = by_name(fmt) if isinstance(fmt, str) else fmt
        self.name = name
        self.owner = Owner(OwnerKind.VM, name)
        self.frames = frames
        self.populate, self.violation, self.largest = populate, violation, largest
        self.fault_around = fault_around
        self.counters = FaultCounters()
        width = 1 << self.format.input_bits
        self.range = Range(0, width if size is None else size)
        if self.range.end > width:
            raise OutOfRangeError(f"{self.range} is beyond the {self.format.input_bits}-bit GPAs of {self.format.name}")
        self.page_table = PageTable(
            self.format,
            frames,
            owner=Owner(OwnerKind.TABLES, name),
            controls=self.format.default_controls | (self.format.hardware_ad if hardware_ad else 0),
            identifier=identifier,
            flush=flush,
        )
        self._backing = Backing(frames, self.owner, self.format.leaf_sizes, limit)
        self._tracker = WriteTracker(self.format.page_size)
        self._regions = RegionMap()
        self._lock = threading.RLock()

    @classmethod
    def create(cls, fmt: Format | str, frames: FrameAllocator, **settings: Any) -> AddressSpace:
        """A new, empty address space; the arguments are those of the class."""
        return cls(fmt, frames, **settings)

    # --- what it holds -----------------------------------------------------------------------------------

    @property
    def root_page_table(self) -> Hpa:
        """HPA of the root table, as hgatp, EPTP or VTTBR want it."""
        return self.page_table.root

    @property
    def regime(self) -> Regime:
        return self.page_table.regime

    @property
    def memory_regions(self) -> tuple[MemoryRegion, ...]:
        """The declared regions in order of address."""
        return tuple(self._regions)

    def contains(self, start: Gpa | int, size: int = 1) -> bool:
        """Whether all of [start, start + size) is declared, in one region or in touching ones."""
        span = Range.sized(start, size)
        return self.range.covers(span) and not self._regions.gaps(span)

    def find_free_area(self, hint: int, size: int, *, align: int = SIZE_4K) -> Gpa | None:
        """The lowest GPA from `hint` on where `size` bytes are undeclared; None when there is none."""
        found = self._regions.find_free(hint, size, self.range, align)
        return None if found is None else Gpa(found)

    # --- edits -------------------------------------------------------------------------------------------

    def map(
        self,
        region: MemoryRegion | int,
        size: int = 0,
        flags: MappingFlags = MappingFlags(0),  # noqa: B008  # an immutable number
        map_type: MapType = MapType.MAP_ALLOC,
    ) -> MemoryRegion:
        """Declare a region and realise it: frames taken or claimed, leaves made where they are known.

        Args:
            region: the region, or its first GPA followed by size, flags and map type.

        Raises:
            OutOfRangeError, OverlapError, EncodingError: it does not fit; nothing changed.
            OwnerConflictError: MAP_IDENTICAL, and somebody holds part of that memory.
            OutOfMemoryError: not enough frames; nothing changed.
        """
        if not isinstance(region, MemoryRegion):
            region = MemoryRegion(Gpa(region), size, flags, map_type)
        with self._lock:
            if not self.range.covers(region.range):
                raise OutOfRangeError(f"{region} leaves the address space {self.range}")
            self._regions.check_free(region)
            # Refuse what the format cannot say before anything is taken.
            if region.map_type is not MapType.EMULATED:
                self.format.leaf_entry(0, 0, region.flags, controls=self.regime.controls)
            self._realise(region)
            self._regions.add(region)
        return region

    def unmap(self, start: Gpa | int, size: int) -> Edit:
        """Undeclare everything in a range; frames that belonged to it are given back, zeroed. Holes are fine.

        Raises:
            MisalignedError, OutOfRangeError: the range is no whole pages of this space.
            OutOfMemoryError: a block had to be split and there was no frame for the table; nothing changed.
        """
        span = self._span(start, size)
        with self._lock:
            parts = [clip(region, span) for region in self._regions.overlapping(span)]
            edit = self.page_table.unmap_range(span.start, span.size)
            for part in parts:
                self._backing.give_back_runs(part, edit.removed)
            self._regions.remove(span)
        return edit

    def protect(self, start: Gpa | int, size: int, flags: MappingFlags) -> Edit:
        """Give all of a declared range new flags.

        Raises:
            NotMappedError: part of the range is undeclared; nothing changed.
            EncodingError: a region or the format refuses the flags; nothing changed.
        """
        span = self._span(start, size)
        with self._lock:
            gaps = self._regions.gaps(span)
            if gaps:
                raise NotMappedError(f"nothing is declared in {gaps[0]}")
            for region in self._regions.overlapping(span):
                replace(clip(region, span), flags=flags)
            edit = self.page_table.protect_range(span.start, span.size, self._first_flags(span.start, flags))
            self._regions.update(span, lambda region: replace(region, flags=flags))
        return edit

    def clear(self) -> None:
        """Undeclare everything."""
        with self._lock:
            self.unmap(self.range.start, self.range.size)

    def destroy(self) -> None:
        """Give back all frames and tables. Harmless when repeated."""
        with self._lock:
            if len(self._regions):
                self.clear()
            self.page_table.destroy()

    # --- reading -----------------------------------------------------------------------------------------

    def query(self, gpa: Gpa | int) -> QueryResult | None:
        """HPA, flags, leaf size and region at a GPA; None where nothing is mapped."""
        found = self.page_table.translate(gpa)
        region = self._regions.find(gpa)
        if isinstance(found, Fault) or region is None:
            return None
        return QueryResult(found.hpa, found.flags, found.size, region)

    def translate(self, gpa: Gpa | int, access: Access | None = None) -> Mapped | Fault:
        """GPA to HPA on the table itself."""
        return self.page_table.translate(gpa, access)

    def translate_many(self, gpas: npt.ArrayLike) -> Batch:
        """GPA to HPA for an array of addresses."""
        return self.page_table.translate_many(gpas)

    def translate_gva_many(
        self, gvas: npt.ArrayLike, stage_1: Regime, access: Access | None = None, *, user: bool = False
    ) -> TwoStageBatch:
        """GVA to GPA to HPA for an array of addresses, under the guest's regime `stage_1`; sets no A or D bit."""
        return self.page_table.translate_gva_many(gvas, stage_1, access, user=user)

    def walk(self, gva: Gva | int, stage_1: Regime, access: Access | None = None, *, user: bool = False) -> Walk:
        """GVA to GPA to HPA with all steps, under the guest's regime `stage_1`."""
        return explain_two_stage(self.frames.memory, stage_1, self.regime, Gva(gva), access, user=user)

    def region_at(self, gpa: int) -> MemoryRegion | None:
        """The region that holds a GPA."""
        return self._regions.find(gpa)

    def regions_in(self, span: Range) -> list[MemoryRegion]:
        """The regions, whole, that share a byte with `span`."""
        return self._regions.overlapping(span)

    def undeclared(self, span: Range) -> list[Range]:
        """The parts of `span` in which nothing is declared."""
        return self._regions.gaps(span)

    # --- faults ------------------------------------------------------------------------------------------

    def handle_page_fault(self, gpa: Gpa | int, access: Access) -> FaultResult:
        """Resolve a stage-2 fault: populate, or say why not. Two vCPUs may fault on one page at the same time.

        Args:
            gpa: the faulting address, aligned or not.
            access: what was attempted.
        """
        began = time.perf_counter_ns()
        with self._lock:
            result = self._resolve(gpa, access)
            self.counters.count(result.resolution, time.perf_counter_ns() - began)
            return result

    def _resolve(self, gpa: int, access: Access) -> FaultResult:
        region = self._regions.find(gpa)
        if region is None:
            return FaultResult(Resolution.HOLE, None, self.violation)
        if region.map_type is MapType.EMULATED:
            return FaultResult(Resolution.DEVICE, region)
        if not region.flags & access.flag:
            return self._violation(region)
        if region.map_type is MapType.MAP_ALLOC:
            try:
                if self._populate(region, gpa, access):
                    return FaultResult(Resolution.POPULATED, region)
            except OutOfMemoryError as error:
                return FaultResult(Resolution.OUT_OF_MEMORY, region, reason=str(error))
        return self._resolve_present(region, gpa, access)

    def _resolve_present(self, region: MemoryRegion, gpa: int, access: Access) -> FaultResult:
        """A fault on a page that is mapped: late, tracked, or waiting for its accessed bit."""
        if access is Access.WRITE and self._tracker.covers(gpa):
            page = Range.sized(align_down(gpa, self.format.page_size), self.format.page_size)
            try:
                self.page_table.protect_range(page.start, page.size, region.flags)
            except OutOfMemoryError as error:
                return FaultResult(Resolution.OUT_OF_MEMORY, region, reason=str(error))
            self._tracker.note(page)
            return FaultResult(Resolution.TRACKED, region)
        found = self.page_table.translate(gpa, access)
        if isinstance(found, Fault) and found.kind is FaultKind.ACCESS_FLAG:
            self.page_table.mark(gpa, write=access is Access.WRITE)
            return FaultResult(Resolution.TRACKED, region)
        return FaultResult(Resolution.PRESENT, region) if isinstance(found, Mapped) else self._violation(region)

    def _violation(self, region: MemoryRegion) -> FaultResult:
        return FaultResult(Resolution.VIOLATION, region, region.violation or self.violation)

    def _populate(self, region: MemoryRegion, gpa: int, access: Access) -> bool:
        """Give the page at `gpa`, and what lies around it, frames; False if it has one."""
        wanted = self.largest or self.format.page_size
        tracked = self._tracker.covers(gpa)
        for size in reversed(self.format.leaf_sizes):
            start = align_down(gpa, size)
            if size > wanted or start < region.start or start + size > region.end:
                continue
            last = size == self.format.page_size
            if tracked and not last:
                continue
            try:
                if self._populate_leaf(region, Range.sized(start, size), access):
                    if last and self.fault_around > size and not tracked:
                        self._populate_around(region, gpa)
                    return True
            except OutOfMemoryError:
                if last:
                    raise
        return False

    def _populate_leaf(self, region: MemoryRegion, leaf: Range, access: Access) -> bool:
        """Map one leaf on new frames; False when something is mapped there: part of the block, or the page."""
        frames = self._backing.frame(leaf.size)
        flags = region.flags if access is Access.WRITE else self._first_flags(leaf.start, region.flags)
        try:
            self.page_table.map_page(leaf.start, Hpa(frames.start), flags, leaf.size)
        except MappingError:
            self._backing.undo([frames])
            return False
        except BaseException:
            self._backing.undo([frames])
            raise
        if access is Access.WRITE:
            self._tracker.note(leaf)
        return True

    def _populate_around(self, region: MemoryRegion, gpa: int) -> None:
        """Populate the rest of the window; that there is no memory for it is no fault of the guest's."""
        start = align_down(gpa, self.fault_around)
        window = Range.sized(start, self.fault_around).intersection(region.range)
        try:
            if window is not None:
                self.populate_range(window)
        except OutOfMemoryError:
            pass

    def _first_flags(self, start: int, flags: MappingFlags) -> MappingFlags:
        """What a page is mapped with as long as it was not written: without write, where writes are tracked."""
        return flags & ~MappingFlags.WRITE if self._tracker.covers(start) else flags

    # --- accessed and dirty ------------------------------------------------------------------------------

    def track_writes(self, start: Gpa | int, size: int) -> None:
        """Begin to track which pages of a range are written, by taking their write permission away.

        Raises:
            NotMappedError: part of the range is undeclared, or not to be written.
            OverlapError: part of it is tracked already.
            EncodingError: a mapping would be left without any permission.
        """
        span = self._span(start, size)
        with self._lock:
            self._require_writable(span)
            self._tracker.start(span)
            try:
                self._take_write_permission([span])
            except BaseException:
                self._tracker.stop(span)
                raise

    def stop_tracking(self, start: Gpa | int, size: int) -> None:
        """Give a tracked range its write permission back.

        Raises:
            NotMappedError: it is not tracked as one range.
        """
        span = self._span(start, size)
        with self._lock:
            self._tracker.take(span)
            self._tracker.stop(span)
            for region in self._regions.overlapping(span):
                part = clip(region, span)
                self.page_table.protect_range(part.start, part.size, region.flags)

    def harvest_writes(self, start: Gpa | int, size: int) -> Bitmap:
        """The pages of a tracked range that were written since the last harvest; they are tracked afresh.

        Raises:
            NotMappedError: it is not tracked as one range.
        """
        span = self._span(start, size)
        with self._lock:
            written = self._tracker.take(span)
            self._take_write_permission(runs_of_bitmap(span, written, self.format.page_size))
        return written

    def harvest_dirty(self, start: Gpa | int, size: int) -> Bitmap:
        """The pages whose dirty bit is set, which is cleared; a page of a dirty block counts as dirty."""
        return self._harvest(start, size, DIRTY)

    def harvest_accessed(self, start: Gpa | int, size: int) -> Bitmap:
        """The pages whose accessed bit is set, which is cleared."""
        return self._harvest(start, size, ACCESSED)

    def _harvest(self, start: int, size: int, what: int) -> Bitmap:
        span = self._span(start, size)
        with self._lock:
            runs = self.page_table.harvest(span.start, span.size, what)
        return bitmap_of_runs(span, runs, self.format.page_size)

    def _require_writable(self, span: Range) -> None:
        for gap in self._regions.gaps(span):
            raise NotMappedError(f"nothing is declared in {gap}")
        for region in self._regions.overlapping(span):
            if not region.flags & MappingFlags.WRITE:
                raise NotMappedError(f"{region} is not to be written, so there is nothing to track")

    def _take_write_permission(self, spans: list[Range]) -> None:
        for span in spans:
            for region in self._regions.overlapping(span):
                part = clip(region, span)
                self.page_table.protect_range(part.start, part.size, region.flags & ~MappingFlags.WRITE)

    # --- populating --------------------------------------------------------------------------------------

    def populate_range(self, span: Range) -> None:
        """Give every page of the MAP_ALLOC regions in `span` that has no frame one, in runs.

        Raises:
            OutOfMemoryError: not enough frames; what was populated before stays.
        """
        page = self.format.page_size
        whole = Range(align_down(span.start, page), align_up(span.end, page))
        with self._lock:
            present: RangeMap[bool] = RangeMap()
            for start, _, size, _ in self.page_table.rows(whole.start, whole.size).tolist():
                present.add(Range.sized(start, size), True)
            for region in self._regions.overlapping(whole):
                if region.map_type is not MapType.MAP_ALLOC:
                    continue
                for gap in present.gaps(clip(region, whole).range):
                    self._realise_run(region, gap)

    def _realise_run(self, region: MemoryRegion, gap: Range) -> None:
        """Map a run of absent pages of a region on new frames, in leaves of the smallest size."""
        page = self.format.page_size
        spans = self._backing.scattered(gap.size, page)
        extents, gpa = [], gap.start
        for span in spans:
            extents.append((gpa, span.start, span.size))
            gpa += span.size
        try:
            self.page_table.map_extents(extents, self._first_flags(gap.start, region.flags), largest=page)
        except BaseException:
            self._backing.undo(spans)
            raise

    # --- inside ------------------------------------------------------------------------------------------

    def _span(self, start: int, size: int) -> Range:
        span = Range.sized(start, size)
        require_aligned("GPA", start, self.format.page_size)
        require_aligned("size", size, self.format.page_size)
        if not self.range.covers(span):
            raise OutOfRangeError(f"{span} leaves the address space {self.range}")
        return span

    def _realise(self, region: MemoryRegion) -> None:
        """Take what the region needs and map it; on failure everything taken is given back."""
        if region.map_type is MapType.EMULATED:
            return
        lazy = (region.populate or self.populate) is Populate.LAZY
        if region.map_type is MapType.MAP_ALLOC and lazy:
            return
        sizes = self.format.leaf_sizes
        largest = (
            sizes[-1] if self.largest is None else max(leaf for leaf in sizes if leaf <= max(self.largest, sizes[0]))
        )
        taken = self._backing.take(region, largest)
        try:
            extents = [(gpa, span.start, span.size) for gpa, span in taken]
            self.page_table.map_extents(extents, region.flags, largest=largest)
        except BaseException:
            for _, span in taken:
                self._backing.give_back(region, span)
            raise
