"""`stage2 build`: the tables of VMs as files for a hypervisor to load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..errors import ConfigError
from .arguments import parse_span
from .page import require_page, write_made_page
from .picture import require_svg, write_made_picture, write_made_tree
from .vm_files import GenerationName

if TYPE_CHECKING:
    from ..address import Range
    from ..tableimage.pieces import TableFiles
    from ..vm.host import Host
    from ..vm.report import RegionReport


def build(
    vms: Annotated[list[Path], Parameter(name="VM.toml", show_default=False)],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    platform: Path | None = None,
    host_dtb: Annotated[Path | None, Parameter(name="--host-dtb")] = None,
    arch: Literal["riscv64", "aarch64", "x86_64"] | None = None,
    populate: Literal["lazy", "eager"] = "eager",
    page_size: Literal["auto", "4k", "2m", "1g"] = "auto",
    stage2_format: Annotated[str | None, Parameter(name="--stage2-format")] = None,
    cpu: str | None = None,
    hypervisor_format: Annotated[str | None, Parameter(name="--hypervisor-format")] = None,
    smp: int | None = None,
    protect_tables: Annotated[bool, Parameter(negative="")] = False,
    tables_at: str | None = None,
    reserve: Annotated[list[str] | None, Parameter(negative="")] = None,
    generation: GenerationName | None = None,
    define: Annotated[list[str] | None, Parameter(negative="")] = None,
    svg: Path | None = None,
    tree: Path | None = None,
    html: Path | None = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Write the stage-2 tables of VMs as files: raw bytes, an ELF object, a C header and a manifest. Needs no images.

    With a platform file that says where the hypervisor's kernel and its linear map are, the hypervisor's own tables
    are written too. The folder appears whole or not at all; one that this command wrote before is replaced.
    `stage2 walk DIR --gpa` reads it back, and with --hva the hypervisor's.

    Parameters
    ----------
    vms
        AxVisor VM files; they are built side by side, as a run would.
    output
        The folder to write.
    platform
        AxVisor platform file of the host, or a board file, which says the architecture and no memory; without a
        platform file the host is large enough for the VMs.
    host_dtb
        The host's device tree, compiled or source (dtc compiles it): its RAM, reservations and devices, and the
        addresses of nodes that VM files pass through.
    arch
        Architecture of the guests, when neither file nor platform says.
    populate
        When RAM gets frames: with lazy its leaves are left out, for the hypervisor to fill in.
    page_size
        Largest leaf of the tables.
    stage2_format
        Format of the stage-2 tables (npt4, arm-s2-16k-40, sv48x4); without it the narrowest that is wide enough.
    cpu
        Processor that the tables are for (cortex-a72, "cortex-a72,pa=40"; "--cpu list" names all); without it they are
        for no particular one.
    hypervisor_format
        Format of the hypervisor's own tables (x86-5level, sv48, arm-s1-4k-48); without it the narrowest that is wide
        enough.
    smp
        CPUs that the hypervisor's per-CPU areas are for; as the platform file says by default, else 1.
    protect_tables
        Leave the VMs' tables out of the hypervisor's linear map.
    tables_at
        Host memory that the VMs' tables lie in and nothing else does: ADDRESS:SIZE, or an address alone, from which on
        they take what they need.
    reserve
        Host memory to leave alone: ADDRESS:SIZE, such as what firmware or a device tree reserves; may be given several
        times.
    generation
        Format of the VM files: seed, head, tg (before GuestConfig) or present (GuestConfig); without it each file says
        or shows its own.
    define
        NAME=VALUE: what ${NAME} stands for in paths of the VM files, as workspace=/path; without it the environment is
        asked. May be given several times.
    svg
        File that gets a picture besides: the VMs' memory beside the host's, as the tables have it.
    tree
        File that gets a picture of the tables themselves, level by level: how full they are, and what they cover.
    html
        Page for browsers that gets the same picture (NAME.html), and answers any address with its walk.
    json_output
        Print the manifest instead of a summary.
    """
    from ..config.cpu import NamedCpu
    from ..render.host import assumed_host
    from ..render.json_text import json_text
    from ..render.plain import plain
    from ..render.tables import print_renderable, text
    from ..tableimage.contents import collect, files_of, parts_of
    from ..tableimage.folder import write_folder
    from ..tableimage.own import collect_own
    from ..vm.own_space import own_space, says_own_space
    from .hosts import build_host

    require_svg(svg)
    require_svg(tree, "--tree")
    require_page(html)
    # It is not closed: the process ends, and what it had goes with it.
    make = partial(
        build_host,
        vms,
        platform=platform,
        host_dtb=host_dtb,
        arch=arch,
        populate=populate,
        page_size=page_size,
        stage2_format=stage2_format,
        cpu=cpu,
        smp=smp,
        generation=generation,
        define=define,
        reserved=[_whole("--reserve", span) for span in reserve or ()],
    )
    host = make() if tables_at is None else _placed(make, tables_at)
    own = mine = None
    asked = [
        name
        for name, given in (
            ("--protect-tables", protect_tables),
            ("--hypervisor-format", hypervisor_format is not None),
            ("--smp", smp is not None),
        )
        if given
    ]
    if says_own_space(host):
        named = None if cpu is None else NamedCpu(cpu)
        mine = own_space(host, fmt=hypervisor_format, cpu=named, protect_tables=protect_tables)
        own = collect_own(mine)
    elif asked:
        raise ConfigError(
            f"{asked[0]} is about the hypervisor's own tables, and nothing says where they map what: give a "
            "--platform with kernel-base-paddr and phys-virt-offset"
        )
    contents = collect(host.vms)
    write_folder(output, files_of(contents, own))
    if svg is not None:
        write_made_picture(svg, host)
    if tree is not None:
        write_made_tree(tree, host, mine)
    if html is not None:
        write_made_page(html, host)
    if json_output:
        print(json_text("build", parts_of(contents, own)))
        return 0
    for vm in contents:
        _print(f"VM {vm.id} {plain(vm.name)}", vm.registers, [vm.files], output)
        _print_regions(vm.regions)
    if own is not None:
        _print("hypervisor", own.registers, own.halves, output)
    if (said := assumed_host(host.platform)) is not None:
        print_renderable(text(said, "dim"))
    return 0


def _whole(option: str, value: str) -> Range:
    """A range with its size."""
    from ..address import Range

    start, size = parse_span(option, value)
    if size is None:
        raise ConfigError(f"{option} {value}: write ADDRESS:SIZE")
    return Range.sized(start, size)


def _placed(make: Callable[..., Host], tables_at: str) -> Host:
    """A host whose VMs' tables lie where the user wants them.

    Where no size is given they are made twice: how much they need is known once they are there.
    """
    from ..address import Range

    start, size = parse_span("--tables-at", tables_at)
    if size is None:
        with make(quiet=True) as trial:
            tables = [vm.space.page_table for vm in trial.vms]
            held = sum(span.size for table in tables for span in table.table_ranges)
            # Each root may have to skip to the next multiple of its size.
            size = held + sum(table.format.root_size for table in tables)
    return make(tables_at=Range.sized(start, size))


def _print(whose: str, registers: Mapping[str, int], parts: Sequence[TableFiles], output: Path) -> None:
    """What was written, for people."""
    from ..address import format_size
    from ..formats.duties import DUTIES
    from ..render.tables import facts, indented, print_renderable, text, unbroken

    for part in parts:
        place = output / part.folder
        print_renderable(unbroken(f"{whose}: {part.tables} {part.format} tables, {format_size(part.size)}, in {place}"))
    print_renderable(indented(facts((name, f"{value:#x}\n{DUTIES[name]}") for name, value in registers.items())))
    for part in parts:
        for segment in part.segments:
            print_renderable(indented(text(f"{len(segment.data):#x} bytes at HPA {segment.hpa:#x}")))


def _print_regions(regions: Sequence[RegionReport]) -> None:
    """Where in host memory a VM's regions lie."""
    from ..address import Range
    from ..render.plain import plain
    from ..render.tables import facts, indented, print_renderable

    rows = [
        (plain(region.name), "\n".join(f"HPA {Range(start, end)}" for start, end in region.hpa))
        for region in regions
        if region.hpa
    ]
    print_renderable(indented(facts(rows)))
