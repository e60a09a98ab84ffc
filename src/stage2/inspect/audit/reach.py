"""What somebody reaches: all mappings of one party as arrays, whichever of its roots they are from.

A party is a VM as its stage 2 confines it, the guest in it with its own stage 1 through that stage 2, or whoever has
tables of a stage 1 that leads to host memory. Processes of one system have a root each, and nearly all of their
mappings are the same: those are kept once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from ...address import Range
from ...formats.outcome import EXECUTE, READ, USER_SHIFT, WRITE
from ...prove.lookup import distinct
from ...prove.packing import U64Array
from ..kinds import Kind
from ..mapping import MapPart
from ..root import Root
from ..through import NOWHERE
from .spans import NOTHING, together, union

Rows = npt.NDArray[np.bool_]
PRIVILEGED_WRITE, PRIVILEGED_EXECUTE = WRITE, EXECUTE
USER_READ, USER_WRITE, USER_EXECUTE = READ << USER_SHIFT, WRITE << USER_SHIFT, EXECUTE << USER_SHIFT
ANY_WRITE, ANY_EXECUTE = WRITE | USER_WRITE, EXECUTE | USER_EXECUTE
ANY_READ = READ | USER_READ
KERNEL_HALF = 1 << 63
"""Addresses from here on are the high half, which systems keep for their kernel."""


class Layer(Enum):
    """Which tables stand between a party and host memory."""

    OWN = "HVA"
    """A stage 1 alone."""
    GUEST = "GVA"
    """A guest's stage 1 and the stage 2 below it."""
    VM = "GPA"
    """A stage 2 alone."""

    @property
    def space(self) -> str:
        """What its input addresses are."""
        return self.value


@dataclass(frozen=True, slots=True)
class PartyOf:
    """Whose mappings they are.

    Args:
        name: how findings call it: `VM 1`, `the guest of VM 1`, `the hypervisor`.
        layer: what is between it and host memory.
        vm: number of the VM; 0 for who is in none.
    """

    name: str
    layer: Layer
    vm: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """What a kind of leaves amounts to.

    Args:
        permissions: as in `Mapped`.
        user: the page belongs to user mode.
        memory_type: a word; None where it is not decided.
        family: of the format.
    """

    permissions: int
    user: bool
    memory_type: str | None
    family: str

    @classmethod
    def of(cls, kind: Kind, memory_type: str | None, family: str) -> Held:
        """What a map says of it."""
        return cls(kind.permissions, kind.user, memory_type, family)


@dataclass(frozen=True, slots=True)
class Reach:
    """All mappings of one party.

    Args:
        party: whose.
        roots: where they are from.
        start, hpa, size: of each: input address, where it leads, bytes.
        kind: number in `kinds`; root: number in `roots`.
        kinds: what kinds of leaves there are.
    """

    party: PartyOf
    roots: tuple[Root, ...]
    start: U64Array
    hpa: U64Array
    size: U64Array
    kind: npt.NDArray[np.intp]
    root: npt.NDArray[np.intp]
    kinds: tuple[Held, ...]

    def of_kind(self, wanted: Sequence[bool]) -> Rows:
        """The rows whose kinds are wanted: one answer for each of `kinds`."""
        return np.array(wanted, bool)[self.kind] if len(self.kinds) else np.zeros(0, bool)

    def allowing(self, permissions: int) -> Rows:
        """The rows that allow some of these."""
        return self.of_kind([bool(kind.permissions & permissions) for kind in self.kinds])

    def spans(self, rows: Rows) -> U64Array:
        """The host memory behind some rows, as a set."""
        return union(self.hpa[rows], self.size[rows]) if rows.any() else NOTHING

    def ways_to(self, span: Range, rows: Rows, most: int) -> Iterator[tuple[Range, Root]]:
        """The first input ranges, of some rows, that lead into host memory."""
        last = np.uint64(span.end - 1)
        inside = rows & (self.hpa <= last) & (self.hpa + self.size > np.uint64(span.start))
        for number in np.flatnonzero(inside)[:most].tolist():
            hpa, size, start = (int(column[number]) for column in (self.hpa, self.size, self.start))
            low, high = max(hpa, span.start), min(hpa + size, span.end)
            yield Range(start + low - hpa, start + high - hpa), self.roots[self.root[number]]


@dataclass(frozen=True, slots=True)
class Mapped:
    """What one root of a party maps.

    Args:
        root: it.
        part: its mappings.
        kinds: what its kinds of leaves amount to; which: number of each mapping's.
    """

    root: Root
    part: MapPart
    kinds: Sequence[Held]
    which: npt.NDArray[np.intp]


def gathered(party: PartyOf, mapped: Sequence[Mapped]) -> Reach:
    """The mappings of all roots of a party; those that several have are kept once."""
    numbers: dict[Held, int] = {}
    columns: list[U64Array] = []
    for number, one in enumerate(mapped):
        there = one.part.output != np.uint64(NOWHERE)
        kinds = np.array([numbers.setdefault(kind, len(numbers)) for kind in one.kinds], np.uint64)
        which = kinds[one.which[there]] if len(kinds) else np.zeros(0, np.uint64)
        part = one.part
        rows = [part.start[there], part.output[there], part.size[there], which, np.full(len(which), number, np.uint64)]
        columns.append(np.stack(rows, axis=1))
    every = np.concatenate([np.zeros((0, 5), np.uint64), *columns])
    if len(mapped) > 1:
        every = every[distinct(*every[:, :4].T)]
    start, hpa, size, kind, root = (np.ascontiguousarray(column) for column in every.T)
    return Reach(
        party, tuple(one.root for one in mapped), start, hpa, size, kind.astype(np.intp), root.astype(np.intp),
        tuple(numbers),
    )  # fmt: skip


def all_spans(reaches: Sequence[Reach], permissions: int) -> U64Array:
    """The host memory that any of some parties may use in one of these ways."""
    return together(reach.spans(reach.allowing(permissions)) for reach in reaches)
