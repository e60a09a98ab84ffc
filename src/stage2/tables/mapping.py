"""What a table says, and what an edit of it did, as values."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..address import Hpa
from ..formats.change import Change
from ..formats.invalidation import Operation

U64Array = npt.NDArray[np.uint64]
NO_ROWS: U64Array = np.zeros((0, 3), np.uint64)
LEVEL_FIELD = 24
"""Where the level stands in the attribute word of a listing or a batch; the attributes are below it."""
ATTRIBUTES = (1 << LEVEL_FIELD) - 1


@dataclass(frozen=True, slots=True)
class Mapping:
    """A run of addresses that maps to a run of host physical memory with one set of attributes.

    Args:
        start: first input address.
        hpa: where it maps.
        size: bytes.
        permissions: effective permissions, as in `Mapped`.
        leaf_size: bytes of one leaf; 0 when leaves of several sizes were joined.
    """

    start: int
    hpa: Hpa
    size: int
    permissions: int
    leaf_size: int

    def __repr__(self) -> str:
        return f"Mapping({self.start:#x} -> {self.hpa:#x}, size={self.size:#x}, permissions={self.permissions:#x})"


@dataclass(frozen=True, slots=True)
class LeafBits:
    """What leaves with given flags look like in a format.

    Args:
        templates: leaf bits without address, by level; after them, what such a leaf allows, as in `Mapped`.
        attributes: as the format's `decode` says of them.
    """

    templates: U64Array
    attributes: int


@dataclass(frozen=True, slots=True)
class Edit:
    """What an edit did.

    Args:
        tables_added, tables_freed: how many tables came and went.
        removed: (start, HPA, size) runs that were unmapped, shape (n, 3).
        owed: the operations that TLBs must do, in order; done already where the table was given a `flush`, otherwise
            the caller's to do before what was unmapped is used again.
        changes: what happened to entries that a TLB may hold.
    """

    tables_added: int = 0
    tables_freed: int = 0
    removed: U64Array = field(default_factory=lambda: NO_ROWS)
    owed: tuple[Operation, ...] = ()
    changes: tuple[Change, ...] = ()

    def __repr__(self) -> str:
        tables = f"+{self.tables_added} -{self.tables_freed} tables"
        return f"Edit({tables}, {len(self.removed)} runs removed, {len(self.owed)} operations owed)"


@dataclass(frozen=True, slots=True)
class Statistics:
    """How a table is built: leaves by leaf size in bytes, tables, and their bytes."""

    leaves: dict[int, int]
    tables: int
    table_bytes: int

    @property
    def mapped_bytes(self) -> int:
        return sum(size * count for size, count in self.leaves.items())
