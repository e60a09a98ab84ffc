"""What changed between two maps: ranges added, removed, and changed in what they allow or where they lead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ..prove.packing import U64Array
from .mapping import MapPart, MapRange
from .through import NOWHERE

Item = TypeVar("Item")


class Change(NamedTuple):
    """A range that both maps have, and not alike.

    Args:
        before, after: the same addresses in both.
        what: what differs: "permissions", "target", "size" (of leaves), "memory type".
    """

    before: MapRange
    after: MapRange
    what: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """How a map differs from an earlier one; ranges in order of their input address.

    Args:
        added: what only the later one maps.
        removed: what only the earlier one maps.
        changed: what both map, and not alike.
        same: bytes that both map alike.
    """

    added: tuple[MapRange, ...]
    removed: tuple[MapRange, ...]
    changed: tuple[Change, ...]
    same: int

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __repr__(self) -> str:
        return f"Difference({len(self.added)} added, {len(self.removed)} removed, {len(self.changed)} changed)"


@dataclass(slots=True)
class _Side:
    """One map, as arrays in order, with a number for each kind of leaf."""

    start: U64Array
    size: U64Array
    middle: U64Array
    output: U64Array
    kind: npt.NDArray[np.intp]
    kinds: list[tuple[bool, bool, int, int, str | None]]

    def at(self, edges: U64Array) -> tuple[npt.NDArray[np.intp], U64Array]:
        """The range that begins at or before each edge and reaches beyond it (-1 for none), and how far in it is."""
        if not len(self.start):
            return np.full(len(edges), -1, np.intp), np.zeros_like(edges)
        row = np.searchsorted(self.start, edges, "right") - 1
        offset = edges - self.start[np.maximum(row, 0)]
        inside = (row >= 0) & (offset < self.size[np.maximum(row, 0)])
        return np.where(inside, row, -1), offset

    def range(self, row: int, offset: int, size: int) -> MapRange:
        """A piece of a range."""
        gva, gpa, permissions, leaf, memory_type = self.kinds[int(self.kind[row])]
        output = int(self.output[row])
        return MapRange(
            int(self.start[row]) + offset if gva else None, int(self.middle[row]) + offset if gpa else None,
            None if output == NOWHERE else output + offset, size, permissions, leaf, memory_type,
        )  # fmt: skip


def difference(before: Iterable[MapPart], after: Iterable[MapPart]) -> Difference:
    """How two maps differ.

    Args:
        before, after: the maps' parts, each in order (`map_parts`).
    """
    old, new = _side(before), _side(after)
    ends = [side.start + (side.size - np.uint64(1)) for side in (old, new)]
    # An end is told by the address behind it, which wraps around to 0 at the top; 0 is an edge then as well.
    edges = np.unique(np.concatenate([old.start, new.start, *(end + np.uint64(1) for end in ends)]))
    sizes = np.diff(np.append(edges, np.uint64(0)))
    in_old, off_old = old.at(edges)
    in_new, off_new = new.at(edges)
    added, removed, changed, same = [], [], [], 0
    for index in np.flatnonzero((in_old >= 0) | (in_new >= 0)).tolist():
        size = int(sizes[index])
        was = old.range(int(in_old[index]), int(off_old[index]), size) if in_old[index] >= 0 else None
        now = new.range(int(in_new[index]), int(off_new[index]), size) if in_new[index] >= 0 else None
        if was is None and now is not None:
            added.append(now)
        elif now is None and was is not None:
            removed.append(was)
        elif was is not None and now is not None:
            what = tuple(_differences(was, now))
            if what:
                changed.append(Change(was, now, what))
            else:
                same += size
    came, went = (tuple(_merged(ranges, _goes_on, _longer)) for ranges in (added, removed))
    return Difference(came, went, tuple(_merged(changed, _change_goes_on, _longer_change)), same)


def _side(parts: Iterable[MapPart]) -> _Side:
    columns: list[list[npt.NDArray[np.generic]]] = [[] for _ in range(5)]
    known: dict[tuple[bool, bool, int, int, str | None], int] = {}
    for part in parts:
        kinds, which = part.kinds()
        told = [
            (part.first is not None, part.second is not None, kind.permissions, kind.leaf, kind.memory_type)
            for kind in kinds
        ]
        numbers = np.array([known.setdefault(one, len(known)) for one in told], np.intp)
        for column, values in zip(
            columns, (part.start, part.size, part.middle, part.output, numbers[which]), strict=True
        ):
            column.append(values)
    words = [np.concatenate([np.zeros(0, np.uint64), *column]).astype(np.uint64) for column in columns[:4]]
    kind = np.concatenate([np.zeros(0, np.intp), *columns[4]]).astype(np.intp)
    return _Side(words[0], words[1], words[2], words[3], kind, list(known))


def _differences(was: MapRange, now: MapRange) -> Iterator[str]:
    if (was.gpa, was.hpa) != (now.gpa, now.hpa):
        yield "target"
    if was.permissions != now.permissions:
        yield "permissions"
    if was.leaf != now.leaf:
        yield "size"
    if was.memory_type != now.memory_type:
        yield "memory type"


def _goes_on(one: MapRange, other: MapRange) -> bool:
    """Whether a range continues another at every stage."""
    pairs = ((one.gva, other.gva), (one.gpa, other.gpa), (one.hpa, other.hpa))
    return all((a is None and b is None) or (a is not None and b == a + one.size) for a, b in pairs) and (
        (one.permissions, one.leaf, one.memory_type) == (other.permissions, other.leaf, other.memory_type)
    )


def _longer(one: MapRange, other: MapRange) -> MapRange:
    """A range with the one that continues it."""
    return replace(one, size=one.size + other.size)


def _change_goes_on(one: Change, other: Change) -> bool:
    return one.what == other.what and _goes_on(one.before, other.before) and _goes_on(one.after, other.after)


def _longer_change(one: Change, other: Change) -> Change:
    return Change(_longer(one.before, other.before), _longer(one.after, other.after), one.what)


def _merged(
    items: Iterable[Item], goes_on: Callable[[Item, Item], bool], longer: Callable[[Item, Item], Item]
) -> Iterator[Item]:
    """Neighbours that continue each other, as one."""
    held: Item | None = None
    for one in items:
        if held is not None and goes_on(held, one):
            held = longer(held, one)
            continue
        if held is not None:
            yield held
        held = one
    if held is not None:
        yield held
