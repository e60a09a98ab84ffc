"""What an edit did to entries that a TLB may hold, in the terms that decide what must be invalidated."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..address import Range


class ChangeKind(Enum):
    """One kind of change to the entries of a range."""

    ADDED = "added"
    """Invalid became valid."""
    REMOVED = "removed"
    """Leaves became invalid."""
    RESTRICTED = "restricted"
    """Leaves lost a permission, and maybe won others."""
    RELAXED = "relaxed"
    """Leaves won permissions and lost none."""
    REMAPPED = "remapped"
    """Leaves got another address or memory type."""
    SPLIT = "split"
    """A block became a table of leaves that mean the same."""
    MERGED = "merged"
    """A table of leaves became a block that means the same."""
    GROUPED = "grouped"
    """Leaves were marked as a group, or the mark was taken away; they mean the same."""
    TABLE_FREED = "table freed"
    """A table is linked from nowhere and may be used for something else."""
    HARVESTED = "harvested"
    """Accessed or dirty bits were cleared."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change to a range of input addresses.

    Args:
        span: which.
        kind: what.
    """

    span: Range
    kind: ChangeKind
