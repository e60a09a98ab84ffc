"""The hypervisor's own address space on a host that VMs were built on."""

from __future__ import annotations

from ..address import Range
from ..errors import ConfigError
from ..hypervisor.layout import KernelLayout, of_platform
from ..hypervisor.space import HypervisorSpace
from ..processor import Processor
from .host import Host


def says_own_space(host: Host) -> bool:
    """Whether the host's platform says where its hypervisor is, and where that sees physical memory."""
    return host.platform.kernel_paddr is not None and host.platform.phys_virt_offset is not None


def own_space(
    host: Host,
    *,
    layout: KernelLayout | None = None,
    fmt: str | None = None,
    processor: Processor | None = None,
    protect_tables: bool = False,
) -> HypervisorSpace:
    """The hypervisor's tables, in frames of the host.

    Args:
        host: with its VMs.
        layout: of the kernel; None for the one that the host computed from its platform.
        fmt: name of a stage-1 format; None for the narrowest that is wide enough.
        processor: what the tables are for.
        protect_tables: leave the tables of VMs out of the linear map.

    Raises:
        ConfigError: the platform does not say where its kernel is, or where the linear map is.
        OutOfMemoryError: the host has no frames left for them.
    """
    if host.platform.file is None:
        raise ConfigError(
            "the hypervisor's own tables need the host's platform file: name it with --platform; it says where the "
            "kernel and its linear map are"
        )
    protected: list[Range] = []
    if protect_tables:
        protected = [span for vm in host.vms for span in vm.space.page_table.table_ranges]
    return HypervisorSpace(
        layout or host.kernel or of_platform(host.platform),
        host.platform,
        host.frames,
        fmt=fmt,
        processor=processor,
        protected=protected,
    )
