"""`--html`: a page for browsers in a file; of VMs and their host as a map that answers addresses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config.board import BoardConfig
    from ..config.platform import PlatformConfig
    from ..config.regions import PlannedVm
    from ..forecast.map_ranges import Stage2Map
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
) -> None:
    """Write the map of what VMs declare, as they lie on a host.

    Raises:
        ConfigError: there is no VM, or the file cannot be written.
    """
    from ..render.picture.page import Map, map_page
    from ..render.picture.parties import declared_spaces
    from ..render.picture.svg import picture_svg
    from .write_whole import write_whole

    if not vms:
        raise ConfigError("there is no VM to draw: name a VM file beside --html", file=os.fspath(file))
    spaces, own = declared_spaces(vms, host, maps)
    write_whole(file, map_page(Map("show", picture_svg(spaces, own), spaces, own, [vm.plan.regions for vm in vms])))


def write_made_page(file: Path, host: Host) -> None:
    """Write the map of VMs with their tables.

    Raises:
        ConfigError: the file cannot be written.
    """
    from ..prove.world import World
    from ..render.picture.made import made_spaces
    from ..render.picture.page import Map, map_page
    from ..render.picture.svg import picture_svg
    from ..vm.isolation import subject_of
    from .write_whole import write_whole

    spaces, own = made_spaces(host)
    world = World.of(subject_of(host))
    processors = [vm.space.processor for vm in host.vms]
    regions = [vm.space.regions for vm in world.vms]
    write_whole(file, map_page(Map("build", picture_svg(spaces, own), spaces, own, regions, world, processors)))
