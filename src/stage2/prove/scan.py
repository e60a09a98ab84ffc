"""Every entry of a table and of all below it: the leaves as ranges, and what is no sound entry.

The tables are read level by level as arrays. Entries that differ in their address alone are decoded once; where the
decoding depends on the address (alignment, width, groups), each by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..formats.record import Format
from ..tables.regime import Regime
from .decoding import EntryArrays, Tables, joined
from .packing import U64Array
from .scattered import Collector, Scattered, joined_reach
from .source import TableSource

_PIECE = 512
"""Tables that are read at once: so many that what is made of them stays in a CPU's own cache."""
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


class _Scanner:
    def __init__(self, regime: Regime, source: TableSource, cuts: Sequence[int] | None) -> None:
        self._regime, self._format, self._source = regime, regime.format, source
        self._arrays = EntryArrays(regime)
        self._wrong: list[WrongEntry] = []
        self._rows: list[U64Array] = []
        self._tables: list[U64Array] = []
        self._bases: list[U64Array] = []
        self._leaves = 0
        self._collector = (
            None if cuts is None else Collector(regime, self._arrays.packing, self._arrays.leaf_group, cuts)
        )

    def scan(self) -> Scan:
        fmt = self._format
        here = Tables.root(self._regime)
        for level in range(fmt.levels - 1, -1, -1):
            bits = fmt.index_bits(level)
            here = self._present(here, level, bits)
            self._tables.append(np.stack([here.at, np.full_like(here.at, level)], axis=1))
            self._bases.append(here.base)
            below: list[Tables] = []
            for first in range(0, len(here.at), _PIECE):
                self._read(here.only(slice(first, first + _PIECE)), level, bits, below)
            here = Tables.together(below)
        rows = np.concatenate([np.zeros((0, 4), np.uint64), *self._rows])
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        kinds = () if self._collector is None else tuple(self._collector.kinds())
        # It knows this scanner's method: what both have marked is to go now, and not when cycles are looked for.
        self._collector = None
        leaves = self._leaves + sum(kind.leaves for kind in kinds)
        tables, bases = np.concatenate(self._tables), np.concatenate(self._bases)
        return Scan(joined(rows), tables, bases, leaves, self._wrong, kinds)

    def _present(self, here: Tables, level: int, bits: int) -> Tables:
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
        return Tables(here.at[keep], here.base[keep], here.allowed[keep])

    def _read(self, here: Tables, level: int, bits: int, below: list[Tables]) -> None:
        entries = self._source.tables(here.at, 1 << bits)
        flat = entries.ravel()
        stretched, which = self._arrays.stretches(here, flat, level)
        self._rows.append(joined(stretched))
        self._leaves += int(stretched[:, 2].sum()) >> self._format.level_shift(level)
        if self._collector is not None and len(which) == len(flat) >= _MANY << bits:
            taken = self._collector.take(here.at, here.base, here.allowed, entries, level)
            if taken.any():
                here, flat = here.only(~taken), entries[~taken].ravel()
                which = np.arange(len(flat))
        found = self._arrays.read(here, flat, which, level)
        self._leaves += found.leaves
        self._rows.append(joined(found.rows))
        below.append(found.below)
        for start, slot, entry in found.wrong[:_MOST_WRONG]:
            self._note(start, slot, level, entry, f"the entry {entry:#x} has reserved bits or is too wide")

    def _note(self, address: int, slot: int, level: int, entry: int, problem: str) -> None:
        if len(self._wrong) < _MOST_WRONG:
            self._wrong.append(WrongEntry(address, slot, level, entry, problem))
