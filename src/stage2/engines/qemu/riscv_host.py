"""QEMU's RISC-V board as a host: where RAM is, what of it is the hypervisor's, and the machines of its VMs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...address import GIB, MIB, Range, align_up
from ...config.platform import PlatformConfig, ReservedMemory, default_platform
from ...config.regions import PlannedVm
from ...machines.board import Board
from ...machines.riscv_board import RiscvBoard
from ...vm.host import Host
from .machine import QemuVm
from .riscv import RiscvQemu

_TABLES = 64 * MIB
"""Room for tables and everything else of the hypervisor's."""


def riscv_platform(configs: Sequence[PlannedVm]) -> PlatformConfig:
    """The host that VMs get on the board, when no platform file names one: RAM from 2 GiB on, as large as they need.

    Raises:
        ConfigError: they want more than any host has.
    """
    base, own = RiscvBoard.RAM.start, RiscvBoard.OWN
    wanted = default_platform(configs, "riscv64").memory_size
    ends = [
        region.end
        for config in configs
        for region in config.plan.regions
        if region.map_type.is_identity and region.map_type.is_mapped
    ]
    ram = Range(base, align_up(max([base + own.size + wanted + _TABLES, *ends]), GIB))
    return PlatformConfig(
        file=None,
        arch="riscv64",
        platform="qemu-virt",
        family="qemu-virt",
        memory=(ram,),
        reserved=(
            ReservedMemory(own, "the firmware and the hypervisor's monitor on QEMU's board"),
            *(ReservedMemory(span, "the device tree of QEMU's board") for span in RiscvBoard.tree_places(ram)),
        ),
    )


def open_riscv(host: Host, cores: int) -> tuple[Board, list[QemuVm[Any]]]:
    """The board and a machine for each VM (`board.open_machines`)."""
    board = RiscvBoard(host.memory, cores=cores)
    return board, [RiscvQemu(vm, board, [board.cores[core] for core in vm.cores], console=False) for vm in host.vms]
