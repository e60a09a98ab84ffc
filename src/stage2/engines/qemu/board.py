"""QEMU's boards as hosts: where RAM is, what of it is the hypervisor's, and which core each vCPU gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...address import GIB, MIB, Range, align_up
from ...config.platform import PlatformConfig, default_platform
from ...config.regions import PlannedVm
from ...config.vm import VmConfig
from ...errors import EncodingError, EngineError, MachineError
from ...images.host_tree import HostTree
from ...machines.board import Board
from ...machines.core import Core
from ...vm.host import Host
from ...vm.vm import Vm
from .machine import QemuVm

_TABLES = 64 * MIB
"""Room for tables and everything else of the hypervisor's."""
ARCHITECTURES = ("aarch64", "riscv64", "x86_64")
"""Of the boards that there are."""
BOARD_FORMATS = {"x86_64": "npt4"}
"""Of the tables where nobody names one and the narrowest of the architecture is not the board's."""


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
    if arch == "x86_64":
        from .x86_host import x86_platform, x86_tree

        return x86_platform(configs), x86_tree()
    from .arm_host import arm_host

    return arm_host(configs)


def board_ram(configs: Sequence[PlannedVm], arch: str, board: type[Board]) -> Range:
    """RAM of a board that has as much as its VMs need: for their memory, at the addresses that they name, and ours.

    Raises:
        ConfigError: they want more than any host has.
    """
    base = board.RAM.start
    wanted = default_platform(configs, arch).memory_size
    ends = [
        region.end
        for config in configs
        for region in config.plan.regions
        if region.map_type.is_identity and region.map_type.is_mapped
    ]
    return Range(base, align_up(max([base + board.OWN.size + wanted + _TABLES, *ends]), GIB))


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
            raise vm.place.error(
                f"no core is left for vCPU {number} of {vm.label}: it may run on {_cores_text(cores)} of the board's "
                f"{most}, and the qemu engine gives every vCPU a core of its own (there: {', '.join(held) or 'nobody'})"
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
            from .arm_host import require_redistributors

            require_redistributors(vm, config, core_count(placed))


def _cores_for(vm: VmConfig, number: int, most: int) -> list[int]:
    """The cores that a vCPU may be on, the one that it is best on first."""
    if vm.phys_cpu_sets:
        return [core for core in range(most) if vm.phys_cpu_sets[number] >> core & 1]
    best = vm.phys_cpu_ids[number] if vm.phys_cpu_ids else None
    return sorted(range(most), key=lambda core: core != best)


def core_count(placed: Iterable[Iterable[int]]) -> int:
    """How many cores a board must have for vCPUs on these."""
    return max(core for of_one in placed for core in of_one) + 1


def open_machines(host: Host, write: Callable[[str], None] | None = None) -> tuple[Board, list[QemuVm[Any]]]:
    """Make the board on which VMs run side by side.

    Args:
        host: its memory is a memory file that begins where the board's RAM does, and its VMs have their cores.
        write: called with a line of JSON for each exit of a guest; None where nobody wants them.

    Returns:
        The board, to be closed when they are done, and a machine for each VM.

    Raises:
        EngineError: QEMU is not there, or cannot run these VMs.
    """
    archs = sorted({vm.arch for vm in host.vms})
    if len(archs) != 1 or archs[0] not in ARCHITECTURES:
        runs = " or ".join(ARCHITECTURES)
        raise EngineError(f"the qemu engine runs {runs} guests, of one kind on a board; these are {', '.join(archs)}")
    cores = core_count(vm.cores for vm in host.vms)
    try:
        if archs == ["riscv64"]:
            from .riscv_host import open_riscv

            board, machines = open_riscv(host, cores)
        elif archs == ["x86_64"]:
            from .x86_host import open_x86

            board, machines = open_x86(host, cores)
        else:
            from .arm_host import open_arm

            board, machines = open_arm(host, cores)
    except (EncodingError, MachineError) as error:
        raise EngineError(f"the board does not start: {error}") from None
    if write is not None:
        for machine in machines:
            machine.log.write_to(write)
    return board, machines


def machines_on(
    board: Board, host: Host, make: Callable[[Vm, list[Core]], QemuVm[Any]]
) -> tuple[Board, list[QemuVm[Any]]]:
    """A board with a machine for each VM, by its cores; where one cannot be made, the board is closed."""
    try:
        return board, [make(vm, [board.cores[core] for core in vm.cores]) for vm in host.vms]
    except BaseException:
        board.close()
        raise


def _cores_text(cores: Sequence[int]) -> str:
    if not cores:
        return "none"
    return f"core{'' if len(cores) == 1 else 's'} {', '.join(str(core) for core in cores)}"
