"""Every entry of a table and of all below it: the leaves as ranges, and what is no sound entry.

The tables are read level by level as arrays. Entries that differ in their address alone are decoded once; where the
decoding depends on the address (alignment, width, groups), each by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..formats.outcome import COMBINED, GROUPED, LEAF, NONE, TABLE
from ..formats.record import Format
from ..tables.descent import make_leaf_output, make_span_shift
from ..tables.mapping import LEVEL_FIELD
from ..tables.regime import Regime
from .packing import Packing, U64Array, packing_of
from .scattered import ALL, Collector, Scattered, joined_reach
from .source import TableSource

_PIECE = 512
"""Tables that are read at once: so many that what is made of them stays in a CPU's own cache."""
_FEW = 16
"""Entries to a stretch, at least, for going by stretches."""
_MANY = 64
"""Tables that are read at once, at least, for leaves that go on nowhere to be taken by kind."""
_MOST_WRONG = 64
"""Limit: entries that are told; one is enough to refute."""


@dataclass(frozen=True, slots=True)
class WrongEntry:
    """An entry that no sound table has.

    Args:
        address: the first input address that it is for.
        slot: HPA of the entry; level: its level; entry: the word.
        problem: what is wrong.
    """

    address: int
    slot: int
    level: int
    entry: int
    problem: str


@dataclass(slots=True)
class Scan:
    """What a table maps.

    Args:
        rows: (n, 4) start, HPA, size, attributes with the level in bits 31:24; in order, neighbours joined that
            continue each other.
        tables: (n, 2) HPA and level of every table, the root first.
        bases: (n,) the first input address that each of them is for.
        leaves: entries that are leaves.
        wrong: entries that are not sound.
        scattered: leaves that are in no row, by kind.
    """

    rows: U64Array
    tables: U64Array
    bases: U64Array
    leaves: int
    wrong: list[WrongEntry]
    scattered: tuple[Scattered, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that are mapped."""
        return int(self.rows[:, 2].sum()) + sum(kind.size for kind in self.scattered)

    def table_spans(self, fmt: Format) -> U64Array:
        """(n, 2) start and size of the host memory that the tables lie in, in order and joined."""
        root = self.tables[:, 1] == np.uint64(fmt.levels - 1)
        sizes = np.where(root, np.uint64(fmt.root_size), np.uint64(fmt.table_size))
        return joined_reach(np.stack([self.tables[:, 0], sizes], axis=1))


def scan(regime: Regime, source: TableSource, cuts: Sequence[int] | None = None) -> Scan:
    """Read all of a regime's tables.

    Args:
        regime: what hardware runs them with.
        source: where they are.
        cuts: input addresses in order where a kind of scattered leaves ends; None for a row for every leaf.
    """
    return _Scanner(regime, source, cuts).scan()


@dataclass(slots=True)
class _Level:
    """Tables of one level: where each is, what input address it begins with, what the tables above let through."""

    at: U64Array
    base: U64Array
    allowed: U64Array

    def part(self, first: int) -> _Level:
        piece = slice(first, first + _PIECE)
        return self.only(piece)

    def only(self, which: slice | npt.NDArray[np.bool_]) -> _Level:
        return _Level(self.at[which], self.base[which], self.allowed[which])


@dataclass(slots=True)
class _Found:
    """What is below, while a level is read."""

    at: list[U64Array] = field(default_factory=list)
    base: list[U64Array] = field(default_factory=list)
    allowed: list[U64Array] = field(default_factory=list)

    def level(self) -> _Level:
        empty = np.zeros(0, np.uint64)
        return _Level(*(np.concatenate([empty, *parts]) for parts in (self.at, self.base, self.allowed)))


class _Scanner:
    def __init__(self, regime: Regime, source: TableSource, cuts: Sequence[int] | None) -> None:
        self._regime, self._format, self._source = regime, regime.format, source
        self._packing: Packing = packing_of(regime.format)
        self._leaf_output = make_leaf_output(regime.format, make_span_shift(regime.format))
        self._wrong: list[WrongEntry] = []
        self._rows: list[U64Array] = []
        self._tables: list[U64Array] = []
        self._bases: list[U64Array] = []
        self._leaves = 0
        self._collector = None if cuts is None else Collector(regime, self._packing, self._leaf_group, cuts)

    def scan(self) -> Scan:
        fmt = self._format
        here = _Level(np.array([self._regime.root], np.uint64), np.zeros(1, np.uint64), np.array([ALL], np.uint64))
        for level in range(fmt.levels - 1, -1, -1):
            bits = fmt.index_bits(level)
            here = self._present(here, level, bits)
            self._tables.append(np.stack([here.at, np.full_like(here.at, level)], axis=1))
            self._bases.append(here.base)
            below = _Found()
            for first in range(0, len(here.at), _PIECE):
                self._read(here.part(first), level, bits, below)
            here = below.level()
        rows = np.concatenate([np.zeros((0, 4), np.uint64), *self._rows])
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        kinds = () if self._collector is None else tuple(self._collector.kinds())
        # It knows this scanner's method: what both have marked is to go now, and not when cycles are looked for.
        self._collector = None
        leaves = self._leaves + sum(kind.leaves for kind in kinds)
        tables, bases = np.concatenate(self._tables), np.concatenate(self._bases)
        return Scan(joined(rows), tables, bases, leaves, self._wrong, kinds)

    def _present(self, here: _Level, level: int, bits: int) -> _Level:
        """The tables that can be read, each once; a table that two entries lead to is wrong."""
        size = 8 << bits
        inside = self._source.holds(here.at, size)
        for number in np.flatnonzero(~inside)[:_MOST_WRONG].tolist():
            at = int(here.at[number])
            self._note(int(here.base[number]), at, level, 0, f"the table at {at:#x} is outside the memory of tables")
        _, first = np.unique(here.at, return_index=True)
        once = np.zeros(len(here.at), bool)
        once[first] = True
        for number in np.flatnonzero(~once)[:_MOST_WRONG].tolist():
            at = int(here.at[number])
            self._note(int(here.base[number]), at, level, 0, f"two entries lead to the table at {at:#x}")
        keep = inside & once
        return _Level(here.at[keep], here.base[keep], here.allowed[keep])

    def _read(self, here: _Level, level: int, bits: int, below: _Found) -> None:
        entries = self._source.tables(here.at, 1 << bits)
        flat = entries.ravel()
        which = self._without_stretches(here, flat, level, bits)
        if self._collector is not None and len(which) == len(flat) >= _MANY << bits:
            taken = self._collector.take(here.at, here.base, here.allowed, entries, level)
            if taken.any():
                here, flat = here.only(~taken), entries[~taken].ravel()
                which = np.arange(len(flat))
        if self._format.decode(0, level, self._regime.controls)[0] == NONE:
            which = which[flat[which] != 0]
        if not len(which):
            return
        values = flat[which]
        kinds, outputs, attributes = self._decoded(values, level)
        table, slot = which >> bits, (which & ((1 << bits) - 1)).astype(np.uint64)
        shift = np.uint64(self._format.level_shift(level))
        starts = here.base[table] + (slot << shift)
        let_through = here.allowed[table]
        leaf = np.flatnonzero(kinds == LEAF)
        if len(leaf):
            effective = attributes[leaf] & (let_through[leaf] | np.uint64(ALL ^ COMBINED))
            keyed = effective | np.uint64(level << LEVEL_FIELD)
            outputs[leaf] = self._grouped(outputs[leaf], attributes[leaf], starts[leaf], level)
            sizes = np.full(len(leaf), self._format.leaf_size(level), np.uint64)
            self._leaves += len(leaf)
            self._rows.append(joined(np.stack([starts[leaf], outputs[leaf], sizes, keyed], axis=1)))
        down = np.flatnonzero(kinds == TABLE)
        below.at.append(outputs[down])
        below.base.append(starts[down])
        below.allowed.append(let_through[down] & (attributes[down] | np.uint64(ALL ^ COMBINED)))
        for number in np.flatnonzero((kinds != LEAF) & (kinds != TABLE) & (kinds != NONE))[:_MOST_WRONG].tolist():
            at = int(here.at[table[number]]) + 8 * int(slot[number])
            entry = int(values[number])
            self._note(int(starts[number]), at, level, entry, f"the entry {entry:#x} has reserved bits or is too wide")

    def _without_stretches(self, here: _Level, flat: U64Array, level: int, bits: int) -> npt.NDArray[np.intp]:
        """Note leaves that go on evenly, by their first and last entry; what is left is to be looked at one by one.

        Between two entries that decode to leaves with the same attributes, as far apart as the number of entries
        says, and whose words grow evenly, there are only such leaves: nothing but their address differs.
        """
        if level > self._format.top_leaf_level:
            return np.arange(len(flat))
        size = self._format.leaf_size(level)
        even = flat[1:] - flat[:-1] == np.uint64(self._format.pack_address(size))
        edges = slice((1 << bits) - 1, None, 1 << bits)
        whole = np.uint64(size << bits)
        even[edges] &= (here.base[1:] - here.base[:-1] == whole) & (here.allowed[1:] == here.allowed[:-1])
        heads = np.concatenate([[0], np.flatnonzero(~even) + 1])
        if len(heads) * _FEW > len(flat):
            return np.arange(len(flat))
        counts = np.diff(np.concatenate([heads, [len(flat)]]))
        decode, controls = self._format.decode, self._regime.controls
        rows, left = [], []
        for head, count in zip(heads.tolist(), counts.tolist(), strict=True):
            kind, output, attributes = decode(int(flat[head]), level, controls)
            last = decode(int(flat[head + count - 1]), level, controls)
            if kind != LEAF or attributes & GROUPED or last != (LEAF, output + (count - 1) * size, attributes):
                left.append(np.arange(head, head + count))
                continue
            table, slot = head >> bits, head & ((1 << bits) - 1)
            allowed = int(here.allowed[table]) | ALL ^ COMBINED
            start = int(here.base[table]) + slot * size
            rows.append((start, output, count * size, attributes & allowed | level << LEVEL_FIELD))
            self._leaves += count
        self._rows.append(joined(np.array(rows, np.uint64).reshape(-1, 4)))
        return np.concatenate([np.zeros(0, np.intp), *left])

    def _grouped(self, outputs: U64Array, attributes: U64Array, starts: U64Array, level: int) -> U64Array:
        """Where leaves lead that hold the address of their whole group."""
        marked = np.flatnonzero(attributes & np.uint64(GROUPED)) if self._format.group_translates else ()
        for number in marked:
            mine = int(outputs[number]), int(attributes[number]), int(starts[number])
            outputs[number] = self._leaf_output(*mine, level)
        return outputs

    def _decoded(self, values: U64Array, level: int) -> tuple[U64Array, U64Array, U64Array]:
        """Kind, output and attributes of entries that are not zero."""
        kinds, outputs, attributes = (np.zeros_like(values) for _ in range(3))
        shapes = values & np.uint64(ALL ^ self._packing.mask())
        for members in _alike(shapes):
            mine = values[members]
            found = self._leaf_group(mine, level)
            if found is None:
                kinds[members], outputs[members], attributes[members] = self._one_by_one(mine, level)
            else:
                kinds[members], attributes[members] = LEAF, found
                outputs[members] = self._packing.outputs(mine)
        return kinds, outputs, attributes

    def _leaf_group(self, values: U64Array, level: int) -> int | None:
        """The attributes of entries that are all leaves and differ in their address alone; None where that is not so.

        What a decoding takes from an address is whether it is aligned, and whether it is too wide: the lowest bits are
        the same for all here, and the widest is decoded.
        """
        controls, decode = self._regime.controls, self._format.decode
        low = np.uint64(self._packing.mask() ^ self._packing.mask(self._format.level_shift(level)))
        if level and np.any(values & low):
            return None
        widest = int(np.bitwise_or.reduce(values))
        answers = {decode(int(value), level, controls)[::2] for value in (values[0], values[-1], widest)}
        (kind, attributes), *others = answers
        if others or kind != LEAF or attributes & GROUPED:
            return None
        return int(attributes)

    def _one_by_one(self, values: U64Array, level: int) -> tuple[U64Array, U64Array, U64Array]:
        distinct, place = np.unique(values, return_inverse=True)
        controls, decode = self._regime.controls, self._format.decode
        answers = [decode(value, level, controls) for value in distinct.tolist()]
        columns = np.array(answers, dtype=object).reshape(-1, 3).T
        kind, output, attributes = (column.astype(np.uint64)[place.ravel()] for column in columns)
        return kind, output, attributes

    def _note(self, address: int, slot: int, level: int, entry: int, problem: str) -> None:
        if len(self._wrong) < _MOST_WRONG:
            self._wrong.append(WrongEntry(address, slot, level, entry, problem))


def _alike(shapes: U64Array) -> Iterator[U64Array]:
    """The places of equal shapes, shape by shape."""
    change = np.flatnonzero(shapes[1:] != shapes[:-1]) + 1
    heads = np.concatenate([[0], change])
    ends = np.concatenate([change, [len(shapes)]])
    distinct, of_run = np.unique(shapes[heads], return_inverse=True)
    for number in range(len(distinct)):
        mine = np.flatnonzero(of_run.ravel() == number)
        yield np.concatenate([np.arange(heads[run], ends[run]) for run in mine.tolist()])


def joined(rows: U64Array) -> U64Array:
    """Rows in order of their start with neighbours as one that continue each other with the same attributes."""
    if len(rows) < 2:
        return rows
    before, after = rows[:-1], rows[1:]
    goes_on = (before[:, 0] + before[:, 2] == after[:, 0]) & (before[:, 1] + before[:, 2] == after[:, 1])
    goes_on &= before[:, 3] == after[:, 3]
    heads = np.concatenate([[0], np.flatnonzero(~goes_on) + 1])
    found: U64Array = rows[heads].copy()
    found[:, 2] = np.add.reduceat(rows[:, 2], heads)
    return found
