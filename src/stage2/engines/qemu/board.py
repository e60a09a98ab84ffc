"""QEMU's boards as hosts: where RAM is, what of it is the hypervisor's, and which core each vCPU gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ...address import GIB, MIB, Range, align_up
from ...config.platform import PlatformConfig, default_platform
from ...config.regions import PlannedVm
from ...config.vm import VmConfig
from ...errors import EncodingError, EngineError, MachineError
from ...images.fdt import parse
from ...images.host_platform import platform_of
from ...images.host_tree import HostTree
from ...images.tree_file import TreeFile
from ...machines.arm_board import ArmBoard, board_tree
from ...machines.board import Board
from ...space.region import MemoryRegion
from ...vm.host import Host
from ...vm.vm import Vm
from .machine import QemuVm

BOARD = "virt board"
_HYPERVISORS = ("pcie", "fw-cfg", "flash", "platform-bus")
"""Nodes of the board that no guest is given, by the name before the unit address."""
_LOW = 0xFFFF_FFFF
_CPU_INTERFACE = Range.sized(0x801_0000, 0x1000)
"""Of a GICv2."""
_DISTRIBUTOR = Range.sized(0x800_0000, 0x1_0000)
_REDISTRIBUTOR = Range.sized(0x80A_0000, 0x2_0000)
"""Of a GICv3, the first CPU's."""
_CONSOLE = Range.sized(0x900_0000, 0x1000)
"""The board's serial port."""
_TABLES = 64 * MIB
"""Room for tables and everything else of the hypervisor's."""


def board_host(configs: Sequence[PlannedVm], arch: str) -> tuple[PlatformConfig, HostTree | None]:
    """The board of an architecture as the host of VMs, and its tree, if guests may be given parts of it.

    Args:
        configs: the VMs, as far as their files alone say what they are.
        arch: their architecture.

    Raises:
        ConfigError: they want more memory than any host has, or cores that the board does not have.
        HostToolError, MachineError: QEMU does not tell its board's tree.
    """
    if arch == "riscv64":
        from .riscv_host import riscv_platform

        return riscv_platform(configs), None
    return arm_host(configs)


def arm_host(configs: Sequence[PlannedVm]) -> tuple[PlatformConfig, HostTree]:
    """The AArch64 board: RAM from 1 GiB on, as large as they need, and what a guest may be given of it.

    PCI is the hypervisor's, for its doorbells are there, and so is fw_cfg, which writes memory by itself.

    Args:
        configs: the VMs, as far as their files alone say what they are.

    Raises:
        ConfigError: they want more memory than any host has, or cores that the board does not have.
        HostToolError, MachineError: QEMU does not tell its board's tree.
    """
    wanted = default_platform(configs, "aarch64").memory_size
    base, own = ArmBoard.RAM.start, ArmBoard.OWN
    ends = [
        region.end
        for config in configs
        for region in config.plan.regions
        if region.map_type.is_identity and region.map_type.is_ram
    ]
    ram = Range(base, align_up(max([base + own.size + wanted + _TABLES, *ends]), GIB))
    version = gic_version(config.plan.regions for config in configs)
    root = parse(board_tree(cores=core_count(place(configs)), gic_version=version))
    root.children[:] = [node for node in root.children if node.name.partition("@")[0] not in _HYPERVISORS]
    for node in root.children:
        if node.name.startswith("memory@"):
            node.set("reg", [ram.start >> 32, ram.start & _LOW, ram.size >> 32, ram.size & _LOW])
    tree = HostTree(TreeFile(f"the {BOARD} of {ArmBoard.PROGRAM}", root, (own,)))
    return replace(platform_of(tree), platform="qemu-virt", family="qemu-virt"), tree


def gic_version(regions: Iterable[Iterable[MemoryRegion]]) -> int:
    """The interrupt controller that the board must have: that of the first VM that is given one, else version 3."""
    for of_one in regions:
        given = [region.range for region in of_one if region.host_range == region.range]
        if any(span.overlaps(_REDISTRIBUTOR) for span in given):
            return 3
        if any(span.overlaps(_CPU_INTERFACE) for span in given):
            return 2
    return 3


def place(configs: Sequence[VmConfig], most: int = Board.CORES_MOST) -> list[tuple[int, ...]]:
    """Which core of the board each vCPU has, all to itself.

    A mask of `phys_cpu_sets` says where a vCPU may be. Without one it may be anywhere, and is on the core that
    `phys_cpu_ids` names where that is free.

    Args:
        configs: the VMs.
        most: cores that the board can have.

    Returns:
        For each VM the core of each of its vCPUs.

    Raises:
        ConfigError: there is no such way to place them.
    """
    wanted = [(vm, number, _cores_for(vm, number, most)) for vm in configs for number in range(vm.cpu_num)]
    found: dict[int, int] = {}

    def settle(which: int, tried: set[int]) -> bool:
        cores = wanted[which][2]
        # Nobody has to move while there is a free one.
        for core in [*(core for core in cores if core not in found), *(core for core in cores if core in found)]:
            if core in tried:
                continue
            tried.add(core)
            if core not in found or settle(found[core], tried):
                found[core] = which
                return True
        return False

    for which, (vm, number, cores) in enumerate(wanted):
        if not settle(which, set()):
            held = sorted({wanted[found[core]][0].label for core in cores if core in found})
            where = (
                "none"
                if not cores
                else f"core {cores[0]}"
                if len(cores) == 1
                else f"cores {', '.join(str(core) for core in cores)}"
            )
            raise vm.place.error(
                f"no core is left for vCPU {number} of {vm.label}: it may run on {where} of the board's {most}, and"
                f" the qemu engine gives every vCPU a core of its own (there: {', '.join(held) or 'nobody'})"
            )
    cores_of = {which: core for core, which in found.items()}
    numbers = iter(range(len(wanted)))
    return [tuple(cores_of[next(numbers)] for _ in range(vm.cpu_num)) for vm in configs]


def give_cores(host: Host) -> None:
    """Give each vCPU of a host's VMs its core of the board.

    Raises:
        ConfigError: there are not as many cores as they want.
    """
    placed = place(host.configs)
    for vm, config, cores in zip(host.vms, host.configs, placed, strict=True):
        vm.cores = cores
        if vm.arch == "aarch64":
            _require_redistributors(vm, config, core_count(placed))


def _require_redistributors(vm: Vm, config: VmConfig, cores: int) -> None:
    """Refuse a guest that owns a GICv3 without the redistributors of all cores of the board.

    Systems look for theirs from the first on until one says that it is the last (IHI 0069, GICR_TYPER.Last).
    """
    given = [region.range for region in vm.space.memory_regions if region.host_range == region.range]
    if not any(span.covers(_DISTRIBUTOR) for span in given) or gic_version([vm.space.memory_regions]) == 2:
        return
    all_ = Range.sized(_REDISTRIBUTOR.start, cores * _REDISTRIBUTOR.size)
    if not any(span.covers(all_) for span in given):
        raise config.place.error(
            f"{config.label} has the GICv3 of a board with {cores} cores, and of its redistributors not all: "
            f"pass {all_.start:#x} through with {all_.size:#x} bytes"
        )


def _cores_for(vm: VmConfig, number: int, most: int) -> list[int]:
    """The cores that a vCPU may be on, the one that it is best on first."""
    if vm.phys_cpu_sets:
        return [core for core in range(most) if vm.phys_cpu_sets[number] >> core & 1]
    best = vm.phys_cpu_ids[number] if vm.phys_cpu_ids else None
    return sorted(range(most), key=lambda core: core != best)


def core_count(placed: Iterable[Iterable[int]]) -> int:
    """How many cores a board must have for vCPUs on these."""
    return max(core for of_one in placed for core in of_one) + 1


def open_machines(host: Host) -> tuple[Board, list[QemuVm[Any]]]:
    """Make the board on which VMs run side by side.

    Args:
        host: its memory is a memory file that begins where the board's RAM does, and its VMs have their cores.

    Returns:
        The board, to be closed when they are done, and a machine for each VM.

    Raises:
        EngineError: QEMU is not there, or cannot run these VMs.
    """
    vms = host.vms
    archs = sorted({vm.arch for vm in vms})
    if archs not in (["aarch64"], ["riscv64"]):
        raise EngineError(f"the qemu engine runs aarch64 or riscv64 guests; these are {', '.join(archs)}")
    if archs == ["riscv64"]:
        from .riscv_host import open_riscv

        try:
            return open_riscv(host, core_count(vm.cores for vm in vms))
        except (EncodingError, MachineError) as error:
            raise EngineError(f"the board does not start: {error}") from None
    from .arm import ArmQemu

    owner = _console_owner(vms)
    try:
        board = ArmBoard(
            host.memory,
            cores=core_count(vm.cores for vm in vms),
            gic_version=gic_version(vm.space.memory_regions for vm in vms),
        )
    except (EncodingError, MachineError) as error:
        raise EngineError(f"the board does not start: {error}") from None
    return board, [ArmQemu(vm, board, [board.cores[core] for core in vm.cores], console=vm is owner) for vm in vms]


def _console_owner(vms: Sequence[Vm]) -> Vm | None:
    """The VM that is given the board's serial port."""
    for vm in vms:
        for region in vm.space.memory_regions:
            if region.host_range == region.range and region.range.covers(_CONSOLE):
                return vm
    return None


def _cores_text(cores: Sequence[int]) -> str:
    if not cores:
        return "none"
    return f"core{'' if len(cores) == 1 else 's'} {', '.join(str(core) for core in cores)}"
