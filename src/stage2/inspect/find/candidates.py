"""Roots of one reading: tables that work down to leaves and that no other table leads to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...formats.record import Format
from ...prove.packing import U64Array
from .graph import Column, Floats, Level, TableGraph
from .judge import Judgement, judged
from .reading import Reading

MOST_OF_A_FORMAT = 2048
"""Limit: roots of one format that are judged, those that map most."""


@dataclass(frozen=True)
class Candidate:
    """A root, perhaps.

    Args:
        reading: how it is read.
        format: one of the reading's.
        root: its address.
        totals: what is counted in it and below it.
    """

    reading: Reading
    format: Format
    root: int
    totals: Floats

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
            yield Candidate(graph.reading, fmt, int(at[place]), found.totals[place])


def _tables(graph: TableGraph, fmt: Format, level: int) -> tuple[U64Array, Level]:
    """The tables that could be roots of a format, and what they are."""
    if fmt.root_bits == fmt.bits:
        if level >= len(graph.levels):
            none = np.zeros(0, bool)
            return np.zeros(0, np.uint64), Level(none, none, np.zeros((0, len(Column))))
        pointing = np.isin(graph.frames.at, graph.pointing.at)
        found = graph.levels[level]
        return graph.frames.at[pointing], Level(
            found.sound[pointing], found.clean[pointing], found.totals[pointing]
        )
    blocks = graph.blocks(1 << fmt.root_bits, fmt.root_alignment)
    return blocks.at, graph.measured(blocks, level, graph.levels[level - 1])


def _led_to(graph: TableGraph, fmt: Format, at: U64Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which tables a table of the level above leads to, or to a part of them."""
    children = graph.parents(fmt.levels)
    size = fmt.entry_size << fmt.root_bits
    first = np.searchsorted(children, at)
    last = np.searchsorted(children, at + np.uint64(size))
    return last > first
