"""What is checked together: VM files, and what is known of the machine they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..config.board import BoardConfig
from ..config.platform import PlatformConfig
from ..config.regions import PlannedVm, plan_regions, plan_vm
from ..config.together import check_together
from ..config.vm import VmConfig
from ..errors import ConfigError
from ..processor import Processor


@dataclass(frozen=True, slots=True)
class Setup:
    """VMs that are to run on one host.

    Args:
        files: every VM as its file has it.
        vms: those whose own declarations fit together, with the plan of their memory.
        conflicts: what the planners refused.
        platform: the host, as far as a file describes it.
        processor: what the tables are for; None for no particular one.
    """

    files: tuple[VmConfig, ...]
    vms: tuple[PlannedVm, ...]
    conflicts: tuple[ConfigError, ...]
    platform: PlatformConfig | BoardConfig | None = None
    processor: Processor | None = None


def set_up(
    files: Sequence[VmConfig],
    platform: PlatformConfig | BoardConfig | None = None,
    processor: Processor | None = None,
) -> Setup:
    """Plan VMs alone and together, and keep every conflict.

    Args:
        files: as `config.load.read_vm_file` reads them.
        platform, processor: as in `Setup`.
    """
    conflicts: list[ConfigError] = []
    planned: list[PlannedVm] = []
    for vm in files:
        found: list[ConfigError] = []
        try:
            plan_regions(vm, refuse=found.append)
            if not found:
                planned.append(plan_vm(vm))
        except ConfigError as error:
            found.append(error)
        conflicts += found
    check_together(planned, refuse=conflicts.append)
    return Setup(tuple(files), tuple(planned), tuple(conflicts), platform, processor)
