"""QEMU's AArch64 board as a host: its RAM, what of it a guest may be given, and who has its interrupt controller."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ...address import Range
from ...config.platform import PlatformConfig
from ...config.regions import PlannedVm
from ...config.vm import VmConfig
from ...errors import EncodingError
from ...formats import family_of
from ...formats.record import Format
from ...images.fdt import parse
from ...images.host_platform import platform_of
from ...images.host_tree import HostTree
from ...images.tree_file import TreeFile
from ...machines.arm_board import ArmBoard, board_tree
from ...machines.board import Board
from ...processor import parse as parse_processor
from ...space.region import MemoryRegion
from ...vm.host import Host
from ...vm.vm import Vm
from .arm import ArmQemu
from .board import board_ram, core_count, machines_on, place
from .machine import QemuVm

BOARD = "virt board"
_HYPERVISORS = ("pcie", "fw-cfg", "flash", "platform-bus")
"""Nodes of the board that no guest is given, by the name before the unit address."""
_LOW = 0xFFFF_FFFF
_CPUS, _ANY_TABLES = (ArmBoard.CPU, "neoverse-n1"), "max,sve=off,sme=off,pauth=off"
"""Cores that a board may have, the usual one first; the last has all tables that QEMU knows, and nothing that EL2 would
have to open for a guest first."""
_CPU_INTERFACE = Range.sized(0x801_0000, 0x1000)
"""Of a GICv2."""
_DISTRIBUTOR = Range.sized(0x800_0000, 0x1_0000)
_REDISTRIBUTOR = Range.sized(0x80A_0000, 0x2_0000)
"""Of a GICv3, the first CPU's."""
_CONSOLE = Range.sized(0x900_0000, 0x1000)
"""The board's serial port."""


def arm_host(configs: Sequence[PlannedVm]) -> tuple[PlatformConfig, HostTree]:
    """The AArch64 board: RAM from 1 GiB on, as large as they need, and what a guest may be given of it.

    PCI is the hypervisor's, for its doorbells are there, and so is fw_cfg, which writes memory by itself.

    Args:
        configs: the VMs, as far as their files alone say what they are.

    Raises:
        ConfigError: they want more memory than any host has, or cores that the board does not have.
        HostToolError, MachineError: QEMU does not tell its board's tree.
    """
    ram = board_ram(configs, "aarch64", ArmBoard)
    version = gic_version(config.plan.regions for config in configs)
    root = parse(board_tree(cores=core_count(place(configs)), gic_version=version))
    root.children[:] = [node for node in root.children if node.name.partition("@")[0] not in _HYPERVISORS]
    for node in root.children:
        if node.name.startswith("memory@"):
            node.set("reg", [ram.start >> 32, ram.start & _LOW, ram.size >> 32, ram.size & _LOW])
    tree = HostTree(TreeFile(f"the {BOARD} of {ArmBoard.PROGRAM}", root, (ArmBoard.OWN,)))
    return replace(platform_of(tree), platform="qemu-virt", family="qemu-virt"), tree


def open_arm(host: Host, cores: int) -> tuple[Board, list[QemuVm[Any]]]:
    """Make the board, and a machine for each VM.

    Raises:
        HostToolError: QEMU is not there.
        EncodingError, MachineError: it does not start.
    """
    owner = _console_owner(host.vms)
    version = gic_version(vm.space.memory_regions for vm in host.vms)
    board = ArmBoard(host.memory, cores=cores, gic_version=version, cpu=_cpu_for(host.vms), sockets=host.sockets)
    return machines_on(
        board,
        host,
        lambda vm, given: ArmQemu(vm, board, given, console=vm is owner, owns_controller=_has(vm, _DISTRIBUTOR)),
    )


def _cpu_for(vms: Sequence[Vm]) -> str:
    """QEMU's name of a CPU that has the stage-2 tables of all VMs."""
    formats = {vm.space.format for vm in vms}
    return next((cpu for cpu in _CPUS if all(_has_tables(cpu, fmt) for fmt in formats)), _ANY_TABLES)


def _has_tables(cpu: str, fmt: Format) -> bool:
    try:
        family_of(fmt).controls(fmt, parse_processor(cpu, "aarch64"))
    except EncodingError:
        return False
    return True


def gic_version(regions: Iterable[Iterable[MemoryRegion]]) -> int:
    """The interrupt controller that the board must have: that of the first VM that is given one, else version 3."""
    for of_one in regions:
        given = [region.range for region in of_one if region.host_range == region.range]
        if any(span.overlaps(_REDISTRIBUTOR) for span in given):
            return 3
        if any(span.overlaps(_CPU_INTERFACE) for span in given):
            return 2
    return 3


def require_redistributors(vm: Vm, config: VmConfig, cores: int) -> None:
    """Refuse a guest that owns a GICv3 without the redistributors of all cores of the board.

    Systems look for theirs from the first on until one says that it is the last (IHI 0069, GICR_TYPER.Last).
    """
    given = [region.range for region in vm.space.memory_regions if region.host_range == region.range]
    if not _has(vm, _DISTRIBUTOR) or gic_version([vm.space.memory_regions]) == 2:
        return
    all_ = Range.sized(_REDISTRIBUTOR.start, cores * _REDISTRIBUTOR.size)
    if not any(span.covers(all_) for span in given):
        raise config.place.error(
            f"{config.label} has the GICv3 of a board with {cores} cores, and of its redistributors not all: "
            f"pass {all_.start:#x} through with {all_.size:#x} bytes"
        )


def _console_owner(vms: Sequence[Vm]) -> Vm | None:
    """The VM that is given the board's serial port."""
    return next((vm for vm in vms if _has(vm, _CONSOLE)), None)


def _has(vm: Vm, span: Range) -> bool:
    """Whether a VM has registers of the board at their own addresses."""
    return any(one.host_range == one.range and one.range.covers(span) for one in vm.space.memory_regions)
