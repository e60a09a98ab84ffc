"""All mappings of a root, in order, a part at a time: what everything else here asks for.

The tables may be anybody's. Tables that several entries lead to are read again for each of them, as hardware would, and
tables that are not in the source are told. What is read is bounded: tables that lead to each other in circles have
billions of mappings, and are given up with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..address import Range
from ..errors import SourceError
from ..formats.outcome import ALL_ALLOWED
from ..prove.decoding import EntryArrays, Tables, joined
from ..prove.packing import U64Array
from ..prove.source import TableSource
from ..tables.regime import Regime

MOST_TABLES = 1 << 21
"""Limit: tables that are read for one root. 64 GiB in pages of 4 KiB take 32,833."""
_MOST_ODD = 1 << 23
"""Limit: entries that are like no other and are decoded by themselves. Tables that an MMU walks have few kinds of
entries; random bytes have nothing else."""
_PIECE = 32
"""Tables that are read at once, at most: so many that what is made of them stays in a CPU's own cache."""
_MOST_TOLD = 64
"""Limit: entries and tables that are told one by one."""

Progress = Callable[[int, int], None]
"""Called with the input addresses that are done and the number of all."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """An entry that leads nowhere.

    Args:
        address: the first input address that it is for.
        slot: address of the entry; of the table, where that is what is missing.
        entry: the word; 0 for a table.
        problem: what is wrong, in a sentence.
    """

    address: int
    slot: int
    entry: int
    problem: str


@dataclass(slots=True)
class Listing:
    """What was seen while mappings were listed; complete when the last part is out.

    Args:
        tables: how many were read, those that several entries lead to once for each.
        leaves: how many there are.
        leaf_bytes: bytes that they map.
        absent: tables that the source does not have.
        troubles: the first of the entries that lead nowhere.
        cut: the listing stopped before its end, and why; empty if it is whole.
    """

    tables: int = 0
    leaves: int = 0
    leaf_bytes: int = 0
    absent: int = 0
    troubles: list[Trouble] = field(default_factory=list)
    cut: str = ""


class Lister:
    """Lists what a regime maps.

    Args:
        regime: the regime.
        source: memory in the address space of its root.
        span: the input addresses that are asked for, as the walk takes them: without sign extension; None for all.
        most: tables that are read before it gives up.
        strict: giving up is an error; otherwise `seen.cut` says so.
        ignore: attributes that do not matter: leaves that differ in them alone are joined.
        progress: told of long work.
    """

    def __init__(
        self,
        regime: Regime,
        source: TableSource,
        *,
        span: Range | None = None,
        most: int = MOST_TABLES,
        strict: bool = True,
        ignore: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self._regime, self._format, self._source = regime, regime.format, source
        self._arrays = EntryArrays(regime)
        self._most, self._strict, self._progress = most, strict, progress
        self._kept = np.uint64((1 << 64) - 1 ^ ignore)
        self._span = span or Range(0, 1 << self._format.input_bits)
        self.seen = Listing()

    def parts(self) -> Iterator[U64Array]:
        """Rows (n, 4) of start, output, size, attributes with the level in bits 31:24: in order and joined.

        Rows of two parts are not joined.

        Raises:
            SourceError: the limit is reached (`strict`), or the source can no longer be read.
        """
        if self._format.is_bare:
            yield np.array(
                [[self._span.start, self._span.start, self._span.size, ALL_ALLOWED & int(self._kept)]], np.uint64
            )
            return
        level = self._format.levels - 1
        for rows in self._below(Tables.root(self._regime), level):
            if len(rows):
                yield self._cut_to_span(rows)

    def _below(self, here: Tables, level: int) -> Iterator[U64Array]:
        """The rows of some tables of a level and of all below them."""
        here = self._there(here, level)
        for first in range(0, len(here), _PIECE):
            piece = here.only(slice(first, first + _PIECE))
            self.seen.tables += len(piece)
            if self.seen.tables > self._most or self._arrays.singly > _MOST_ODD:
                self._give_up(int(piece.base[0]))
                return
            rows, below = self._read(piece, level)
            if not len(below):
                yield rows
                continue
            yield from self._woven(rows, below, level)
            if self.seen.cut:
                return

    def _woven(self, rows: U64Array, below: Tables, level: int) -> Iterator[U64Array]:
        """Leaves of a level and what the tables between them hold, in order."""
        done = 0
        step = _PIECE if level == 1 else 1
        for first in range(0, len(below), step):
            some = below.only(slice(first, first + step))
            last = int(np.searchsorted(rows[:, 0], some.base[-1]))
            before, done = rows[done:last], last
            if step == 1:
                yield before
                yield from self._below(some, level - 1)
            else:
                parts = [part for part in (before, *self._below(some, level - 1)) if len(part)]
                yield from parts if len(parts) < 2 else [_in_order(parts)]
            if self.seen.cut:
                return
            if self._progress is not None:
                self._progress(max(int(some.base[-1]) - self._span.start, 0), self._span.size)
        if done < len(rows):
            yield rows[done:]

    def _read(self, here: Tables, level: int) -> tuple[U64Array, Tables]:
        """Leaves in order and joined, and the tables below that are asked for."""
        entries = self._source.tables(here.at, 1 << self._format.index_bits(level)).ravel()
        found = self._arrays.read_all(here, entries, level)
        for start, slot, entry in found.wrong[: _MOST_TOLD - len(self.seen.troubles)]:
            self._tell(start, slot, entry, f"the entry {entry:#x} at {slot:#x} has reserved bits or is too wide")
        rows = found.rows
        rows[:, 3] &= self._kept
        self.seen.leaves += found.leaves
        self.seen.leaf_bytes += int(rows[:, 2].sum())
        return joined(rows), self._asked(found.below, level)

    def _asked(self, below: Tables, level: int) -> Tables:
        """The tables that hold some of the addresses that are asked for."""
        if self._span.size == 1 << self._format.input_bits:
            return below
        size = self._format.leaf_size(level)
        first, last = np.uint64(max(self._span.start - size + 1, 0)), np.uint64(self._span.end - 1)
        return below.only((below.base >= first) & (below.base <= last))

    def _there(self, here: Tables, level: int) -> Tables:
        """The tables that the source has."""
        there = self._source.holds(here.at, 8 << self._format.index_bits(level))
        missing = np.flatnonzero(~there)
        self.seen.absent += len(missing)
        for number in missing[: max(_MOST_TOLD - len(self.seen.troubles), 0)].tolist():
            at = int(here.at[number])
            self._tell(int(here.base[number]), at, 0, f"the table at {at:#x} is not in the memory")
        return here if not len(missing) else here.only(there)

    def _cut_to_span(self, rows: U64Array) -> U64Array:
        if self._span.size == 1 << self._format.input_bits:
            return rows
        return clipped(rows, self._span)

    def _tell(self, address: int, slot: int, entry: int, problem: str) -> None:
        if len(self.seen.troubles) < _MOST_TOLD:
            self.seen.troubles.append(Trouble(address, slot, entry, problem))

    def _give_up(self, address: int) -> None:
        what = f"more than {self._most:,} tables are reached, as where tables lead to each other"
        if self.seen.tables <= self._most:
            what = f"more than {_MOST_ODD:,} entries are like no other, as in memory that holds no tables"
        root = f"{self._format.name}@{self._regime.root:#x}"
        self.seen.cut = f"reading from {root} was given up at address {address:#x}: {what}"
        if self._strict:
            raise SourceError(self.seen.cut)


def _in_order(parts: Sequence[U64Array]) -> U64Array:
    rows = np.concatenate(parts)
    return joined(rows[np.argsort(rows[:, 0], kind="stable")])


def clipped(rows: U64Array, span: Range) -> U64Array:
    """Rows cut to a range of input addresses; those outside are left out."""
    ends = rows[:, 0] + rows[:, 2]
    inside = (ends > np.uint64(span.start)) & (rows[:, 0] <= np.uint64(span.end - 1))
    found: U64Array = rows[inside].copy()
    if len(found):
        low = np.maximum(found[:, 0], np.uint64(span.start))
        high = np.minimum(ends[inside], np.uint64(min(span.end, (1 << 64) - 1)))
        found[:, 1] += low - found[:, 0]
        found[:, 0], found[:, 2] = low, high - low
    return found
