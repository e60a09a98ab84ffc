"""Page tables as a tree: level by level, how full each table is, and tables that are alike taken together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ...address import Range, format_size
from ...formats.record import Format
from ...prove.packing import U64Array
from ...prove.scan import Scan, scan
from ...prove.source import TableSource
from ...prove.subject import Space, Subject
from ...tables.mapping import LEVEL_FIELD
from ...tables.outward import outward
from ...tables.regime import Regime
from ..plain import about, counted
from .made import mapped_below

Counts = npt.NDArray[np.int64]
"""A row for each table: its leaves, tables, wrong entries and empty ones."""
MOST_GROUPS = 8
"""Limit: boxes of a level; what is more is one box in the middle."""
_AT_ENDS = 3
"""Groups that stay before and behind that box."""


@dataclass(frozen=True, slots=True)
class Fullness:
    """How many entries of one sort the tables of a group have: together, and those with the fewest and the most."""

    total: int
    least: int
    most: int

    @property
    def range(self) -> str:
        """Of one table: `3`, or `1-511`."""
        return f"{self.least:,}" if self.least == self.most else f"{self.least:,}-{self.most:,}"


@dataclass(frozen=True, slots=True)
class Group:
    """Tables of one level that follow each other.

    Args:
        count: how many.
        at: HPA of the first.
        first, end: input addresses of the first table, and one past those of the last, as software writes them.
        span: the same as offsets from the root's first.
        leaves, tables, wrong, empty: entries of each sort.
        alike: each has the same numbers of them.
    """

    count: int
    at: int
    first: int
    end: int
    span: Range
    leaves: Fullness
    tables: Fullness
    wrong: Fullness
    empty: Fullness
    alike: bool


@dataclass(frozen=True, slots=True)
class TreeLevel:
    """All tables of a level.

    Args:
        level: its number.
        entries: of a table.
        leaf_size: bytes that a leaf here maps; None where none may be.
        groups: the tables, in order of input addresses.
    """

    level: int
    entries: int
    leaf_size: int | None
    groups: tuple[Group, ...]

    @property
    def tables(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def leaves(self) -> int:
        return sum(group.leaves.total for group in self.groups)

    @property
    def wrong(self) -> int:
        return sum(group.wrong.total for group in self.groups)


@dataclass(frozen=True, slots=True)
class Tree:
    """The tables of one space.

    Args:
        title: whose they are.
        regime: what hardware runs them with.
        levels: the root's first; none where nothing is translated.
        held: bytes of the frames held for tables; None where nobody says.
    """

    title: str
    regime: Regime
    levels: tuple[TreeLevel, ...]
    held: int | None

    @property
    def summary(self) -> str:
        """Tables, their bytes, leaves and what they map, in one line."""
        fmt = self.regime.format
        sizes = [one.tables * _table_bytes(fmt, one.level) for one in self.levels]
        said = f"{counted(sum(one.tables for one in self.levels), 'table')}: {about(sum(sizes))}"
        if self.held is not None:
            said += f", in frames of {about(self.held)}"
        leaves = [(one.leaves, one.leaf_size) for one in self.levels if one.leaves and one.leaf_size is not None]
        told = ", ".join(f"{count:,} of {format_size(size)}" for count, size in leaves)
        mapped = sum(count * size for count, size in leaves)
        return f"{said}; leaves: {told or 'none'}; {about(mapped)} mapped"


def _table_bytes(fmt: Format, level: int) -> int:
    return fmt.root_size if level == fmt.levels - 1 else fmt.table_size


def trees(subject: Subject, titles: Mapping[str, str] | None = None) -> list[Tree]:
    """The tables of all spaces of a host: the VMs', and the hypervisor's own.

    Args:
        subject: the host.
        titles: what to call VMs, by the names of their spaces.
    """
    found = [tree(space, subject.source, (titles or {}).get(space.name, space.who)) for space in subject.spaces]
    return found + [tree(space, subject.source, "the hypervisor's own tables") for space in subject.own]


def tree(space: Space, source: TableSource, title: str) -> Tree:
    """The tables of one space.

    Args:
        space: whose.
        source: where they are.
        title: what to call it.
    """
    regime, held = space.regime, None if space.frames is None else sum(span.size for span in space.frames)
    if regime.format.is_bare:
        return Tree(title, regime, (), held)
    read = scan(regime, source)
    levels = [_level(regime, read, level) for level in range(regime.format.levels - 1, -1, -1)]
    return Tree(title, regime, tuple(levels), held)


def _level(regime: Regime, read: Scan, level: int) -> TreeLevel:
    fmt = regime.format
    entries = 1 << fmt.index_bits(level)
    mine = np.flatnonzero(read.tables[:, 1] == level)
    mine = mine[np.argsort(read.bases[mine], kind="stable")]
    at, base = read.tables[mine, 0], read.bases[mine]
    size = fmt.leaf_size(level) * entries
    rows = read.rows[read.rows[:, 3] >> np.uint64(LEVEL_FIELD) == np.uint64(level)]
    leaves = (mapped_below(rows, base + np.uint64(size)) - mapped_below(rows, base)) // np.uint64(fmt.leaf_size(level))
    below = np.sort(read.bases[read.tables[:, 1] + np.uint64(1) == level])
    tables = np.searchsorted(below, base + np.uint64(size)) - np.searchsorted(below, base)
    wrong = np.zeros(len(at), np.int64)
    for one in read.wrong:
        holding = np.flatnonzero((at <= np.uint64(one.slot)) & (np.uint64(one.slot) < at + np.uint64(8 * entries)))
        if one.level == level and one.entry:
            wrong[holding] += 1
        elif one.level == level - 1 and not one.entry:  # a table that cannot be read, or is read elsewhere
            wrong[(base <= np.uint64(one.address)) & (np.uint64(one.address) - base < np.uint64(size))] += 1
    counts: Counts = np.stack([leaves.astype(np.int64), tables, wrong], axis=1)
    counts = np.column_stack([counts, np.full(len(at), entries) - counts.sum(axis=1)])
    groups = tuple(_group(regime, at[part], base[part], size, counts[part]) for part in _parts(counts))
    return TreeLevel(level, entries, fmt.leaf_size(level) if level <= fmt.top_leaf_level else None, groups)


def _parts(counts: Counts) -> Iterator[slice]:
    """Neighbours that are alike; where those are many, all but the first and last few as one."""
    if not len(counts):
        return
    heads = [0, *(np.flatnonzero((counts[1:] != counts[:-1]).any(axis=1)) + 1).tolist(), len(counts)]
    if len(heads) - 1 > MOST_GROUPS:
        heads = [*heads[: _AT_ENDS + 1], *heads[-_AT_ENDS - 1 :]]
    for first, end in pairwise(heads):
        yield slice(first, end)


def _group(regime: Regime, at: U64Array, base: U64Array, size: int, counts: Counts) -> Group:
    span = Range(int(base[0]), int(base[-1]) + size)
    sorts = [Fullness(int(one.sum()), int(one.min()), int(one.max())) for one in counts.T]
    ends = outward(regime.format, span.start), outward(regime.format, span.end - 1) + 1
    alike = bool((counts == counts[0]).all())
    return Group(len(at), int(at[0]), *ends, span, sorts[0], sorts[1], sorts[2], sorts[3], alike)
