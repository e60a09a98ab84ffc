"""QEMU's q35 as a host: where RAM is, what of it is the hypervisor's, and the machines of its VMs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...config.platform import PlatformConfig, ReservedMemory, default_platform
from ...config.regions import PlannedVm
from ...errors import ConfigError, EngineError
from ...images.acpi import is_pc
from ...machines.board import Board
from ...machines.x86_board import LEGACY_HOLE, OWN, X86Board
from ...vm.vm import Vm
from .machine import QemuVm
from .x86 import X86Qemu

FORMAT = "npt4"
"""Of the tables where neither file nor command line names one: the board's processor is AMD's kind."""


def x86_platform(configs: Sequence[PlannedVm]) -> PlatformConfig:
    """The host that VMs get on the board, when no platform file names one.

    Raises:
        ConfigError: they want more than the board has.
    """
    ram = X86Board.RAM
    wanted = sum(region.size for config in configs for region in config.plan.regions if region.map_type.is_ram)
    if wanted > ram.size - OWN.size:
        default_platform(configs, "x86_64")
        raise ConfigError(
            f"the VMs want {wanted:#x} bytes of memory; QEMU's q35 has {ram.size - OWN.size:#x} for them",
            file=configs[0].file,
        )
    return PlatformConfig(
        file=None,
        arch="x86_64",
        platform="qemu-q35",
        family="qemu-q35",
        memory=(ram,),
        takes_no_interrupts=True,
        reserved=(
            ReservedMemory(LEGACY_HOLE, "the window of a display adapter, where QEMU's q35 has no RAM"),
            ReservedMemory(OWN, "the hypervisor's monitor on QEMU's q35"),
        ),
    )


def open_x86(vms: Sequence[Vm], placed: Iterable[Iterable[int]], cores: int) -> tuple[Board, list[QemuVm[Any]]]:
    """The board and a machine for each VM (`board.open_machines`).

    Raises:
        EngineError: more than one of them is given the board's interrupt controllers, or has tables of another kind.
    """
    owners = [vm for vm in vms if is_pc(vm.has_registers)]
    if len(owners) > 1:
        raise EngineError(f"VMs {owners[0].name} and {owners[1].name} are both given the one local APIC of a core")
    board = X86Board(vms[0].space.frames.memory, cores=cores)
    try:
        return board, [
            X86Qemu(vm, board, [board.cores[core] for core in own], console=vm in owners)
            for vm, own in zip(vms, placed, strict=True)
        ]
    except BaseException:
        board.close()
        raise
