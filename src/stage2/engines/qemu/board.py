"""QEMU's boards as hosts: where RAM is, what of it is the hypervisor's, and which core each vCPU gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...address import GIB, MIB, Range, align_up
from ...config.platform import PlatformConfig, ReservedMemory, default_platform
from ...config.regions import PlannedVm
from ...config.vm import VmConfig
from ...errors import EncodingError, EngineError, MachineError
from ...images.fdt import Node, parse
from ...machines.arm_board import ArmBoard, board_tree
from ...machines.board import Board
from ...space.region import MemoryRegion
from ...vm.vm import Vm
from .machine import QemuVm

_REDISTRIBUTOR = Range.sized(0x80A_0000, 0x2_0000)
"""Of a GICv3, the first CPU's."""
_CONSOLE = Range.sized(0x900_0000, 0x1000)
"""The board's serial port."""
_TABLES = 64 * MIB
"""Room for tables and everything else of the hypervisor's."""


def board_platform(configs: Sequence[PlannedVm], arch: str = "aarch64") -> PlatformConfig:
    """The host that VMs get on the board, when no platform file names one: RAM as large as they need.

    Args:
        configs: the VMs.
        arch: their architecture.

    Raises:
        ConfigError: they want more than the board has.
    """
    if arch == "riscv64":
        from .riscv_host import riscv_platform

        return riscv_platform(configs)
    wanted = default_platform(configs, "aarch64").memory_size
    base, own = ArmBoard.RAM.start, ArmBoard.OWN
    ends = [
        region.end
        for config in configs
        for region in config.plan.regions
        if region.map_type.is_identity and region.map_type.is_mapped
    ]
    end = align_up(max([base + own.size + wanted + _TABLES, *ends]), GIB)
    return PlatformConfig(
        file=None,
        arch="aarch64",
        platform="qemu-virt",
        family="qemu-virt",
        memory=(Range(base, end),),
        reserved=(ReservedMemory(own, "the hypervisor's monitor on QEMU's board"),),
    )


def board_of(configs: Sequence[PlannedVm], arch: str = "aarch64") -> Node | None:
    """The device tree of the board that VMs are given parts of; None of a board that has none.

    Raises:
        ConfigError: they want cores that the board does not have.
        HostToolError, MachineError: QEMU does not tell it.
    """
    if arch == "riscv64":
        return None
    version = gic_version(config.plan.regions for config in configs)
    return parse(board_tree(cores=core_count(place(configs)), gic_version=version))


def gic_version(regions: Iterable[Iterable[MemoryRegion]]) -> int:
    """The interrupt controller that the board must have: 3 where a VM is given a redistributor, else 2."""
    given = (region.host_range for of_one in regions for region in of_one if region.host_range == region.range)
    return 3 if any(span is not None and span.covers(_REDISTRIBUTOR) for span in given) else 2


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
        for core in wanted[which][2]:
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
                f"no core is left for vCPU {number} of {vm.label}: it may run on {where} of the board's {most}, and "
                f" the qemu engine gives every vCPU a core of its own (there: {', '.join(held) or 'nobody'})"
            )
    cores_of = {which: core for core, which in found.items()}
    numbers = iter(range(len(wanted)))
    return [tuple(cores_of[next(numbers)] for _ in range(vm.cpu_num)) for vm in configs]


def _cores_for(vm: VmConfig, number: int, most: int) -> list[int]:
    """The cores that a vCPU may be on, the one that it is best on first."""
    if vm.phys_cpu_sets:
        return [core for core in range(most) if vm.phys_cpu_sets[number] >> core & 1]
    best = vm.phys_cpu_ids[number] if vm.phys_cpu_ids else None
    return sorted(range(most), key=lambda core: core != best)


def core_count(placed: Iterable[Iterable[int]]) -> int:
    """How many cores a board must have for vCPUs on these."""
    return max(core for of_one in placed for core in of_one) + 1


def open_machines(vms: Sequence[Vm], configs: Sequence[VmConfig]) -> tuple[Board, list[QemuVm[Any]]]:
    """Make the board on which VMs run side by side.

    Args:
        vms: they lie in one host's memory, a memory file that begins where the board's RAM does.
        configs: their files.

    Returns:
        The board, to be closed when they are done, and a machine for each VM.

    Raises:
        EngineError: QEMU is not there, or cannot run these VMs.
        ConfigError: there are not as many cores as they want.
    """
    archs = sorted({vm.arch for vm in vms})
    if archs not in (["aarch64"], ["riscv64"]):
        raise EngineError(f"the qemu engine runs aarch64 or riscv64 guests; these are {', '.join(archs)}")
    placed = place(configs)
    if archs == ["riscv64"]:
        from .riscv_host import open_riscv

        try:
            return open_riscv(vms, placed, core_count(placed))
        except (EncodingError, MachineError) as error:
            raise EngineError(f"the board does not start: {error}") from None
    from .arm import ArmQemu

    owner = _console_owner(vms)
    try:
        board = ArmBoard(
            vms[0].space.frames.memory,
            cores=core_count(placed),
            gic_version=gic_version(vm.space.memory_regions for vm in vms),
        )
    except (EncodingError, MachineError) as error:
        raise EngineError(f"the board does not start: {error}") from None
    return board, [
        ArmQemu(vm, board, [board.cores[core] for core in cores], console=vm is owner)
        for vm, cores in zip(vms, placed, strict=True)
    ]


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
