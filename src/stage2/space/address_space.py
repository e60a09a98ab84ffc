"""An address space: what one VM sees as physical memory, declared in regions and realised in a stage-2 table."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..address import SIZE_2M, SIZE_4K, Gpa, Gva, Hpa, Range, align_down, align_up, require_aligned
from ..errors import MappingError, NotMappedError, OutOfMemoryError, OutOfRangeError
from ..flags import Access, MappingFlags, MapType
from ..formats import by_name
from ..formats.record import Format
from ..memory.owners import Owner, OwnerKind
from ..ranges import RangeMap
from ..tables.batch import Batch, TwoStageBatch
from ..tables.explain import Walk, explain_two_stage
from ..tables.pagetable import Edit, PageTable
from ..tables.regime import Regime
from ..tables.result import Fault, Mapped
from .region import MemoryRegion, Populate, ViolationPolicy
from .region_map import RegionMap, clip

if TYPE_CHECKING:
    from ..memory.frames import FrameAllocator


class Resolution(Enum):
    """How a stage-2 fault was resolved."""

    POPULATED = "populated"
    """The page got a frame; the access can be repeated."""
    PRESENT = "present"
    """The page was there already (another vCPU was faster); the access can be repeated."""
    DEVICE = "device"
    """The address belongs to an emulated device."""
    VIOLATION = "violation"
    """The region does not allow the access."""
    HOLE = "hole"
    """Nothing is declared at the address."""
    OUT_OF_MEMORY = "out of memory"
    """The region allows it, but there is no frame left."""


@dataclass(frozen=True, slots=True)
class FaultResult:
    """What `handle_page_fault` did.

    Args:
        resolution: how it ended.
        region: the region at the address, None in a hole.
        policy: for VIOLATION and HOLE, what is to happen to the access.
    """

    resolution: Resolution
    region: MemoryRegion | None
    policy: ViolationPolicy | None = None

    @property
    def retry(self) -> bool:
        """True when the access can be repeated."""
        return self.resolution in (Resolution.POPULATED, Resolution.PRESENT)


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


@dataclass(slots=True)
class SpaceCounters:
    """How often faults were resolved in which way."""

    faults: dict[Resolution, int] = field(default_factory=lambda: dict.fromkeys(Resolution, 0))

    @property
    def total(self) -> int:
        return sum(self.faults.values())


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
        flush: Callable[[tuple[Range, ...]], None] | None = None,
    ) -> None:
        self.format = by_name(fmt) if isinstance(fmt, str) else fmt
        self.name = name
        self.owner = Owner(OwnerKind.VM, name)
        self.frames = frames
        self.populate, self.violation, self.largest = populate, violation, largest
        self.counters = SpaceCounters()
        limit = 1 << self.format.input_bits
        self.range = Range(0, limit if size is None else size)
        if self.range.end > limit:
            raise OutOfRangeError(f"{self.range} is beyond the {self.format.input_bits}-bit GPAs of {self.format.name}")
        self.page_table = PageTable(
            self.format, frames, owner=Owner(OwnerKind.TABLES, name), identifier=identifier, flush=flush
        )
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
                self._release(part, edit.removed)
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
            edit = self.page_table.protect_range(span.start, span.size, flags)
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
        """Resolve a stage-2 fault: populate, or say why not.

        Args:
            gpa: the faulting address, aligned or not.
            access: what was attempted.
        """
        with self._lock:
            result = self._resolve(gpa, access)
            self.counters.faults[result.resolution] += 1
            return result

    def _resolve(self, gpa: int, access: Access) -> FaultResult:
        region = self._regions.find(gpa)
        if region is None:
            return FaultResult(Resolution.HOLE, None, self.violation)
        if region.map_type is MapType.EMULATED:
            return FaultResult(Resolution.DEVICE, region)
        if not region.flags & access.flag:
            return FaultResult(Resolution.VIOLATION, region, region.violation or self.violation)
        if region.map_type is not MapType.MAP_ALLOC:
            return self._already_mapped(region, gpa, access)
        try:
            populated = self._populate(region, gpa)
        except OutOfMemoryError:
            return FaultResult(Resolution.OUT_OF_MEMORY, region)
        if populated:
            return FaultResult(Resolution.POPULATED, region)
        return self._already_mapped(region, gpa, access)

    def _already_mapped(self, region: MemoryRegion, gpa: int, access: Access) -> FaultResult:
        if isinstance(self.page_table.translate(gpa, access), Mapped):
            return FaultResult(Resolution.PRESENT, region)
        return FaultResult(Resolution.VIOLATION, region, region.violation or self.violation)

    def _populate(self, region: MemoryRegion, gpa: int) -> bool:
        """Give the page at `gpa` a frame of the largest size that fits; False if it has one."""
        wanted = self.largest or self.format.page_size
        for size in sorted((leaf for leaf in self.format.leaf_sizes if leaf <= wanted), reverse=True):
            start = align_down(gpa, size)
            if start < region.start or start + size > region.end:
                continue
            last = size == self.format.page_size
            try:
                hpa = self.frames.allocate(size, align=size, owner=self.owner)
            except OutOfMemoryError:
                if last:
                    raise
                continue
            try:
                self.page_table.map_page(start, hpa, region.flags, size)
            except MappingError:
                # Something is mapped there: part of the block, or by now the page itself.
                self.frames.free(Range.sized(hpa, size), owner=self.owner)
                if last:
                    return False
            except BaseException:
                self.frames.free(Range.sized(hpa, size), owner=self.owner)
                raise
            else:
                return True
        return False

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
        spans = self.frames.allocate_extents(gap.size, owner=self.owner, largest=self.format.page_size)
        extents, gpa = [], gap.start
        for span in spans:
            extents.append((gpa, span.start, span.size))
            gpa += span.size
        try:
            self.page_table.map_extents(extents, region.flags, largest=self.format.page_size)
        except BaseException:
            for span in spans:
                self.frames.free(span, owner=self.owner)
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
        taken = self._take(region)
        try:
            self.page_table.map_extents(
                [(gpa, span.start, span.size) for gpa, span in taken], region.flags, largest=self._largest_eager
            )
        except BaseException:
            for _, span in taken:
                self._give_back(region, span)
            raise

    @property
    def _largest_eager(self) -> int | None:
        if self.largest is None:
            return None
        return max(leaf for leaf in self.format.leaf_sizes if leaf <= max(self.largest, self.format.page_size))

    def _take(self, region: MemoryRegion) -> list[tuple[int, Range]]:
        """The host memory behind a region, as (GPA, HPA range) in order of GPA."""
        if region.map_type is MapType.MAP_IDENTICAL:
            self.frames.claim(region.range, owner=self.owner)
            return [(region.start, region.range)]
        if region.map_type is MapType.MAP_RESERVED:
            self._claim_host(region.range)
            return [(region.start, region.range)]
        if region.map_type is MapType.MMIO:
            if region.hpa is None:
                raise MappingError(f"{region} has no HPA")
            span = Range.sized(region.hpa, region.size)
            self._claim_host(span)
            return [(region.start, span)]
        if region.map_type is MapType.SHARE:
            if region.hpa is None:
                raise MappingError(f"{region} is a share whose memory was not set up")
            return [(region.start, Range.sized(region.hpa, region.size))]
        return self._take_frames(region)

    def _take_frames(self, region: MemoryRegion) -> list[tuple[int, Range]]:
        """Frames for all of a region: one run whose alignment lets the largest leaves fit, else several."""
        largest = self._largest_eager or self.format.leaf_sizes[-1]
        natural = region.start & -region.start if region.start else largest
        fitting = [leaf for leaf in self.format.leaf_sizes if leaf <= min(largest, region.size, natural)]
        try:
            hpa = self.frames.allocate(region.size, align=max(fitting), owner=self.owner)
            return [(region.start, Range.sized(hpa, region.size))]
        except OutOfMemoryError:
            pass
        # Fragmented: pages up to the first block boundary, blocks as far as they go, pages for the rest.
        first = min(align_up(region.start, SIZE_2M), region.end)
        body_end = max(first, align_down(region.end, SIZE_2M))
        taken: list[tuple[int, Range]] = []
        try:
            for start, end, block in (
                (region.start, first, SIZE_4K),
                (first, body_end, min(largest, SIZE_2M)),
                (body_end, region.end, SIZE_4K),
            ):
                gpa = start
                if start < end:
                    for span in self.frames.allocate_extents(end - start, owner=self.owner, largest=block):
                        taken.append((gpa, span))
                        gpa += span.size
        except BaseException:
            for _, span in taken:
                self.frames.free(span, owner=self.owner)
            raise
        return taken

    def _give_back(self, region: MemoryRegion, span: Range) -> None:
        if region.owns_frames:
            self.frames.free(span, owner=self.owner)
        elif region.map_type in (MapType.MMIO, MapType.MAP_RESERVED):
            self._release_host(span)

    def _claim_host(self, span: Range) -> None:
        """Hold a fixed HPA range, be it memory or a device's registers."""
        if self.frames.memory.contains(span.start, span.size):
            self.frames.claim(span, owner=self.owner)
        else:
            self.frames.claim_device(span, owner=self.owner)

    def _release_host(self, span: Range) -> None:
        if self.frames.memory.contains(span.start, span.size):
            self.frames.free(span, owner=self.owner)
        else:
            self.frames.release_device(span, owner=self.owner)

    def _release(self, part: MemoryRegion, removed: npt.NDArray[np.uint64]) -> None:
        """Give back the host memory behind an unmapped part of a region."""
        if not part.owns_frames:
            if part.map_type in (MapType.MMIO, MapType.MAP_RESERVED):
                self._give_back(part, Range.sized(part.start if part.hpa is None else part.hpa, part.size))
            return
        # Runs of the table that lie in this part, clipped to it, as HPA ranges; touching ones are freed at once.
        starts = np.maximum(removed[:, 0], np.uint64(part.start))
        ends = np.minimum(removed[:, 0] + removed[:, 2], np.uint64(part.end))
        inside = starts < ends
        hpas = (removed[:, 1] + (starts - removed[:, 0]))[inside]
        sizes = (ends - starts)[inside]
        order = np.argsort(hpas)
        hpas, sizes = hpas[order], sizes[order]
        breaks = np.flatnonzero(hpas[1:] != hpas[:-1] + sizes[:-1]) + 1
        for run in np.split(np.arange(len(hpas)), breaks):
            if len(run):
                span = Range(int(hpas[run[0]]), int(hpas[run[-1]] + sizes[run[-1]]))
                self.frames.free(span, owner=self.owner)
