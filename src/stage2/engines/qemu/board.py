"""QEMU's AArch64 board as a host: where its RAM is, and what of it is the hypervisor's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...address import GIB, MIB, Range, align_up
from ...config.platform import PlatformConfig, ReservedMemory, default_platform
from ...config.regions import PlannedVm
from ...images.fdt import Node, parse
from ...machines.arm_board import OWN, RAM_BASE, board_tree
from ...space.region import MemoryRegion

_REDISTRIBUTOR = Range.sized(0x80A_0000, 0x2_0000)
"""Of a GICv3, the first CPU's."""
_TABLES = 64 * MIB
"""Room for tables and everything else of the hypervisor's."""


def board_platform(configs: Sequence[PlannedVm]) -> PlatformConfig:
    """The host that VMs get on the board, when no platform file names one: RAM from 1 GiB on, as large as they need.

    Raises:
        ConfigError: they want more than any host has.
    """
    wanted = default_platform(configs, "aarch64").memory_size
    ends = [
        region.end
        for config in configs
        for region in config.plan.regions
        if region.map_type.is_identity and region.map_type.is_mapped
    ]
    end = align_up(max([RAM_BASE + OWN.size + wanted + _TABLES, *ends]), GIB)
    return PlatformConfig(
        file=None,
        arch="aarch64",
        platform="qemu-virt",
        family="qemu-virt",
        memory=(Range(RAM_BASE, end),),
        reserved=(ReservedMemory(OWN, "the hypervisor's monitor on QEMU's board"),),
    )


def board_of(configs: Sequence[PlannedVm]) -> Node:
    """The device tree of the board that VMs are given parts of.

    Raises:
        HostToolError, MachineError: QEMU does not tell it.
    """
    return parse(board_tree(gic_version=gic_version(config.plan.regions for config in configs)))


def gic_version(regions: Iterable[Iterable[MemoryRegion]]) -> int:
    """The interrupt controller that the board must have: 3 where a VM is given a redistributor, else 2."""
    given = (region.host_range for of_one in regions for region in of_one if region.host_range == region.range)
    return 3 if any(span is not None and span.covers(_REDISTRIBUTOR) for span in given) else 2
