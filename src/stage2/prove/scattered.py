"""Leaves whose host memory lies here and there: taken together by kind, as a row for each would fill all memory.

What theorems need of them are their attributes, the region that they are in, and the host memory that they reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..formats.outcome import COMBINED, NONE
from ..tables.mapping import LEVEL_FIELD
from ..tables.regime import Regime
from .decoding import ALL
from .packing import Packing, U64Array
from .source import TableSource

_KINDS = 4
"""Limit: shapes of entries told apart among tables that are read at once; accessed and dirty bits make four."""
_WINDOW = 1 << 28
"""Limit: leaves in the address range in which one kind is marked, a byte each; what is beyond is sorted."""

LeafGroup = Callable[[U64Array, int], int | None]
"""The attributes of entries of a level that differ in their address alone; None where they are no leaves."""
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scattered:
    """Leaves of one kind in one region, or outside every region.

    Args:
        first: the first input address of the tables that hold them.
        attributes: of all of them, with the level in bits 31:24.
        shape: their entries without the address.
        at, base: tables that hold them: HPA, and the first input address each is for.
        reach: (n, 2) start and size of the host memory that they lead to, in order and joined.
        leaves, leaf_size: how many there are, of how many bytes each.
        repeats: whether two of them lead to the same host memory.
    """

    first: int
    attributes: int
    shape: int
    at: U64Array
    base: U64Array
    reach: U64Array
    leaves: int
    leaf_size: int
    repeats: bool

    @property
    def level(self) -> int:
        """The level of the leaves."""
        return self.attributes >> LEVEL_FIELD

    @property
    def size(self) -> int:
        """Bytes that they map, those that are led to twice counted twice."""
        return self.leaves * self.leaf_size

    def rows(self, regime: Regime, source: TableSource, packing: Packing) -> Iterator[U64Array]:
        """The leaves themselves, some tables at a time: rows as `Scan`'s, not joined.

        Args:
            regime, source, packing: of the tables.
        """
        fmt = regime.format
        bits = fmt.index_bits(self.level)
        shift, size = np.uint64(fmt.level_shift(self.level)), np.uint64(fmt.leaf_size(self.level))
        for first in range(0, len(self.at), 256):
            piece = slice(first, first + 256)
            entries = source.tables(self.at[piece], 1 << bits).ravel()
            mine = np.flatnonzero(entries & np.uint64(ALL ^ packing.mask()) == np.uint64(self.shape))
            slots = (mine & ((1 << bits) - 1)).astype(np.uint64)
            starts = self.base[piece][mine >> bits] + (slots << shift)
            outputs = packing.outputs(entries[mine])
            same = np.full_like(starts, size), np.full_like(starts, self.attributes)
            yield np.stack([starts, outputs, *same], axis=1)


@dataclass(slots=True)
class _Kind:
    """One kind while tables are read."""

    at: list[U64Array] = field(default_factory=list)
    base: list[U64Array] = field(default_factory=list)
    reach: _Reach = field(default_factory=lambda: _Reach())


class Collector:
    """Takes tables out of a scan whose leaves it can tell by kind.

    Args:
        regime: of the tables.
        packing: of their entries.
        leaf_group: tells a kind of leaf.
        cuts: input addresses in order that no kind goes across: where declared regions begin and end.
    """

    def __init__(self, regime: Regime, packing: Packing, leaf_group: LeafGroup, cuts: Sequence[int]) -> None:
        self._format, self._packing, self._leaf_group = regime.format, packing, leaf_group
        self._cuts = np.array(cuts, np.uint64)
        self._empty_is_none = self._format.decode(0, 0, regime.controls)[0] == NONE
        self._kinds: dict[tuple[int, int, int], _Kind] = {}

    def take(self, at: U64Array, base: U64Array, allowed: U64Array, entries: U64Array, level: int) -> Flags:
        """Note leaves of tables that consist of few kinds.

        Args:
            at, base, allowed: of each table: where it is, its first input address, what the tables above let through.
            entries: a row for each.

        Returns:
            Which tables were taken; of the others nothing was noted.
        """
        span = np.uint64((self._format.leaf_size(level) * entries.shape[1] - 1) & ALL)
        cut = np.searchsorted(self._cuts, base, "right")
        taken: Flags = (cut == np.searchsorted(self._cuts, base + span, "right")) & (allowed == allowed[0])
        shapes = entries & np.uint64(ALL ^ self._packing.mask())
        found, unknown = self._shapes(entries, shapes, level)
        if unknown is not None:
            taken &= ~unknown.any(axis=1)
        let_through = int(allowed[0]) | ALL ^ COMBINED
        for shape, attributes in found:
            keyed = attributes & let_through | level << LEVEL_FIELD
            for number in np.unique(cut[taken]).tolist():
                kind = self._kinds.setdefault((number, keyed, shape), _Kind())
                self._note(kind, at, base, entries, shapes, taken & (cut == number), shape, level)
        return taken

    def _shapes(self, entries: U64Array, shapes: U64Array, level: int) -> tuple[list[tuple[int, int]], Flags | None]:
        """(shape, attributes) of the kinds that there are, and which entries are of none of them."""
        left: Flags = entries != 0 if self._empty_is_none else np.ones_like(entries, bool)
        unknown: Flags | None = None
        found: list[tuple[int, int]] = []
        for _ in range(_KINDS):
            if not left.any():
                return found, unknown
            mine = shapes == shapes.ravel()[left.argmax()]
            mine &= left
            left &= ~mine
            attributes = self._leaf_group(_picked(entries, mine), level)
            if attributes is not None:
                found.append((int(shapes.ravel()[mine.argmax()]), attributes))
            else:
                unknown = mine if unknown is None else unknown | mine
        return found, left if unknown is None else unknown | left

    def _note(
        self,
        kind: _Kind,
        at: U64Array,
        base: U64Array,
        entries: U64Array,
        shapes: U64Array,
        tables: Flags,
        shape: int,
        level: int,
    ) -> None:
        whole = bool(tables.all())
        mine = (shapes if whole else shapes[tables]) == np.uint64(shape)
        values = _picked(entries if whole else entries[tables], mine)
        if not len(values):
            return
        holding = np.flatnonzero(tables)[mine.any(axis=1)]
        kind.at.append(at[holding])
        kind.base.append(base[holding])
        kind.reach.add(self._packing.outputs(values), self._format.level_shift(level))

    def kinds(self) -> Iterator[Scattered]:
        """What was taken."""
        for (_, keyed, shape), kind in sorted(self._kinds.items()):
            if not kind.at:
                continue
            at, base = np.concatenate(kind.at), np.concatenate(kind.base)
            leaves, size = kind.reach.count, self._format.leaf_size(keyed >> LEVEL_FIELD)
            reach = kind.reach.spans(self._format.level_shift(keyed >> LEVEL_FIELD))
            repeats = int(reach[:, 1].sum()) != leaves * size
            yield Scattered(int(base.min()), keyed, shape, at, base, reach, leaves, size, repeats)


def _picked(entries: U64Array, mine: Flags) -> U64Array:
    """The entries that are marked, one after the other; without a copy where all are."""
    return entries.ravel() if mine.all() else entries[mine]


class _Reach:
    """Blocks of host memory, marked in a window that grows, or sorted where they lie too far apart for one."""

    def __init__(self) -> None:
        self.count = 0
        self._first = 0
        self._marks: Flags = np.zeros(0, bool)
        self._far: list[U64Array] = []

    def add(self, outputs: U64Array, shift: int) -> None:
        """Mark blocks of 2**shift bytes."""
        self.count += len(outputs)
        numbers: Numbers = (outputs >> np.uint64(shift)).astype(np.int64)
        low, high = int(numbers.min()), int(numbers.max()) + 1
        first, end = (self._first, self._first + len(self._marks)) if len(self._marks) else (low, low)
        need = min(first, low), max(end, high)
        if need[1] - need[0] > _WINDOW:
            self._far.append(_runs(np.unique(numbers)))
            return
        if low < first or high > end:
            # More than is asked for, so that it is not copied for every piece.
            room = (need[1] - need[0]) // 2
            first, end = max(0, need[0] - room) if low < first else first, need[1] + room if high > end else end
            marks = np.zeros(end - first, bool)
            if len(self._marks):
                marks[self._first - first : self._first - first + len(self._marks)] = self._marks
            self._first, self._marks = first, marks
        numbers -= first
        self._marks[numbers] = True

    def spans(self, shift: int) -> U64Array:
        """(n, 2) start and size of all that was added, in order and joined."""
        edges = np.flatnonzero(np.diff(self._marks, prepend=False, append=False)).astype(np.uint64)
        near = edges.reshape(-1, 2) + np.uint64(self._first)
        runs = np.concatenate([near, *self._far])
        return joined_spans(runs << np.uint64(shift))


def _runs(numbers: Numbers) -> U64Array:
    """(n, 2) first and end of runs of numbers that are in order."""
    heads = np.concatenate([[0], np.flatnonzero(numbers[1:] - numbers[:-1] != 1) + 1])
    lasts = np.concatenate([heads[1:] - 1, [len(numbers) - 1]])
    return np.stack([numbers[heads], numbers[lasts] + 1], axis=1).astype(np.uint64)


def joined_spans(ranges: U64Array) -> U64Array:
    """(n, 2) start and size of ranges given as start and end, in order, touching ones as one."""
    if not len(ranges):
        return np.zeros((0, 2), np.uint64)
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    ends = np.maximum.accumulate(ranges[:, 1])
    heads = np.concatenate([[0], np.flatnonzero(ranges[1:, 0] > ends[:-1]) + 1])
    lasts = np.concatenate([heads[1:] - 1, [len(ranges) - 1]])
    starts = ranges[heads, 0]
    return np.stack([starts, ends[lasts] - starts], axis=1)


def joined_reach(spans: U64Array) -> U64Array:
    """The same of ranges given as start and size."""
    return joined_spans(np.stack([spans[:, 0], spans[:, 0] + spans[:, 1]], axis=1))
