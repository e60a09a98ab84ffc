"""An address space as a picture: what is declared in a guest's memory, beside whom host memory belongs to."""

from __future__ import annotations

from ..address import Range
from ..flags import MappingFlags, MapType
from ..memory.owners import Owner, OwnerKind
from ..space.address_space import AddressSpace
from ..space.region import MemoryRegion
from .bands import Band, Column, bands_svg
from .plain import counted

MAX_BANDS = 24
"""Limit: bands of a column; what is above is counted in its title."""
_MAX_NAME = 28
"""Letters that fit into a band beside its size."""
_OWNER_KINDS = {
    OwnerKind.HYPERVISOR: "code",
    OwnerKind.TABLES: "tables",
    OwnerKind.PER_CPU: "per-cpu",
    OwnerKind.TIMERS: "per-cpu",
    OwnerKind.DEVICE: "device",
    OwnerKind.RESERVED: "guard",
}


def space_svg(space: AddressSpace) -> str:
    """The picture: declared regions by GPA on the left, owners of host memory by HPA on the right.

    Args:
        space: whose regions; the host is the one that it has its frames from.
    """
    with space.lock:
        regions, owners = space.memory_regions, list(space.frames.owners)
    declared = [Band(region.range, _region_kind(region), _region_name(region), _note(region)) for region in regions]
    held = [Band(span, _OWNER_KINDS.get(owner.kind, "ram"), _short(str(owner))) for span, owner in _joined(owners)]
    return bands_svg(
        f"VM {space.name}: {space.format.name}",
        (_column("guest physical addresses", declared), _column("host physical addresses", held)),
        description=f"{counted(len(declared), 'region')}, {counted(len(held), 'run')} of owned host memory.",
    )


def _column(title: str, bands: list[Band]) -> Column:
    left_out = len(bands) - MAX_BANDS
    return Column(title if left_out <= 0 else f"{title}, {left_out} more above", tuple(bands[:MAX_BANDS]))


def _region_kind(region: MemoryRegion) -> str:
    if region.flags & MappingFlags.DEVICE or region.map_type is MapType.MMIO:
        return "device"
    if region.flags & MappingFlags.EXECUTE:
        return "ram" if region.flags & MappingFlags.WRITE else "code"
    return "data" if region.flags & MappingFlags.WRITE else "constants"


def _region_name(region: MemoryRegion) -> str:
    return _short(region.name or region.map_type.value)


def _note(region: MemoryRegion) -> str:
    return region.flags.short + (f"  {region.map_type.value}" if region.name else "")


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 3] + "..."


def _joined(owners: list[tuple[Range, Owner]]) -> list[tuple[Range, Owner]]:
    """Runs of one owner that continue each other, as one."""
    found: list[tuple[Range, Owner]] = []
    for span, owner in owners:
        if found and found[-1][1] == owner and found[-1][0].end == span.start:
            span = Range(found.pop()[0].start, span.end)
        found.append((span, owner))
    return found
