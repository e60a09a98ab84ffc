"""Arrays of entries decoded: what differs in its address alone is decoded once.

Where the decoding depends on the address (alignment, width, groups), each distinct entry is decoded by itself. The
rules are the format's `decode`; nothing here knows a bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..formats.outcome import COMBINED, GROUPED, LEAF, NONE, TABLE
from ..tables.descent import make_leaf_output, make_span_shift
from ..tables.mapping import LEVEL_FIELD
from ..tables.regime import Regime
from .packing import Packing, U64Array, packing_of

ALL = (1 << 64) - 1
_FEW = 16
"""Entries to a stretch, at least, for going by stretches."""


@dataclass(slots=True)
class Tables:
    """Tables of one level: where each is, what input address it begins with, what the tables above let through."""

    at: U64Array
    base: U64Array
    allowed: U64Array

    @classmethod
    def root(cls, regime: Regime) -> Tables:
        """The root table alone."""
        return cls(np.array([regime.root], np.uint64), np.zeros(1, np.uint64), np.array([ALL], np.uint64))

    @classmethod
    def together(cls, parts: Sequence[Tables]) -> Tables:
        """Some and others, one after the other."""
        none = np.zeros(0, np.uint64)
        columns = ([getattr(part, name) for part in parts] for name in ("at", "base", "allowed"))
        at, base, allowed = (np.concatenate([none, *column]) for column in columns)
        return cls(at, base, allowed)

    def __len__(self) -> int:
        return len(self.at)

    def only(self, which: slice | npt.NDArray[np.bool_]) -> Tables:
        """Some of them."""
        return Tables(self.at[which], self.base[which], self.allowed[which])


@dataclass(slots=True)
class Reading:
    """What entries of some tables of one level are.

    Args:
        rows: (n, 4) start, output, size, attributes with the level in bits 31:24, of leaves; not in order.
        leaves: how many entries those are.
        below: the tables that entries point to.
        wrong: (start, slot, entry) of each entry that is present and no sound one.
        vacant: (n, 3) the same of each entry that is not present and yet not zero.
    """

    rows: U64Array
    leaves: int
    below: Tables
    wrong: list[tuple[int, int, int]]
    vacant: U64Array


class EntryArrays:
    """The entries of a regime's tables, many at a time.

    Args:
        regime: its format and controls decide what entries mean.
    """

    def __init__(self, regime: Regime) -> None:
        self._regime, self._format = regime, regime.format
        self.packing: Packing = packing_of(regime.format)
        self._leaf_output = make_leaf_output(regime.format, make_span_shift(regime.format))
        self.singly = 0
        """Entries that were decoded by themselves so far: many, where what is read is no table at all."""

    def zero_is_none(self, level: int) -> bool:
        """Whether an entry of zeros is not present, so that those need not be looked at."""
        return self._format.decode(0, level, self._regime.controls)[0] == NONE

    def decoded(self, values: U64Array, level: int) -> tuple[U64Array, U64Array, U64Array]:
        """Kind, output and attributes of entries of one level, as `decode` answers for each."""
        kinds, outputs, attributes = (np.zeros_like(values) for _ in range(3))
        shapes = values & np.uint64(ALL ^ self.packing.mask())
        for members in _alike(shapes):
            mine = values[members]
            found = self.leaf_group(mine, level)
            if found is None:
                kinds[members], outputs[members], attributes[members] = self._one_by_one(mine, level)
            else:
                kinds[members], attributes[members] = LEAF, found
                outputs[members] = self.packing.outputs(mine)
        return kinds, outputs, attributes

    def leaf_group(self, values: U64Array, level: int) -> int | None:
        """The attributes of entries that are all leaves and differ in their address alone; None where that is not so.

        What a decoding takes from an address is whether it is aligned, and whether it is too wide: the lowest bits are
        the same for all here, and the widest is decoded.
        """
        controls, decode = self._regime.controls, self._format.decode
        low = np.uint64(self.packing.mask() ^ self.packing.mask(self._format.level_shift(level)))
        if level and np.any(values & low):
            return None
        widest = int(np.bitwise_or.reduce(values))
        answers = {decode(int(value), level, controls)[::2] for value in (values[0], values[-1], widest)}
        (kind, attributes), *others = answers
        if others or kind != LEAF or attributes & GROUPED:
            return None
        return int(attributes)

    def grouped(self, outputs: U64Array, attributes: U64Array, starts: U64Array, level: int) -> U64Array:
        """Where leaves lead that hold the address of their whole group."""
        marked = np.flatnonzero(attributes & np.uint64(GROUPED)) if self._format.group_translates else ()
        for number in marked:
            mine = int(outputs[number]), int(attributes[number]), int(starts[number])
            outputs[number] = self._leaf_output(*mine, level)
        return outputs

    def stretches(self, here: Tables, flat: U64Array, level: int) -> tuple[U64Array, npt.NDArray[np.intp]]:
        """Leaves that go on evenly, by their first and last entry; what is left is to be looked at one by one.

        Between two entries that decode to leaves with the same attributes, as far apart as the number of entries
        says, and whose words grow evenly, there are only such leaves: nothing but their address differs.

        Args:
            here: the tables.
            flat: all of their entries.
            level: theirs.

        Returns:
            Rows of the stretches, and the places of all other entries.
        """
        bits, none = self._format.index_bits(level), np.zeros((0, 4), np.uint64)
        if level > self._format.top_leaf_level:
            return none, np.arange(len(flat))
        size = self._format.leaf_size(level)
        even = flat[1:] - flat[:-1] == np.uint64(self._format.pack_address(size))
        edges = slice((1 << bits) - 1, None, 1 << bits)
        whole = np.uint64(size << bits)
        even[edges] &= (here.base[1:] - here.base[:-1] == whole) & (here.allowed[1:] == here.allowed[:-1])
        heads = np.concatenate([[0], np.flatnonzero(~even) + 1])
        if len(heads) * _FEW > len(flat):
            return none, np.arange(len(flat))
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
        return np.array(rows, np.uint64).reshape(-1, 4), np.concatenate([np.zeros(0, np.intp), *left])

    def read_all(self, here: Tables, flat: U64Array, level: int) -> Reading:
        """What all entries of tables are; stretches of leaves are rows of their own.

        Args:
            here: the tables.
            flat: all of their entries.
            level: theirs.
        """
        stretched, which = self.stretches(here, flat, level)
        found = self.read(here, flat, which, level)
        found.leaves += int(stretched[:, 2].sum()) >> self._format.level_shift(level)
        if len(stretched):
            found.rows = np.concatenate([stretched, found.rows])
            found.rows = found.rows[np.argsort(found.rows[:, 0], kind="stable")]
        return found

    def read(self, here: Tables, flat: U64Array, which: npt.NDArray[np.intp], level: int) -> Reading:
        """What some entries of tables are, one by one.

        Args:
            here: the tables.
            flat: all of their entries.
            which: the places of those that are asked for.
            level: theirs.
        """
        if self.zero_is_none(level):
            which = which[flat[which] != 0]
        bits, fmt = self._format.index_bits(level), self._format
        values = flat[which]
        kinds, outputs, attributes = self.decoded(values, level)
        table, slot = which >> bits, (which & ((1 << bits) - 1)).astype(np.uint64)
        starts = here.base[table] + (slot << np.uint64(fmt.level_shift(level)))
        let_through = here.allowed[table]
        leaf = np.flatnonzero(kinds == LEAF)
        effective = attributes[leaf] & (let_through[leaf] | np.uint64(ALL ^ COMBINED))
        led_to = self.grouped(outputs[leaf], attributes[leaf], starts[leaf], level)
        sizes = np.full(len(leaf), fmt.leaf_size(level), np.uint64)
        rows = np.stack([starts[leaf], led_to, sizes, effective | np.uint64(level << LEVEL_FIELD)], axis=1)
        down = np.flatnonzero(kinds == TABLE)
        below = Tables(outputs[down], starts[down], let_through[down] & (attributes[down] | np.uint64(ALL ^ COMBINED)))
        told = np.flatnonzero((kinds != LEAF) & (kinds != TABLE))
        slots = here.at[table[told]] + np.uint64(8) * slot[told]
        columns = np.stack([starts[told], slots, values[told]], axis=1)
        none = kinds[told] == NONE
        wrong = [(start, at, entry) for start, at, entry in columns[~none].tolist()]
        return Reading(rows, len(leaf), below, wrong, columns[none & (values[told] != 0)])

    def _one_by_one(self, values: U64Array, level: int) -> tuple[U64Array, U64Array, U64Array]:
        distinct, place = np.unique(values, return_inverse=True)
        self.singly += len(distinct)
        controls, decode = self._regime.controls, self._format.decode
        answers = [decode(value, level, controls) for value in distinct.tolist()]
        columns = np.array(answers, dtype=object).reshape(-1, 3).T
        kind, output, attributes = (column.astype(np.uint64)[place.ravel()] for column in columns)
        return kind, output, attributes


def joined(rows: U64Array) -> U64Array:
    """Rows in order of their start with neighbours as one that continue each other with the same attributes."""
    if len(rows) < 2:
        return rows
    before, after = rows[:-1], rows[1:]
    goes_on = (before[:, 0] + before[:, 2] == after[:, 0]) & (before[:, 1] + before[:, 2] == after[:, 1])
    goes_on &= before[:, 3] == after[:, 3]
    if not goes_on.any():
        return rows
    heads = np.concatenate([[0], np.flatnonzero(~goes_on) + 1])
    found: U64Array = rows[heads].copy()
    found[:, 2] = np.add.reduceat(rows[:, 2], heads)
    return found


def _alike(shapes: U64Array) -> Iterator[npt.NDArray[np.intp]]:
    """The places of equal shapes, shape by shape."""
    change = np.flatnonzero(shapes[1:] != shapes[:-1]) + 1
    heads = np.concatenate([[0], change])
    ends = np.concatenate([change, [len(shapes)]])
    if not len(shapes):
        return
    distinct, of_run = np.unique(shapes[heads], return_inverse=True)
    for number in range(len(distinct)):
        mine = np.flatnonzero(of_run.ravel() == number)
        yield np.concatenate([np.arange(heads[run], ends[run]) for run in mine.tolist()])
