"""What is proved of: the address spaces of a host, who owns its memory, and the devices in VMs' hands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..address import Range
from ..flags import MapType
from ..memory.owners import Owner, OwnerKind
from ..ranges import RangeMap
from ..space.backing import device_owner
from ..space.region import MemoryRegion
from ..tables.regime import Regime
from .packing import U64Array
from .scan import Scan, scan
from .source import TableSource


@dataclass(frozen=True, slots=True)
class Space:
    """One address space: a VM's, or a half of the hypervisor's own.

    Args:
        name: the VM's, as its memory is owned; empty for the hypervisor.
        regime: what hardware runs its tables with.
        regions: what the VM declares, in order; none for the hypervisor.
        frames: host memory that its tables lie in; None where nothing says.
    """

    name: str
    regime: Regime
    regions: tuple[MemoryRegion, ...] = ()
    frames: tuple[Range, ...] | None = None

    @property
    def who(self) -> str:
        """How messages call it."""
        return f"VM {self.name}" if self.name else "the hypervisor"

    @property
    def sorted_regions(self) -> tuple[MemoryRegion, ...]:
        """The regions in order of GPA."""
        return tuple(sorted(self.regions, key=lambda region: region.start))

    def region_at(self, gpa: int) -> MemoryRegion | None:
        """The region declared at a GPA."""
        return next((region for region in self.regions if region.start <= gpa < region.end), None)


@dataclass(frozen=True, slots=True)
class IommuTables:
    """Tables that an IOMMU walks for a device.

    Args:
        regime: what it runs them with.
        source: the memory that they are in.
        shared: they are the stage-2 tables of the device's VM.
    """

    regime: Regime
    source: TableSource
    shared: bool = False


@dataclass(frozen=True, slots=True)
class GivenDevice:
    """A device in the hands of a VM.

    Args:
        vm: the VM's name.
        name: the device's.
        masters: whether it reads and writes memory by itself; None where nothing tells.
        span: host addresses of its registers; None where nothing says.
        iommu: the tables between it and memory; None where nothing is known to be between.
    """

    vm: str
    name: str
    masters: bool | None
    span: Range | None = None
    iommu: IommuTables | None = None

    @property
    def who(self) -> str:
        """How messages call it."""
        return f"device {self.name} of VM {self.vm}"


@dataclass(frozen=True, slots=True)
class Subject:
    """A host as it is at one moment.

    Args:
        source: the memory that the tables are in.
        spaces: of the VMs.
        own: of the hypervisor; none where it has no tables of its own here.
        owners: who holds which host memory; None where nothing says.
        devices: in the hands of VMs.
        stale: what TLBs may still hold and must not, a sentence each; None where no VM ran under the checker.
        assumed: what is taken for granted, a sentence each.
    """

    source: TableSource
    spaces: tuple[Space, ...]
    own: tuple[Space, ...] = ()
    owners: tuple[tuple[Range, Owner], ...] | None = None
    devices: tuple[GivenDevice, ...] = ()
    stale: tuple[str, ...] | None = None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scanned:
    """A space and what its tables map."""

    space: Space
    scan: Scan

    @property
    def by_hpa(self) -> U64Array:
        """The rows in order of HPA."""
        return self.scan.rows[np.argsort(self.scan.rows[:, 1], kind="stable")]

    def spans(self) -> list[Range]:
        """The host memory that it reaches, joined."""
        return spans_of(self.by_hpa)

    def gpa_of(self, hpa: int) -> int | None:
        """The first GPA that leads to an HPA; None where none does."""
        rows = self.scan.rows
        meets = np.flatnonzero((rows[:, 1] <= np.uint64(hpa)) & (np.uint64(hpa) - rows[:, 1] < rows[:, 2]))
        if not len(meets):
            return None
        start, output = (int(value) for value in rows[int(meets[0]), :2])
        return start + hpa - output


def spans_of(by_hpa: U64Array) -> list[Range]:
    """The host memory of rows that are in order of HPA, joined."""
    if not len(by_hpa):
        return []
    starts, ends = by_hpa[:, 1], np.maximum.accumulate(by_hpa[:, 1] + by_hpa[:, 2])
    heads = np.concatenate([[0], np.flatnonzero(starts[1:] > ends[:-1]) + 1])
    lasts = np.concatenate([heads[1:] - 1, [len(starts) - 1]])
    return [Range(start, end) for start, end in zip(starts[heads].tolist(), ends[lasts].tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class World:
    """A subject, with all tables read."""

    subject: Subject
    vms: tuple[Scanned, ...]
    own: tuple[Scanned, ...]
    owners: RangeMap[Owner] | None

    @classmethod
    def of(cls, subject: Subject) -> World:
        """Read the tables of a subject."""
        owners: RangeMap[Owner] | None = None
        if subject.owners is not None:
            owners = RangeMap()
            for span, owner in subject.owners:
                owners.add(span, owner)
        read = [
            tuple(Scanned(space, scan(space.regime, subject.source)) for space in spaces)
            for spaces in (subject.spaces, subject.own)
        ]
        return cls(subject, read[0], read[1], owners)

    def owner_of(self, hpa: int) -> str:
        """Who holds an HPA, in words."""
        found = None if self.owners is None else self.owners.find(hpa)
        return "nobody" if found is None else str(found[1])


def may_hold(space: Space, region: MemoryRegion, owner: Owner) -> bool:
    """Whether host memory of an owner may be behind a VM's region."""
    if owner == Owner(OwnerKind.VM, space.name):
        return region.map_type is not MapType.SHARE
    if region.map_type is MapType.SHARE:
        return owner.kind is OwnerKind.SHARE
    return region.map_type is MapType.MMIO and owner == device_owner(region, Owner(OwnerKind.VM, space.name))
