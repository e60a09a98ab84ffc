"""`--svg`: VMs and their host as a picture in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..check.finding import Finding
    from ..config.board import BoardConfig
    from ..config.platform import PlatformConfig
    from ..config.regions import PlannedVm
    from ..forecast.map_ranges import Stage2Map
    from ..hypervisor.space import HypervisorSpace
    from ..prove.subject import Subject
    from ..prove.theorem import Proof
    from ..prove.world import World
    from ..render.picture.parties import Party, Space
    from ..vm.host import Host


def require_svg(file: Path | None, option: str = "--svg") -> None:
    """Refuse a file that other programs would not take for a picture, before any work is done.

    Args:
        file: None for no picture.
        option: that named it.

    Raises:
        ConfigError: its name does not end in .svg.
    """
    if file is not None and file.suffix.lower() != ".svg":
        raise ConfigError(f"the picture is SVG: give {option} a name that ends in .svg", file=os.fspath(file))


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture and what it is of, as for `picture_svg`."""

    vms: Sequence[Space]
    host: Sequence[Party]
    svg: str


def declared_picture(
    vms: Sequence[PlannedVm],
    host: PlatformConfig | BoardConfig | None,
    maps: Sequence[Stage2Map | None],
    findings: Sequence[Sequence[Finding]] = (),
    refused: str | None = None,
) -> Drawn:
    """The picture of what VMs declare, as they lie on a host, with what is found wrong marked.

    Args:
        vms, host, maps: as for `declared_spaces`.
        findings: of each VM.
        refused: that they cannot be run on this host together, and why.
    """
    from ..render.picture.marks import Mark, MarkKind, finding_marks
    from ..render.picture.parties import declared_spaces
    from ..render.picture.svg import picture_svg

    marks = [mark for number, found in enumerate(findings) for mark in finding_marks(number, found)]
    if refused is not None:
        marks.append(Mark(MarkKind.FINDING, refused))
    spaces, own = declared_spaces(vms, host, maps)
    return Drawn(spaces, own, picture_svg(spaces, own, marks=marks))


def mapped_picture(world: World, proof: Proof | None = None, titles: Mapping[str, str] | None = None) -> Drawn:
    """The picture of tables, with the witnesses against them marked.

    Args:
        world: the tables.
        proof: what was proved of them; what refutes a theorem is marked.
        titles: what to call VMs, as for `mapped_spaces`.
    """
    from ..render.picture.made import mapped_spaces
    from ..render.picture.marks import witness_marks
    from ..render.picture.svg import picture_svg

    marks = [] if proof is None else witness_marks(proof, [vm.space.who for vm in world.vms])
    spaces, own = mapped_spaces(world, titles)
    return Drawn(spaces, own, picture_svg(spaces, own, marks=marks))


def require_vms(option: str, file: Path, vms: Sequence[PlannedVm]) -> None:
    """Refuse to draw nothing.

    Raises:
        ConfigError: there is no VM.
    """
    if not vms:
        raise ConfigError(f"there is no VM to draw: name a VM file beside {option}", file=os.fspath(file))


def write_picture(
    file: Path,
    vms: Sequence[PlannedVm],
    host: PlatformConfig | BoardConfig | None,
    maps: Sequence[Stage2Map | None],
    findings: Sequence[Sequence[Finding]] = (),
    refused: str | None = None,
) -> None:
    """Write `declared_picture`.

    Raises:
        ConfigError: there is no VM, or the file cannot be written.
    """
    from ..whole_file import write_whole

    require_vms("--svg", file, vms)
    write_whole(file, declared_picture(vms, host, maps, findings, refused).svg)


def write_made_picture(file: Path, host: Host, proof: Proof | None = None) -> None:
    """Write the picture of VMs with their tables as they are now.

    Args:
        file: where to.
        host: whose VMs.
        proof: what was proved of it; what refutes a theorem is marked.

    Raises:
        ConfigError: the file cannot be written.
    """
    from ..render.picture.made import titles_of, world_of
    from ..whole_file import write_whole

    write_whole(file, mapped_picture(world_of(host), proof, titles_of(host)).svg)


def write_proved_picture(file: Path, world: World, proof: Proof) -> None:
    """Write the picture of tables that were proved or refuted, with the witnesses marked.

    Raises:
        ConfigError: the file cannot be written.
    """
    from ..whole_file import write_whole

    write_whole(file, mapped_picture(world, proof).svg)


def write_tree(file: Path, subject: Subject, titles: Mapping[str, str] | None = None) -> None:
    """Write the picture of the tables themselves, level by level.

    Args:
        file: where to.
        subject: whose tables.
        titles: what to call VMs, by the names of their spaces.

    Raises:
        ConfigError: the file cannot be written.
    """
    from ..render.picture.tree import trees
    from ..render.picture.tree_svg import tree_svg
    from ..whole_file import write_whole

    write_whole(file, tree_svg(trees(subject, titles)))


def write_made_tree(file: Path, host: Host, own: HypervisorSpace | None) -> None:
    """Write the same of a host.

    Args:
        file: where to.
        host: whose VMs.
        own: the hypervisor's own tables, where it has some.

    Raises:
        ConfigError: the file cannot be written.
    """
    from ..render.picture.made import titles_of
    from ..vm.isolation import subject_of

    write_tree(file, subject_of(host, own), titles_of(host))
