"""An address space: what one VM sees as physical memory, declared in regions and realised in a stage-2 table."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, overload

import numpy.typing as npt

from ..address import SIZE_4K, Gpa, Gva, Hpa, Range, require_aligned
from ..errors import MappingError, NotMappedError, OutOfRangeError
from ..flags import Access, MappingFlags, MapType
from ..formats import by_name, family_of
from ..formats.outcome import ACCESSED, DIRTY
from ..formats.record import Format
from ..memory.owners import Owner, OwnerKind
from ..processor import Processor
from ..self_drawn import SelfDrawn
from ..tables.batch import Batch, TwoStageBatch
from ..tables.editor import Flush
from ..tables.explain import Walk, explain_two_stage
from ..tables.mapping import Edit, U64Array
from ..tables.pagetable import PageTable
from ..tables.regime import Regime
from ..tables.result import Fault, Mapped
from .backing import Backing
from .bulk import BulkResolver
from .dirty import Bitmap
from .fault_batch import FaultBatch
from .faults import FaultCounters, FaultResult
from .leaves import Leaves
from .policy import FaultAround, Policy
from .promotion import Promoter
from .query import QueryResult, query
from .region import MemoryRegion, Populate, ViolationPolicy
from .region_map import RegionMap, clip
from .resolver import FaultResolver
from .tracking import Tracking

if TYPE_CHECKING:
    from ..memory.frames import FrameAllocator
    from ..memory.window import TableFrames


class AddressSpace(SelfDrawn):
    """The guest physical memory of one VM.

    Args:
        fmt: stage-2 format, a record or its name.
        frames: host memory.
        name: the VM's name; its frames and tables are owned under it.
        size: bytes from GPA 0 on that may be used; None for all that the format translates.
        identifier: VMID.
        populate: when MAP_ALLOC regions get frames, unless the region says otherwise; None for lazy.
        violation: what a forbidden access does, unless the region says otherwise; None for stop.
        largest: bytes of the largest leaf to use; None for the format's largest when eager, its smallest page
            when lazy.
        limit: bytes of frames it may hold in all (MAP_ALLOC and ROM); None for no limit. Regions may promise
            more than the limit, or than the host has: whoever touches too much gets OUT_OF_MEMORY.
        fault_around: bytes, a power of two: a fault populates the absent pages of the aligned window of this size
            around it, as far as they are in the region; None for one page of 4 KiB; "adaptive" for windows that grow
            while faults come in sequence.
        promote: make a block of the pages of MAP_ALLOC regions once all of it is populated (`promoter` says how).
        hardware_ad: let hardware set accessed and dirty bits; otherwise a cleared bit faults and is set here.
        processor: what the tables are for; None for no particular one.
        flush: does the TLB operations that edits owe, before frames or tables are given back.
        table_frames: where tables come from, such as a `FrameWindow`; None for `frames`.
    """

    def __init__(
        self,
        fmt: Format | str,
        frames: FrameAllocator,
        *,
        name: str = "vm",
        size: int | None = None,
        identifier: int = 0,
        populate: Populate | None = None,
        violation: ViolationPolicy | None = None,
        largest: int | None = None,
        limit: int | None = None,
        fault_around: FaultAround | None = None,
        promote: bool = False,
        hardware_ad: bool = False,
        processor: Processor | None = None,
        flush: Flush | None = None,
        table_frames: TableFrames | None = None,
    ) -> None:
        self.format = by_name(fmt) if isinstance(fmt, str) else fmt
        self.name = name
        self.processor = processor
        self.owner = Owner(OwnerKind.VM, name)
        self.frames = frames
        self.policy = Policy(populate, violation, largest, fault_around, promote)
        self.counters = FaultCounters()
        width = 1 << self.format.input_bits
        self.range = Range(0, width if size is None else size)
        if self.range.end > width:
            raise OutOfRangeError(f"{self.range} is beyond the {self.format.input_bits}-bit GPAs of {self.format.name}")
        self.page_table = PageTable(
            self.format,
            frames if table_frames is None else table_frames,
            owner=Owner(OwnerKind.TABLES, name),
            controls=_controls(self.format, processor, hardware_ad=hardware_ad),
            identifier=identifier,
            flush=flush,
        )
        self._backing = Backing(frames, self.owner, self.page_table.leaf_sizes, limit)
        self._regions = RegionMap()
        self._tracking = Tracking(self._regions, self.page_table)
        own = (self._regions, self.page_table, self._backing, self._tracking, self.policy)
        self.promoter = Promoter(*own[:4])
        """Makes blocks of pages."""
        self._resolver = FaultResolver(*own, self.promoter)
        self._leaves = Leaves(*own[:4])
        self._bulk = BulkResolver(self._resolver, *own)
        self.lock: AbstractContextManager[object] = threading.RLock()
        """Held during every edit and fault; hold it to read several things that belong together."""
        self.destroyed = False

    @classmethod
    def create(
        cls,
        fmt: Format | str,
        frames: FrameAllocator,
        *,
        name: str = "vm",
        size: int | None = None,
        identifier: int = 0,
        populate: Populate | None = None,
        violation: ViolationPolicy | None = None,
        largest: int | None = None,
        limit: int | None = None,
        fault_around: FaultAround | None = None,
        promote: bool = False,
        hardware_ad: bool = False,
        processor: Processor | None = None,
        flush: Flush | None = None,
        table_frames: TableFrames | None = None,
    ) -> AddressSpace:
        """A new, empty address space; the arguments are those of the class."""
        return cls(
            fmt,
            frames,
            name=name,
            size=size,
            identifier=identifier,
            populate=populate,
            violation=violation,
            largest=largest,
            limit=limit,
            fault_around=fault_around,
            promote=promote,
            hardware_ad=hardware_ad,
            processor=processor,
            flush=flush,
            table_frames=table_frames,
        )

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
        with self.lock:
            self._require_alive()
            if not self.range.covers(region.range):
                raise OutOfRangeError(f"{region} leaves the address space {self.range}")
            self._regions.check_free(region)
            # What is never mapped need not fit the format's pages.
            fields = (("GPA", region.start), ("size", region.size), ("HPA", region.hpa or 0))
            for what, value in fields if region.map_type.is_mapped else ():
                require_aligned(f"{what} of {region.label}", value, self.format.page_size)
            # Refuse what the format cannot say before anything is taken.
            if region.map_type.is_mapped:
                self.format.leaf_entry(0, 0, region.flags, controls=self.regime.controls)
            self._resolver.realise(region)
            self._regions.add(region)
        return region

    def unmap(self, start: Gpa | int, size: int) -> Edit:
        """Undeclare everything in a range; frames that belonged to it are given back, zeroed. Holes are fine.

        Raises:
            MisalignedError, OutOfRangeError: the range is no whole pages of this space.
            OutOfMemoryError: a block had to be split and there was no frame for the table; nothing changed.
        """
        span = self._span(start, size)
        with self.lock:
            parts = [clip(region, span) for region in self._regions.overlapping(span)]
            edit = self.page_table.unmap_range(span.start, span.size)
            for part in parts:
                self._backing.give_back_runs(part, edit.removed)
            self._regions.remove(span)
            self._tracking.forget(span)
            self.promoter.forget(span)
        return edit

    def protect(self, start: Gpa | int, size: int, flags: MappingFlags) -> Edit:
        """Give all of a declared range new flags.

        Raises:
            NotMappedError: part of the range is undeclared; nothing changed.
            EncodingError: a region or the format refuses the flags; nothing changed.
        """
        span = self._span(start, size)
        with self.lock:
            gaps = self._regions.gaps(span)
            if gaps:
                raise NotMappedError(f"nothing is declared in {gaps[0]}")
            for region in self._regions.overlapping(span):
                replace(clip(region, span), flags=flags)
            edit = self.page_table.protect_range(span.start, span.size, flags)
            self._regions.update(span, lambda region: replace(region, flags=flags))
            if flags & MappingFlags.WRITE:
                self._tracking.withhold(span)
            else:
                self._tracking.forget(span)
        return edit

    def clear(self) -> Edit:
        """Undeclare everything."""
        with self.lock:
            return self.unmap(self.range.start, self.range.size)

    def destroy(self) -> None:
        """Give back all frames and tables. Harmless when repeated."""
        with self.lock:
            if len(self._regions):
                # Whoever ends a VM drops all that its identifier tags; this is a part of that.
                _ = self.clear().owed
            self.page_table.destroy()
            self.destroyed = True

    # --- reading -----------------------------------------------------------------------------------------

    def query(self, gpa: Gpa | int) -> QueryResult | None:
        """HPA, flags, leaf size, region and memory type at a GPA; None where nothing is mapped.

        Raises:
            MappingError: the address space was destroyed.
        """
        self._require_alive()
        region = self._regions.find(gpa)
        return None if region is None else query(self.page_table, region, gpa)

    def translate(self, gpa: Gpa | int, access: Access | None = None) -> Mapped | Fault:
        """GPA to HPA on the table itself."""
        return self.page_table.translate(gpa, access)

    def hpa_of(self, gpa: Gpa | int) -> Hpa | None:
        """The HPA of a GPA, None where nothing is mapped; the shortest way to ask."""
        return self.page_table.hpa_of(gpa)

    @overload
    def translate_many(self, gpas: npt.ArrayLike, *, threads: int | None = None) -> Batch: ...

    @overload
    def translate_many(
        self, gpas: npt.ArrayLike, *, hpa_only: Literal[True], threads: int | None = None
    ) -> U64Array: ...

    def translate_many(
        self, gpas: npt.ArrayLike, *, hpa_only: bool = False, threads: int | None = None
    ) -> Batch | U64Array:
        """GPA to HPA for an array of addresses; see `PageTable.translate_many`."""
        table = self.page_table
        if hpa_only:
            return table.translate_many(gpas, hpa_only=True, threads=threads)
        return table.translate_many(gpas, threads=threads)

    def translate_gva_many(
        self,
        gvas: npt.ArrayLike,
        stage_1: Regime,
        access: Access | None = None,
        *,
        user: bool = False,
        out: TwoStageBatch | None = None,
        threads: int | None = None,
    ) -> TwoStageBatch:
        """GVA to GPA to HPA for an array of addresses, under the guest's regime `stage_1`; sets no A or D bit.

        See `PageTable.translate_gva_many`.
        """
        return self.page_table.translate_gva_many(gvas, stage_1, access, user=user, out=out, threads=threads)

    def walk(self, gva: Gva | int, stage_1: Regime, access: Access | None = None, *, user: bool = False) -> Walk:
        """GVA to GPA to HPA with all steps, under the guest's regime `stage_1`.

        Raises:
            MappingError: the address space was destroyed.
        """
        self._require_alive()
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
        with self.lock:
            result = self._resolver.resolve(gpa, access)
            self.counters.count(result.resolution.number, time.perf_counter_ns() - began)
            return result

    def handle_page_faults(self, gpas: npt.ArrayLike, accesses: npt.ArrayLike) -> FaultBatch:
        """Resolve stage-2 faults in order, with the end that `handle_page_fault` has for one after the other.

        Which frame a page gets is another matter, as is the cost: pages that are merely absent, or there, are
        settled together, with their frames and tables taken at once.

        Args:
            gpas: the faulting addresses, an array of any shape.
            accesses: what was attempted: one `Access` for all, or an array of as many.

        Raises:
            OutOfRangeError: the accesses are none, or not as many as the addresses.
        """
        began = time.perf_counter_ns()
        with self.lock:
            batch = self._bulk.resolve(gpas, accesses)
            self.counters.count_many(batch.counts, time.perf_counter_ns() - began)
            return batch

    def populate_range(self, span: Range) -> None:
        """Give every page of the MAP_ALLOC regions in `span` that has no frame one, in runs.

        Raises:
            OutOfMemoryError: not enough frames; what was populated before stays.
        """
        with self.lock:
            self._resolver.populate_range(span)

    # --- all leaves of memory ----------------------------------------------------------------------------

    def leaves_of_memory(self) -> U64Array:
        """(start, HPA, size) of every leaf of memory (not of devices), in order, shape (n, 3)."""
        self._require_alive()
        with self.lock:
            return self._leaves.of_memory()

    def set_leaves_of_memory(self, wanted: U64Array) -> U64Array:
        """Let memory be mapped by exactly these leaves, with the regions' permissions; see `leaves.Leaves.set`.

        Args:
            wanted: (start, size) in order, shape (n, 2).

        Returns:
            (start, size) of the leaves that got new frames, whose content is zero.

        Raises:
            MappingError: they do not fit regions or format; nothing changed.
            OutOfMemoryError: there are not enough frames; nothing changed.
        """
        self._require_alive()
        with self.lock:
            return self._leaves.set(wanted)

    # --- accessed and dirty ------------------------------------------------------------------------------

    def track_writes(self, start: Gpa | int, size: int) -> None:
        """Begin to track which pages of a range are written, by taking their write permission away.

        Raises:
            NotMappedError: part of the range is undeclared, or not to be written.
            OverlapError: part of it is tracked already.
            EncodingError: a mapping would be left without any permission.
        """
        with self.lock:
            self._tracking.start(self._span(start, size))

    def stop_tracking(self, start: Gpa | int, size: int) -> None:
        """Give a tracked range its write permission back.

        Raises:
            NotMappedError: it is not tracked as one range.
        """
        with self.lock:
            self._tracking.stop(self._span(start, size))

    def note_writes(self, span: Range) -> None:
        """Tell write tracking that the host wrote a range."""
        with self.lock:
            self._tracking.note_host(span)

    def harvest_writes(self, start: Gpa | int, size: int) -> Bitmap:
        """The pages of a tracked range that were written since the last harvest; they are tracked afresh.

        Raises:
            NotMappedError: it is not tracked as one range.
        """
        with self.lock:
            return self._tracking.harvest_writes(self._span(start, size))

    def tracked(self, span: Range) -> list[Range]:
        """The ranges that are tracked, as far as they lie in `span`."""
        return self._tracking.tracker.parts(span)

    def written_so_far(self, span: Range) -> int:
        """How many pages of tracked ranges in `span` were written since the last harvest."""
        with self.lock:
            return self._tracking.tracker.count(span)

    def harvest_dirty(self, start: Gpa | int, size: int) -> Bitmap:
        """The pages whose dirty bit is set, which is cleared; a page of a dirty block counts as dirty."""
        with self.lock:
            return self._tracking.harvest_bits(self._span(start, size), DIRTY)

    def harvest_accessed(self, start: Gpa | int, size: int) -> Bitmap:
        """The pages whose accessed bit is set, which is cleared."""
        with self.lock:
            return self._tracking.harvest_bits(self._span(start, size), ACCESSED)

    # --- inside ------------------------------------------------------------------------------------------

    def _require_alive(self) -> None:
        if self.destroyed:
            raise MappingError(f"the address space of VM {self.name} was destroyed")

    def _span(self, start: int, size: int) -> Range:
        span = Range.sized(start, size)
        require_aligned("GPA", start, self.format.page_size)
        require_aligned("size", size, self.format.page_size)
        if not self.range.covers(span):
            raise OutOfRangeError(f"{span} leaves the address space {self.range}")
        return span

    def __repr__(self) -> str:
        regions = f"{len(self.memory_regions)} regions"
        return f"AddressSpace({self.name!r}, {self.format.name}, root {self.root_page_table:#x}, {regions})"


def _controls(fmt: Format, processor: Processor | None, *, hardware_ad: bool) -> int:
    """The control bits of a space's tables.

    Raises:
        EncodingError: the processor does not have such tables, or does not set accessed and dirty bits.
    """
    controls = fmt.default_controls if processor is None else family_of(fmt).controls(fmt, processor)
    controls |= fmt.hardware_ad if hardware_ad else 0
    if processor is not None:
        family_of(fmt).require(fmt, processor, controls)
    return controls
