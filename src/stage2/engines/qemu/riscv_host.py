"""QEMU's RISC-V board as a host: where RAM is, what of it is the hypervisor's, and the machines of its VMs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...config.platform import PlatformConfig, ReservedMemory
from ...config.regions import PlannedVm
from ...machines.board import Board
from ...machines.riscv_board import RiscvBoard
from ...vm.host import Host
from .board import board_ram, machines_on
from .machine import QemuVm
from .riscv import RiscvQemu


def riscv_platform(configs: Sequence[PlannedVm]) -> PlatformConfig:
    """The host that VMs get on the board, when no platform file names one: RAM from 2 GiB on, as large as they need.

    Raises:
        ConfigError: they want more than any host has.
    """
    ram = board_ram(configs, "riscv64", RiscvBoard)
    return PlatformConfig(
        file=None,
        arch="riscv64",
        platform="qemu-virt",
        family="qemu-virt",
        memory=(ram,),
        reserved=(
            ReservedMemory(RiscvBoard.OWN, "the firmware and the hypervisor's monitor on QEMU's board"),
            *(ReservedMemory(span, "the device tree of QEMU's board") for span in RiscvBoard.tree_places(ram)),
        ),
    )


def open_riscv(host: Host, cores: int) -> tuple[Board, list[QemuVm[Any]]]:
    """The board and a machine for each VM (`board.open_machines`)."""
    board = RiscvBoard(host.memory, cores=cores, sockets=host.sockets)
    return machines_on(board, host, lambda vm, given: RiscvQemu(vm, board, given, console=False))
