"""The qemu engine: Debian's arm64 kernel at EL1, by our tables, on QEMU's emulated MMU."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import effort
from linux_guest import require_linux
from stage2.address import Gpa
from stage2.config.document import parse_document
from stage2.config.load import load_vm
from stage2.config.regions import PlannedVm, plan_vm
from stage2.config.stage2_format import named_format
from stage2.config.vm import read_vm
from stage2.engines.qemu import arm_host as arm_host_module
from stage2.engines.qemu.arm_host import arm_host
from stage2.engines.qemu.board import give_cores
from stage2.engines.run import RunOutcome, run_all
from stage2.errors import HostToolError
from stage2.machines.arm_board import ArmBoard, board_tree
from stage2.machines.emulator import Emulator
from stage2.memory.physical import PhysicalMemory
from stage2.space.region import Populate
from stage2.vm.boot import load_images
from stage2.vm.host import Options, build
from stage2.vm.images import read_images
from waiting import HANG_S

EXAMPLE = Path(__file__).parents[2] / "examples" / "linux-aarch64.toml"


@pytest.fixture(autouse=True)
def board() -> None:
    require_linux("linux-aarch64")
    if shutil.which("qemu-system-aarch64") is None:
        pytest.skip("qemu-system-aarch64 is not installed")


def run(config: PlannedVm, populate: Populate, *, fmt: str | None = None) -> RunOutcome:
    smallest = 4096 if populate is Populate.LAZY and fmt is None else None
    options = Options(populate, smallest, None if fmt is None else named_format(fmt), shared_memory=True)
    platform, tree = arm_host([config])
    with build([config], platform=platform, options=options) as host:
        (vm,) = host.vms
        give_cores(host)
        load_images(vm, config, read_images(config), tree.root)
        return run_all(host, max_seconds=HANG_S, engine="qemu")


@pytest.mark.parametrize("populate", list(Populate), ids=lambda one: one.value)
def test_linux_boots_to_power_off(populate: Populate) -> None:
    outcome = run(load_vm(EXAMPLE), populate)
    (report,) = outcome.reports
    assert (report.exit, report.reason) == ("off", "the guest asked for shutdown"), report.console[-2000:]
    assert report.engine == "qemu"
    assert "stage2-guest: memory work ok" in report.console
    assert bool(report.stage2_faults) is (populate is Populate.LAZY)
    if populate is Populate.LAZY:
        assert report.stage2_faults > 5000


def test_faults_around_make_fewer_of_them() -> None:
    config = load_vm(EXAMPLE)
    options = replace(config.options, fault_around=0x1_0000)
    around = replace(config, extensions=replace(config.extensions, options=options))
    (report,) = run(around, Populate.LAZY).reports
    assert report.exit == "off", report.reason
    assert report.stage2_faults < 2000


def test_pages_become_blocks_while_linux_runs() -> None:
    config = load_vm(EXAMPLE)
    options = replace(config.options, promote=True)
    promoting = replace(config, extensions=replace(config.extensions, options=options))
    (report,) = run(promoting, Populate.LAZY).reports
    assert report.exit == "off", report.reason
    assert "stage2-guest: memory work ok" in report.console
    assert sum(report.promotions.values()) > 0
    # What is passed through is some blocks too; those of memory are more.
    assert report.leaves[0x20_0000] >= sum(report.promotions.values())


ALL_FORMATS = ["arm-s2-16k-40", "arm-s2-4k-52-lpa2", "arm-s2-4k-40-4level", "arm-s2-4k-48", "arm-s2-64k-40"]


@pytest.mark.parametrize("fmt", ALL_FORMATS if effort.FACTOR > 1 else ALL_FORMATS[:1])
def test_linux_boots_by_tables_of_every_granule_and_number_of_levels(fmt: str) -> None:
    # Devices of 4 KiB cannot be passed through by larger pages, so these are emulated.
    config = load_vm(EXAMPLE.with_name("linux-aarch64-emulated.toml"))
    quiet = replace(config, kernel=replace(config.kernel, cmdline="quiet panic=-1 cryptomgr.notests"))
    options = replace(config.options, fault_around=0x20_0000)
    (report,) = run(
        replace(quiet, extensions=replace(config.extensions, options=options)), Populate.LAZY, fmt=fmt
    ).reports
    assert (report.exit, report.format) == ("off", fmt), report.reason


GICV2 = """\
[base]
id = 1
name = "linux"
vm_type = 2
cpu_num = 1
arch = "aarch64"
[kernel]
entry_point = 0x8020_0000
image_location = "fs"
kernel_path = "fetched:linux-aarch64"
kernel_load_addr = 0x8020_0000
ramdisk_path = "fetched:linux-aarch64"
memory_regions = [[0x8000_0000, 0x2000_0000, 0x7, 1]]
[devices]
passthrough_devices = [
    ["intc@8000000", 0x800_0000, 0x800_0000, 0x5_0000, 0],
    ["pl011@9000000", 0x900_0000, 0x900_0000, 0x1000, 0],
]
[stage2]
generation = "seed"
"""


def test_a_guest_with_identity_memory_has_a_gicv2_where_it_is_given_no_redistributor() -> None:
    outcome = run(plan_vm(read_vm(parse_document(GICV2, "linux.toml"))), Populate.EAGER)
    (report,) = outcome.reports
    assert report.exit == "off", report.console[-2000:]
    assert "GICv3" not in report.console


def test_semihosting_is_no_way_to_the_host() -> None:
    """HLT 0xF000 in a guest is an exception of the guest's, for QEMU was not told to answer it."""
    config = load_vm(EXAMPLE)
    options = Options(Populate.EAGER, shared_memory=True)
    # mov x0, #0x18 (SYS_EXIT); hlt #0xf000. The exception goes to VBAR_EL1, 0: nothing of the guest's is there.
    words = (0xD280_0300, 0xD45E_0000)
    with build([config], platform=arm_host([config])[0], options=options) as host:
        (vm,) = host.vms
        give_cores(host)
        vm.memory.write(Gpa(0x8020_0000), b"".join(word.to_bytes(4, "little") for word in words))
        vm.boot = replace(vm.boot, entry=Gpa(0x8020_0000))
        (report,) = run_all(host, max_seconds=HANG_S, engine="qemu").reports
    assert report.exit == "stopped"
    assert report.reason.startswith("fetch of GPA 0x200 "), report.reason


@pytest.mark.parametrize("generation", [7, 10])
def test_linux_boots_on_the_qemu_of_each_debian(generation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = Emulator("qemu", generation)
    try:
        emulator.program(ArmBoard.PROGRAM, ArmBoard.PACKAGE)
    except HostToolError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    made: list[str] = []

    class Other(ArmBoard):
        def __init__(self, memory: PhysicalMemory, **options: Any) -> None:
            super().__init__(memory, emulator=emulator, **options)
            made.append(self.version)

    monkeypatch.setattr(arm_host_module, "ArmBoard", Other)
    monkeypatch.setattr(arm_host_module, "board_tree", partial(board_tree, emulator=emulator))
    config = load_vm(EXAMPLE)
    options = replace(config.options, fault_around=0x1_0000)
    around = replace(config, extensions=replace(config.extensions, options=options))
    (report,) = run(around, Populate.LAZY).reports
    assert report.exit == "off", report.console[-2000:]
    assert [version.partition(".")[0] for version in made] == [str(generation)]
