"""A map from disjoint address ranges to values: who holds what.

Regions, frame owners and declared shares are all kept in one of these. Neighbours with equal values merge, so
the cost of a map is the number of differing runs, not of pages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Generic, TypeVar

from .address import Range
from .errors import OverlapError

V = TypeVar("V")


class RangeMap(Generic[V]):
    """Disjoint half-open ranges, each with a value; lookups and edits are logarithmic in their number.

    Args:
        merge: join touching ranges whose values are equal.
    """

    def __init__(self, *, merge: bool = True) -> None:
        self._merge = merge
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._values: list[V] = []

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[Range, V]]:
        return iter(
            [(Range(s, e), v) for s, e, v in zip(self._starts, self._ends, self._values, strict=True)]
        )

    def __bool__(self) -> bool:
        return bool(self._starts)

    def find(self, address: int) -> tuple[Range, V] | None:
        """The range that holds `address` and its value, or None in a hole."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._ends[index]:
            return Range(self._starts[index], self._ends[index]), self._values[index]
        return None

    def overlapping(self, span: Range) -> list[tuple[Range, V]]:
        """The ranges (whole, not clipped) that share a byte with `span`, in order."""
        first, last = self._window(span)
        return [(Range(self._starts[i], self._ends[i]), self._values[i]) for i in range(first, last)]

    def gaps(self, span: Range) -> list[Range]:
        """The parts of `span` that no range covers, in order."""
        holes, cursor = [], span.start
        for held, _ in self.overlapping(span):
            if held.start > cursor:
                holes.append(Range(cursor, held.start))
            cursor = held.end
        if cursor < span.end:
            holes.append(Range(cursor, span.end))
        return holes

    def add(self, span: Range, value: V) -> None:
        """Enter `span`.

        Raises:
            OverlapError: part of it is held already; nothing changed.
        """
        first, last = self._window(span)
        if first < last:
            held = Range(self._starts[first], self._ends[first])
            raise OverlapError(f"{span} overlaps {held} ({self._values[first]})")
        self._splice(first, last, [(span.start, span.end, value)])

    def set(self, span: Range, value: V) -> None:
        """Give every address of `span` the value, splitting what was there."""
        first, last = self._window(span)
        left, right = self._remainders(first, last, span)
        self._splice(first, last, [*left, (span.start, span.end, value), *right])

    def remove(self, span: Range) -> list[tuple[Range, V]]:
        """Take `span` out, splitting what reaches beyond it; returns the removed parts, clipped to `span`."""
        first, last = self._window(span)
        removed = [
            (Range(max(self._starts[i], span.start), min(self._ends[i], span.end)), self._values[i])
            for i in range(first, last)
        ]
        left, right = self._remainders(first, last, span)
        self._splice(first, last, [*left, *right])
        return removed

    def clear(self) -> None:
        self._starts.clear()
        self._ends.clear()
        self._values.clear()

    def _window(self, span: Range) -> tuple[int, int]:
        """Indices [first, last) of the ranges that share a byte with `span`."""
        first = bisect_right(self._ends, span.start)
        last = first
        count = len(self._starts)
        if first < count and self._starts[first] < span.end:
            last = bisect_right(self._starts, span.end - 1)
        return first, last

    def _remainders(
        self, first: int, last: int, span: Range
    ) -> tuple[list[tuple[int, int, V]], list[tuple[int, int, V]]]:
        if first == last:
            return [], []
        left: list[tuple[int, int, V]] = []
        right: list[tuple[int, int, V]] = []
        if self._starts[first] < span.start:
            left.append((self._starts[first], span.start, self._values[first]))
        if self._ends[last - 1] > span.end:
            right.append((span.end, self._ends[last - 1], self._values[last - 1]))
        return left, right

    def _splice(self, first: int, last: int, pieces: list[tuple[int, int, V]]) -> None:
        if self._merge:
            if first > 0:
                first -= 1
                pieces.insert(0, (self._starts[first], self._ends[first], self._values[first]))
            if last < len(self._starts):
                pieces.append((self._starts[last], self._ends[last], self._values[last]))
                last += 1
            merged: list[tuple[int, int, V]] = []
            for start, end, value in pieces:
                if merged and merged[-1][1] == start and merged[-1][2] == value:
                    merged[-1] = (merged[-1][0], end, value)
                else:
                    merged.append((start, end, value))
            pieces = merged
        self._starts[first:last] = [piece[0] for piece in pieces]
        self._ends[first:last] = [piece[1] for piece in pieces]
        self._values[first:last] = [piece[2] for piece in pieces]
