"""What the hypervisor itself costs: its frames by what they are for, as the owner map has them, and Python beside."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..address import Range
from ..memory.owners import Owner, OwnerKind
from .footprint import python_bytes
from .host import Host
from .vm import Vm

OWN_KINDS = (OwnerKind.HYPERVISOR, OwnerKind.TABLES, OwnerKind.PER_CPU, OwnerKind.TIMERS)
"""What the hypervisor holds for its own ends."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes that the hypervisor needs for one VM, or for none in particular.

    Args:
        vm: the VM's name among owners; empty for none.
        image: its image.
        tables: page tables.
        per_cpu: areas of CPUs.
        timers: slabs of timer events.
        python: Python objects beside the frames.
    """

    vm: str
    image: int = 0
    tables: int = 0
    per_cpu: int = 0
    timers: int = 0
    python: int = 0

    @property
    def frames(self) -> int:
        """Bytes of host memory."""
        return self.image + self.tables + self.per_cpu + self.timers

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            "",
            self.image + other.image,
            self.tables + other.tables,
            self.per_cpu + other.per_cpu,
            self.timers + other.timers,
            self.python + other.python,
        )


@dataclass(frozen=True, slots=True)
class HostCost:
    """What the hypervisor costs on one host.

    Args:
        vms: for each VM, in their order.
        own: for none of them.
        owners: the owner map: who holds which HPAs, in order.
    """

    vms: tuple[Cost, ...]
    own: Cost
    owners: tuple[tuple[Range, Owner], ...]

    @property
    def total(self) -> Cost:
        """In all."""
        return sum(self.vms, self.own)


def cost_of(host: Host) -> HostCost:
    """What the hypervisor costs at this moment."""
    owners = tuple(host.frames.owners)
    held: Counter[Owner] = Counter()
    for span, owner in owners:
        held[owner] += span.size
    shared = (host, host.frames, host.channels, host.identifiers)
    vms = tuple(_cost(vm.space.name, held, python_bytes((vm.space, vm.cpus), without=shared)) for vm in host.vms)
    own = _cost("", held, python_bytes(shared[1:], without=_parts_of(host.vms)))
    return HostCost(vms, own, owners)


def _parts_of(vms: list[Vm]) -> list[object]:
    return [part for vm in vms for part in (vm, vm.space, vm.cpus)]


def _cost(vm: str, held: Counter[Owner], python: int) -> Cost:
    image, tables, per_cpu, timers = (held[Owner(kind, vm)] for kind in OWN_KINDS)
    return Cost(vm, image, tables, per_cpu, timers, python)
