"""`stage2 layout`: how the hypervisor's kernel lies in memory, and what is wrong with that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..check.kernel_layout import Claim


def layout(
    file: Annotated[Path, Parameter(name="ELF|PLATFORM.toml")],
    /,
    *vms: Annotated[Path, Parameter(name="VM.toml")],
    platform: Path | None = None,
    smp: int | None = None,
    demand: Annotated[Literal["auto", "axvisor"], Parameter(name="--layout")] = "auto",
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
    svg: Path | None = None,
) -> int:
    """Show how the hypervisor's kernel lies in memory, from its ELF file, or computed from a platform file alone.

    Exit code 0: no finding is an error; 1: one is; 2: bad input.

    Parameters
    ----------
    file
        The kernel as its linker wrote it (also packed with gzip), or a platform file, from which a layout is computed.
    vms
        VM files whose identical and reserved memory must not hold the kernel.
    platform
        The host of an ELF file: its offset gives the load addresses, its RAM and devices are checked.
    smp
        CPUs that have a copy of .percpu; as the platform file says by default, else 1.
    demand
        axvisor demands everything that AxVisor's linker script has; auto does so for images with _skernel.
    json_output
        Print JSON instead of tables.
    svg
        Write the picture to this file.
    """
    from ..check.finding import has_errors
    from ..check.kernel_layout import check_image, check_place
    from ..config.kernel_sizes import require_cpus
    from ..config.load import load_platform
    from ..hypervisor.image import is_elf
    from ..hypervisor.layout import of_platform, open_image
    from ..render.json_text import json_text
    from ..render.layout import layout_json, layout_svg, render_layout
    from ..render.tables import print_renderable
    from .notices import print_notices

    cpus = None if smp is None else require_cpus(smp)
    host = None if platform is None else load_platform(platform)
    if file.suffix == ".toml" and not is_elf(file):
        if host is not None:
            raise ConfigError(f"--platform beside {file}: a platform file is given already")
        if demand != "auto":
            raise ConfigError(f"--layout {demand} means nothing for {file}: there is no image to hold against it")
        host = load_platform(file)
        image, found = None, of_platform(host, smp=cpus)
        findings = []
    else:
        axvisor = demand == "axvisor"
        image, found = open_image(file, host, smp=cpus, axvisor=axvisor)
        findings = check_image(image, found, axvisor=axvisor)
    if host is not None:
        print_notices(host.notices)
    findings += check_place(found, host, _claims(vms))
    if svg is not None:
        try:
            svg.write_text(layout_svg(found, findings), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--svg {svg}: {error.strerror}") from None
    if json_output:
        print(json_text("layout", layout_json(found, image, findings, host)))
    else:
        print_renderable(render_layout(found, image, findings))
    return 1 if has_errors(findings) else 0


def _claims(vms: tuple[Path, ...]) -> list[Claim]:
    """The host memory that VMs have at fixed addresses."""
    from ..check.finding import Location
    from ..check.kernel_layout import Claim
    from ..config.load import load_vm

    found = []
    for path in vms:
        vm = load_vm(path)
        for region in vm.plan.regions:
            if region.map_type.is_identity and region.host_range is not None and not vm.plan.is_assumed(region):
                place = region.place
                at = Location(vm.file, None if place is None else place.line)
                found.append(Claim(f"VM {vm.name}, {region.label}", region.host_range, at))
    return found
