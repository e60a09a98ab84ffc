"""`stage2 run`: guests with a live console, and what their memory did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..errors import ConfigError
from .console_writer import ConsoleWriter
from .named_images import override
from .picture import require_svg, write_made_picture
from .saving import print_saved, saving_of
from .vm_files import GenerationName, load_machine, load_vms, read_vms

if TYPE_CHECKING:
    from ..config.board import BoardConfig
    from ..config.defconfig import DefConfig
    from ..config.platform import PlatformConfig
    from ..config.regions import PlannedVm
    from ..config.vm import VmConfig
    from ..engines.run import RunOutcome
    from ..engines.saving import Saving
    from ..images.host_tree import HostTree
    from ..prove.theorem import Proof
    from ..vm.host import Host
    from ..vm.images import VmImages
    from ..vm.vm import Vm
    from .live_map import LiveMap

_SHORTEST_LOG_MS = 0.1
"""Harvesting takes longer than what would be written in less."""
_INTERRUPTS = ("riscv64",)
"""Architectures whose machine has a timer and interrupts by itself."""
_BOARDS = ("aarch64", "x86_64")
"""Architectures whose Linux needs the qemu engine: unicorn's machine has no interrupts, or not enough of a PC."""

Architecture = Literal["riscv64", "aarch64", "x86_64"]


def run(
    vms: Annotated[list[Path], Parameter(name="VM.toml", show_default=False)],
    /,
    *,
    arch: Architecture | None = None,
    platform: Path | None = None,
    host_dtb: Annotated[Path | None, Parameter(name="--host-dtb")] = None,
    kernel: str | None = None,
    ramdisk: str | None = None,
    dtb: Path | None = None,
    cmdline: str | None = None,
    populate: Literal["lazy", "eager"] | None = None,
    page_size: Literal["auto", "4k", "2m", "1g"] = "auto",
    stage2_format: Annotated[str | None, Parameter(name="--stage2-format")] = None,
    cpu: str | None = None,
    engine: Literal["auto", "unicorn", "qemu"] = "auto",
    defconfig: Path | None = None,
    max_seconds: float | None = None,
    dirty_log: float | None = None,
    trace_edits: Annotated[Path | None, Parameter(name="--trace-edits")] = None,
    trace: Path | None = None,
    map_interval: Annotated[float | None, Parameter(name="--map-interval")] = None,
    qmp: Path | None = None,
    gdb: Path | None = None,
    paranoid: Annotated[bool, Parameter(negative="")] = False,
    restore: Path | None = None,
    snapshot: Path | None = None,
    precopy: Path | None = None,
    save_at: float | None = None,
    precopy_rounds: int | None = None,
    precopy_until: int | None = None,
    svg: Path | None = None,
    generation: GenerationName | None = None,
    define: Annotated[list[str] | None, Parameter(negative="")] = None,
    json_file: Annotated[Path | None, Parameter(name="--json", allow_leading_hyphen=True)] = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run guests until they power off: console live, then a table of what their memory did.

    Exit codes: 0 every guest powered off (or was copied), 1 one was stopped or not saved, 2 bad input, 3 time limit,
    130 and 143 signals.

    Parameters
    ----------
    vms
        AxVisor VM files; several run side by side.
    arch
        Architecture of the guests, when neither file, platform nor kernel says.
    platform
        AxVisor platform file of the host, or a board file, which says the architecture and no memory; without a
        platform file the host is large enough for the VMs.
    host_dtb
        The host's device tree, compiled or source (dtc compiles it): its RAM, reservations and devices, and the
        addresses of nodes that VM files pass through.
    kernel
        Kernel image instead of the file's (a path, or fetched:NAME).
    ramdisk
        Ramdisk instead of the file's (a path, or fetched:NAME).
    dtb
        Device tree instead of the file's or the generated one.
    cmdline
        Kernel command line instead of the file's.
    populate
        When RAM gets frames: at the first access, or at once.
    page_size
        Largest leaf of the stage-2 table.
    stage2_format
        Format of the stage-2 tables (npt4, arm-s2-16k-40, sv48x4); without it the narrowest that is wide enough.
    cpu
        Processor that the tables are for (cortex-a72, "cortex-a72,pa=40"; "--cpu list" names all); without it they are
        for no particular one.
    engine
        What runs the guests: unicorn, in this process; qemu, a whole board whose emulated MMU walks the tables
        (AArch64, RISC-V, x86-64). With auto the one that can: qemu for AArch64 and x86-64 Linux, unicorn for all else.
    defconfig
        AxVisor's defconfig, which says how the hypervisor is built: its CPUs (smp) and its ticks (ticks-per-sec).
    max_seconds
        Limit: seconds after which guests are stopped (exit code 3).
    dirty_log
        Log which pages guests write, harvested after each so many milliseconds of the guest's time.
    trace_edits
        Write every store to a stage-2 table, every TLB operation and every barrier, in order, to this file, a line
        each; "stage2 check-trace" judges it, docs/traces.md tells the format.
    trace
        Write what stopped the guests to this file, a line of JSON for each exit (engine qemu; docs/run-on-qemu.md).
    map_interval
        Show how the guests' memory fills, on standard error, every so many seconds.
    qmp
        Let QEMU listen on this Unix socket, so that `stage2 map qmp:SOCKET` and the like look into the run (engine
        qemu).
    gdb
        The same for QEMU's gdb stub, which tells every register: `gdb:SOCKET`. Whoever looks may stop the machine; the
        run goes on when it does.
    paranoid
        Prove isolation after every edit of a table, and stop all guests where a theorem does not hold (exit code 1).
    restore
        Go on from this file, a snapshot of the same VM that --snapshot or --precopy made, instead of from the entry.
    snapshot
        Write the VM to this file, memory, CPUs, clock and devices: when the run ends (by --max-seconds or Ctrl-C, for
        instance), or at --save-at, and then it runs on. One VM; docs/snapshots.md tells the format.
    precopy
        Copy the VM to this file while it runs, in rounds of what it wrote meanwhile, and stop it for the last of them:
        --restore goes on from there. The copy begins at once, or at --save-at.
    save_at
        Milliseconds of the guest's time at which the snapshot is taken, or pre-copy begins.
    precopy_rounds
        Limit: rounds of pre-copy while the guest runs; without it 8.
    precopy_until
        When no more than so many pages of 4 KiB are left, the guest is stopped for them; without it 64.
    svg
        File that gets a picture at the end: what is declared and what the guests had of it, beside the host's memory.
    generation
        Format of the VM files: seed, head, tg (before GuestConfig) or present (GuestConfig); without it each file says
        or shows its own.
    define
        NAME=VALUE: what ${NAME} stands for in paths of the VM files, as workspace=/path; without it the environment is
        asked. May be given several times.
    json_file
        Write the report as JSON to this file ("-" for standard output, and nothing else goes there then).
    quiet
        No console and no table.
    """
    from ..config.load import load_defconfig

    if max_seconds is not None and not max_seconds > 0:
        raise ConfigError(f"--max-seconds {max_seconds:g} must be above 0")
    if dirty_log is not None and not dirty_log >= _SHORTEST_LOG_MS:
        raise ConfigError(f"--dirty-log {dirty_log:g} must be at least {_SHORTEST_LOG_MS:g} ms")
    if paranoid and trace_edits is not None:
        raise ConfigError("--paranoid and --trace-edits both watch the tables: give one of them")
    if map_interval is not None and not map_interval > 0:
        raise ConfigError(f"--map-interval {map_interval:g} must be above 0")
    saving = saving_of(restore, snapshot, precopy, save_at, precopy_rounds, precopy_until, several=len(vms) > 1)
    require_svg(svg)
    host_platform, tree = load_machine(platform, host_dtb)

    def given(loaded: Sequence[PlannedVm]) -> list[PlannedVm]:
        return [override(vm, kernel, ramdisk, dtb, cmdline, alone=len(vms) == 1) for vm in loaded]

    configs = given(load_vms(vms, generation, define, tree))
    chosen = engine_for(configs, arch, host_platform) if engine == "auto" else engine
    if chosen == "qemu" and host_platform is None:
        from ..engines.qemu.board import BOARD_FORMATS, board_host

        # The host is the board, in whose tree the nodes are that files pass through.
        of_guests = _arch_of(configs[0], arch) or "aarch64"
        host_platform, tree = board_host(configs, of_guests)
        if tree is not None:
            from ..config.regions import plan_vm
            from ..engines.qemu.sharing import share_out

            shared = share_out(read_vms(vms, generation, define, tree), tree)
            configs = given([plan_vm(vm) for vm in shared])
        if stage2_format is None and all(config.options.format is None for config in configs):
            stage2_format = BOARD_FORMATS.get(of_guests)
    if trace is not None and chosen != "qemu":
        raise ConfigError("--trace tells of exits, which guests of the unicorn engine do not make: give --engine qemu")
    sockets = {option: path for option, path in (("qmp", qmp), ("gdb", gdb)) if path is not None}
    if sockets and chosen != "qemu":
        raise ConfigError(f"--{next(iter(sockets))} is a socket of QEMU: give --engine qemu")
    built_as = None if defconfig is None else load_defconfig(defconfig)
    return run_configs(
        configs,
        arch=arch,
        platform=host_platform,
        populate=populate,
        page_size=page_size,
        stage2_format=stage2_format,
        cpu=cpu,
        engine=chosen,
        tree=tree,
        defconfig=built_as,
        max_seconds=max_seconds,
        dirty_log=dirty_log,
        trace_edits=trace_edits,
        trace=trace,
        map_interval=map_interval,
        sockets=sockets,
        paranoid=paranoid,
        saving=saving,
        svg=svg,
        json_file=json_file,
        quiet=quiet,
    )


def run_configs(
    configs: list[PlannedVm],
    *,
    arch: str | None = None,
    platform: PlatformConfig | BoardConfig | None = None,
    populate: str | None = None,
    page_size: str = "auto",
    stage2_format: str | None = None,
    cpu: str | None = None,
    engine: str = "unicorn",
    tree: HostTree | None = None,
    defconfig: DefConfig | None = None,
    max_seconds: float | None = None,
    dirty_log: float | None = None,
    trace_edits: Path | None = None,
    trace: Path | None = None,
    map_interval: float | None = None,
    sockets: Mapping[str, Path] | None = None,
    paranoid: bool = False,
    saving: Saving | None = None,
    svg: Path | None = None,
    json_file: Path | None = None,
    quiet: bool = False,
) -> int:
    """Build, load, run and report; the exit code. Errors come before anything runs."""
    from ..config.cpu import NamedCpu
    from ..config.stage2_format import named_format
    from ..engines.run import run_all
    from ..forecast.placing import on_host
    from ..hypervisor.time import NANOS_PER_MS, TimeValue
    from ..space.region import Populate
    from ..vm.boot import load_images
    from ..vm.exit_trace import ExitTrace
    from ..vm.host import PAGE_SIZES, Options, build
    from ..vm.images import check_images, read_images
    from .notices import print_findings, print_notices

    # Standard output is the JSON's alone when it goes there.
    quiet = quiet or str(json_file) == "-"
    images = [read_images(config) for config in configs]
    configs = on_host(configs, platform)
    print_notices([notice for config in configs for notice in config.notices])
    print_notices([] if defconfig is None else defconfig.notices)
    options = Options(
        None if populate is None else Populate(populate),
        PAGE_SIZES[page_size],
        None if stage2_format is None else named_format(stage2_format),
        None if cpu is None else NamedCpu(cpu),
        defconfig,
        shared_memory=engine == "qemu",
        # A fault there is a way through a doorbell and back, which costs more than pages that nobody asked for.
        fault_around="adaptive" if engine == "qemu" else None,
    )
    writer = None if quiet else ConsoleWriter(several=len(configs) > 1)
    edits = None
    if trace_edits is not None:
        # It knows the instructions of every architecture, which a run by itself does without.
        from ..tlb.trace import EditTrace

        edits = EditTrace(trace_edits)
    exits = None if trace is None else ExitTrace(trace)
    with edits or nullcontext(), exits or nullcontext():
        with build(
            configs,
            platform=platform,
            archs=[found.arch for found in images],
            arch=arch,
            options=options,
            sink=writer,
            trace=edits,
        ) as host:
            print_notices(host.notices)
            host.sockets.update(sockets or {})
            for vm, config, found in zip(host.vms, host.configs, images, strict=True):
                print_findings(check_images(config, found, vm.arch), config.place)
                if engine == "unicorn":
                    require_interrupts(vm, config, found)
            if engine == "qemu":
                from ..engines.qemu.board import give_cores

                give_cores(host)
            for vm, config, found in zip(host.vms, host.configs, images, strict=True):
                load_images(vm, config, found, tree.root if engine == "qemu" and tree is not None else None)
            interval = None if dirty_log is None else TimeValue(int(dirty_log * NANOS_PER_MS))
            with _live_map(host, map_interval, writer) or nullcontext():
                outcome = run_all(
                    host,
                    max_seconds=max_seconds,
                    dirty_log=interval,
                    paranoid=paranoid,
                    engine=engine,
                    saving=saving,
                    trace=None if exits is None else exits.write,
                )
            if edits is not None:
                # What becomes of the tables when the VMs are gone is no part of the run.
                edits.stop()
            proof = outcome.proof or host.prove()
            if svg is not None:
                write_made_picture(svg, host, proof)
        if writer is not None:
            writer.finish()
        report(outcome, host.platform, json_file, quiet, proof)
    return outcome.exit_code or (0 if proof.proved_for_cpus else 1)


def _live_map(host: Host, seconds: float | None, writer: ConsoleWriter | None) -> LiveMap | None:
    """The map that is drawn while guests run; they print above it."""
    if seconds is None:
        return None
    from .live_map import LiveMap

    live = LiveMap(host, seconds)
    if writer is not None:
        writer.write = live.write
    return live


def engine_for(
    configs: Sequence[PlannedVm], arch: str | None, platform: PlatformConfig | BoardConfig | None
) -> Literal["unicorn", "qemu"]:
    """The engine that can run these guests: QEMU where one is Linux for AArch64 or x86-64."""
    from ..config.vm import VmType
    from ..vm.images import read_kernel

    for config in configs:
        said = arch or config.arch or (None if platform is None else platform.arch)
        if said not in (None, *_BOARDS):
            continue
        kernel = read_kernel(config)
        if (said or kernel.arch in _BOARDS) and (config.vm_type is VmType.LINUX or kernel.is_linux):
            return "qemu"
    return "unicorn"


def _arch_of(config: PlannedVm, arch: str | None) -> str | None:
    """A guest's architecture, as far as anybody says it."""
    from ..vm.images import read_kernel

    return arch or config.arch or read_kernel(config).arch


def require_interrupts(vm: Vm, config: VmConfig, images: VmImages) -> None:
    """Refuse a Linux guest where it would wait for an interrupt for ever.

    Raises:
        ConfigError: the file or the kernel says Linux, and neither the architecture nor the file gives it interrupts.
    """
    from ..config.vm import VmType

    if vm.arch in _INTERRUPTS or vm.gic is not None or not (config.vm_type is VmType.LINUX or images.is_linux):
        return
    raise config.place.error(
        f"{config.label} is a Linux guest: it needs interrupts, which the unicorn engine has for "
        f"{', '.join(_INTERRUPTS)}, and for aarch64 with an emulated GICv2 (emu_devices); bare-metal images run"
    )


def report(outcome: RunOutcome, platform: PlatformConfig, json_file: Path | None, quiet: bool, proof: Proof) -> None:
    """Write the JSON and print the table, and whether the VMs are isolated."""
    from ..render.json_text import json_text
    from ..render.report import render_report
    from ..render.report_json import reports_json
    from ..render.tables import print_renderable
    from ..render.tables import text as tables_text

    if json_file is not None:
        text = json_text("run", reports_json(outcome.reports, outcome.cost, proof, outcome.proofs, outcome.saved))
        if str(json_file) == "-":
            print(text)
        else:
            try:
                json_file.write_text(text + "\n")
            except OSError as error:
                raise ConfigError(f"--json {json_file}: {error.strerror}") from None
    if not quiet:
        print_renderable(render_report(outcome.reports, outcome.cost, platform))
        often = f" ({outcome.proofs:,} times while the VMs ran)" if outcome.proofs else ""
        print_renderable(tables_text(f"isolation {proof}{often}", "" if proof.proved else "bold red"))
    print_saved(outcome.saved, quiet=quiet)
