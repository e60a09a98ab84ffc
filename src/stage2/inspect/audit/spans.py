"""Sets of host memory as arrays of ranges: what two of them have in common, and what one has more.

A set is (n, 2) start and end, in order and disjoint. Every operation takes time and memory in the number of ranges
that go in, however they overlap, so that tables made to be hard cost no more than others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ...address import Range
from ...prove.packing import U64Array
from ...prove.scattered import joined_reach

NOTHING: U64Array = np.zeros((0, 2), np.uint64)
"""The empty set."""


def union(starts: U64Array, sizes: U64Array) -> U64Array:
    """The set of all bytes of some ranges."""
    found = joined_reach(np.stack([starts, sizes], axis=1))
    return np.stack([found[:, 0], found[:, 0] + found[:, 1]], axis=1)


def together(sets: Iterable[U64Array]) -> U64Array:
    """The set of what is in any of some sets."""
    every = np.concatenate([NOTHING, *sets])
    return union(every[:, 0], every[:, 1] - every[:, 0])


def of_ranges(ranges: Iterable[Range]) -> U64Array:
    """The set of ranges as objects, which are in order and disjoint and end below 2^64."""
    return np.array([(span.start, min(span.end, (1 << 64) - 1)) for span in ranges], np.uint64).reshape(-1, 2)


def common(one: U64Array, other: U64Array) -> U64Array:
    """The set of what is in both."""
    if not len(one) or not len(other):
        return NOTHING
    begin = np.searchsorted(other[:, 1], one[:, 0], "right")
    end = np.searchsorted(other[:, 0], one[:, 1], "left")
    counts = np.maximum(end - begin, 0)
    who = np.repeat(np.arange(len(one)), counts)
    which = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(begin, counts)
    low = np.maximum(one[who, 0], other[which, 0])
    high = np.minimum(one[who, 1], other[which, 1])
    return np.stack([low, high], axis=1)


def without(one: U64Array, other: U64Array) -> U64Array:
    """The set of what is in the first and not in the second."""
    if not len(one) or not len(other):
        return one
    bounds = other.ravel()
    outside = np.concatenate([np.zeros(1, np.uint64), bounds, np.array([(1 << 64) - 1], np.uint64)]).reshape(-1, 2)
    return common(one, outside[outside[:, 0] < outside[:, 1]])


def size_of(spans: U64Array) -> int:
    """Bytes in a set."""
    return int((spans[:, 1] - spans[:, 0]).sum())


def told(spans: U64Array, most: int) -> Iterator[Range]:
    """The first ranges of a set as objects."""
    for start, end in spans[:most].tolist():
        yield Range(start, end)
