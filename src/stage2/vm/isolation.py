"""A host as the prover sees it: the tables of its VMs and of its hypervisor, owners, and devices in VMs' hands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..address import Range
from ..check.dma import masters_memory
from ..config.regions import PlannedVm
from ..images.host_tree import HostTree
from ..prove.prover import prove
from ..prove.source import HostTables
from ..prove.subject import GivenDevice, Space, Subject
from ..prove.theorem import Proof

if TYPE_CHECKING:
    from ..hypervisor.space import HypervisorSpace
    from .host import Host

_RULES = "the rules of the table formats, which `stage2 conform` judges against real and emulated hardware"


def prove_host(host: Host, own: HypervisorSpace | None = None) -> Proof:
    """Prove or refute the isolation of a host's VMs, on the bytes of its tables as they are now.

    Args:
        host: no VM of it may run meanwhile.
        own: the hypervisor's own tables, where it has some.
    """
    return prove(subject_of(host, own))


def subject_of(host: Host, own: HypervisorSpace | None = None) -> Subject:
    """What is proved of a host."""
    spaces = tuple(
        Space(
            vm.space.name, vm.space.regime, tuple(vm.space.memory_regions), tuple(vm.space.page_table.table_ranges)
        )
        for vm in host.vms
    )  # fmt: skip
    mine = () if own is None else tuple(Space("", table.regime, (), tuple(table.table_ranges)) for table in own.tables)
    devices = tuple(
        found
        for vm, config in zip(host.vms, host.configs, strict=True)
        for found in _devices(vm.space.name, config, host.tree)
    )
    return Subject(
        HostTables(host.memory), spaces, mine, tuple(host.frames.owners), devices, assumed=tuple(_assumed(host))
    )


def _devices(vm: str, config: PlannedVm, tree: HostTree | None) -> Iterator[GivenDevice]:
    for device in config.devices.mapped:
        masters: bool | None = None
        if tree is not None:
            span = Range.sized(device.hpa, device.size)
            nodes = [one for one in tree.nodes if any(part.overlaps(span) for part in one.ranges or ())]
            masters = any(masters_memory(node) for node in nodes) if nodes else None
        yield GivenDevice(vm, device.name, masters)


def _assumed(host: Host) -> Iterator[str]:
    if host.platform.file is None:
        yield "the host's memory: no platform file and no device tree describes it"
    else:
        yield f"the host's memory is as {host.platform.file} says"
    for name in dict.fromkeys(vm.space.processor.name for vm in host.vms if vm.space.processor is not None):
        yield f"the processor is a {name}"
    if any(vm.space.processor is None for vm in host.vms):
        yield "the processor has what the formats ask for, and no more bits of addresses"
    yield _RULES
