"""RISC-V VMs on QEMU's board, for tests that run them there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stage2.config.regions import PlannedVm
from stage2.engines.qemu import riscv_host
from stage2.engines.qemu.board import board_host, give_cores
from stage2.engines.run import run_all
from stage2.errors import HostToolError
from stage2.machines.emulator import OWN_QEMU, Emulator
from stage2.machines.riscv_board import RiscvBoard
from stage2.memory.physical import PhysicalMemory
from stage2.space.region import Populate
from stage2.vm.boot import load_images
from stage2.vm.host import Host, Options, build
from stage2.vm.images import read_images
from stage2.vm.report import VmReport
from stage2.vm.vm import Vm
from waiting import HANG_S

EXAMPLE = Path(__file__).parents[2] / "examples" / "linux-riscv64.toml"


def require_qemu() -> None:
    """QEMU: CI must have it."""
    if shutil.which(RiscvBoard.PROGRAM) is None:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs the Debian package {RiscvBoard.PACKAGE}")
        pytest.skip(f"{RiscvBoard.PROGRAM} is not installed")


GENERATIONS = {"QEMU 7": 7, "QEMU 10": 10}


KINDS = (*GENERATIONS, "without Sstc")
"""Of boards: with the QEMU of either of Debian's releases, and with a hart that has no vstimecmp."""


def take_board(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let VMs run on a board of one of `KINDS`."""
    emulator, cpu = OWN_QEMU, "rv64,h=on,sstc=off" if kind == "without Sstc" else None
    if kind in GENERATIONS:
        emulator = Emulator("qemu", GENERATIONS[kind])
        require_emulator(emulator)

    class Chosen(RiscvBoard):
        def __init__(self, memory: PhysicalMemory, **options: Any) -> None:
            super().__init__(memory, cpu=cpu, emulator=emulator, **options)
            assert self.has_timer is (cpu is None)
            assert self.version.startswith("" if emulator.generation is None else str(emulator.generation))

    monkeypatch.setattr(riscv_host, "RiscvBoard", Chosen)


def require_emulator(emulator: Emulator) -> None:
    try:
        emulator.program(RiscvBoard.PROGRAM, RiscvBoard.PACKAGE)
    except HostToolError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def run(
    config: PlannedVm, populate: Populate | None = None, *, prepare: Callable[[Vm], None] = lambda _: None,
    look: Callable[[Host], None] = lambda _: None, max_seconds: float = HANG_S,
) -> VmReport:  # fmt: skip
    """A VM's report; `prepare` sees it before it runs, `look` its host afterwards."""
    options = Options(populate, 4096 if populate is Populate.LAZY else None, shared_memory=True)
    platform, _ = board_host([config], "riscv64")
    with build([config], platform=platform, options=options) as host:
        give_cores(host)
        load_images(host.vms[0], config, read_images(config))
        prepare(host.vms[0])
        outcome = run_all(host, max_seconds=max_seconds, engine="qemu")
        look(host)
    (report,) = outcome.reports
    return report


def with_options(config: PlannedVm, **changed: object) -> PlannedVm:
    options = replace(config.options, **changed)  # type: ignore[arg-type]
    return replace(config, extensions=replace(config.extensions, options=options))
