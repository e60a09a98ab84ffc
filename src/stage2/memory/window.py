"""A stretch of host memory that tables are taken from, where somebody must know beforehand where they will lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from ..address import SIZE_4K, Hpa, Range, align_up, format_size
from ..errors import OutOfMemoryError
from ..ranges import RangeMap
from .owners import Owner, OwnerKind

if TYPE_CHECKING:
    from .frames import FrameAllocator
    from .physical import PhysicalMemory


class TableFrames(Protocol):
    """What tables are taken from: all of host memory (`FrameAllocator`), or a window of it."""

    memory: PhysicalMemory

    def allocate(self, size: int = SIZE_4K, *, align: int | None = None, owner: Owner) -> Hpa:
        """Contiguous zeroed frames; see `FrameAllocator.allocate`."""

    def allocate_pages(self, size: int, page: int, *, owner: Owner) -> list[Range]:
        """Zeroed frames in whole pages; see `FrameAllocator.allocate_pages`."""

    def free(self, span: Range, *, owner: Owner) -> None:
        """Give frames back."""


class FrameWindow:
    """Gives out the frames of one range, lowest addresses first. Until then they belong to nobody else.

    Args:
        frames: of all host memory.
        span: the range, in whole frames.

    Raises:
        OwnerConflictError, OutOfRangeError: it is not free, or no RAM.
    """

    def __init__(self, frames: FrameAllocator, span: Range) -> None:
        self.memory = frames.memory
        self.span = span
        self._frames = frames
        self._aside = Owner(OwnerKind.RESERVED, "set aside for tables")
        frames.claim(span, owner=self._aside)
        self._free: RangeMap[bool] = RangeMap()
        self._free.add(span, True)

    def allocate(self, size: int = SIZE_4K, *, align: int | None = None, owner: Owner) -> Hpa:
        """Contiguous zeroed frames at the lowest place that fits.

        Raises:
            OutOfMemoryError: there is none in the window.
        """
        step = max(align or 1 << (size - 1).bit_length(), SIZE_4K)
        for span, _ in self._free:
            start = align_up(span.start, step)
            if start + size <= span.end:
                return self._hand_over(Range.sized(start, size), owner)
        left = format_size(sum(span.size for span, _ in self._free))
        raise OutOfMemoryError(
            f"the window {self.span} of tables has no room for {format_size(size)} more, with {left} of "
            f"{format_size(self.span.size)} left: give it a larger size, or let the tables have larger pages"
        )

    def allocate_pages(self, size: int, page: int, *, owner: Owner) -> list[Range]:
        """Zeroed frames in whole pages, in few runs.

        Raises:
            OutOfMemoryError: there are not so many; nothing changed.
        """
        found: list[Range] = []
        try:
            for _ in range(size // page):
                start = self.allocate(page, align=page, owner=owner)
                if found and found[-1].end == start:
                    found[-1] = Range(found[-1].start, start + page)
                else:
                    found.append(Range.sized(start, page))
        except OutOfMemoryError:
            for span in found:
                self.free(span, owner=owner)
            raise
        return found

    def free(self, span: Range, *, owner: Owner) -> None:
        """Take frames back into the window, zeroed."""
        with self._changing(span, owner, self._aside):
            self._free.add(span, True)

    def _hand_over(self, span: Range, owner: Owner) -> Hpa:
        with self._changing(span, self._aside, owner):
            self._free.discard(span)
        return Hpa(span.start)

    @contextmanager
    def _changing(self, span: Range, before: Owner, after: Owner) -> Iterator[None]:
        """From one owner to another, with nobody between them."""
        with self._frames.lock:
            self._frames.free(span, owner=before)
            self._frames.claim(span, owner=after)
            yield

    def __repr__(self) -> str:
        return f"FrameWindow({self.span})"
