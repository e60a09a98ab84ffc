"""What a table says, and what an edit of it did, as values."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..address import Hpa
from ..errors import OwedInvalidationsWarning
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
            the caller's to do before what was unmapped is used again. Dropping such an edit without a look at this
            is an `OwedInvalidationsWarning`.
        changes: what happened to entries that a TLB may hold.
    """

    tables_added: int = 0
    tables_freed: int = 0
    removed: U64Array = field(default_factory=lambda: NO_ROWS)
    owed: tuple[Operation, ...] = ()
    changes: tuple[Change, ...] = ()

    def __repr__(self) -> str:
        tables = f"+{self.tables_added} -{self.tables_freed} tables"
        # Looking at it in a debugger is not doing it.
        owed = _names(vars(Edit)["owed"].__get__(self))
        return f"Edit({tables}, {len(self.removed)} runs removed, owed: {owed or 'nothing'})"


def _names(operations: Iterable[Operation]) -> str:
    return ", ".join(dict.fromkeys(operation.name for operation in operations))


class OwingEdit(Edit):
    """An edit whose operations nothing has done; it warns when it is dropped before anybody read what it owes."""

    __slots__ = ("_unread",)
    _unread: bool

    @property
    def owed(self) -> tuple[Operation, ...]:
        object.__setattr__(self, "_unread", False)
        return super().owed

    @owed.setter
    def owed(self, operations: tuple[Operation, ...]) -> None:
        vars(Edit)["owed"].__set__(self, operations)
        object.__setattr__(self, "_unread", True)

    def __del__(self) -> None:
        if getattr(self, "_unread", False):
            warnings.warn(
                f"an edit owed {_names(self.owed)} to the TLBs and was dropped unread: give the table a `flush`, "
                "or do what `Edit.owed` lists",
                OwedInvalidationsWarning,
                stacklevel=2,
                source=self,
            )


@dataclass(frozen=True, slots=True)
class Statistics:
    """How a table is built: leaves by leaf size in bytes, tables, and their bytes."""

    leaves: dict[int, int]
    tables: int
    table_bytes: int

    @property
    def mapped_bytes(self) -> int:
        return sum(size * count for size, count in self.leaves.items())
