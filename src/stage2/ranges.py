"""A map from disjoint address ranges to values: who holds what.

Regions, frame owners and declared shares are all kept in one of these. Neighbours with equal values merge, so
the cost of a map is the number of differing runs, not of pages.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Generic, TypeVar

from .address import Range
from .errors import OverlapError

V = TypeVar("V")

_CHUNK = 1024
"""Integers in one chunk of a _SortedInts before it is split, halved."""


class _SortedInts:
    """Distinct integers in order, in chunks, so that an insertion moves a chunk and not everything."""

    __slots__ = ("_chunks", "_firsts")

    def __init__(self) -> None:
        self._chunks: list[list[int]] = []
        self._firsts: list[int] = []

    def __iter__(self) -> Iterator[int]:
        for chunk in self._chunks:
            yield from chunk

    def floor(self, value: int) -> int | None:
        """The largest integer that is at most `value`."""
        index = bisect_right(self._firsts, value)
        if not index:
            return None
        chunk = self._chunks[index - 1]
        return chunk[bisect_right(chunk, value) - 1]

    def above(self, value: int) -> int | None:
        """The smallest integer larger than `value`."""
        index = bisect_right(self._firsts, value)
        if index:
            chunk = self._chunks[index - 1]
            position = bisect_right(chunk, value)
            if position < len(chunk):
                return chunk[position]
        return self._firsts[index] if index < len(self._firsts) else None

    def between(self, low: int, high: int) -> list[int]:
        """Those in [low, high), in order."""
        found: list[int] = []
        index = max(bisect_right(self._firsts, low) - 1, 0)
        while index < len(self._firsts) and self._firsts[index] < high:
            chunk = self._chunks[index]
            found += chunk[bisect_left(chunk, low) : bisect_left(chunk, high)]
            index += 1
        return found

    def add(self, value: int) -> None:
        if not self._chunks:
            self._chunks.append([value])
            self._firsts.append(value)
            return
        index = max(bisect_right(self._firsts, value) - 1, 0)
        chunk = self._chunks[index]
        insort(chunk, value)
        self._firsts[index] = chunk[0]
        if len(chunk) > 2 * _CHUNK:
            self._chunks.insert(index + 1, chunk[_CHUNK:])
            self._firsts.insert(index + 1, chunk[_CHUNK])
            del chunk[_CHUNK:]

    def remove(self, value: int) -> None:
        """Take out `value`, which must be present."""
        index = bisect_right(self._firsts, value) - 1
        chunk = self._chunks[index]
        del chunk[bisect_left(chunk, value)]
        if chunk:
            self._firsts[index] = chunk[0]
        else:
            del self._chunks[index], self._firsts[index]

    def clear(self) -> None:
        self._chunks.clear()
        self._firsts.clear()


class RangeMap(Generic[V]):
    """Disjoint half-open ranges, each with a value; lookups and edits stay cheap for 100,000s of them.

    It has no lock: whoever shares one between threads brings one.

    Args:
        merge: join touching ranges whose values are equal.
    """

    __slots__ = ("_ends", "_merge", "_starts", "_values")

    def __init__(self, *, merge: bool = True) -> None:
        self._merge = merge
        self._starts = _SortedInts()
        self._ends: dict[int, int] = {}
        self._values: dict[int, V] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[tuple[Range, V]]:
        """The ranges in order, as they were when the iteration began."""
        return iter([self._entry(start) for start in self._starts])

    def __bool__(self) -> bool:
        return bool(self._ends)

    def find(self, address: int) -> tuple[Range, V] | None:
        """The range that holds `address` and its value, or None in a hole."""
        start = self._starts.floor(address)
        if start is not None and address < self._ends[start]:
            return self._entry(start)
        return None

    def get(self, address: int) -> V | None:
        """The value at `address`, or None in a hole."""
        start = self._starts.floor(address)
        return self._values[start] if start is not None and address < self._ends[start] else None

    def overlapping(self, span: Range) -> list[tuple[Range, V]]:
        """The ranges (whole, not clipped) that share a byte with `span`, in order."""
        return [self._entry(start) for start in self._window(span)]

    def gaps(self, span: Range) -> list[Range]:
        """The parts of `span` that no range covers, in order."""
        holes, cursor = [], span.start
        for start in self._window(span):
            if start > cursor:
                holes.append(Range(cursor, start))
            cursor = self._ends[start]
        if cursor < span.end:
            holes.append(Range(cursor, span.end))
        return holes

    def covered(self, span: Range, value: V) -> bool:
        """True when every address of `span` is held with `value`."""
        cursor = span.start
        first = self._starts.floor(cursor)
        if first is not None and self._ends[first] >= span.end:
            held = self._values[first]
            return held is value or held == value
        for start in self._window(span):
            if start > cursor or self._values[start] != value:
                return False
            cursor = self._ends[start]
        return cursor >= span.end

    def add(self, span: Range, value: V) -> None:
        """Enter `span`.

        Raises:
            OverlapError: part of it is held already; nothing changed.
        """
        start, end = span.start, span.end
        before, following = self._starts.floor(start), self._starts.above(start)
        if (before is not None and self._ends[before] > start) or (following is not None and following < end):
            found, holder = self._entry(self._window(span)[0])
            raise OverlapError(f"{span} overlaps {found} ({holder})")
        self._enter(start, end, value)

    def extend(self, start: int, end: int, value: V) -> bool:
        """Lengthen the range that ends at `start` and has `value` to `end`; the cheap edit of a growing run.

        Returns:
            False, and nothing changed, when there is no such range or [start, end) is not clear of others.
        """
        left = self._starts.floor(start)
        if left is None or self._ends[left] != start or not self._merge:
            return False
        held = self._values[left]
        if held is not value and held != value:
            return False
        following = self._starts.above(start)
        if following is not None and following <= end:
            return False
        self._ends[left] = end
        return True

    def set(self, span: Range, value: V) -> None:
        """Give every address of `span` the value, splitting what was there."""
        self._cut(span)
        self._enter(span.start, span.end, value)

    def discard(self, span: Range) -> None:
        """Take `span` out, splitting what reaches beyond it."""
        low = span.start
        first = self._starts.floor(low)
        if first is not None and first < low and self._ends[first] == span.end:
            self._ends[first] = low  # the end of one range, which undoes `extend`
        else:
            self._cut(span)

    def remove(self, span: Range) -> list[tuple[Range, V]]:
        """`discard`, and return the removed parts, clipped to `span`."""
        return [(Range(start, end), value) for start, end, value in self._cut(span)]

    def clear(self) -> None:
        self._starts.clear()
        self._ends.clear()
        self._values.clear()

    def _entry(self, start: int) -> tuple[Range, V]:
        return Range(start, self._ends[start]), self._values[start]

    def _window(self, span: Range) -> list[int]:
        """Starts of the ranges that share a byte with `span`, in order."""
        first = self._starts.floor(span.start)
        reach = 0 if first is None else self._ends[first]
        if first is not None and reach >= span.end:
            return [first]
        held = self._starts.between(span.start + 1, span.end)
        if first is not None and reach > span.start:
            held.insert(0, first)
        return held

    def _cut(self, span: Range) -> list[tuple[int, int, V]]:
        """Empty `span`; returns what was there, clipped to it."""
        removed: list[tuple[int, int, V]] = []
        low, high = span.start, span.end
        for start in self._window(span):
            end, value = self._ends[start], self._values[start]
            removed.append((max(start, low), min(end, high), value))
            if start < low:
                self._ends[start] = low
            else:
                self._drop(start)
            if end > high:
                self._put(high, end, value)
        return removed

    def _enter(self, start: int, end: int, value: V) -> None:
        """Add [start, end), which must be clear, joining equal neighbours."""
        if self._merge:
            if end in self._ends and self._values[end] == value:
                beyond = self._ends[end]
                self._drop(end)
                end = beyond
            left = self._starts.floor(start)
            if left is not None and self._ends[left] == start and self._values[left] == value:
                self._ends[left] = end
                return
        self._put(start, end, value)

    def _put(self, start: int, end: int, value: V) -> None:
        self._starts.add(start)
        self._ends[start] = end
        self._values[start] = value

    def _drop(self, start: int) -> None:
        self._starts.remove(start)
        del self._ends[start], self._values[start]


class RangeIndex(Generic[V]):
    """Ranges that may overlap, each with a value: which of them another range meets.

    Args:
        entries: the ranges with their values; they stay as they are.
    """

    __slots__ = ("_entries", "_reach", "_starts")

    def __init__(self, entries: Iterable[tuple[Range, V]]) -> None:
        self._entries = sorted(entries, key=lambda entry: entry[0].start)
        self._starts = [span.start for span, _ in self._entries]
        self._reach = list(accumulate((span.end for span, _ in self._entries), max))
        """For each range the farthest end of it and those before it."""

    def meeting(self, span: Range) -> Iterator[tuple[Range, V]]:
        """The ranges that share a byte with `span`, the one with the highest start first."""
        at = bisect_left(self._starts, span.end) - 1
        while at >= 0 and self._reach[at] > span.start:
            if self._entries[at][0].overlaps(span):
                yield self._entries[at]
            at -= 1
