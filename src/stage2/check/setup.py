"""What is checked together: VM files, and what is known of the machine they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..config.board import BoardConfig
from ..config.cpu import NamedCpu
from ..config.platform import PlatformConfig
from ..config.regions import PlannedVm, plan_vm
from ..config.together import check_together
from ..config.vm import VmConfig
from ..errors import ConfigError
from ..images.host_tree import HostTree


@dataclass(frozen=True, slots=True)
class Setup:
    """VMs that are to run on one host.

    Args:
        files: every VM as its file has it.
        vms: those whose own declarations fit together, with the plan of their memory.
        conflicts: what the planners refused.
        platform: the host, as far as a file describes it.
        tree: the host's device tree.
        arch: of the guests, as the user says; None where the files or the host do.
        cpu: the processor that the tables are for; None for the files' own, or no particular one.
    """

    files: tuple[VmConfig, ...]
    vms: tuple[PlannedVm, ...]
    conflicts: tuple[ConfigError, ...]
    platform: PlatformConfig | BoardConfig | None = None
    tree: HostTree | None = None
    arch: str | None = None
    cpu: NamedCpu | None = None

    @property
    def host(self) -> PlatformConfig | None:
        """The host, where a file describes its memory."""
        return self.platform if isinstance(self.platform, PlatformConfig) and self.platform.file is not None else None


def set_up(
    files: Sequence[VmConfig],
    platform: PlatformConfig | BoardConfig | None = None,
    tree: HostTree | None = None,
    *,
    arch: str | None = None,
    cpu: NamedCpu | None = None,
    refused: Sequence[ConfigError] = (),
) -> Setup:
    """Plan VMs alone and together, and keep every conflict.

    Args:
        files: as `config.vm.read_vm` reads them.
        platform, tree, arch, cpu: as in `Setup`.
        refused: what was wrong with the files that could not be read so.
    """
    conflicts = list(refused)
    planned: list[PlannedVm] = []
    for vm in files:
        found: list[ConfigError] = []
        try:
            plan = plan_vm(vm, refuse=found.append)
        except ConfigError as error:
            found.append(error)
        if not found:
            planned.append(plan)
        conflicts += found
    check_together(planned, refuse=conflicts.append)
    return Setup(tuple(files), tuple(planned), tuple(conflicts), platform, tree, arch, cpu)
