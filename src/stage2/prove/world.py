"""A host whose tables are all read: what each space reaches, and who owns it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ..address import Range
from ..flags import RWX, MappingFlags
from ..formats.outcome import USER_SHIFT
from ..memory.owners import Owner
from ..ranges import RangeMap
from ..space.region import MemoryRegion
from ..tables.mapping import ATTRIBUTES
from ..tables.regime import Regime
from .packing import U64Array, packing_of
from .scan import Scan, scan
from .scattered import Scattered, joined_reach
from .source import TableSource
from .subject import Space, Subject

_LARGE = 32 << 20
"""Bytes of tables from which on spaces are read by several threads: most of that is numpy's work on arrays."""


@dataclass(frozen=True, slots=True)
class Part:
    """Host memory that a space reaches from one region, with one kind of leaf.

    Args:
        host: the host memory.
        region: that the leaves are in; None outside every region.
        attributes: of the leaves, with the level in bits 31:24.
        gpa: where the first byte is reached from; None for scattered leaves.
        kind: the scattered leaves; None for a row.
    """

    host: Range
    region: MemoryRegion | None
    attributes: int
    gpa: int | None = None
    kind: Scattered | None = None


def _part(part: Range, guest: Range, hpa: int, region: MemoryRegion | None, attributes: int) -> Part:
    host = Range.sized(hpa + part.start - guest.start, part.size)
    return Part(host, region, attributes, part.start)


def granted(regime: Regime, attributes: int) -> MappingFlags:
    """What leaves with these attributes (the level is ignored) let anybody do, privileged or not."""
    permissions = regime.format.permissions(attributes & ATTRIBUTES, regime.controls)
    return MappingFlags(permissions | permissions >> USER_SHIFT) & RWX


def granting(rows: U64Array, regime: Regime, right: MappingFlags) -> U64Array:
    """The rows of leaves that let somebody access so."""
    kinds = [value for value in np.unique(rows[:, 3]).tolist() if granted(regime, value) & right]
    return rows[np.isin(rows[:, 3], np.array(kinds, np.uint64))]


@dataclass(frozen=True, slots=True)
class Scanned:
    """A space and what its tables map.

    Args:
        space: the space.
        scan: of all of its tables.
        source: where they are.
    """

    space: Space
    scan: Scan
    source: TableSource

    @classmethod
    def of(cls, space: Space, source: TableSource, *, by_row: bool = False) -> Scanned:
        """Read the tables of a space.

        Args:
            by_row: every leaf is in a row; without it a VM's scattered leaves are told by region and kind.
        """
        cuts = sorted({edge + 0 for region in space.regions for edge in (region.start, region.end)})
        return cls(space, scan(space.regime, source, cuts if space.name and not by_row else None), source)

    @property
    def spans(self) -> U64Array:
        """(n, 2) start and size of the host memory that it reaches, in order and joined."""
        return joined_reach(np.concatenate([self.scan.rows[:, 1:3], *(kind.reach for kind in self.scan.scattered)]))

    def spans_with(self, right: MappingFlags) -> U64Array:
        """The same of what somebody may access so, privileged or not."""
        rows = granting(self.scan.rows, self.space.regime, right)
        kinds = [kind.reach for kind in self.scan.scattered if self.granted(kind.attributes) & right]
        return joined_reach(np.concatenate([rows[:, 1:3], *kinds]))

    def parts(self, span: Range) -> Iterator[Part]:
        """What of a range of host memory it reaches, and how."""
        rows = self.scan.rows
        meets = (rows[:, 1] < np.uint64(span.end)) & (rows[:, 1] + rows[:, 2] > np.uint64(span.start))
        for gpa, hpa, size, attributes in rows[meets].tolist():
            for part in self.by_region(Range.sized(gpa, size), hpa, attributes):
                both = part.host.intersection(span)
                if both is not None and part.gpa is not None:
                    yield replace(part, host=both, gpa=part.gpa + both.start - part.host.start)
        for kind in self.scan.scattered:
            region = self.space.region_at(kind.first)
            reach = kind.reach
            meets = (reach[:, 0] < np.uint64(span.end)) & (reach[:, 0] + reach[:, 1] > np.uint64(span.start))
            for start, size in reach[meets].tolist():
                both = Range.sized(start, size).intersection(span)
                if both is not None:
                    yield Part(both, region, kind.attributes, kind=kind)

    def by_region(self, guest: Range, hpa: int, attributes: int = 0) -> Iterator[Part]:
        """A row cut where regions begin and end."""
        at = guest.start
        for region in self.space.sorted_regions:
            both = region.range.intersection(guest)
            if both is None:
                continue
            if at < both.start:
                yield _part(Range(at, both.start), guest, hpa, None, attributes)
            yield _part(both, guest, hpa, region, attributes)
            at = both.end
        if at < guest.end:
            yield _part(Range(at, guest.end), guest, hpa, None, attributes)

    def granted(self, attributes: int) -> MappingFlags:
        """What leaves with these attributes (the level is ignored) let anybody do, privileged or not."""
        return granted(self.space.regime, attributes)

    def gpa_in(self, part: Part, hpa: int) -> int:
        """The first GPA that leads to an HPA of a part; for scattered leaves their tables are read again."""
        if part.gpa is not None:
            return part.gpa + hpa - part.host.start
        assert part.kind is not None, "a part is a row's or a kind's"
        return next(self.gpas_of(part.kind, hpa))

    def gpas_of(self, kind: Scattered, hpa: int) -> Iterator[int]:
        """All GPAs from which scattered leaves lead to an HPA."""
        for rows in self.rows_of(kind):
            offsets = np.uint64(hpa) - rows[:, 1]  # wraps where the leaf lies behind it
            for number in np.flatnonzero(offsets < rows[:, 2]).tolist():
                yield int(rows[number, 0]) + int(offsets[number])

    def rows_of(self, kind: Scattered) -> Iterator[U64Array]:
        """Scattered leaves, some tables at a time, as rows."""
        yield from kind.rows(self.space.regime, self.source, packing_of(self.space.regime.format))


@dataclass(frozen=True, slots=True)
class World:
    """A subject, with all tables read."""

    subject: Subject
    vms: tuple[Scanned, ...]
    own: tuple[Scanned, ...]
    owners: RangeMap[Owner] | None

    @classmethod
    def of(cls, subject: Subject, *, by_row: bool = False) -> World:
        """Read the tables of a subject.

        Args:
            by_row: as `Scanned.of`'s; a certificate needs it.
        """
        everybody = (*subject.spaces, *subject.own)

        def read(space: Space) -> Scanned:
            return Scanned.of(space, subject.source, by_row=by_row)

        known = sum(span.size for space in everybody for span in space.frames or ())
        if known < _LARGE:
            scanned = [read(space) for space in everybody]
        else:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                scanned = list(pool.map(read, everybody))
        return cls.made(subject, scanned[: len(subject.spaces)], scanned[len(subject.spaces) :])

    @classmethod
    def made(cls, subject: Subject, vms: Sequence[Scanned], own: Sequence[Scanned]) -> World:
        """A subject with its tables read already."""
        owners: RangeMap[Owner] | None = None
        if subject.owners is not None:
            owners = RangeMap()
            for span, owner in subject.owners:
                owners.add(span, owner)
        return cls(subject, tuple(vms), tuple(own), owners)

    def owner_of(self, hpa: int) -> str:
        """Who holds an HPA, in words."""
        found = None if self.owners is None else self.owners.find(hpa)
        return "nobody" if found is None else str(found[1])
