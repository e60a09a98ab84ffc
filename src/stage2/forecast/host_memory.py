"""Where a board's allocator puts a VM's RAM: what cannot be known, assumed as first fit."""

from __future__ import annotations

from collections.abc import Iterable

from ..address import SIZE_2M, SIZE_4K, Range, align_down, align_up
from ..images.host_parts import RamBank, Reservation
from ..ranges import RangeMap

ALIGN = SIZE_2M
"""What upstream's allocator aligns a VM's RAM to."""


class HostMemory:
    """Host RAM that nobody has, given out from the lowest address up.

    Args:
        banks: the host's RAM.
        taken: what of it is not to be given to VMs.
    """

    def __init__(self, banks: Iterable[RamBank], taken: Iterable[Range]) -> None:
        self._free: RangeMap[bool] = RangeMap()
        for bank in banks:
            if (span := whole_pages(bank.span)) is not None:
                self._free.set(span, True)
        for span in taken:
            self.claim(span)

    def take(self, size: int) -> Range | None:
        """The lowest free stretch of so many bytes at a multiple of 2 MiB; None where there is none."""
        for span, _ in self._free:
            start = align_up(span.start, ALIGN)
            if start + size <= span.end:
                found = Range.sized(start, size)
                self.claim(found)
                return found
        return None

    def claim(self, span: Range) -> list[Range]:
        """Take a stretch out; what of it was not free is returned."""
        pages = Range(align_down(span.start, SIZE_4K), align_up(span.end, SIZE_4K))
        gaps = self._free.gaps(pages)
        self._free.discard(pages)
        return gaps


def whole_pages(span: Range) -> Range | None:
    """The whole pages inside a range; None where there is none."""
    start, end = align_up(span.start, SIZE_4K), align_down(span.end, SIZE_4K)
    return Range(start, end) if start < end else None


def reserved_spans(reservations: Iterable[Reservation]) -> list[Range]:
    """What is reserved at a fixed place."""
    return [one.span for one in reservations if one.span is not None]
