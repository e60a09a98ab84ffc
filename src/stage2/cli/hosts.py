"""Building VMs from files without their images, for commands that only look at tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError
from .vm_files import GenerationName, load_machine, load_vms

if TYPE_CHECKING:
    from ..address import Range
    from ..config.vm import VmConfig
    from ..vm.host import Host


def build_host(
    vms: Sequence[Path],
    *,
    platform: Path | None,
    host_dtb: Path | None = None,
    arch: str | None,
    populate: str,
    page_size: str,
    stage2_format: str | None = None,
    cpu: str | None = None,
    smp: int | None = None,
    tables_at: Range | None = None,
    reserved: Sequence[Range] = (),
    generation: GenerationName | None = None,
    define: Sequence[str] | None = None,
    quiet: bool = False,
    as_declared: bool = False,
) -> Host:
    """A host with the VMs on it; what is to be noticed about their files is printed.

    Args:
        vms: VM files.
        platform: a platform or board file.
        host_dtb: the host's device tree.
        arch: architecture of the guests, when neither file nor platform says.
        populate, page_size, stage2_format, cpu, smp: as on the command line.
        tables_at, reserved: host memory for tables, and for nobody.
        generation, define: as on the command line.
        quiet: print no notices.
        as_declared: map also what VMs cannot have, for proofs.
    """
    from ..config.cpu import NamedCpu
    from ..config.load import choose_arch
    from ..config.platform import PlatformConfig
    from ..config.stage2_format import named_format
    from ..forecast.placing import on_host
    from ..space.region import Populate
    from ..vm.host import PAGE_SIZES, Options, build
    from .notices import print_notices

    host_platform, tree = load_machine(platform, host_dtb)
    configs = load_vms(vms, generation, define, tree)
    if isinstance(host_platform, PlatformConfig):
        host_platform = host_platform.with_cpus(smp)
    fmt = None if stage2_format is None else named_format(stage2_format)
    taken = [*reserved, *([] if tables_at is None else [tables_at])]
    configs = on_host(configs, host_platform, taken)
    if not quiet:
        print_notices([notice for config in configs for notice in config.notices])
    options = Options(
        Populate(populate),
        PAGE_SIZES[page_size],
        fmt,
        None if cpu is None else NamedCpu(cpu),
        tables_at=tables_at,
        reserved=tuple(reserved),
        as_declared=as_declared,
    )
    archs = [
        _header_arch(config) if choose_arch(config, arch, host_platform, fmt) is None else None for config in configs
    ]
    host = build(configs, platform=host_platform, archs=archs, arch=arch, options=options)
    host.tree = tree
    if not quiet:
        print_notices(host.notices)
    return host


def _header_arch(config: VmConfig) -> str | None:
    """The architecture that the kernel's header names, if the images happen to be there."""
    from ..vm.images import read_images

    try:
        return read_images(config).arch
    except ImageError:
        return None
