"""`--html`: a page for browsers in a file; of VMs and their host as a map that answers addresses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .picture import declared_picture, mapped_picture, require_vms

if TYPE_CHECKING:
    from ..check.finding import Finding
    from ..config.board import BoardConfig
    from ..config.platform import PlatformConfig
    from ..config.regions import PlannedVm
    from ..forecast.map_ranges import Stage2Map
    from ..processor import Processor
    from ..prove.theorem import Proof
    from ..prove.world import World
    from ..vm.host import Host

_PAGES = (".html", ".htm")
"""Ends of names that --html writes to, so that a forgotten name does not cost a VM file."""


def require_page(file: Path | None) -> None:
    """Refuse a file that is no page by its name, before any work is done.

    Args:
        file: None for no page.

    Raises:
        ConfigError: its name does not end in .html or .htm.
    """
    if file is not None and file.suffix.lower() not in _PAGES:
        raise ConfigError("--html wants the name of a page to write, NAME.html", file=os.fspath(file))


def write_declared_page(
    file: Path,
    vms: Sequence[PlannedVm],
    host: PlatformConfig | BoardConfig | None,
    maps: Sequence[Stage2Map | None],
    findings: Sequence[Sequence[Finding]] = (),
    refused: str | None = None,
) -> None:
    """Write the map of what VMs declare; the arguments are those of `declared_picture`.

    Raises:
        ConfigError: there is no VM, or the file cannot be written.
    """
    from ..render.picture.page import Map, map_page
    from ..whole_file import write_whole

    require_vms("--html", file, vms)
    drawn = declared_picture(vms, host, maps, findings, refused)
    regions = [vm.plan.regions for vm in vms]
    write_whole(file, map_page(Map("show", drawn.svg, drawn.vms, drawn.host, regions)))


def write_made_page(file: Path, host: Host) -> None:
    """Write the map of VMs with their tables.

    Raises:
        ConfigError: the file cannot be written.
    """
    from ..render.picture.made import titles_of, world_of

    _write(file, "build", world_of(host), titles_of(host), [vm.space.processor for vm in host.vms])


def write_proved_page(file: Path, world: World, proof: Proof, processors: Sequence[Processor | None]) -> None:
    """Write the map of tables that were proved or refuted, with every theorem.

    Args:
        file: where to.
        world: the tables.
        proof: of them.
        processors: what the tables of each VM are for; none where nothing says.

    Raises:
        ConfigError: the file cannot be written.
    """
    _write(file, "prove", world, None, processors, proof)


def _write(
    file: Path,
    command: str,
    world: World,
    titles: Mapping[str, str] | None,
    processors: Sequence[Processor | None],
    proof: Proof | None = None,
) -> None:
    from ..render.picture.page import Map, map_page
    from ..whole_file import write_whole

    drawn = mapped_picture(world, proof, titles)
    regions = [vm.space.regions for vm in world.vms]
    processors = processors or [None] * len(world.vms)
    write_whole(file, map_page(Map(command, drawn.svg, drawn.vms, drawn.host, regions, world, processors, proof)))
