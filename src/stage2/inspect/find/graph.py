"""What looks like tables, and what leads to what: frames of one reading, level by level.

A frame is a table of level 0 if its entries are leaves that make sense, of level n if its pointers lead to tables of
level n - 1. What is reached from a table is added up level by level, each table once, so that tables that lead to each
other, or that thousands lead to, cost no more than others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...address import Range
from ...formats.outcome import (
    EXECUTE,
    LEAF,
    MISCONFIGURED,
    NONE,
    SHAREABILITY_MASK,
    TABLE,
    TABLES_ACCESSED,
    TOO_WIDE,
    USER,
    USER_SHIFT,
    WRITE,
)
from ...formats.outcome import READ as READABLE
from ...prove.lookup import within
from ...prove.packing import U64Array
from ..source import MemorySource
from .column import Column
from .frames import Bools, Floats, Frames, Places, frames_of, together
from .reading import Reading, cached_word

MOST_TABLES = 1 << 16
"""Limit: frames of one reading that are looked at as tables with pointers. 1 TiB in pages of 4 KiB has half a million
tables, of which a thousand hold pointers."""
_MOST_POINTING = 1 << 20
"""Limit: entries of tables with pointers of one reading: a machine of 64 GiB in pages of 4 KiB has 33,000."""
_MOST_WORDS = 1 << 24
"""Limit: entries of one reading that are held at once."""
_BATCH_BYTES = 1 << 23
_GAP = 1 << 30
_MOST_JUNK = 16
"""Entries of a table with pointers that may be neither pointers, leaves nor nothing."""
_MOST_EMPTY = 128
"""Empty tables to one that is not: Linux makes those of its vmalloc area in advance."""
_MOST_EVEN = 16
"""Empty tables that may lie one after the other."""
_LEAVES_OF_A_TABLE = 4
"""From so many on a page that a leaf leads to is taken for a table."""
_DEVICES = 1 << 47
"""Where devices end, at most, where the memory ends before."""
_SOUND = 0.75
"""The part of a table's entries that must make sense."""


@dataclass(frozen=True, slots=True)
class Level:
    """The frames that make sense as tables of one level.

    Args:
        sound: which do.
        clean: those of them without a word that is wrong or means nothing.
        hollow: tables that lead to nothing but empty ones.
        totals: for each what is counted in it and below it, a column each.
    """

    sound: Bools
    clean: Bools
    hollow: Bools
    totals: Floats


class TableGraph:
    """All frames of a source that make sense as tables of one reading.

    Args:
        reading: how entries are read.
        source: the memory.
        pages: pages of 4 KiB with a word that could point to a table, in order.
        busy: all pages of 4 KiB with something in them, in order.
    """

    def __init__(self, reading: Reading, source: MemorySource, pages: U64Array, busy: U64Array) -> None:
        self.reading, self._source, self._busy = reading, source, busy
        self._spans = source.ranges()
        self._near = _near(self._spans)
        self.cut = ""
        """Why not all frames were looked at; empty if they were."""
        entries = 1 << reading.first.bits
        self.pages = pages
        self.pointing = self.blocks(entries, entries * 8)
        targets = self._targets(self.pointing)
        self.frames = self.pointing
        self.frames = self._with_leaves(targets)
        self.levels: list[Level] = []
        for level in range(reading.levels):
            below = self.levels[-1] if self.levels else None
            self.levels.append(self.measured(self.frames, level, below))
            if not self.levels[-1].sound.any():
                break

    # --- which frames there are ----------------------------------------------------------------------------

    def blocks(self, entries: int, alignment: int) -> Frames:
        """The blocks of so many entries that could be tables with pointers.

        Args:
            entries: in a block.
            alignment: of the block, in bytes.
        """
        size = 8 * entries
        unit = max(size, 4096)
        starts = np.unique(self.pages & np.uint64(~(max(alignment, unit) - 1) & (1 << 64) - 1))
        starts = starts[self._source.holds(starts, unit)]
        parts: list[Frames] = []
        held = 0
        step = max(_BATCH_BYTES // unit, 1)
        for first in range(0, len(starts), step):
            some = starts[first : first + step]
            rows = self._source.tables(some, unit // 8).reshape(-1, entries)
            at = (some[:, None] + np.arange(unit // size, dtype=np.uint64) * np.uint64(size)).ravel()
            keep = self._could_point(rows)
            parts.append(frames_of(at[keep], rows[keep]))
            held += len(parts[-1].word)
            if sum(len(part.at) for part in parts) > MOST_TABLES or held > _MOST_POINTING:
                name, end = self.reading.first.name, int(some[-1])
                self.cut = f"{name}: more looks like tables than any system has: none is looked for above {end:#x}"
                break
        return together(parts)

    def _could_point(self, rows: U64Array) -> Bools:
        """Rows with a pointer into the memory, and little that is neither pointer, leaf nor nothing."""
        busy = np.flatnonzero(np.bitwise_or.reduce(rows, axis=1))
        words = rows[busy]
        pointers = self.reading.table.fits(words)
        outputs = self.reading.packing.outputs(words)
        low, high = self._spans[0].start, self._spans[-1].end - 1
        pointers &= (outputs >= np.uint64(low)) & (outputs <= np.uint64(high))
        has = pointers.any(axis=1)
        busy, words, pointers = busy[has], words[has], pointers[has]
        good = pointers | (words == 0)
        for shape in self.reading.blocks:
            good |= shape.fits(words)
        good[:, 1:] |= words[:, 1:] == words[:, :-1]
        junk = (~good).sum(axis=1)
        found = np.zeros(len(rows), bool)
        limit = min(_MOST_JUNK, rows.shape[1] // 8)
        found[busy[junk <= limit]] = True
        return found

    def _targets(self, frames: Frames) -> U64Array:
        """Where the pointers of frames lead."""
        pointers = self.reading.table.fits(frames.word)
        return np.unique(self.reading.outputs(frames.word[pointers]))

    def _with_leaves(self, targets: U64Array) -> Frames:
        """The frames with pointers and those that they lead to, together."""
        size = self.reading.table_size
        there = targets[self._source.holds(targets, size) & ~self._empty(targets)]
        there = there[~np.isin(there, self.pointing.at)]
        parts, held = [self.pointing], len(self.pointing.word)
        step = max(_BATCH_BYTES // size, 1)
        for first in range(0, len(there), step):
            some = there[first : first + step]
            rows = self._source.tables(some, size // 8)
            keep = self._could_map(rows)
            parts.append(frames_of(some[keep], rows[keep]))
            held += len(parts[-1].word)
            if held > _MOST_WORDS:
                self.cut = f"{self.reading.first.name}: more than {_MOST_WORDS:,} words look like entries"
                break
        return together(parts)

    def _could_map(self, rows: U64Array) -> Bools:
        """Rows of words that are mostly leaves, of any size, somewhere in memory or devices."""
        leaf = self.reading.pages.fits(rows)
        for shape in self.reading.blocks:
            leaf |= shape.fits(rows)
        leaf &= self.reading.packing.outputs(rows) <= np.uint64(max(_DEVICES, self._spans[-1].end))
        leaf[:, 1:] |= (rows[:, 1:] == rows[:, :-1]) & (rows[:, 1:] != 0)
        found: Bools = leaf.sum(axis=1) >= _SOUND * np.count_nonzero(rows, axis=1)
        return found

    def _empty(self, addresses: U64Array) -> Bools:
        """Which frames have nothing in them."""
        first = np.searchsorted(self._busy, addresses)
        last = np.searchsorted(self._busy, addresses + np.uint64(self.reading.table_size))
        found: Bools = first == last
        return found

    # --- what they are ----------------------------------------------------------------------------------------

    def measured(self, frames: Frames, level: int, below: Level | None) -> Level:
        """What some frames are as tables of a level.

        Args:
            frames: tables, or roots of another size.
            level: theirs.
            below: all frames as tables of the level below; None at level 0.
        """
        reading, count = self.reading, len(frames.at)
        kinds = reading.kinds(frames.word, level)
        kind, attributes = kinds.kind, kinds.attributes
        present = kind != NONE
        leaf, pointer = kind == LEAF, kind == TABLE
        wrong = (kind == MISCONFIGURED) | (kind == TOO_WIDE)
        lost = np.zeros(len(kind), bool)
        target = np.zeros(0, np.intp)
        places = np.flatnonzero(pointer)
        to_empty = np.zeros(len(kind), bool)
        if len(places):
            outputs = reading.outputs(frames.word[places])
            target = self._number(outputs)
            good = target >= 0
            if below is not None:
                good &= below.sound[np.maximum(target, 0)]
            empty = ~good & self._empty(outputs) & self._source.holds(outputs, reading.table_size)
            if below is not None:
                empty |= (target >= 0) & below.hollow[np.maximum(target, 0)]
            if level == 1 and len(places) > 1:
                # Many empty pages one after the other are what a leaf table maps, rather than tables.
                even = np.zeros(len(places), bool)
                even[1:] = empty[1:] & empty[:-1] & (outputs[1:] - outputs[:-1] == np.uint64(reading.table_size))
                many = np.bincount(frames.owner[places[even]], minlength=count) > _MOST_EVEN
                empty &= ~many[frames.owner[places]]
            to_empty[places[empty]] = True
            lost[places[~good & ~empty]] = True
            places, target = places[good], target[good]
        remains = ~present & ~frames.filler
        owner = frames.owner

        def counted(which: Bools) -> Floats:
            return np.bincount(owner[which], minlength=count).astype(np.float64)

        total = np.zeros((count, len(Column)))
        total[:, Column.TABLES] = 1
        total[:, Column.PRESENT] = counted(present)
        total[:, Column.WRONG], total[:, Column.LOST] = counted(wrong), counted(lost)
        total[:, Column.POINTERS], total[:, Column.REMAINS] = counted(pointer), counted(remains)
        total[:, Column.LEAVES] = counted(leaf)
        bad = total[:, Column.WRONG] + total[:, Column.LOST]
        empties = counted(to_empty)
        known = total[:, Column.PRESENT] - bad - empties
        sound = known >= _SOUND * (known + bad + 0.5 * total[:, Column.REMAINS])
        sound &= known * _MOST_EMPTY >= np.maximum(empties, 1)
        clean = sound & (total[:, Column.WRONG] + total[:, Column.REMAINS] == 0)
        hollow = (known + bad + total[:, Column.REMAINS] == 0) & (empties > 0)
        # What is not sound is counted by nobody: no need to know more of it.
        leaf &= sound[owner]
        self._count_leaves(total, frames, np.flatnonzero(leaf), attributes, level)
        if level == 0:
            sound &= self._plausible(total)
            clean &= sound
            total[:, Column.TO_TABLES] = self._to_tables(frames, np.flatnonzero(leaf), sound)
        if len(places):
            unused = attributes[places] & np.uint64(TABLES_ACCESSED) == 0
            total[:, Column.UNUSED] = np.bincount(owner[places[unused]], minlength=count)
            mine = sound[owner[places]]
            places, target = places[mine], target[mine]
            if below is not None:
                for column in Column:
                    reached = below.totals[target, column]
                    total[:, column] += np.bincount(owner[places], weights=reached, minlength=count)
        return Level(sound, clean, hollow, total)

    def _count_leaves(self, total: Floats, frames: Frames, which: Places, attributes: U64Array, level: int) -> None:
        """Add what is counted of leaves."""
        reading, fmt, count = self.reading, self.reading.first, len(frames.at)
        owner, attributes = frames.owner[which], attributes[which]
        outputs = reading.outputs(frames.word[which], level)
        total[:, Column.BYTES] = total[:, Column.LEAVES] * fmt.leaf_size(level)
        inside = within(outputs, np.ones_like(outputs), self._near) >= 0
        distinct, shape = np.unique(attributes, return_inverse=True)
        shape = shape.ravel()
        allowed = [int(fmt.permissions(one, reading.controls)) for one in distinct.tolist()]
        either = np.array([one | one >> USER_SHIFT for one in allowed], np.uint64)
        uncached, uncached_switched = (
            np.array([cached_word(fmt, one, controls) is False for one in distinct.tolist()], bool)
            for controls in (reading.controls, reading.switched)
        )

        def count_of(flag: Bools, where: Bools | None = None) -> Floats:
            chosen = flag[shape] if where is None else flag[shape] & where
            return np.bincount(owner[chosen], minlength=count).astype(np.float64)

        total[:, Column.INSIDE] = np.bincount(owner[inside], minlength=count)
        total[:, Column.CLOSED] = count_of(either & np.uint64(READABLE | EXECUTE) == 0) + count_of(
            either & np.uint64(READABLE | WRITE) == WRITE
        )
        total[:, Column.WRITABLE] = count_of(either & np.uint64(WRITE) != 0)
        total[:, Column.EXECUTABLE] = count_of(either & np.uint64(EXECUTE) != 0)
        total[:, Column.USER] = count_of(distinct & np.uint64(USER) != 0)
        total[:, Column.FETCHABLE] = count_of(distinct & np.uint64(EXECUTE) != 0)
        total[:, Column.UNCACHED] = count_of(uncached, inside)
        total[:, Column.UNCACHED_SWITCHED] = count_of(uncached_switched, inside)
        if reading.tells_shareability:
            total[:, Column.UNSHARED] = count_of(distinct & np.uint64(SHAREABILITY_MASK) == 0, inside)
        if len(which) > 1:
            slot = frames.slot[which]
            beside = (owner[1:] == owner[:-1]) & (slot[1:] == slot[:-1] + 1)
            even = beside & (outputs[1:] - outputs[:-1] == np.uint64(fmt.leaf_size(level)))
            total[:, Column.PAIRS] = np.bincount(owner[1:][beside], minlength=count)
            total[:, Column.EVEN] = np.bincount(owner[1:][even], minlength=count)

    def _to_tables(self, frames: Frames, leaves: Places, sound: Bools) -> Floats:
        """How many leaves of each table of pages lead to another such table."""
        led_to = self._number(self.reading.outputs(frames.word[leaves]))
        tables = led_to >= 0
        many = np.bincount(frames.owner[leaves], minlength=len(frames.at)) >= _LEAVES_OF_A_TABLE
        tables &= (sound & many)[np.maximum(led_to, 0)]
        return np.bincount(frames.owner[leaves[tables]], minlength=len(frames.at)).astype(np.float64)

    @staticmethod
    def _plausible(total: Floats) -> Bools:
        """Tables of pages most of which lead into the memory, or that go on evenly, as devices do."""
        leaves, inside = total[:, Column.LEAVES], total[:, Column.INSIDE]
        even = 2 * total[:, Column.EVEN] >= total[:, Column.PAIRS]
        found: Bools = (2 * inside >= leaves) | ((leaves <= 32) | even) & (total[:, Column.REMAINS] == 0)
        return found

    def _number(self, addresses: U64Array) -> Places:
        """The numbers of the frames at addresses; -1 where there is none."""
        if not len(self.frames.at):
            return np.full(len(addresses), -1, np.intp)
        place = np.minimum(np.searchsorted(self.frames.at, addresses), len(self.frames.at) - 1)
        found: Places = np.where(self.frames.at[place] == addresses, place, -1)
        return found

    def parents(self, level: int) -> U64Array:
        """Addresses that a clean table of a level points to: they are no roots."""
        if level >= len(self.levels):
            return np.zeros(0, np.uint64)
        frames = self.frames
        mine = self.levels[level].clean[frames.owner]
        words, owner = frames.word[mine], frames.at[frames.owner[mine]]
        pointer = self.reading.kinds(words, level).kind == TABLE
        outputs = self.reading.outputs(words[pointer])
        return np.unique(outputs[outputs != owner[pointer]])


def _near(spans: Sequence[Range]) -> tuple[Range, ...]:
    """Ranges with small gaps closed: a dump may hold but some pages of a memory."""
    found: list[Range] = []
    for span in spans:
        if found and span.start - found[-1].end < _GAP:
            found[-1] = Range(found[-1].start, span.end)
        else:
            found.append(span)
    return tuple(found)
