"""From an HPA back to the GPAs that lead to it: all aliases, in one space or in all VMs of a host.

`reverse` asks one table. `ReverseMap` is a snapshot of many, made with numpy for many questions: host memory cut into
segments that the same mappings reach from end to end, sorted by HPA.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..address import Gpa, Hpa, Range
from ..errors import MappingError
from ..flags import MappingFlags
from ..memory.owners import Owner
from ..tables.mapping import ATTRIBUTES
from .address_space import AddressSpace
from .region import MemoryRegion

U64Array = npt.NDArray[np.uint64]
I64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Alias:
    """One GPA that leads to an HPA.

    Args:
        space: whose GPA.
        gpa: the address.
        size: bytes from it on that lead to the bytes from the HPA on.
        flags: what the table lets a privileged access do there.
        region: what is declared at the GPA; None if the table says more than the declarations.
    """

    space: AddressSpace
    gpa: Gpa
    size: int
    flags: MappingFlags
    region: MemoryRegion | None

    def __str__(self) -> str:
        declared = f" in {self.region}" if self.region is not None else ""
        return f"GPA {self.gpa:#x} of VM {self.space.name} {self.flags.short}{declared}"


@dataclass(frozen=True, slots=True)
class Reached:
    """Who holds an HPA and who reaches it.

    Args:
        hpa: the address.
        owner: whose it is; None for nobody's.
        aliases: every GPA that leads there, by space and address.
    """

    hpa: Hpa
    owner: Owner | None
    aliases: tuple[Alias, ...]


@dataclass(frozen=True, slots=True)
class ReachedMany:
    """Aliases of an array of HPAs, as arrays.

    Args:
        hpas: the input, flat.
        first: the aliases of element i are those from `first[i]` to `first[i + 1]`.
        gpas: GPA of each alias.
        space: index of each alias's space in `spaces`.
        owner: index of each HPA's owner in `owners`, -1 for nobody's.
        spaces, owners: what the indices mean.
    """

    hpas: U64Array
    first: I64Array
    gpas: U64Array
    space: I64Array
    owner: I64Array
    spaces: tuple[AddressSpace, ...]
    owners: tuple[Owner, ...]

    @property
    def counts(self) -> I64Array:
        """How many aliases each HPA has."""
        return np.diff(self.first)


def reverse(space: AddressSpace, hpa: Hpa | int) -> list[Alias]:
    """Every GPA of a space that leads to an HPA, in order, read off its table as it is now.

    Raises:
        OutOfRangeError: the HPA has more than 64 bits.
    """
    Range.sized(hpa, 1)
    rows = _rows_of(space)
    offsets = np.uint64(hpa) - rows[:, 1]
    found = rows[(rows[:, 1] <= np.uint64(hpa)) & (offsets < rows[:, 2])]
    return [_alias(space, row, int(hpa)) for row in found.tolist()]


class ReverseMap:
    """A snapshot of the tables and owners of a host, for questions by HPA.

    Args:
        spaces: all address spaces of one host; what is destroyed since reaches nothing.

    Raises:
        MappingError: they are not on the same host memory.
    """

    def __init__(self, spaces: Iterable[AddressSpace]) -> None:
        self.spaces: tuple[AddressSpace, ...] = ()
        self.generation = 0
        """Counts the refreshes."""
        self.refresh(spaces)

    def refresh(self, spaces: Iterable[AddressSpace] | None = None) -> None:
        """Read all tables and owners anew, for these spaces or for those of the last time.

        Raises: as the class.
        """
        chosen = self.spaces if spaces is None else tuple(spaces)
        for space in chosen[1:]:
            if space.frames is not chosen[0].frames:
                raise MappingError(f"VMs {chosen[0].name} and {space.name} are not on the same host memory")
        tables = [_rows_of(space) for space in chosen]
        rows = np.concatenate([np.empty((0, 4), np.uint64), *tables])
        held = list(chosen[0].frames.owners) if chosen else []
        self.spaces = chosen
        self._rows = rows
        self._row_space = np.repeat(np.arange(len(chosen)), [len(table) for table in tables])
        self._edges, self._first, self._members = _segments(rows[:, 1], rows[:, 2])
        self._owners = tuple(dict.fromkeys(owner for _, owner in held))
        number = {owner: index for index, owner in enumerate(self._owners)}
        self._owner_starts = np.array([span.start for span, _ in held], np.uint64)
        self._owner_ends = np.array([span.end for span, _ in held], np.uint64)
        self._owner_index = np.array([number[owner] for _, owner in held], np.int64)
        self.generation += 1

    def find(self, hpa: Hpa | int) -> Reached:
        """Who holds an HPA, and every GPA of every space that leads to it.

        Raises:
            OutOfRangeError: the HPA has more than 64 bits.
        """
        Range.sized(hpa, 1)
        asked = np.array([hpa], np.uint64)
        rows, _ = self._lookup(asked)
        owner = int(self._owners_at(asked)[0])
        aliases = tuple(
            _alias(self.spaces[int(space)], row, int(hpa))
            for space, row in zip(self._row_space[rows], self._rows[rows].tolist(), strict=True)
        )
        return Reached(Hpa(int(hpa)), self._owners[owner] if owner >= 0 else None, aliases)

    def find_many(self, hpas: npt.ArrayLike) -> ReachedMany:
        """The same for an array of HPAs, without a Python object for each."""
        asked = np.ascontiguousarray(hpas, np.uint64).reshape(-1)
        rows, counts = self._lookup(asked)
        first = np.concatenate(([0], np.cumsum(counts)))
        gpas = self._rows[rows, 0] + (np.repeat(asked, counts) - self._rows[rows, 1])
        return ReachedMany(asked, first, gpas, self._row_space[rows], self._owners_at(asked), self.spaces, self._owners)

    def _lookup(self, hpas: U64Array) -> tuple[I64Array, I64Array]:
        """The rows that reach each HPA, one after the other, and how many each has."""
        segment = np.searchsorted(self._edges, hpas, side="right")
        begin, counts = self._first[segment], np.diff(self._first)[segment]
        return self._members[_ranges(begin, counts)], counts

    def _owners_at(self, hpas: U64Array) -> I64Array:
        nobody = np.full(len(hpas), -1, np.int64)
        if not len(self._owner_starts):
            return nobody
        index = np.searchsorted(self._owner_starts, hpas, side="right") - 1
        inside = (index >= 0) & (hpas < self._owner_ends[index])
        return np.where(inside, self._owner_index[index], nobody)

    def __repr__(self) -> str:
        return f"ReverseMap({[space.name for space in self.spaces]}, {len(self._rows)} runs)"


def _rows_of(space: AddressSpace) -> U64Array:
    """All leaves of a space, joined; none when it was destroyed."""
    with space.lock:
        return np.empty((0, 4), np.uint64) if space.destroyed else space.page_table.rows()


def _segments(hpas: U64Array, sizes: U64Array) -> tuple[U64Array, I64Array, I64Array]:
    """Cut memory at every end of a run.

    Returns:
        (edges, first, members): segment s lies from edge s-1 to edge s, those before the first and behind the last
        edge included, and is reached by the rows members[first[s] : first[s + 1]], in order.
    """
    edges = np.unique(np.concatenate((hpas, hpas + sizes)))
    low = np.searchsorted(edges, hpas, side="right")
    counts = np.searchsorted(edges, hpas + sizes, side="right") - low
    segments = _ranges(low, counts)
    members = np.repeat(np.arange(len(hpas)), counts)
    order = np.argsort(segments, kind="stable")
    first = np.concatenate(([0], np.cumsum(np.bincount(segments, minlength=len(edges) + 1))))
    return edges, first, members[order]


def _ranges(begin: I64Array, counts: I64Array) -> I64Array:
    """begin[0], begin[0] + 1, ... (counts[0] of them), begin[1], ..."""
    starts = np.cumsum(counts) - counts
    return np.repeat(begin - starts, counts) + np.arange(int(counts.sum()))


def _alias(space: AddressSpace, row: list[int], hpa: int) -> Alias:
    start, behind, size, attributes = row
    offset = hpa - behind
    allowed = space.format.permissions(attributes & ATTRIBUTES, space.regime.controls)
    gpa = Gpa(start + offset)
    return Alias(space, gpa, size - offset, MappingFlags(allowed & 7), space.region_at(gpa))
