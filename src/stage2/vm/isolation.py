"""A host as the prover sees it: the tables of its VMs and of its hypervisor, owners, and devices in VMs' hands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from ..address import Range
from ..memory.owners import Owner, OwnerKind
from ..prove.iommu import behind_iommu
from ..prove.prover import prove
from ..prove.source import HostTables
from ..prove.subject import Space, Subject
from ..prove.theorem import Proof
from ..ranges import RangeMap
from ..tables.pagetable import PageTable
from .given import given_of
from .reasons import with_reasons

if TYPE_CHECKING:
    from ..hypervisor.space import HypervisorSpace
    from .host import Host

_RULES = "the rules of the table formats, which `stage2 conform` judges against real and emulated hardware"


Iommu = Literal["shared"] | Mapping[str, PageTable | Literal["shared"]]
"""What stands between devices and memory, by their names (`DEVICE`, or `VM/DEVICE`): tables that an IOMMU walks, or the
stage-2 tables of the device's VM; "shared" alone for these and every device."""


def prove_host(host: Host, own: HypervisorSpace | None = None, iommu: Iommu | None = None) -> Proof:
    """Prove or refute the isolation of a host's VMs, on the bytes of its tables as they are now.

    Args:
        host: no VM of it may run meanwhile.
        own: the hypervisor's own tables, where it has some.
        iommu: what stands between devices and memory.

    Raises:
        ConfigError: `iommu` names no device of a VM, or tables that no IOMMU walks.
    """
    subject = subject_of(host, own)
    if iommu == "shared":
        subject = behind_iommu(subject, None, None)
    elif iommu is not None:
        for device, table in iommu.items():
            given = None if isinstance(table, str) else (table.regime, subject.source)
            subject = behind_iommu(subject, device, given)
    return with_reasons(prove(subject), host, subject)


def subject_of(host: Host, own: HypervisorSpace | None = None) -> Subject:
    """What is proved of a host."""
    spaces = tuple(
        Space(
            vm.space.name,
            vm.space.regime,
            (*vm.space.memory_regions, *host.unheld.of(vm.space.name)),
            tuple(vm.space.page_table.table_ranges),
            vm.write_xor_execute,
        )
        for vm in host.vms
    )  # fmt: skip
    mine = () if own is None else tuple(Space("", table.regime, (), tuple(table.table_ranges)) for table in own.tables)
    return Subject(
        HostTables(host.memory),
        spaces,
        mine,
        tuple(_owners(host)),
        given_of(host).devices,
        assumed=tuple(_assumed(host)),
    )


def _owners(host: Host) -> Iterable[tuple[Range, Owner]]:
    """Who holds what, with the devices that are the hypervisor's whomever they are given to."""
    given = [(what, span) for what, span in given_of(host).kept if host.frames.owners.overlapping(span)]
    if not given:
        return host.frames.owners
    owners: RangeMap[Owner] = RangeMap()
    for span, owner in host.frames.owners:
        owners.add(span, owner)
    for what, span in given:
        owners.set(span, Owner(OwnerKind.HYPERVISOR, f"({what})"))
    return owners


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
