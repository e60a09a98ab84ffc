"""`stage2 walk`: the explained walk of a GPA on the tables a configuration yields."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeVar

from cyclopts import Parameter

from ..errors import ConfigError
from .arguments import other_reading, parse_address
from .memory import RegisterValues, Roots, inspected, looks_like_memory
from .own_walk import explain_hva
from .picture import require_svg
from .vm_files import GenerationName

if TYPE_CHECKING:
    from ..flags import Access
    from ..forecast.map_ranges import MapRange
    from ..inspect.inspection import Inspection
    from ..render.walk import WalkView
    from ..space.faults import FaultResult
    from ..tableimage.folder import LoadedTables
    from ..tables.regime import Regime
    from ..vm.host import Host
    from ..vm.vm import Vm


def walk(
    vms: Annotated[list[Path], Parameter(name="VM.toml|PLATFORM.toml|DIR|SOURCE", show_default=False)],
    /,
    *,
    gpa: str | None = None,
    gva: str | None = None,
    hva: str | None = None,
    access: Literal["read", "write", "fetch", "hlvx"] | None = None,
    arch: Literal["riscv64", "aarch64", "x86_64"] | None = None,
    platform: Path | None = None,
    host_dtb: Annotated[Path | None, Parameter(name="--host-dtb")] = None,
    vm: str | None = None,
    populate: Literal["lazy", "eager"] | None = None,
    page_size: Literal["auto", "4k", "2m", "1g"] | None = None,
    stage2_format: Annotated[str | None, Parameter(name="--stage2-format")] = None,
    cpu: str | None = None,
    smp: int | None = None,
    touch: Annotated[bool, Parameter(negative="")] = False,
    generation: GenerationName | None = None,
    define: Annotated[list[str] | None, Parameter(negative="")] = None,
    root: Roots = None,
    register: RegisterValues = None,
    base: str | None = None,
    core: int | None = None,
    svg: Path | None = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Explain how an address is translated, step by step: on the tables that VM files yield, which needs no images, or
    in a memory (a dump, a snapshot, a running QEMU) through one stage or both.

    Parameters
    ----------
    vms
        AxVisor VM files: the walk is in the first one unless --vm says otherwise; the others are built beside it,
        as a run would. Or one folder that `stage2 build` wrote. For --hva, a platform file alone is enough. Or one
        memory: an ELF core, a LiME or AVML dump, a raw image (with --base), a snapshot, a running QEMU (qmp:SOCKET,
        gdb:SOCKET).
    gpa
        The address: 0x8000_0000 or 2147483648; digits with a letter among them are hexadecimal.
    gva
        In place of --gpa, in a memory: an address of a guest's, or of a host's own system. It goes through stage 1 and,
        where there is one, the stage 2 below it.
    hva
        In place of --gpa: an address of the hypervisor's own, whose tables a platform file yields.
    access
        Check the permissions for this access; without it the address is only looked up. hlvx is RISC-V's load that
        needs execute permission instead of read permission.
    arch
        Architecture of the guests, when neither file nor platform says.
    platform
        AxVisor platform file of the host, or a board file, which says the architecture and no memory; without a
        platform file the host is large enough for the VMs.
    host_dtb
        The host's device tree, compiled or source (dtc compiles it): its RAM, reservations and devices, and the
        addresses of nodes that VM files pass through.
    vm
        Name of the VM to walk in.
    populate
        When RAM gets frames: eager by default; with lazy there is nothing to see before the first access.
    page_size
        Largest leaf of the stage-2 table; auto by default.
    stage2_format
        Format of the stage-2 tables (npt4, arm-s2-16k-40, sv48x4); without it the narrowest that is wide enough.
    cpu
        Processor that the tables are for (cortex-a72, "cortex-a72,pa=40"; "--cpu list" names all); without it they are
        for no particular one.
    smp
        With --hva: CPUs that the hypervisor's per-CPU areas are for; as the platform file says by default, else 1.
    touch
        Make the access first (a read, unless --access says otherwise), so that lazy RAM is populated.
    generation
        Format of the VM files: seed, head, tg (before GuestConfig) or present (GuestConfig); without it each file says
        or shows its own.
    define
        NAME=VALUE: what ${NAME} stands for in paths of the VM files, as workspace=/path; without it the environment is
        asked. May be given several times.
    root
        In a memory: FORMAT@ADDRESS[,control=value], once a stage; without it registers and source say.
    base
        Address of the first byte of a raw image.
    core
        In a memory: the CPU whose registers come first.
    svg
        File that gets a picture of the walk.
    json_output
        Print JSON instead of text.
    """
    if sum(address is not None for address in (gpa, gva, hva)) != 1:
        raise ConfigError("say which address is to be explained: one of --gpa, --gva and --hva")
    require_svg(svg)

    from ..render.tables import print_renderable
    from ..render.walk import render_walk

    for_vms = {
        "--arch": arch,
        "--populate": populate,
        "--page-size": page_size,
        "--stage2-format": stage2_format,
        "--generation": generation,
        "--host-dtb": host_dtb,
        "--define": define,
    }
    given = [option for option, value in for_vms.items() if value is not None] + ["--touch"] * touch
    hint = None
    if _is_memory(vms, root, gva, base):
        given += [option for option, value in (("--platform", platform), ("--cpu", cpu), ("--vm", vm)) if value]
        given += [option for option, value in (("--access", access), ("--hva", hva), ("--smp", smp)) if value]
        if given:
            raise ConfigError(f"{given[0]} means nothing for {vms[0]}, which is a memory that is only looked into")
        address = parse_address("--gva", gva) if gva is not None else parse_address("--gpa", gpa or "")
        kind = "gpa" if gva is None else "gva"
        with inspected(str(vms[0]), root, register, base, core) as found:
            view = explain_in_memory(found, kind, address)
    elif hva is not None:
        if vm is not None or given:
            option = "--vm" if vm is not None else given[0]
            raise ConfigError(f"{option} means nothing for --hva, which is an address of the hypervisor's own")
        made = partial(explain_hva, vms, access=access, platform=platform, cpu=cpu, smp=smp)
        asked = parse_address("--hva", hva)
        view = made(asked)
        hint = other_reading("--hva", hva, lambda other: _is_mapped(view if other == asked else made(other)))
    elif any(path.is_dir() for path in vms):
        given += [option for option, value in (("--platform", platform), ("--cpu", cpu)) if value is not None]
        tables = choose(_folder(vms, given), vm, str(vms[0]))
        hint = other_reading("--gpa", gpa or "", lambda address: tables.region_at(address) is not None)
        view = explain_tables(tables, parse_address("--gpa", gpa or ""), access)
    else:
        from .hosts import build_host

        address = parse_address("--gpa", gpa or "")
        # It is not closed: the process ends, and what it had goes with it.
        host = build_host(
            vms,
            platform=platform,
            host_dtb=host_dtb,
            arch=arch,
            populate=populate or "eager",
            page_size=page_size or "auto",
            stage2_format=stage2_format,
            cpu=cpu,
            generation=generation,
            define=define,
        )
        chosen = choose(host.vms, vm, "the files")
        hint = other_reading("--gpa", gpa or "", lambda address: chosen.space.region_at(address) is not None)
        view = replace(
            explain(chosen, address, access, touch=touch), host=host.platform, why=_why(host, chosen, address)
        )
    if hint is not None:
        print(f"stage2: notice: {hint}", file=sys.stderr)
    if svg is not None:
        from ..render.picture.walk import walk_svg
        from ..whole_file import write_whole

        write_whole(svg, walk_svg(view))
    if json_output:
        from ..render.json_text import json_text
        from ..render.walk_json import walk_json

        print(json_text("walk", walk_json(view)))
    else:
        print_renderable(render_walk(view))
    return 0


def _is_memory(paths: Sequence[Path], root: Sequence[str] | None, gva: str | None, base: str | None) -> bool:
    """Whether a memory is looked into, rather than the tables that files yield.

    Raises:
        ConfigError: several things are named, and one of them is a memory.
    """
    memories = [path for path in paths if looks_like_memory(str(path))]
    if memories and len(paths) > 1:
        raise ConfigError(f"{memories[0]} is a memory: give it alone")
    return bool(memories) or (len(paths) == 1 and not (root is None and gva is None and base is None))


def explain_in_memory(found: Inspection, kind: str, address: int) -> WalkView:
    """The walk of an address in a memory.

    Args:
        found: the memory.
        kind: "gva" or "gpa".
        address: what to walk.

    Raises:
        ConfigError: no root is known for such addresses.
    """
    from ..render.walk import WalkView

    taken = found.walk(gva=address) if kind == "gva" else found.walk(gpa=address)
    first, second = taken.stage_1, taken.stage_2
    last = second or first
    assert last is not None, "a walk is of one stage at least"
    outer = found.route(kind).first_for(address)
    types = None if outer is None else outer.types
    return WalkView(taken, last, first if second is not None else None, sources=types, declared=False)


def _why(host: Host, vm: Vm, gpa: int) -> MapRange | None:
    """What AxVisor's map will have at a GPA; None without the host's device tree."""
    if host.tree is None:
        return None
    from .maps import maps_of

    maps = maps_of(host.configs, [one.arch for one in host.vms], host.platform, host.tree)
    found = maps[host.vms.index(vm)]
    return None if found is None else found.at(gpa)


def _is_mapped(view: WalkView) -> bool:
    """Whether an address is one that the hypervisor maps."""
    return view.own is not None and view.own.piece is not None


class _Named(Protocol):
    @property
    def name(self) -> str:
        """The VM's name."""


_V = TypeVar("_V", bound=_Named)


def choose(vms: Sequence[_V], name: str | None, where: str) -> _V:
    """The VM of a name, the first one without a name.

    Raises:
        ConfigError: there is none, or several.
    """
    if name is None:
        return vms[0]
    found = [vm for vm in vms if vm.name == name]
    if len(found) != 1:
        names = ", ".join(vm.name for vm in vms)
        problem = f"{len(found)} VMs are" if found else "no VM is"
        raise ConfigError(f"--vm {name}: {problem} called so in {where}: there are {names}")
    return found[0]


def _as_made(name: str | None, regime: Regime) -> tuple[Access | None, Regime, str | None]:
    """The access of a name, the regime as it is when that is made, and by what means if that says more.

    Raises:
        ConfigError: the tables' architecture has no such access.
    """
    from ..flags import Access

    if name is None or name.upper() in Access.__members__:
        return None if name is None else Access[name.upper()], regime, None
    switch = regime.format.switches.get(name)
    if switch is None:
        raise ConfigError(f"--access {name}: there is no such access through {regime.format.name}")
    return Access.READ, replace(regime, controls=switch.turn_on(regime.controls)), name


def _folder(paths: Sequence[Path], useless: Sequence[str]) -> Sequence[LoadedTables]:
    """The tables of a folder that `stage2 build` wrote.

    Raises:
        ConfigError: something was given beside it.
    """
    from ..tableimage.folder import read_folder

    if len(paths) != 1:
        raise ConfigError(f"{next(path for path in paths if path.is_dir())} is a folder: give it alone")
    if useless:
        raise ConfigError(f"{useless[0]} means nothing for {paths[0]}: its tables are built already")
    return read_folder(paths[0])


def explain_tables(tables: LoadedTables, gpa: int, access: str | None) -> WalkView:
    """The walk on tables that `stage2 build` wrote."""
    from ..render.walk import WalkView
    from ..tables.explain import explain_stage

    made, regime, means = _as_made(access, tables.regime)
    return WalkView(
        walk=explain_stage(tables, regime, gpa, made),
        stage_2=regime,
        vm=tables.name,
        region=tables.region_at(gpa),
        means=means,
    )


def explain(vm: Vm, gpa: int, access: str | None, *, touch: bool) -> WalkView:
    """The walk and what belongs to its explanation.

    What a first access would do is found out by doing it, after the walk was taken: the VM is thrown away anyway.
    """
    from ..address import Gpa
    from ..flags import Access
    from ..formats.outcome import FaultKind
    from ..render.walk import Outcome, WalkView
    from ..tables.explain import explain_stage
    from ..tables.result import Fault, Mapped

    space = vm.space
    made, regime, means = _as_made(access, space.regime)
    # A region is asked for what the tables are: HLVX needs execute permission.
    tried = Access.FETCH if means is not None else made or Access.READ
    before = explain_stage(space.frames.memory, regime, gpa, made)
    after, outcome = before, None
    if isinstance(before.result, Fault) and before.result.kind is not FaultKind.ADDRESS_SIZE:
        result = space.handle_page_fault(Gpa(gpa), tried)
        after = explain_stage(space.frames.memory, regime, gpa, made)
        size = after.result.size if isinstance(after.result, Mapped) else None
        result, refused = _refused(vm, gpa, tried, result)
        outcome = Outcome(means or tried.name.lower(), result, size, done=touch, refused=refused)
    shown = after if touch else before
    owner = None
    if isinstance(shown.result, Mapped):
        holder = space.frames.owners.at(shown.result.hpa)
        owner = None if holder is None else str(holder)
    return WalkView(
        walk=shown,
        stage_2=regime,
        vm=vm.name,
        region=space.region_at(gpa),
        owner=owner,
        outcome=outcome,
        processor=space.processor,
        means=means,
    )


def _refused(vm: Vm, gpa: int, access: Access, result: FaultResult) -> tuple[FaultResult, str | None]:
    """Why an access to the page of an emulated device is not emulated, with what happens then; None where it is.

    Regions are whole pages, and a device need not be. What `Vm.action_for` and `Vm.unanswered` do, in words.
    """
    from ..address import SIZE_4K, Range, align_down
    from ..flags import Access
    from ..space.faults import Resolution
    from ..space.region import ViolationPolicy

    if result.resolution is not Resolution.DEVICE:
        return result, None
    policy = vm.space.policy.violation_of(result.region)
    fetched = access is Access.FETCH
    if vm.bus.answers(Range.sized(gpa, 1)):
        if not fetched:
            return result, None
        return replace(result, policy=ViolationPolicy.INJECT), "code cannot be fetched from an emulated device"
    near = vm.bus.spans(Range.sized(align_down(gpa, SIZE_4K), SIZE_4K))
    if fetched and (near or policy is ViolationPolicy.DISCARD):
        policy = ViolationPolicy.INJECT
    elif near and policy is ViolationPolicy.INJECT:
        policy = ViolationPolicy.DISCARD
    where = " and ".join(f"{name} answers in {span}" for span, name in near) or "no model is behind its region"
    return replace(result, policy=policy), f"no emulated device answers at this GPA ({where})"
