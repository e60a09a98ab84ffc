"""`stage2 show`: what configuration files were understood to say, without images or an architecture."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import ImageError, Stage2Error
from .page import require_page, write_declared_page
from .picture import require_svg, write_picture
from .vm_files import GenerationName, load_machine, load_vms

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..check.finding import Finding
    from ..config.board import BoardConfig
    from ..config.cpu import NamedCpu
    from ..config.document import Notice
    from ..config.platform import PlatformConfig
    from ..config.regions import PlannedVm
    from ..config.stage2_format import NamedFormat
    from ..config.vm import VmConfig
    from ..forecast.map_ranges import Stage2Map
    from ..formats.record import Format
    from ..images.host_tree import HostTree


_WIDEST = "riscv64"
"""The architecture whose tables translate the widest addresses (Sv57x4)."""


def show(
    files: Annotated[list[Path], Parameter(name="FILE.toml", show_default=False)],
    /,
    *,
    platform: Path | None = None,
    host_dtb: Annotated[Path | None, Parameter(name="--host-dtb")] = None,
    stage2_format: Annotated[str | None, Parameter(name="--stage2-format")] = None,
    cpu: str | None = None,
    generation: GenerationName | None = None,
    define: Annotated[list[str] | None, Parameter(negative="")] = None,
    svg: Path | None = None,
    html: Path | None = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show what configuration files were understood to say. Needs neither images nor an architecture.

    Parameters
    ----------
    files
        AxVisor's VM files; platform, defconfig and board files are recognised too.
    platform
        AxVisor platform file of the host, or a board file: with it the format of the stage-2 tables is known.
    host_dtb
        The host's device tree, compiled or source (dtc compiles it): its RAM, reservations and devices, and the
        addresses of nodes that VM files pass through.
    stage2_format
        Format of the stage-2 tables (npt4, arm-s2-16k-40, sv48x4).
    cpu
        Processor that the tables are for (cortex-a72, "cortex-a72,pa=40"; "--cpu list" names all); without it they are
        for no particular one.
    generation
        Format of the VM files: seed, head, tg (before GuestConfig) or present (GuestConfig); without it each file says
        or shows its own.
    define
        NAME=VALUE: what ${NAME} stands for in paths of the VM files, as workspace=/path; without it the environment is
        asked. May be given several times.
    svg
        File that gets a picture besides: what the VM files declare, beside the host's memory, with what is wrong
        marked.
    html
        Page for browsers that gets the same picture (NAME.html), and tells what is declared at an address.
    json_output
        Print JSON instead of tables.
    """
    from ..config.board import BoardConfig
    from ..config.cpu import NamedCpu
    from ..config.load import FileKind, load_board, load_defconfig, load_platform, recognise
    from ..config.stage2_format import named_format
    from ..render.config_json import Json, board_json, defconfig_json, file_json, platform_json, show_json
    from ..render.findings import render_findings
    from ..render.json_text import json_text
    from ..render.show import (
        render_board,
        render_defconfig,
        render_platform,
        render_vm,
    )
    from ..render.stage2_map import render_map
    from ..render.tables import print_renderable, stack, text

    require_svg(svg)
    require_page(html)
    formats: list[Format | None] = []
    shown: list[RenderableType] = []
    listed: list[Json] = []
    host, tree = load_machine(platform, host_dtb)
    named = None if stage2_format is None else named_format(stage2_format)
    named_cpu = None if cpu is None else NamedCpu(cpu)
    hosts = [] if host is None or isinstance(host, BoardConfig) else [host]
    if isinstance(host, BoardConfig):
        shown.append(render_board(host))
    elif host is not None:
        shown.append(render_platform(host))
    kinds = [recognise(path) for path in files]
    others = (FileKind.PLATFORM, FileKind.DEFCONFIG, FileKind.BOARD)
    vm_files = [path for path, kind in zip(files, kinds, strict=True) if kind not in others]
    vms = _placed(load_vms(vm_files, generation, define, tree, lenient=True), host)
    for path, kind in zip(files, kinds, strict=True):
        facts: Json = {}
        if kind is FileKind.PLATFORM:
            hosts.append(load_platform(path))
            facts = platform_json(hosts[-1])
            shown.append(render_platform(hosts[-1]))
        elif kind is FileKind.DEFCONFIG:
            config = load_defconfig(path)
            facts = defconfig_json(config)
            shown.append(render_defconfig(config))
        elif kind is FileKind.BOARD:
            board = load_board(path)
            facts = board_json(board)
            shown.append(render_board(board))
        else:
            vm = vms[len(formats)]
            formats.append(_format(vm, host, named, named_cpu))
            shown.append(render_vm(vm, _fetched(vm), formats[-1]))
        listed.append(file_json(str(path), kind.name.lower(), facts))
    maps = _maps(vms, formats, host, tree)
    problem, notices = _together(vms, formats, host, named, named_cpu)
    subject = "These VMs cannot be run together" if len(vms) > 1 else "This VM cannot be run on this host"
    refused = None if problem is None else f"{subject}: {problem}"
    findings = [_of_images(vm, fmt) for vm, fmt in zip(vms, formats, strict=True)]
    found = [finding for one in findings for finding in one]
    if svg is not None:
        write_picture(svg, vms, host, maps, findings, refused)
    if html is not None:
        write_declared_page(html, vms, host, maps, findings, refused)
    if json_output:
        board_host = host if isinstance(host, BoardConfig) else None
        described = list(zip(vms, formats, maps, strict=True))
        print(json_text("show", show_json(described, hosts, board_host, listed, problem, found, notices)))
        return 0
    shown += [render_map(one, f"VM {vm.id} {vm.name}") for vm, one in zip(vms, maps, strict=True) if one is not None]
    if found:
        shown.append(stack((text("Images", "bold"), render_findings(found))))
    if notices:
        shown.append(stack((text("Together", "bold"), *(text(str(notice)) for notice in notices))))
    if refused is not None:
        shown.append(text(refused, "yellow"))
    for number, item in enumerate(shown):
        print_renderable(item if number == 0 else stack((text(""), item)))
    return 0


def _maps(
    vms: Sequence[PlannedVm],
    formats: Sequence[Format | None],
    host: PlatformConfig | BoardConfig | None,
    tree: HostTree | None,
) -> list[Stage2Map | None]:
    """The stage-2 maps that will be, where the host's device tree is given and the architecture is known."""
    from ..config.platform import PlatformConfig
    from ..formats import family_of
    from .maps import maps_of

    if tree is None or not isinstance(host, PlatformConfig):
        return [None] * len(vms)
    return maps_of(vms, [None if fmt is None else family_of(fmt).arch for fmt in formats], host, tree)


def _placed(vms: list[PlannedVm], host: PlatformConfig | BoardConfig | None) -> list[PlannedVm]:
    """VMs as they lie on the host; each as by itself where that cannot be, and `_together` says why."""
    from ..config.platform import PlatformConfig

    if len(vms) < 2 and not isinstance(host, PlatformConfig):
        return vms
    from ..forecast.placing import on_host

    with contextlib.suppress(Stage2Error):
        return on_host(vms, host)
    return vms


def _format(
    vm: PlannedVm, host: PlatformConfig | BoardConfig | None, named: NamedFormat | None, cpu: NamedCpu | None
) -> Format | None:
    """The format of a VM's stage-2 tables; None as long as nobody names the architecture."""
    from ..config.load import choose_arch, choose_format

    arch = choose_arch(vm, None, host, named)
    return None if arch is None else choose_format(vm, arch, host, named, cpu)


def _fetched(vm: VmConfig) -> set[str]:
    """Which of the guests that a VM's images name as `fetched:NAME` are in the cache."""
    paths = [image.path for image in vm.kernel.images if image.path is not None] + [rom.image for rom in vm.roms]
    names = {path.fetched for path in paths if path.fetched is not None}
    if not names:
        return set()
    from ..images.fetch import fetched

    found = set()
    for name in names:
        with contextlib.suppress(ImageError):
            found.add(fetched(name).name)
    return found


def _of_images(vm: PlannedVm, fmt: Format | None) -> list[Finding]:
    """What is to be known of a VM's images, as far as they are there: `show` needs none."""
    kernel = vm.kernel.kernel.path
    if kernel is None or (kernel.fetched is None and kernel.find() is None):
        return []
    from ..formats import family_of
    from ..vm.images import check_images, read_images

    try:
        images = read_images(vm)
    except Stage2Error:
        return []
    return check_images(vm, images, None if fmt is None else family_of(fmt).arch)


def _together(
    vms: Sequence[PlannedVm],
    formats: Sequence[Format | None],
    host: PlatformConfig | BoardConfig | None,
    named: NamedFormat | None,
    cpu: NamedCpu | None,
) -> tuple[str | None, Sequence[Notice]]:
    """Why these VMs cannot be run together on the host, None when they can, and what else is to be known of that.

    They are built as every other command builds them, where nobody names an architecture with the widest tables.
    One file alone is not asked for its peers.
    """
    from ..config.platform import PlatformConfig

    if len(vms) < 2 and not (vms and isinstance(host, PlatformConfig) and not vms[0].shares):
        return None, ()
    # These come with numpy, which what is shown of one file does without.
    from ..space.region import Populate
    from ..vm.host import Options, build

    unknown = None in formats
    options = Options(populate=Populate.LAZY, format=named, cpu=None if unknown else cpu)
    archs = [_WIDEST if fmt is None else None for fmt in formats]
    try:
        with build(vms, platform=host, archs=archs, options=options) as built:
            return None, list(built.notices)
    except Stage2Error as error:
        return str(error), ()
