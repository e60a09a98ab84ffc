"""What is proved of: the address spaces of a host, who owns its memory, and the devices in VMs' hands."""

from __future__ import annotations

from dataclasses import dataclass

from ..address import Range
from ..flags import MapType
from ..memory.owners import Owner, OwnerKind
from ..space.backing import device_owner
from ..space.region import MemoryRegion
from ..tables.regime import Regime
from .source import TableSource


@dataclass(frozen=True, slots=True)
class Space:
    """One address space: a VM's, or a half of the hypervisor's own.

    Args:
        name: the VM's, as its memory is owned; empty for the hypervisor.
        regime: what hardware runs its tables with.
        regions: what the VM declares, in order; none for the hypervisor.
        frames: host memory that its tables lie in; None where nothing says.
        write_xor_execute: its VM's file forbids memory that is writable and executable.
    """

    name: str
    regime: Regime
    regions: tuple[MemoryRegion, ...] = ()
    frames: tuple[Range, ...] | None = None
    write_xor_execute: bool = False

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
        reach: the host addresses that its buses let its DMA through to; None for all.
    """

    vm: str
    name: str
    masters: bool | None
    span: Range | None = None
    iommu: IommuTables | None = None
    reach: tuple[Range, ...] | None = None

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


def may_hold(space: Space, region: MemoryRegion | None, owner: Owner) -> bool:
    """Whether host memory of an owner may be behind a VM's region, or where it declares none."""
    if owner == Owner(OwnerKind.VM, space.name):
        return region is None or region.map_type is not MapType.SHARE
    if region is None:
        return False
    if region.map_type is MapType.SHARE:
        return owner == Owner(OwnerKind.SHARE, region.name)
    return region.map_type is MapType.MMIO and owner == device_owner(region, Owner(OwnerKind.VM, space.name))
