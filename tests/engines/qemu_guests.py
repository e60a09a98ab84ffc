"""VM files on QEMU's AArch64 board, for tests that run them there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stage2.cli.vm_files import read_vms
from stage2.config.regions import PlannedVm, plan_vm
from stage2.engines.qemu.board import board_host, give_cores
from stage2.engines.qemu.sharing import share_out
from stage2.engines.run import RunOutcome, run_all
from stage2.space.region import Populate
from stage2.vm.boot import load_images
from stage2.vm.host import Options, build
from stage2.vm.images import read_images
from waiting import HANG_S

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
GUESTS = ROOT / "src/stage2/vm/guests"


def require_qemu() -> None:
    """Skip where the emulator is not installed; in CI it is."""
    if shutil.which("qemu-system-aarch64") is None:
        pytest.skip("qemu-system-aarch64 is not installed")


def faults_around(config: PlannedVm, size: int) -> PlannedVm:
    """The same VM, of which a fault populates so much."""
    options = replace(config.options, fault_around=size)
    return replace(config, extensions=replace(config.extensions, options=options))


def run_files(
    files: Sequence[Path], *, around: int = 0, populate: Populate = Populate.LAZY, paranoid: bool = False
) -> RunOutcome:
    """Run VM files side by side, as `stage2 run --engine qemu` does."""
    first = [plan_vm(vm) for vm in read_vms(files)]
    platform, tree = board_host(first, "aarch64")
    assert tree is not None
    configs = [plan_vm(vm) for vm in share_out(read_vms(files, tree=tree), tree)]
    if around:
        configs = [faults_around(config, around) for config in configs]
    with build(configs, platform=platform, options=Options(populate, shared_memory=True)) as host:
        give_cores(host)
        for vm, config in zip(host.vms, host.configs, strict=True):
            load_images(vm, config, read_images(config), tree.root)
        return run_all(host, max_seconds=HANG_S, engine="qemu", paranoid=paranoid)
