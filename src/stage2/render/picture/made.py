"""What a picture of VMs with tables is of: the host memory that their tables name, and whose the rest is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...address import Range
from ...memory.owners import OwnerKind
from ..plain import counted
from .parties import Kind, Party, Space, kind_of

if TYPE_CHECKING:
    from ...space.region import MemoryRegion
    from ...vm.host import Host
    from ...vm.vm import Vm

MAX_RUNS = 8
"""Limit: runs of host memory that are drawn of one region; the rest is counted."""
_OWN = {
    OwnerKind.HYPERVISOR: Kind.HYPERVISOR,
    OwnerKind.PER_CPU: Kind.HYPERVISOR,
    OwnerKind.TIMERS: Kind.HYPERVISOR,
    OwnerKind.TABLES: Kind.TABLES,
    OwnerKind.RESERVED: Kind.RESERVED,
}


def made_spaces(host: Host) -> tuple[list[Space], list[Party]]:
    """The spaces of a host's VMs, and what else has an owner there.

    A region is cut where its host memory is not one run, and where nothing is populated; its permissions are the
    declared ones.

    Args:
        host: with its VMs, whose tables are read.
    """
    spaces = []
    for vm in host.vms:
        with vm.space.lock:
            found = tuple(party for region in vm.space.memory_regions for party in _runs(vm, region))
        spaces.append(Space(f"VM {vm.id} {vm.name}", found))
    owned = [(span, owner) for span, owner in host.frames.owners if owner.kind in _OWN]
    return spaces, [Party(str(owner), span, _OWN[owner.kind]) for span, owner in owned]


def _runs(vm: Vm, region: MemoryRegion) -> Iterator[Party]:
    kind = kind_of(region)
    if not region.map_type.is_mapped:
        yield Party(region.label, region.range, kind)
        return
    rows = vm.space.page_table.rows(region.start, region.size).tolist()
    at = region.start + 0
    for number, (start, hpa, size, _) in enumerate(rows):
        if start > at:
            yield Party(f"{region.label}, not populated", Range(at, start), kind, region.flags)
        if number == MAX_RUNS and len(rows) > MAX_RUNS + 1:
            more = f"{counted(len(rows) - MAX_RUNS, 'more run')} of VM {vm.name} {region.label}"
            yield Party(region.label, Range(start, region.end), kind, region.flags, None, more)
            return
        yield Party(region.label, Range.sized(start, size), kind, region.flags, Range.sized(hpa, size))
        at = start + size
    if at < region.end:
        yield Party(f"{region.label}, not populated", Range(at, region.end), kind, region.flags)
