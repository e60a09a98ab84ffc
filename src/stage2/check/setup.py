"""What is checked together: VM files, and what is known of the machine they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..config.board import BoardConfig
from ..config.cpu import NamedCpu
from ..config.document import Notice
from ..config.load import choose_arch
from ..config.platform import PlatformConfig
from ..config.regions import PlannedVm, plan_vm
from ..config.together import check_together
from ..config.vm import VmConfig, companion_name
from ..errors import ConfigError
from ..forecast.placing import on_host
from ..hypervisor.image import Image
from ..hypervisor.layout import KernelLayout, of_platform
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
        image: the hypervisor's own image; None where its file is not given.
        kernel: where the hypervisor lies: as its image says, or computed from the platform; None where neither tells.
        other: the same with files of which nothing tells their generation read as head's; None where there are none.
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
    image: Image | None = None
    kernel: KernelLayout | None = None
    other: Setup | None = None

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

    def arch_of(self, vm: VmConfig) -> str | None:
        """The architecture of a VM; None where nobody names one, or two name different ones."""
        try:
            return choose_arch(vm, self.arch, self.platform)
        except ConfigError:
            return None


def set_up(
    files: Sequence[VmConfig],
    platform: PlatformConfig | BoardConfig | None = None,
    tree: HostTree | None = None,
    *,
    arch: str | None = None,
    cpu: NamedCpu | None = None,
    refused: Sequence[ConfigError] = (),
    hypervisor: tuple[Image, KernelLayout] | None = None,
) -> Setup:
    """Plan VMs alone and together, and keep every conflict.

    Args:
        files: as `config.vm.read_vm` reads them.
        platform, tree, arch, cpu: as in `Setup`.
        refused: what was wrong with the files that could not be read so.
        hypervisor: its image and where that lies (`hypervisor.layout.open_image`).

    Raises:
        ConfigError: the platform's own numbers leave no place for its hypervisor.
    """
    image, kernel = hypervisor or (None, _computed(platform))
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
        planned = on_host(planned, platform, kernel=None if kernel is None else kernel.hpa)
    except ConfigError as error:
        conflicts.append(error)
    beside = check_together(planned, refuse=conflicts.append)
    lines = {} if tree is None else source_lines(tree.file)
    return Setup(
        tuple(files), tuple(planned), tuple(conflicts), platform, tree, arch, cpu, lines, beside.notices, image, kernel
    )


def _computed(platform: PlatformConfig | BoardConfig | None) -> KernelLayout | None:
    """Where the hypervisor of a host that a file describes lies, as far as the platform tells."""
    if not isinstance(platform, PlatformConfig) or platform.file is None or platform.kernel_paddr is None:
        return None
    return of_platform(platform)
