"""The host memory behind regions: taken, claimed, and given back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..address import SIZE_4K, Range, align_down, align_up
from ..errors import MappingError, OutOfMemoryError
from ..flags import MapType
from ..memory.frames import Run
from ..memory.owners import Owner, OwnerKind
from .region import MemoryRegion

if TYPE_CHECKING:
    from ..memory.frames import FrameAllocator

Piece = tuple[int, Range]
"""(GPA, HPA range): a run of a region and what lies behind it."""


class Backing:
    """Takes host memory for one owner.

    Args:
        frames: where from.
        owner: for whom.
        leaf_sizes: the format's leaf sizes, smallest first.
        limit: bytes of frames the owner may hold in all; None for no limit.
    """

    def __init__(
        self, frames: FrameAllocator, owner: Owner, leaf_sizes: Sequence[int], limit: int | None = None
    ) -> None:
        self._frames, self._owner, self._leaf_sizes = frames, owner, leaf_sizes
        self.limit = limit
        self.held = 0
        self.lock = frames.lock
        self._page = leaf_sizes[0]
        self.run = Run(owner, self._page)
        """Where the owner's next single frame comes from, see `FrameAllocator.run_of`."""

    def frame(self, size: int) -> Range:
        """One naturally aligned block of frames.

        Raises:
            OutOfMemoryError: there is none, or the limit is reached.
        """
        self._require_room(size)
        if size == self._page:
            found = self._frames.allocate_page(size, owner=self._owner)
            run = self._frames.run_of(self._owner)
            self.run = run if run.page == size else self.run
        else:
            found = self._frames.allocate(size, align=size, owner=self._owner)
        self.held += size
        return Range.sized(found, size)

    def used(self, run: Run) -> None:
        """The next frame of `run`, within the limit, was put to use; the lock is held."""
        self._frames.owners.grow(run, run.next + run.page)
        self.held += run.page

    @property
    def free_bytes(self) -> int:
        """Bytes that the host has free, for whomever."""
        return self._frames.free_bytes

    def room(self) -> int:
        """Bytes of frames that it may still take."""
        free = self.free_bytes
        return free if self.limit is None else min(free, self.limit - self.held)

    def singles(self, pages: int) -> list[Range]:
        """So many of the smallest pages, first from where the owner's single frames come from.

        Raises:
            OutOfMemoryError: as `frame`; nothing changed.
        """
        page = self._page
        self._require_room(pages * page)
        with self.lock:
            run, spans = self.run, []
            aside = min((run.end - run.next) // page, pages)
            if aside:
                spans.append(Range.sized(run.next, aside * page))
                self._frames.owners.grow(run, spans[0].end)
            try:
                if aside < pages:
                    spans += self._extents((pages - aside) * page, SIZE_4K)
            except BaseException:
                for span in spans:
                    self._frames.free(span, owner=self._owner)
                raise
        self.held += pages * page
        return spans

    def scattered(self, size: int, largest: int) -> list[Range]:
        """`size` bytes of frames in blocks of at most `largest`, wherever they are."""
        self._require_room(size)
        spans = self._extents(size, largest)
        self.held += size
        return spans

    def undo(self, spans: Sequence[Range]) -> None:
        """Give back frames that were just taken and not used."""
        for span in spans:
            self._frames.free(span, owner=self._owner)
            self.held -= span.size

    def take(self, region: MemoryRegion, largest: int) -> list[Piece]:
        """All the host memory behind a region, in order of GPA.

        Args:
            largest: bytes of the largest leaf that will map it.

        Raises:
            OwnerConflictError: it lies at a fixed HPA that somebody holds.
            OutOfMemoryError: not enough frames, or the limit is reached.
        """
        if region.map_type.takes_frames:
            return self._take_frames(region, largest)
        span = region.host_range
        if span is None:
            raise MappingError(f"{region} has no HPA")
        if region.map_type.fixed_hpa:
            self._claim(region, span)
        return [(region.start, span)]

    def give_back(self, region: MemoryRegion, span: Range) -> None:
        """Give back an HPA range that lay behind a region; frames are zeroed."""
        if region.map_type.owns_frames:
            self._frames.free(span, owner=self._owner)
            if region.map_type.takes_frames:
                self.held -= span.size
        elif region.map_type.fixed_hpa:
            self._release(region, span)

    def give_back_runs(self, part: MemoryRegion, removed: npt.NDArray[np.uint64]) -> None:
        """Give back what lay behind an unmapped part of a region.

        Args:
            removed: (start, HPA, size) runs that the table held, of this part and of others.
        """
        if not part.map_type.owns_frames:
            if part.map_type.fixed_hpa and part.host_range is not None:
                self._release(part, part.host_range)
            return
        # The runs that lie in this part, clipped to it, in order of HPA; touching ones are freed as one.
        starts = np.maximum(removed[:, 0], np.uint64(part.start))
        ends = np.minimum(removed[:, 0] + removed[:, 2], np.uint64(part.end))
        inside = starts < ends
        hpas = (removed[:, 1] + (starts - removed[:, 0]))[inside]
        sizes = (ends - starts)[inside]
        if not len(hpas):
            return
        order = np.argsort(hpas)
        hpas, sizes = hpas[order], sizes[order]
        first = np.concatenate(([True], hpas[1:] != hpas[:-1] + sizes[:-1]))
        last = np.concatenate((first[1:], [True]))
        for start, end in zip(hpas[first].tolist(), (hpas + sizes)[last].tolist(), strict=True):
            self.give_back(part, Range(start, end))

    def _take_frames(self, region: MemoryRegion, largest: int) -> list[Piece]:
        """Frames for all of a region: one run whose alignment lets the largest leaves fit, else several."""
        self._require_room(region.size)
        natural = region.start & -region.start if region.start else largest
        fitting = [leaf for leaf in self._leaf_sizes if leaf <= min(largest, region.size, natural)]
        try:
            hpa = self._frames.allocate(region.size, align=max(fitting), owner=self._owner)
        except OutOfMemoryError:
            pieces = self._take_pieces(region, largest)
        else:
            pieces = [(int(region.start), Range.sized(hpa, region.size))]
        self.held += region.size
        return pieces

    def _take_pieces(self, region: MemoryRegion, largest: int) -> list[Piece]:
        """Fragmented memory: pages up to the first block boundary, blocks as far as they go, pages for the rest."""
        page = self._leaf_sizes[0]
        block = next((leaf for leaf in self._leaf_sizes[1:] if leaf <= largest), page)
        first = min(align_up(region.start, block), region.end)
        body_end = max(first, align_down(region.end, block))
        taken: list[Piece] = []
        try:
            for start, end, most in (
                (region.start, first, page),
                (first, body_end, block),
                (body_end, region.end, page),
            ):
                if start < end:
                    gpa = int(start)
                    for span in self._extents(end - start, most):
                        taken.append((gpa, span))
                        gpa += span.size
        except BaseException:
            for _, span in taken:
                self._frames.free(span, owner=self._owner)
            raise
        return taken

    def _extents(self, size: int, largest: int) -> list[Range]:
        """Frames in pieces that the format's pages fit."""
        page = self._leaf_sizes[0]
        if page > SIZE_4K:
            return self._frames.allocate_pages(size, page, owner=self._owner)
        return self._frames.allocate_extents(size, owner=self._owner, largest=largest)

    def _require_room(self, size: int) -> None:
        if self.limit is not None and self.held + size > self.limit:
            raise OutOfMemoryError(
                f"{self._owner} holds {self.held:#x} bytes and may hold {self.limit:#x}: {size:#x} more are too many"
            )

    def _claim(self, region: MemoryRegion, span: Range) -> None:
        """Hold a fixed HPA range, be it memory or a device's registers."""
        if region.map_type.owns_frames or self._frames.memory.contains(span.start, span.size):
            self._frames.claim(span, owner=self._owner)
        else:
            self._frames.claim_device(span, owner=self._holder(region))

    def _release(self, region: MemoryRegion, span: Range) -> None:
        if self._frames.memory.contains(span.start, span.size):
            self._frames.free(span, owner=self._owner)
        else:
            self._frames.release_device(span, owner=self._holder(region))

    def _holder(self, region: MemoryRegion) -> Owner:
        """The owner of a device's registers: the device, in the hands of this VM."""
        if region.map_type is not MapType.MMIO:
            return self._owner
        return device_owner(region, self._owner)


def device_owner(region: MemoryRegion, vm: Owner) -> Owner:
    """The owner of a passed-through device's registers: the device, in the hands of a VM."""
    return Owner(OwnerKind.DEVICE, f"{region.label} of {vm}")
