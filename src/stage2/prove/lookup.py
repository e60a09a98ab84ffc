"""Rows of leaves against sorted ranges, all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..address import Range
from .packing import U64Array

Places = npt.NDArray[np.intp]


def within(starts: U64Array, sizes: U64Array, ranges: Sequence[Range]) -> Places:
    """For each stretch the number of the range that it lies in; -1 where it lies in none, or not whole in one.

    Args:
        starts, sizes: of the stretches.
        ranges: in order, disjoint.
    """
    found = np.full(len(starts), -1, np.intp)
    if not ranges:
        return found
    firsts = np.array([span.start for span in ranges], np.uint64)
    lasts = np.array([span.end - 1 for span in ranges], np.uint64)
    at = np.searchsorted(firsts, starts, "right") - 1
    inside = (at >= 0) & (starts + (sizes - np.uint64(1)) <= lasts[np.maximum(at, 0)])
    found[inside] = at[inside]
    return found


def distinct(*columns: npt.NDArray[np.generic]) -> Places:
    """The first place of every combination of values that stand beside each other."""
    if not len(columns[0]):
        return np.zeros(0, np.intp)
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, numbers = np.unique(column, return_inverse=True)
        code = code * len(values) + numbers.ravel()
    return np.sort(np.unique(code, return_index=True)[1])


@dataclass(frozen=True, slots=True)
class Cluster:
    """Spans of which each meets another, in order of their start.

    Args:
        spans: (n, 2) start and size.
        places: where they stand among all.
    """

    spans: U64Array
    places: Places


def clusters(spans: U64Array) -> Iterator[Cluster]:
    """Groups of spans that overlap each other; those that meet no other are in none.

    Args:
        spans: (n, 2) start and size, in any order.
    """
    order = np.argsort(spans[:, 0], kind="stable")
    sorted_spans = spans[order]
    if len(order) < 2:
        return
    ends = np.maximum.accumulate(sorted_spans[:, 0] + sorted_spans[:, 1])
    heads = np.concatenate([[0], np.flatnonzero(sorted_spans[1:, 0] >= ends[:-1]) + 1, [len(order)]])
    counts = np.diff(heads)
    for head, count in zip(heads[:-1][counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
        yield Cluster(sorted_spans[head : head + count], order[head : head + count])
