"""How much a fault populates: windows that grow while faults come in sequence, as read-ahead does.

A guest that goes through its memory, upwards or downwards, faults just behind what was populated last. Each such fault
doubles the window, so that a sweep takes few; a fault anywhere else begins with a small window again. Several such
streams are followed at a time, since a guest that unpacks a file reads at one place and writes at another.
"""

from __future__ import annotations

from ..address import SIZE_2M, SIZE_4K, Range, align_down

FIRST = 16 * SIZE_4K
"""Bytes of the window of a fault that follows no other."""
LIMIT = SIZE_2M
"""Bytes that no window exceeds."""
_STREAMS = 8
_SPARE = 8
"""A window takes at most this part of the memory that is left."""


class _Stream:
    """Faults that follow each other: the window of the last of them."""

    __slots__ = ("end", "size", "start")

    def __init__(self, start: int, size: int) -> None:
        self.start, self.end, self.size = start, start + size, size

    def meets(self, address: int) -> bool:
        """Whether an address is in the window or no further from it than its own size."""
        return self.start - self.size <= address < self.end + self.size


class FaultWindow:
    """The windows of one region.

    Args:
        span: the region.
        page: bytes of the smallest leaf.
        first: bytes of the window of a fault that follows no other, a power of two.
        limit: bytes that no window exceeds, a power of two.
    """

    __slots__ = ("_first", "_limit", "_page", "_span", "_streams")

    def __init__(self, span: Range, page: int, *, first: int = FIRST, limit: int = LIMIT) -> None:
        self._span, self._page, self._first = span, page, max(first, page)
        self._limit = max(limit, self._first)
        self._streams: list[_Stream] = []

    def around(self, address: int, room: int) -> Range:
        """What to populate for a fault: an aligned window around it, as far as it is in the region.

        Args:
            address: the faulting address, in the region, whose page is absent.
            room: bytes of memory that may still be taken.
        """
        size = self._next(address)
        while size > self._page and size > room // _SPARE:
            size >>= 1
        found = Range.sized(align_down(address, size), size).intersection(self._span)
        assert found is not None, "the fault is in the region"
        return found

    def _next(self, address: int) -> int:
        """Bytes of the window, and remember it."""
        streams = self._streams
        size = self._first
        for at, stream in enumerate(streams):
            if stream.meets(address):
                inside = stream.start <= address < stream.end
                size = stream.size if inside else min(2 * stream.size, self._limit)
                del streams[at]
                break
        streams.insert(0, _Stream(align_down(address, size), size))
        del streams[_STREAMS:]
        return size
