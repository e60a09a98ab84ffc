"""Linux on QEMU's AArch64 board by our stage 2, beside the same guest on the same QEMU without any.

Wall clock from the start of QEMU to the first line of the guest's own user space, ways in turns. QEMU is another
process with a core of its own, and this one answers it: so run this on a machine that does nothing else.
"""

from __future__ import annotations

import select
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from stage2.config.load import load_vm
from stage2.config.regions import PlannedVm
from stage2.engines.qemu.arm_host import arm_host
from stage2.engines.qemu.board import give_cores
from stage2.engines.run import run_all
from stage2.images.fetch import fetched
from stage2.machines.arm_board import ArmBoard
from stage2.machines.process import Child
from stage2.space.region import Populate
from stage2.vm.boot import load_images
from stage2.vm.host import Options, build
from stage2.vm.images import read_images
from stage2.vm.report import VmReport

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/linux-aarch64.toml"
WAYS = ("without stage 2", "eager", "lazy, faults around", "lazy, 4 KiB")
GOALS = {"lazy, faults around": 1.5, "lazy, 4 KiB": 3.0}
"""Times the wall clock without stage 2."""
_MARK = "stage2-guest: "
_AROUND = 0x1_0000
_BOUND_S = 300.0


@dataclass(frozen=True, slots=True)
class BoardBoot:
    """One way to boot.

    Args:
        way: of `WAYS`.
        seconds: to user space, median.
        ratio: over the boot without stage 2 of the same round, median.
        faults: answered until power-off.
        answered_s: what the guest stood still for them, in all.
        handled_s: of that, in Python.
        runs: rounds.
    """

    way: str
    seconds: float
    ratio: float
    faults: int
    answered_s: float
    handled_s: float
    runs: int


def without_stage_2(config: PlannedVm) -> float:
    """Boot on QEMU as its users do."""
    guest = fetched("linux-aarch64")
    assert config.kernel.cmdline is not None
    (ram,) = [region for region in config.plan.regions if region.map_type.is_ram]
    ours, theirs = socket.socketpair()
    with TemporaryDirectory() as folder:
        program = ArmBoard.PROGRAM
        command = [
            program, "-machine", "virt,gic-version=3", "-cpu", ArmBoard.CPU, "-m", str(ram.size >> 20), "-accel", "tcg",
            "-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot",
            "-chardev", f"socket,id=console,fd={theirs.fileno()}", "-serial", "chardev:console",
            "-kernel", str(guest.kernel), "-initrd", str(guest.ramdisk), "-append", config.kernel.cmdline,
        ]  # fmt: skip
        began = time.perf_counter()
        child = Child(command, keep=(theirs.fileno(),))
        theirs.close()
        said = b""
        try:
            while _MARK.encode() not in said:
                if not select.select([ours], [], [], _BOUND_S)[0]:
                    raise SystemExit(f"{folder}: the guest says nothing")
                said += ours.recv(1 << 16)
            return time.perf_counter() - began
        finally:
            child.end()
            ours.close()


def by_our_tables(config: PlannedVm, populate: Populate, largest: int | None) -> tuple[float, VmReport]:
    """Boot by our tables, to power-off; seconds until user space, and the report."""
    options = Options(populate, largest, shared_memory=True)
    marks: list[float] = []
    tail = ""

    def sink(_name: str, text: str) -> None:
        nonlocal tail
        tail = tail[-len(_MARK) :] + text
        if not marks and _MARK in tail:
            marks.append(time.perf_counter())

    platform, tree = arm_host([config])
    with build([config], platform=platform, options=options, sink=sink) as host:
        give_cores(host)
        load_images(host.vms[0], config, read_images(config), tree.root)
        began = time.perf_counter()
        (report,) = run_all(host, max_seconds=_BOUND_S, engine="qemu").reports
    if report.exit != "off" or not marks:
        raise SystemExit(f"Linux did not power off: {report.reason}")
    return marks[0] - began, report


def boards(runs: int) -> list[BoardBoot]:
    """Boot each way in turns, once unmeasured.

    Raises:
        Stage2Error: the guest was not fetched, or QEMU is not there.
    """
    config = load_vm(EXAMPLE)
    around = replace(
        config, extensions=replace(config.extensions, options=replace(config.options, fault_around=_AROUND))
    )
    reports: dict[str, VmReport] = {}

    def ours(way: str, one: PlannedVm, populate: Populate, largest: int | None) -> Callable[[], float]:
        def work() -> float:
            seconds, reports[way] = by_our_tables(one, populate, largest)
            return seconds

        return work

    ways = dict(
        zip(
            WAYS,
            [
                lambda: without_stage_2(config),
                ours(WAYS[1], config, Populate.EAGER, None),
                ours(WAYS[2], around, Populate.LAZY, None),
                ours(WAYS[3], config, Populate.LAZY, 4096),
            ],
            strict=True,
        )
    )
    for work in ways.values():
        work()
    rounds = [{way: work() for way, work in ways.items()} for _ in range(runs)]
    found = []
    for way in WAYS:
        exits = reports[way].exits if way in reports else ()
        faults = next((one for one in exits if one.kind == "memory fault"), None)
        found.append(
            BoardBoot(
                way,
                statistics.median(one[way] for one in rounds),
                statistics.median(one[way] / one[WAYS[0]] for one in rounds),
                0 if faults is None else faults.count,
                0.0 if faults is None or faults.waited is None else faults.waited.total / 1e6,
                0.0 if faults is None else faults.handled.total / 1e6,
                runs,
            )
        )
    return found


def lines(found: list[BoardBoot]) -> list[str]:
    """The part of the page."""
    body = [
        "| way | seconds | times as long | goal | faults | the guest stood still | of that in Python |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        goal = f"{GOALS[one.way]:g}" if one.way in GOALS else ""
        times = [f"{one.seconds:.2f}", f"{one.ratio:.2f}", goal, f"{one.faults:,}"]
        parts = [f"{one.answered_s:.2f} s", f"{one.handled_s:.2f} s"] if one.faults else ["", ""]
        body.append(f"| {' | '.join([one.way, *times, *parts])} |")
    return [
        f"Debian's arm64 kernel to the first line of its own user space, wall clock from the start of QEMU, medians of "
        f"{found[0].runs} rounds in turns; faults until power-off.",
        "",
        *body,
        "",
    ]
