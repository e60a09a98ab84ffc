"""What is at a GPA, for those who want one answer and not a walk."""

from __future__ import annotations

from dataclasses import dataclass

from ..address import Gpa, Hpa, format_size
from ..flags import MappingFlags
from ..formats import family_of
from ..tables.pagetable import PageTable
from ..tables.result import Fault
from .region import MemoryRegion

_KINDS = MappingFlags.DEVICE | MappingFlags.UNCACHED
"""Flags that say what sort of memory it is, and not what may be done with it."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What is at a GPA.

    Args:
        hpa: host physical address of that byte.
        flags: what the tables let the guest do there, with DEVICE and UNCACHED as its region has them.
        size: bytes of the leaf.
        region: the region it belongs to.
        memory_type: what the leaf says, as `stage2 walk` words it ("write-back", "device"); None where the format
            leaves that to something else.
    """

    hpa: Hpa
    flags: MappingFlags
    size: int
    region: MemoryRegion
    memory_type: str | None = None

    def __str__(self) -> str:
        kind = f", {self.memory_type}," if self.memory_type else ""
        return f"HPA {self.hpa:#x} {self.flags.short}{kind} in a {format_size(self.size)} leaf of {self.region.label}"

    def __repr__(self) -> str:
        return f"QueryResult(hpa={self.hpa:#x}, {self.flags.short}, size={self.size:#x}, {self.region!r})"


def query(table: PageTable, region: MemoryRegion, gpa: Gpa | int) -> QueryResult | None:
    """What the table says of a GPA; None where it maps nothing.

    Args:
        table: the stage-2 table.
        region: the region that is declared at the GPA.
        gpa: the address.
    """
    walk = table.explain(int(gpa))
    if isinstance(walk.result, Fault):
        return None
    found, fmt = walk.result, table.format
    kind = None
    if walk.steps:
        kind, _ = family_of(fmt).memory_type(fmt, walk.steps[-1].attributes, table.regime.controls)
    return QueryResult(found.hpa, found.flags | region.flags & _KINDS, found.size, region, kind)
