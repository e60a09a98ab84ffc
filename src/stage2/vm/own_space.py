"""The hypervisor's own address space on a host that VMs were built on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..address import Range
from ..config.cpu import NamedCpu
from ..errors import ConfigError
from ..hypervisor.layout import of_platform
from .host import Host

if TYPE_CHECKING:
    from ..hypervisor.space import HypervisorSpace


def says_own_space(host: Host) -> bool:
    """Whether the host's platform says where its hypervisor is, and where that sees physical memory."""
    return host.platform.kernel_paddr is not None and host.platform.phys_virt_offset is not None


def own_space(
    host: Host,
    *,
    fmt: str | None = None,
    cpu: NamedCpu | None = None,
    protect_tables: bool = False,
) -> HypervisorSpace:
    """The hypervisor's tables, in frames of the host.

    Args:
        host: with its VMs.
        fmt: name of a stage-1 format; None for the narrowest that is wide enough.
        cpu: the processor that the tables are for; None for no particular one.
        protect_tables: leave the tables of VMs out of the linear map.

    Raises:
        ConfigError: the platform does not say where its kernel is, or where the linear map is, or its architecture
            has no such processor.
        OutOfMemoryError: the host has no frames left for them.
    """
    if host.platform.file is None:
        raise ConfigError(
            "the hypervisor's own tables need the host's platform file: name it with --platform; it says where the "
            "kernel and its linear map are"
        )
    arch = host.platform.arch
    protected: list[Range] = []
    if protect_tables:
        protected = [span for vm in host.vms for span in vm.space.page_table.table_ranges]
    from ..hypervisor.space import HypervisorSpace

    return HypervisorSpace(
        host.kernel or of_platform(host.platform),
        host.platform,
        host.frames,
        fmt=fmt,
        processor=None if cpu is None or arch is None else cpu.on(arch),
        protected=protected,
    )
