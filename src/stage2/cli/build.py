"""`stage2 build`: the tables of VMs as files for a hypervisor to load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def build(
    vms: Annotated[list[Path], Parameter(name="VM.toml", show_default=False)],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    platform: Path | None = None,
    arch: Literal["riscv64", "aarch64", "x86_64"] | None = None,
    populate: Literal["lazy", "eager"] = "eager",
    page_size: Literal["auto", "4k", "2m", "1g"] = "auto",
    stage2_format: Annotated[str | None, Parameter(name="--stage2-format")] = None,
    cpu: str | None = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Write the stage-2 tables of VMs as files: raw bytes, an ELF object, a C header and a manifest. Needs no images.

    The folder appears whole or not at all; one that this command wrote before is replaced. `stage2 walk DIR --gpa`
    reads it back.

    Parameters
    ----------
    vms
        AxVisor VM files; they are built side by side, as a run would.
    output
        The folder to write.
    platform
        AxVisor platform file of the host, or a board file, which says the architecture and no memory; without a
        platform file the host is large enough for the VMs.
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
    json_output
        Print the manifest instead of a summary.
    """
    from ..address import format_size
    from ..render.plain import plain
    from ..tableimage.contents import collect, files_of
    from ..tableimage.folder import write_folder
    from .hosts import build_host

    with build_host(
        vms,
        platform=platform,
        arch=arch,
        populate=populate,
        page_size=page_size,
        stage2_format=stage2_format,
        cpu=cpu,
    ) as host:
        contents = collect(host.vms)
    files = files_of(contents)
    write_folder(output, files)
    if json_output:
        print(json.dumps({"vms": [vm.manifest() for vm in contents]}, indent=2))
        return 0
    for vm in contents:
        size = sum(len(segment.data) for segment in vm.segments)
        print(
            f"VM {vm.id} {plain(vm.name)}: {vm.tables} {vm.format} tables, {format_size(size)}, in {output / vm.folder}"
        )
        width = max(map(len, vm.registers))
        for name, value in vm.registers.items():
            print(f"  {name:<{width}}  {value:#x}")
        for segment in vm.segments:
            print(f"  {len(segment.data):#x} bytes at HPA {segment.hpa:#x}")
    return 0
