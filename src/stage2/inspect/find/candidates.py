"""Roots of one reading: tables that work down to leaves and that no other table leads to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...address import SIZE_4K
from ...formats.outcome import TABLE
from ...formats.record import Format
from ...prove.packing import U64Array
from ...prove.source import TableSource
from ...tables.regime import Regime
from .column import Column
from .frames import Floats
from .graph import Level, TableGraph
from .judge import Judgement, judged
from .reading import Reading

_LEAST_BITS = 3
MOST_OF_A_FORMAT = 2048
"""Limit: roots of one format that are judged, those that map most."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A root, perhaps.

    Args:
        reading: how it is read.
        format: one of the reading's.
        root: its address.
        totals: what is counted in it and below it.
        controls: of the format; memory types may tell that a switch is on.
    """

    reading: Reading
    format: Format
    root: int
    totals: Floats
    controls: int

    @classmethod
    def of(cls, reading: Reading, fmt: Format, root: int, totals: Floats) -> Candidate:
        """A root under the reading's controls, or those with which the memory types of more leaves make sense."""
        controls, other = reading.controls, Column.UNCACHED_SWITCHED
        if totals[other] < totals[Column.UNCACHED]:
            totals, controls = totals.copy(), reading.switched
            totals[Column.UNCACHED] = totals[other]
        return cls(reading, fmt, root, totals, controls)

    @property
    def regime(self) -> Regime:
        return Regime(self.format, self.root, self.controls)

    def children(self, source: TableSource) -> U64Array:
        """The tables that its entries point to."""
        level = self.format.levels - 1
        words = source.tables(np.array([self.root], np.uint64), 1 << self.format.root_bits).ravel()
        words = words[words != 0]
        return self.reading.outputs(words[self.reading.kinds(words, level).kind == TABLE])

    @cached_property
    def judgement(self) -> Judgement:
        return judged(self.format, self.totals)

    def count(self, column: Column) -> int:
        """One of the totals."""
        return int(self.totals[column])

    @property
    def end(self) -> int:
        """Where the root table ends."""
        return self.root + (self.format.entry_size << self.format.root_bits)


def candidates(graph: TableGraph) -> Iterator[Candidate]:
    """All roots of a graph, for each shape of roots those of the preferred format."""
    shapes: set[tuple[int, int]] = set()
    for fmt in graph.reading.formats:
        if (fmt.levels, fmt.root_bits) in shapes or fmt.high_half:
            continue
        shapes.add((fmt.levels, fmt.root_bits))
        level = fmt.levels - 1
        if level > len(graph.levels) or (level and not graph.levels[level - 1].sound.any()):
            continue
        at, found = _tables(graph, fmt, level)
        good = found.sound & (found.totals[:, Column.LEAVES] > 0) & ~_led_to(graph, fmt, at)
        places = np.flatnonzero(good)
        places = places[np.argsort(-found.totals[places, Column.BYTES], kind="stable")][:MOST_OF_A_FORMAT]
        for place in places.tolist():
            yield Candidate.of(graph.reading, fmt, int(at[place]), found.totals[place])


def _tables(graph: TableGraph, fmt: Format, level: int) -> tuple[U64Array, Level]:
    """The tables that could be roots of a format, and what they are."""
    if fmt.root_bits == fmt.bits:
        if level >= len(graph.levels):
            none = np.zeros(0, bool)
            return np.zeros(0, np.uint64), Level(none, none, none, np.zeros((0, len(Column))))
        pointing = np.isin(graph.frames.at, graph.pointing.at)
        found = graph.levels[level]
        return graph.frames.at[pointing], Level(
            found.sound[pointing], found.clean[pointing], found.hollow[pointing], found.totals[pointing]
        )
    # The smallest roots stand where a page begins: any pair of entries would pass elsewhere.
    blocks = graph.blocks(1 << fmt.root_bits, fmt.root_alignment)
    if fmt.root_bits < _LEAST_BITS:
        blocks = blocks.only(blocks.at % np.uint64(SIZE_4K) == 0)
    return blocks.at, graph.measured(blocks, level, graph.levels[level - 1])


def _led_to(graph: TableGraph, fmt: Format, at: U64Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which tables a table of the level above leads to, or to a part of them."""
    children = graph.parents(fmt.levels)
    size = fmt.entry_size << fmt.root_bits
    first = np.searchsorted(children, at)
    last = np.searchsorted(children, at + np.uint64(size))
    return last > first
