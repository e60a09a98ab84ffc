"""Table entries as runs: everything that a walk of a space reads, small enough to be sent along.

A run is entries of one level that go on evenly: their words grow by the same amount, and what those point to does too.
Tables of one level that lie behind one another in the input space count as one, so that 16 GiB in leaves of 4 KiB are
one run where their frames are one. What an entry says is asked of the format; a reader of runs needs no rule of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

import numpy as np

from ...formats.outcome import COMBINED, GROUPED, LEAF, TABLE
from ...prove.packing import U64Array, packing_of
from ...prove.source import TableSource
from ...tables.descent import make_leaf_output, make_span_shift
from ...tables.regime import Regime

MOST_RUNS = 32_768
"""Limit: runs of all spaces together."""
LEAST_RUNS = 1_024
"""Runs that a space may have however many spaces there are."""
MOST_SHAPES = 512
"""Limit: kinds of entry in a space."""
_MOST_TABLES = 1 << 16
"""Limit: tables of a level that are read."""
_MOST_OUTSIDE = 64
"""Limit: tables of a space that are not whole in memory, which are read word by word."""
_PIECE = 2048
"""Tables that are read at once."""
_AHEAD = 1024
"""Runs that are made ready at once: often there is no room for all."""
_EVEN, _LEAVES, _TABLES, _CUT = range(4)
"""How a word differs from the one before: not at all, by the size of a leaf, by that of a table, otherwise."""
_PLAIN_WIDTH = 32
"""Bits of addresses that no processor lacks."""
_ALL = (1 << 64) - 1

_TOO_MANY = -1
"""Instead of the number of a shape: from here on there is no room."""
OUTSIDE = 0xFF
"""Kind of an entry that cannot be read: its table is outside memory."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What entries have in common that differ in their address alone.

    Args:
        level: theirs.
        kind: as `decode` answers, or OUTSIDE.
        address: an input address that one of them is for.
        word: that entry.
        varies: bits in which they may differ.
    """

    level: int
    kind: int
    address: int
    word: int
    varies: int


@dataclass(frozen=True, slots=True)
class Run:
    """Entries of one level that go on evenly.

    Args:
        first: number of the first: its input address, in entries.
        count: how many.
        word: the first; `grows` says what is added from one to the next: 0 nothing, 1 a leaf's size, 2 a table's.
        output: address in the first.
        shape: number of their shape.
        hpa: where the first leads, if that is not `output` and grows by the size of a leaf nevertheless.
    """

    first: int
    count: int
    word: int
    grows: int
    output: int
    shape: int
    hpa: int | None = None


@dataclass(slots=True)
class Level:
    """The entries of a level, in order.

    Args:
        runs: they.
        until: the input address from which on they are left out; None for nowhere.
        tables: tables that were read.
    """

    runs: list[Run] = field(default_factory=list)
    until: int | None = None
    tables: int = 0


@dataclass(slots=True)
class Entries:
    """All entries of a space's tables, level 0 first, and what they look like."""

    regime: Regime
    levels: list[Level]
    shapes: list[Shape]

    @property
    def until(self) -> int | None:
        """The input address from which on something is left out; None for nowhere."""
        return min((level.until for level in self.levels if level.until is not None), default=None)

    @property
    def left_out(self) -> dict[int, int]:
        """Levels of which something is left out, and from which address on."""
        return {number: level.until for number, level in enumerate(self.levels) if level.until is not None}


def entries_of(regime: Regime, source: TableSource, most: int = MOST_RUNS) -> Entries:
    """Read a space's tables.

    Args:
        regime: of a stage 2; it has levels.
        source: where its tables are.
        most: runs that there may be; what is more is left out, from the end of the space.
    """
    return _Reader(regime, source, most).read()


@dataclass(slots=True)
class _Tables:
    """Tables of one level in order: where each is, its input address, what the tables above it let through."""

    at: U64Array
    base: U64Array
    allowed: U64Array

    def part(self, which: slice | U64Array) -> _Tables:
        return _Tables(self.at[which], self.base[which], self.allowed[which])


class _Reader:
    def __init__(self, regime: Regime, source: TableSource, most: int) -> None:
        self._regime, self._format, self._source, self._left = regime, regime.format, source, most
        self._packing = packing_of(regime.format)
        self._leaf_output = make_leaf_output(regime.format, make_span_shift(regime.format))
        # Bits that have words for their values, even where they hold a part of an address (Arm's SH with LPA2).
        worded = (one for one in regime.format.fields if one.values)
        self._worded = reduce(or_, ((1 << one.high + 1) - (1 << one.low) for one in worded), 0)
        self._shapes: dict[tuple[int, ...], int] = {}
        self._listed: list[Shape] = []
        self._below: list[_Tables] = []
        self._outside_read = 0

    def read(self) -> Entries:
        fmt = self._format
        levels = [Level() for _ in range(fmt.levels)]
        here = _Tables(*(np.array([value], np.uint64) for value in (self._regime.root, 0, _ALL)))
        for number in range(fmt.levels - 1, -1, -1):
            level = levels[number]
            if len(here.at) > _MOST_TABLES:
                level.until = int(here.base[_MOST_TABLES])
                here = here.part(slice(_MOST_TABLES))
            level.tables = len(here.at)
            self._below = []
            self._level(level, here, number)
            empty = np.zeros(0, np.uint64)
            columns = zip(*((one.at, one.base, one.allowed) for one in self._below), strict=True)
            parts = list(columns) or [(empty,)] * 3
            here = _Tables(*(np.concatenate(part) for part in parts))
        return Entries(self._regime, levels, self._listed)

    def _level(self, level: Level, here: _Tables, number: int) -> None:
        """Fill a level from its tables. All but the last may take half of what there is room for."""
        room = self._left if number == 0 else (self._left + 1) // 2
        shift = self._format.level_shift(number)
        for first in range(0, len(here.at), _PIECE):
            for run, allowed in self._piece(here.part(slice(first, first + _PIECE)), number):
                if len(level.runs) == room or run.shape == _TOO_MANY:
                    level.until = run.first << shift
                    break
                joins = bool(level.runs) and self._joined(level.runs, run, number)
                if not joins:
                    level.runs.append(run)
                if self._listed[run.shape].kind == TABLE:
                    self._note_below(run, allowed, shift)
            else:
                continue
            break
        self._left -= len(level.runs)

    def _note_below(self, run: Run, allowed: int, shift: int) -> None:
        steps = np.arange(run.count, dtype=np.uint64)
        at = np.uint64(run.output) + steps * np.uint64(self._grown(run.grows, 0))
        base = np.uint64(run.first << shift) + (steps << np.uint64(shift))
        self._below.append(_Tables(at, base, np.full(run.count, allowed, np.uint64)))

    def _grown(self, grows: int, level: int) -> int:
        """What is added to an address from one entry to the next."""
        return (0, self._format.leaf_size(level), self._format.table_size)[grows]

    def _joined(self, runs: list[Run], run: Run, level: int) -> bool:
        """Make a run longer by one that goes on as it does, in the next piece or behind a split."""
        last = runs[-1]
        if last.shape != run.shape or last.first + last.count != run.first or (last.hpa, run.hpa) != (None, None):
            return False
        for grows in (_EVEN, _LEAVES, _TABLES):
            step = self._grown(grows, level)
            words = self._format.pack_address(step)
            if (
                (last.count == 1 or last.grows == grows)
                and (run.count == 1 or run.grows == grows)
                and run.word == last.word + last.count * words
                and run.output == last.output + last.count * step
            ):
                runs[-1] = Run(last.first, last.count + run.count, last.word, grows, last.output, last.shape)
                return True
        return False

    def _piece(self, here: _Tables, level: int) -> Iterator[tuple[Run, int]]:
        """The runs of some tables with what is let through below them, in order."""
        bits = self._format.index_bits(level)
        inside = np.array([self._source.contains(at, 8 << bits) for at in here.at.tolist()], bool)
        change = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        for first, end in zip([0, *change.tolist()], [*change.tolist(), len(inside)], strict=True):
            part = here.part(slice(first, end))
            if inside[first]:
                yield from self._inside(part, level, bits)
            else:
                yield from self._outside(part, level, bits)

    def _outside(self, here: _Tables, level: int, bits: int) -> Iterator[tuple[Run, int]]:
        """Tables that are not whole in memory: word by word."""
        shift = self._format.level_shift(level)
        for at, base, allowed in zip(here.at.tolist(), here.base.tolist(), here.allowed.tolist(), strict=True):
            self._outside_read += 1
            if self._outside_read > _MOST_OUTSIDE:
                yield Run(base >> shift, 1, 0, _EVEN, 0, _TOO_MANY), allowed
                return
            for slot in range(1 << bits):
                address = base + (slot << shift)
                word = self._source.word_at(at + 8 * slot)
                if word is not None:
                    yield self._run(address, word, 1, _EVEN, level, allowed)
                else:
                    shape = self._shape(level, OUTSIDE, 0, 0, address, 0)
                    yield Run(address >> shift, 1, 0, _EVEN, 0, shape), allowed

    def _inside(self, here: _Tables, level: int, bits: int) -> Iterator[tuple[Run, int]]:
        flat = self._source.tables(here.at, 1 << bits).ravel()
        shift = self._format.level_shift(level)
        step = flat[1:] - flat[:-1]
        label = np.full(len(step), _CUT, np.uint8)
        label[step == np.uint64(self._format.pack_address(self._format.table_size))] = _TABLES
        if level <= self._format.top_leaf_level:
            label[step == np.uint64(self._format.pack_address(self._format.leaf_size(level)))] = _LEAVES
        label[step == 0] = _EVEN
        edges = slice((1 << bits) - 1, None, 1 << bits)
        goes_on = (here.base[1:] - here.base[:-1] == np.uint64(1 << (shift + bits))) & (
            here.allowed[1:] == here.allowed[:-1]
        )
        label[edges][~goes_on] = _CUT
        cut = label == _CUT
        cut[1:] |= (label[1:] != label[:-1]) & (label[:-1] != _CUT)
        heads = np.concatenate([[0], np.flatnonzero(cut) + 1])
        counts = np.diff(np.concatenate([heads, [len(flat)]]))
        for first in range(0, len(heads), _AHEAD):
            ahead = slice(first, first + _AHEAD)
            for head, count in zip(heads[ahead].tolist(), counts[ahead].tolist(), strict=True):
                table, slot = head >> bits, head & ((1 << bits) - 1)
                address, allowed = int(here.base[table]) + (slot << shift), int(here.allowed[table])
                grows = int(label[head]) if count > 1 else _EVEN
                yield from self._sound(address, int(flat[head]), count, grows, level, allowed)

    def _sound(
        self, address: int, word: int, count: int, grows: int, level: int, allowed: int
    ) -> Iterator[tuple[Run, int]]:
        """A run whose entries say what its first and last do; cut where that is not so.

        Between two entries with the same attributes, as far apart as their number says, there are only such entries:
        nothing but their address differs.
        """
        words = self._format.pack_address(self._grown(grows, level))
        if count == 1 or self._alike(address, word, count, grows, level):
            yield self._run(address, word, count, grows, level, allowed)
            return
        # What is left is short, or cut at a power of two at most every other time.
        half = count // 2
        shift = self._format.level_shift(level)
        yield from self._sound(address, word, half, grows, level, allowed)
        behind = (word + half * words) & _ALL
        yield from self._sound(address + (half << shift), behind, count - half, grows, level, allowed)

    def _alike(self, address: int, word: int, count: int, grows: int, level: int) -> bool:
        fmt, controls = self._format, self._regime.controls
        far = count - 1
        kind, output, attributes = fmt.decode(word, level, controls)
        last_word = (word + far * fmt.pack_address(self._grown(grows, level))) & _ALL
        last = fmt.decode(last_word, level, controls)
        if last != (kind, output + far * self._grown(grows, level), attributes):
            return False
        if _width(output) != _width(last[1]) or (word ^ last_word) & self._worded:
            return False
        if kind == LEAF and fmt.group_translates and attributes & GROUPED:
            size = fmt.leaf_size(level)
            leads = [self._leaf_output(output, attributes, at, level) for at in (address, address + far * size)]
            return bool(leads[1] - leads[0] == far * size)
        return kind in (LEAF, TABLE) or grows == _EVEN

    def _run(self, address: int, word: int, count: int, grows: int, level: int, allowed: int) -> tuple[Run, int]:
        kind, output, attributes = self._format.decode(word, level, self._regime.controls)
        shape = self._shape(level, kind, word, output, address, attributes & allowed)
        hpa = None
        if kind == LEAF and self._format.group_translates and attributes & GROUPED:
            hpa = int(self._leaf_output(output, attributes, address, level))
        first = address >> self._format.level_shift(level)
        return Run(first, count, word, grows, output, shape, hpa), allowed & (attributes | _ALL ^ COMBINED)

    def _shape(self, level: int, kind: int, word: int, output: int, address: int, attributes: int) -> int:
        """The number of a shape, or _TOO_MANY."""
        varies = 0
        if kind == LEAF:
            varies = self._packing.mask(self._format.level_shift(level)) & ~self._worded
        elif kind == TABLE:
            varies = self._packing.mask() & ~self._worded
        key = (level, kind, word & ~varies, attributes, _width(output))
        if key not in self._shapes:
            if len(self._listed) == MOST_SHAPES:
                return _TOO_MANY
            self._shapes[key] = len(self._listed)
            self._listed.append(Shape(level, kind, address, word, varies))
        return self._shapes[key]


def _width(output: int) -> int:
    """Bits of an address, as far as processors differ in them."""
    return max(output.bit_length(), _PLAIN_WIDTH)
