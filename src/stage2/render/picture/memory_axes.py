"""The axes of a picture of a map: millions of ranges become a few boxes, and what leads from box to box bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...formats.outcome import EXECUTE, READ, USER_SHIFT, WRITE
from ...inspect.kinds import Kind
from ...inspect.mapping import MapPart
from ...inspect.through import NOWHERE
from ...prove.packing import U64Array

MOST_BOXES, MOST_BANDS = 32, 200
MOST_HELD = 1 << 22
"""Limit: ranges that a picture is made of; those behind them, by address, are only counted."""
CLASSES = ("none", "read", "write", "execute", "both", "mixed")
"""What may be done with memory, by name; `mixed` is of boxes alone."""
MIXED = CLASSES.index("mixed")
_ALL = READ | WRITE | EXECUTE


@dataclass(frozen=True, slots=True)
class AxisBox:
    """Ranges that one box stands for.

    Args:
        start, last: the first and the last address.
        count: ranges.
        least: bytes of the smallest.
        size: bytes of all, in the axis' addresses.
        looks: number in `CLASSES`.
        kinds: the numbers of the kinds of leaves.
    """

    start: int
    last: int
    count: int
    least: int
    size: int
    looks: int
    kinds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """The boxes of one kind of address, in order, and the box of each range (-1 for none)."""

    name: str
    boxes: Sequence[AxisBox]
    of: npt.NDArray[np.intp]
    addresses: U64Array


@dataclass(frozen=True, slots=True)
class Joint:
    """What leads from a box to one of the next axis: the hulls at both ends, and how many ranges of how many bytes."""

    left: int
    right: int
    start: int
    last: int
    end_start: int
    end_last: int
    count: int
    size: int
    looks: int


def class_of(kind: Kind) -> int:
    """The number in `CLASSES` of what anybody may do."""
    sides = (kind.permissions & _ALL, kind.permissions >> USER_SHIFT & _ALL)
    if any(side & WRITE and side & EXECUTE for side in sides):
        return CLASSES.index("both")
    allowed = sides[0] | sides[1]
    if allowed & WRITE:
        return CLASSES.index("write")
    if allowed & EXECUTE:
        return CLASSES.index("execute")
    return CLASSES.index("read" if allowed else "none")


def axes_of(part: MapPart) -> tuple[list[Axis], list[Kind]]:
    """The axes of a map from its input to its output, and the kinds of leaves that its boxes name."""
    kinds, which = part.kinds()
    classes = np.array([class_of(kind) for kind in kinds], np.intp)[which]
    columns = [("GVA" if part.first is not None else "GPA", part.start)]
    if part.first is not None and part.second is not None:
        columns.append(("GPA", part.middle))
    columns.append(("HPA", part.output))
    return [
        _axis(name, column, part.size, which, classes, by_class=number == 0)
        for number, (name, column) in enumerate(columns)
    ], kinds


def _axis(
    name: str,
    column: U64Array,
    sizes: U64Array,
    which: npt.NDArray[np.intp],
    classes: npt.NDArray[np.intp],
    *,
    by_class: bool,
) -> Axis:
    there = np.flatnonzero(column != np.uint64(NOWHERE)) if name == "HPA" else np.arange(len(column))
    of = np.full(len(column), -1, np.intp)
    if not len(there):
        return Axis(name, (), of, column)
    order = there[np.argsort(column[there], kind="stable")]
    starts, size = column[order], sizes[order]
    # Last addresses, not ends: the end of all addresses is no number of 64 bits.
    lasts = np.maximum.accumulate(starts + (size - np.uint64(1)))
    heads = _heads(starts, lasts, size, classes[order] if by_class else None)
    of[order] = np.repeat(np.arange(len(heads)), np.diff([*heads, len(order)]))
    boxes = []
    for begin, end in zip(heads, [*heads[1:], len(order)], strict=True):
        mine = order[begin:end]
        looks = np.unique(classes[mine]).tolist()
        boxes.append(
            AxisBox(
                int(starts[begin]),
                int(lasts[end - 1]),
                end - begin,
                int(size[begin:end].min()),
                _sum(size[begin:end]),
                looks[0] if len(looks) == 1 else MIXED,
                tuple(np.unique(which[mine]).tolist()),
            )
        )
    return Axis(name, boxes, of, column)


def _heads(starts: U64Array, lasts: U64Array, size: U64Array, classes: npt.NDArray[np.intp] | None) -> list[int]:
    """Where boxes begin: behind the largest gaps, and where large ranges allow something else than those before."""
    apart = starts[1:] > lasts[:-1]
    score = np.where(apart, starts[1:] - lasts[:-1] - np.uint64(1), np.uint64(0)).astype(np.float64)
    if classes is not None:
        score += np.where(classes[1:] != classes[:-1], np.minimum(size[1:], size[:-1]), 0)
    # Where ranges overlap (several lead to the same memory) there is nothing to cut.
    found = np.flatnonzero((score > 0) & (starts[1:] > lasts[:-1]))
    if len(found) >= MOST_BOXES:
        best = np.argpartition(score[found], len(found) - (MOST_BOXES - 1))[-(MOST_BOXES - 1) :]
        found = np.sort(found[best])
    return [0, *(found + 1).tolist()]


def _sum(size: U64Array) -> int:
    # 64 bits do not hold the sum of what maps everything twice.
    return (int((size >> np.uint64(32)).sum()) << 32) + int((size & np.uint64(0xFFFF_FFFF)).sum())


def joints_of(left: Axis, right: Axis, part: MapPart, kinds: Sequence[Kind]) -> tuple[list[Joint], int]:
    """The bands between two axes that most bytes go through, and how many are left out.

    Args:
        left, right: axes beside each other.
        part: of which they are.
        kinds: as `axes_of` gives them.
    """
    rows = np.flatnonzero((left.of >= 0) & (right.of >= 0))
    if not len(rows):
        return [], 0
    pair = left.of[rows] * MOST_BOXES + right.of[rows]
    order = np.argsort(pair, kind="stable")
    rows, pair = rows[order], pair[order]
    heads = np.concatenate([[0], np.flatnonzero(pair[1:] != pair[:-1]) + 1])
    ends = np.append(heads[1:], len(rows))
    _, which = part.kinds()
    looks = np.array([class_of(kind) for kind in kinds], np.intp)[which[rows]]
    size, first, second = part.size[rows], left.addresses[rows], right.addresses[rows]
    more = size - np.uint64(1)
    columns = (
        np.minimum.reduceat(first, heads), np.maximum.reduceat(first + more, heads),
        np.minimum.reduceat(second, heads), np.maximum.reduceat(second + more, heads),
        np.minimum.reduceat(looks, heads), np.maximum.reduceat(looks, heads),
    )  # fmt: skip
    found = []
    for place, (begin, end) in enumerate(zip(heads.tolist(), ends.tolist(), strict=True)):
        start, last, end_start, end_last, low, high = (int(column[place]) for column in columns)
        mine = int(pair[begin])
        found.append(
            Joint(
                mine // MOST_BOXES,
                mine % MOST_BOXES,
                start,
                last,
                end_start,
                end_last,
                end - begin,
                _sum(size[begin:end]),
                low if low == high else MIXED,
            )
        )
    found.sort(key=lambda one: (-one.size, one.left, one.right))
    return found[:MOST_BANDS], max(0, len(found) - MOST_BANDS)
