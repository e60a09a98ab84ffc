"""`stage2 walk`: the explained walk of a GPA on the tables a configuration yields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..errors import ImageError
from .arguments import parse_address

if TYPE_CHECKING:
    from ..config.vm import VmConfig
    from ..flags import Access
    from ..render.walk import WalkView
    from ..vm.vm import Vm


def walk(
    vms: Annotated[list[Path], Parameter(name="VM.toml", show_default=False)],
    /,
    *,
    gpa: str,
    access: Literal["read", "write", "fetch"] | None = None,
    arch: Literal["riscv64", "aarch64", "x86_64"] | None = None,
    platform: Path | None = None,
    populate: Literal["lazy", "eager"] = "eager",
    page_size: Literal["auto", "4k", "2m", "1g"] = "auto",
    touch: Annotated[bool, Parameter(negative="")] = False,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Explain how a guest physical address is translated, on the tables that the files yield. Needs no images.

    Parameters
    ----------
    vms
        AxVisor VM files. The walk is in the first one; the others are built beside it, as a run would.
    gpa
        The address: 0x8000_0000 or 2147483648.
    access
        Check the permissions for this access; without it the address is only looked up.
    arch
        Architecture of the guests, when neither file nor platform says.
    platform
        AxVisor platform file of the host; without it the host is large enough for the VMs.
    populate
        When RAM gets frames: with lazy there is nothing to see before the first access.
    page_size
        Largest leaf of the stage-2 table.
    touch
        Make the access first (a read, unless --access says otherwise), so that lazy RAM is populated.
    json_output
        Print JSON instead of text.
    """
    address = parse_address("--gpa", gpa)

    from ..config.load import choose_arch, load_platform, load_vm
    from ..flags import Access
    from ..render.tables import print_renderable
    from ..render.walk import render_walk, walk_json
    from ..space.region import Populate
    from ..vm.host import PAGE_SIZES, Options, build
    from .notices import print_notices

    configs = [load_vm(path) for path in vms]
    host_platform = None if platform is None else load_platform(platform)
    print_notices([notice for config in configs for notice in config.notices])
    options = Options(Populate(populate), PAGE_SIZES[page_size])
    archs = [_header_arch(config) if choose_arch(config, arch, host_platform) is None else None for config in configs]
    with build(configs, platform=host_platform, archs=archs, arch=arch, options=options) as host:
        print_notices(host.notices)
        view = explain(host.vms[0], address, None if access is None else Access[access.upper()], touch=touch)
    if json_output:
        print(json.dumps(walk_json(view), indent=2))
    else:
        print_renderable(render_walk(view))
    return 0


def _header_arch(config: VmConfig) -> str | None:
    """The architecture that the kernel's header names, if the images happen to be there."""
    from ..vm.boot import read_images

    try:
        return read_images(config).arch
    except ImageError:
        return None


def explain(vm: Vm, gpa: int, access: Access | None, *, touch: bool) -> WalkView:
    """The walk and what belongs to its explanation.

    What a first access would do is found out by doing it, after the walk was taken: the VM is thrown away anyway.
    """
    from ..address import Gpa
    from ..flags import Access
    from ..formats.outcome import FaultKind
    from ..render.walk import Outcome, WalkView
    from ..tables.result import Fault, Mapped

    space = vm.space
    tried = Access.READ if access is None else access
    before = space.page_table.explain(gpa, access)
    after, outcome = before, None
    if isinstance(before.result, Fault) and before.result.kind is not FaultKind.ADDRESS_SIZE:
        result = space.handle_page_fault(Gpa(gpa), tried)
        after = space.page_table.explain(gpa, access)
        size = after.result.size if isinstance(after.result, Mapped) else None
        outcome = Outcome(tried.name.lower(), result, size, done=touch)
    shown = after if touch else before
    owner = None
    if isinstance(shown.result, Mapped):
        holder = space.frames.owners.at(shown.result.hpa)
        owner = None if holder is None else str(holder)
    return WalkView(
        walk=shown,
        stage_2=space.regime,
        vm=vm.name,
        region=space.region_at(gpa),
        owner=owner,
        outcome=outcome,
    )
