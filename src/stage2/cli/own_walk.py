"""The walk of one of the hypervisor's own addresses, for `stage2 walk --hva`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..flags import Access
    from ..render.walk import WalkView


def explain_hva(
    files: Sequence[Path], hva: int, access: str | None, *, platform: Path | None, cpu: str | None, smp: int | None
) -> WalkView:
    """The walk on the tables that a platform yields, or that a folder of `stage2 build` holds.

    Args:
        files: a platform file alone, or a folder, or VM files whose host `platform` describes.
        hva: the address.
        access: its name; None for a mere lookup.
        platform: as on the command line.
        cpu: the processor that the tables are for.
        smp: CPUs that the hypervisor's per-CPU areas are for; None for what the platform file says.
    """
    from ..config.load import FileKind, recognise

    made = _access(access)
    if any(path.is_dir() for path in files):
        if len(files) != 1:
            raise ConfigError(f"{next(path for path in files if path.is_dir())} is a folder: give it alone")
        if platform is not None or cpu is not None:
            option = "--platform" if cpu is None else "--cpu"
            raise ConfigError(f"{option} means nothing for {files[0]}: its tables are built already")
        return _in_folder(files[0], hva, made)
    platforms = [path for path in files if recognise(path) is FileKind.PLATFORM]
    if platforms and (len(files) > 1 or platform is not None):
        raise ConfigError(f"{platforms[0]} is a platform file: give it alone, or by --platform beside VM files")
    if not platforms and platform is None:
        raise ConfigError(
            "--hva: the host's platform file says where the hypervisor is mapped: give it alone, or by --platform"
        )
    return _on_platform(platforms[0] if platforms else platform, [] if platforms else files, hva, made, cpu, smp)


def _access(name: str | None) -> Access | None:
    from ..flags import Access

    if name is None:
        return None
    if name.upper() not in Access.__members__:
        raise ConfigError(f"--access {name}: a hypervisor does not access its own memory so")
    return Access[name.upper()]


def _in_folder(folder: Path, hva: int, access: Access | None) -> WalkView:
    from ..hypervisor.space import half_of
    from ..render.walk import OwnPlace, WalkView
    from ..tableimage.folder import read_own
    from ..tables.explain import explain_stage

    own = read_own(folder)
    regime = own.regimes[half_of(own.regimes, hva)]
    place = OwnPlace.at(hva, own.piece_at(hva), own.guard)
    return WalkView(explain_stage(own, regime, hva, access), regime, own=place)


def _on_platform(
    platform: Path | None, vms: Sequence[Path], hva: int, access: Access | None, cpu: str | None, smp: int | None
) -> WalkView:
    from ..config.cpu import NamedCpu
    from ..config.load import load_platform
    from ..render.walk import OwnPlace, WalkView
    from ..tables.result import Mapped
    from ..vm.host import Host
    from ..vm.own_space import own_space
    from .hosts import build_host

    assert platform is not None, "the caller has one"
    if vms:
        host = build_host(vms, platform=platform, arch=None, populate="eager", page_size="auto", cpu=cpu, smp=smp)
    else:
        host = Host(load_platform(platform).with_cpus(smp))
    with host:
        own = own_space(host, cpu=None if cpu is None else NamedCpu(cpu))
        found = own.explain(hva, access)
        owner = host.frames.owners.at(found.result.hpa) if isinstance(found.result, Mapped) else None
        return WalkView(
            found,
            own.table_for(hva).regime,
            owner=None if owner is None else str(owner),
            processor=own.processor,
            own=OwnPlace.at(hva, own.piece_at(hva), own.plan.guard),
        )
