"""The theorems `dma` and `tlb`: what reaches memory beside the CPU's walks of the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .iommu import assumed, beyond, reach_of, scanned, table_reached
from .subject import GivenDevice
from .theorem import Seat, Theorem, Witness
from .world import Scanned, World

_DMA = "no device in a VM's hands reaches host memory that is not the VM's"
_TLB = "what TLBs may still hold is allowed by the tables"


_REMEDY = "put it behind an IOMMU, emulate it, or give it to a VM that is trusted"
_MOST_NAMES = 8
"""Limit: devices that an assumption names; the rest is counted."""


def dma(world: World) -> Theorem:
    """Devices that master memory: through the tables of an IOMMU, or without one."""
    devices = world.subject.devices
    if not devices:
        return Theorem("dma", _DMA, None, why_not="no VM is given a device")
    covered = {"devices": len(devices)}
    assumptions = list(_assumed(devices))
    witness: Witness | None = None
    vms = {vm.space.name: vm for vm in world.vms}
    for device in devices:
        if device.iommu is None:
            witness = witness or (_unguarded(world, device, vms[device.vm]) if device.masters else None)
            continue
        found = scanned(device, vms[device.vm])
        for word, count in (("tables", len(found.tables)), ("leaves", found.leaves), ("bytes", found.size)):
            covered[word] = covered.get(word, 0) + count
        assumptions += assumed(device)
        witness = witness or reach_of(world, device, vms[device.vm], found) or table_reached(world, device, found)
    return Theorem("dma", _DMA, witness is None, covered, tuple(dict.fromkeys(assumptions)), witness)


def _unguarded(world: World, device: GivenDevice, vm: Scanned) -> Witness | None:
    """What a device without an IOMMU reaches and should not: everything, but where its buses let through less."""
    if device.reach is not None:
        span = beyond(world, vm, device.reach)
        if span is None:
            return None
        owner = world.owner_of(span.start)
        text = (
            f"{device.who} reads and writes memory by itself, and its buses let it through to {span}, which belongs to "
            f"{owner}"
        )
        return Witness(text, hpa=span.start, owner=owner, span=span, remedy=_REMEDY)
    text = (
        f"{device.who} reads and writes memory by itself, and no tables of an IOMMU are given: it reaches all of the "
        "host's memory"
    )
    return Witness(text, _registers(vm, device), span=device.span, remedy=_REMEDY)


def _registers(vm: Scanned, device: GivenDevice) -> Seat | None:
    """Where a VM programs a device; None where that is not mapped."""
    if device.span is None:
        return None
    part = next(vm.parts(device.span), None)
    return None if part is None else Seat(vm.space.who, vm.gpa_in(part, part.host.start))


def _assumed(devices: Sequence[GivenDevice]) -> Iterator[str]:
    """What is taken for granted of devices that are not known to master memory, a sentence for each VM and reason."""
    for masters, why in ((None, "nothing tells"), (False, "the VM's file says so")):
        of_vms: dict[str, list[str]] = {}
        for one in devices:
            if one.masters is masters and one.iommu is None:
                of_vms.setdefault(one.vm, []).append(one.name)
        for vm, names in of_vms.items():
            told = ", ".join(names[:_MOST_NAMES]) + (
                f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            )
            yield f"of VM {vm} no device reads or writes memory by itself: {told} ({why})"


def tlb(world: World) -> Theorem:
    """The checker's findings, where VMs ran under it."""
    stale = world.subject.stale
    if stale is None:
        return Theorem("tlb", _TLB, None, why_not="no VM ran under the checker of invalidations")
    covered = {"stale": len(stale)}
    witness = Witness(stale[0], remedy="do the invalidation that the edit owes") if stale else None
    return Theorem("tlb", _TLB, not stale, covered, witness=witness)
