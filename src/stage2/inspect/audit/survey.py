"""All that a root's tables say, each table read once, however many entries lead to it.

A listing (`inspect.listing`) has every address; an audit asks what can be reached at all, and for that a table that is
read again tells nothing new, unless the tables above it let through something else, or it is in the other half of the
addresses. So what is read is bounded by the memory that there is, also where tables lead to each other in circles.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...formats.outcome import COMBINED
from ...prove.decoding import EntryArrays, Reading, Tables, joined
from ...prove.lookup import distinct
from ...prove.packing import U64Array
from ...prove.source import TableSource
from ...tables.regime import Regime

_PIECE = 512
"""Tables that are read at once, at most."""
_MOST_BELOW = 1 << 20
"""Tables of the next level that are gathered before those that are met twice are taken out."""
_MOST_TOLD = 64
"""Limit: entries and tables that are kept to be told one by one."""
_MOST_VACANT = 1 << 20
"""Limit: entries that are not present and not zero that are kept."""
_NO_ROWS: U64Array = np.zeros((0, 4), np.uint64)


@dataclass(slots=True)
class Budget:
    """What may still be read and kept, for all roots of an audit together.

    Args:
        tables: tables to read.
        rows: ranges to keep.
    """

    tables: int = 1 << 18
    rows: int = 1 << 22


@dataclass(slots=True)
class Survey:
    """What a root's tables say.

    Args:
        rows: (n, 4) start, output, size, attributes with the level in bits 31:24; in order and joined.
        tables: (n, 2) address and level of every table, each once for each level, the root first.
        leaves: entries that are leaves.
        again: entries that lead to a table which was met before.
        vacant: (n, 3) start, address and word of entries that are not present and not zero.
        wrong: the same of the first entries that are present and no sound ones; wrong_count: of how many.
        absent: (start, address) of the first tables that the source does not have; absent_count: of how many.
        cut: why the survey stopped before its end; empty if it is whole.
    """

    rows: U64Array = field(default_factory=lambda: _NO_ROWS)
    tables: U64Array = field(default_factory=lambda: np.zeros((0, 2), np.uint64))
    leaves: int = 0
    again: int = 0
    vacant: U64Array = field(default_factory=lambda: np.zeros((0, 3), np.uint64))
    wrong: list[tuple[int, int, int]] = field(default_factory=list)
    wrong_count: int = 0
    absent: list[tuple[int, int]] = field(default_factory=list)
    absent_count: int = 0
    cut: str = ""

    @property
    def mapped(self) -> int:
        """Bytes that are mapped."""
        return int(self.rows[:, 2].sum())

    @property
    def own_tables_below(self) -> int:
        """Tables that are met at several levels, as where a root has an entry for itself."""
        distinct, counts = np.unique(np.unique(self.tables, axis=0)[:, 0], return_counts=True)
        return int(np.count_nonzero(counts > 1)) if len(distinct) else 0


def survey(regime: Regime, source: TableSource, budget: Budget, *, keep_vacant: bool = False) -> Survey:
    """Read all tables of a regime.

    Args:
        regime: whose.
        source: memory in the address space of its root.
        budget: what may be read and kept; what is read is taken off.
        keep_vacant: whether entries that are not present are wanted.

    Raises:
        SourceError: the source can no longer be read.
    """
    return _Surveyor(regime, source, budget, keep_vacant).run()


class _Surveyor:
    def __init__(self, regime: Regime, source: TableSource, budget: Budget, keep_vacant: bool) -> None:
        self._regime, self._format, self._source = regime, regime.format, source
        self._budget, self._keep_vacant = budget, keep_vacant
        self._arrays = EntryArrays(regime)
        self._found = Survey()
        self._rows: list[U64Array] = []
        self._vacant: list[U64Array] = []
        self._tables: list[U64Array] = []

    def run(self) -> Survey:
        top = self._format.levels - 1
        here = self._there(Tables.root(self._regime), top)
        for level in range(top, -1, -1):
            below, held = [Tables.together([])], 0
            for first in range(0, len(here), _PIECE):
                piece = here.only(slice(first, first + _PIECE))
                if not self._afford(piece):
                    break
                below.append(self._read(piece, level))
                held += len(below[-1])
                if held > _MOST_BELOW:
                    below = [self._once(Tables.together(below))]
                    held = 0
            here = self._once(Tables.together(below))
        found = self._found
        rows = np.concatenate([_NO_ROWS, *self._rows])
        found.rows = joined(rows[np.argsort(rows[:, 0], kind="stable")])
        found.tables = np.concatenate([found.tables, *self._tables])
        found.vacant = np.concatenate([found.vacant, *self._vacant])
        return found

    def _there(self, here: Tables, level: int) -> Tables:
        """The tables that the source has."""
        there = self._source.holds(here.at, 8 << self._format.index_bits(level))
        missing = np.flatnonzero(~there)
        self._found.absent_count += len(missing)
        for number in missing[: _MOST_TOLD - len(self._found.absent)].tolist():
            self._found.absent.append((int(here.base[number]), int(here.at[number])))
        return here.only(there)

    def _once(self, here: Tables) -> Tables:
        """Each table once for what is let through to it, and for each half of the addresses."""
        half = here.base >> np.uint64(self._format.input_bits - 1)
        first = distinct(here.at, here.allowed & np.uint64(COMBINED), half)
        once = np.zeros(len(here), bool)
        once[first] = True
        self._found.again += len(here) - len(first)
        return here.only(once)

    def _afford(self, piece: Tables) -> bool:
        budget = self._budget
        if budget.tables >= len(piece) and budget.rows > 0:
            budget.tables -= len(piece)
            return True
        what = "tables" if budget.tables < len(piece) else "ranges"
        name = f"{self._format.name}@{self._regime.root:#x}"
        self._found.cut = f"there are more {what} than an audit looks at, so {name} was not read to its end"
        return False

    def _read(self, piece: Tables, level: int) -> Tables:
        entries = self._source.tables(piece.at, 1 << self._format.index_bits(level)).ravel()
        found = self._arrays.read_all(piece, entries, level)
        self._tables.append(np.stack([piece.at, np.full_like(piece.at, level)], axis=1))
        self._found.leaves += found.leaves
        rows = joined(found.rows)
        self._budget.rows -= len(rows)
        self._rows.append(rows)
        self._note(found)
        return self._once(self._there(found.below, level - 1)) if level else found.below

    def _note(self, found: Reading) -> None:
        self._found.wrong_count += len(found.wrong)
        self._found.wrong += found.wrong[: _MOST_TOLD - len(self._found.wrong)]
        if self._keep_vacant and sum(map(len, self._vacant)) < _MOST_VACANT:
            self._vacant.append(found.vacant)
