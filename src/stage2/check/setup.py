"""What is checked together: VM files, and what is known of the machine they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..config.board import BoardConfig
from ..config.cpu import NamedCpu
from ..config.document import Notice
from ..config.platform import PlatformConfig
from ..config.regions import PlannedVm, plan_vm
from ..config.together import check_together
from ..config.vm import VmConfig, companion_name
from ..errors import ConfigError
from ..forecast.placing import on_host
from ..images.host_tree import HostTree
from .tree_lines import source_lines


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
        tree_lines: the line of each node by its path, where the tree is source.
        together: what was noticed about the VMs beside each other.
    """

    files: tuple[VmConfig, ...]
    vms: tuple[PlannedVm, ...]
    conflicts: tuple[ConfigError, ...]
    platform: PlatformConfig | BoardConfig | None = None
    tree: HostTree | None = None
    arch: str | None = None
    cpu: NamedCpu | None = None
    tree_lines: Mapping[str, int] = field(default_factory=dict)
    together: tuple[Notice, ...] = ()

    @property
    def toml_files(self) -> tuple[str, ...]:
        """The configuration files that findings may be about, as far as they are there."""
        named = [name for vm in self.files for name in (vm.file, companion_name(vm.file))]
        named += [error.file for error in self.conflicts if error.file is not None]
        if self.platform is not None and self.platform.file is not None:
            named.append(self.platform.file)
        return tuple(dict.fromkeys(named))

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
    try:
        planned = on_host(planned, platform)
    except ConfigError as error:
        conflicts.append(error)
    beside = check_together(planned, refuse=conflicts.append)
    lines = {} if tree is None else source_lines(tree.file)
    return Setup(tuple(files), tuple(planned), tuple(conflicts), platform, tree, arch, cpu, lines, beside.notices)
