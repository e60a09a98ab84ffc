"""Snapshots of RISC-V VMs on QEMU's board: they go on from where they were, there or on another board."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from linux_guest import require_linux
from riscv_on_qemu import EXAMPLE, require_qemu

from stage2.config.document import parse_document
from stage2.config.load import load_vm
from stage2.config.regions import PlannedVm, plan_vm
from stage2.config.vm import read_vm
from stage2.engines.qemu.board import board_host, give_cores, open_machines
from stage2.engines.qemu.riscv import RiscvQemu
from stage2.engines.qemu.riscv_saved import problem_of
from stage2.errors import SnapshotError
from stage2.space.region import Populate
from stage2.vm.boot import load_images
from stage2.vm.host import Options, build
from stage2.vm.images import read_images
from stage2.vm.snapshots.snapshot import Snapshot
from stage2.vm.vm import Vm
from waiting import HANG_S, until

LINUX = """\
[base]
id = 1
name = "linux"
vm_type = 2
cpu_num = 2
arch = "riscv64"
[kernel]
entry_point = 0x8020_0000
image_location = "fs"
kernel_path = "fetched:linux-riscv64"
kernel_load_addr = 0x8020_0000
ramdisk_path = "fetched:linux-riscv64"
cmdline = "quiet console=ttyS0 panic=-1 cryptomgr.notests"
memory_regions = [[0x8000_0000, 0x1000_0000, 0x7, 0]]
[devices]
emu_devices = [
    ["plic", 0x0c00_0000, 0x60_0000, 0, 0x1, []],
    ["uart", 0x1000_0000, 0x1000, 10, 0x2, []],
]
passthrough_devices = []
[stage2]
generation = "head"
fault_around = 0x1_0000
"""


@pytest.fixture(autouse=True)
def board() -> None:
    require_linux()
    require_qemu()


@contextmanager
def on_a_board(config: PlannedVm) -> Iterator[tuple[Vm, RiscvQemu]]:
    """A VM on a board of its own, which has not begun."""
    platform, _ = board_host([config], "riscv64")
    with build([config], platform=platform, options=Options(Populate.LAZY, shared_memory=True)) as host:
        give_cores(host)
        load_images(host.vms[0], config, read_images(config))
        made, (machine,) = open_machines(host)
        assert isinstance(machine, RiscvQemu)
        try:
            yield host.vms[0], machine
        finally:
            machine.close()
            made.close()


@contextmanager
def running(machine: RiscvQemu) -> Iterator[None]:
    """While another thread runs it, until it has ended."""
    thread = threading.Thread(target=machine.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(HANG_S)
        assert not thread.is_alive()


def test_linux_with_two_harts_goes_on_from_a_snapshot_again_and_on_another_board(tmp_path: Path) -> None:
    config = plan_vm(read_vm(parse_document(LINUX, "linux.toml")))
    file = tmp_path / "linux.snapshot"
    with on_a_board(config) as (vm, machine):
        taken: list[Snapshot] = []
        with running(machine):
            until(lambda: "forks ok" in vm.console.text, "Linux does not come to its forks")
            taken.append(vm.snapshot())
        (moment,) = taken
        console = vm.console.text
        assert "memory work ok" not in console[: moment.state.console_position]
        assert moment.state.machine.more["running"] == [True, True]
        for _ in range(2):
            assert "memory work ok" in vm.console.text
            vm.restore(moment)
            assert "memory work ok" not in vm.console.text
            again = vm.snapshot()
            assert not len(again.pages.differing(moment.pages))
            with running(machine):
                pass
        assert "memory work ok" in vm.console.text
        moment.save(file)
    with on_a_board(config) as (vm, machine):
        vm.restore(Snapshot.open(file))
        result = machine.run()
        assert (result.exit, result.reason) == ("off", "the guest asked for shutdown")
        assert "memory work ok" in vm.console.text


def test_no_register_of_a_snapshot_leads_anywhere_but_into_the_guest() -> None:
    with on_a_board(load_vm(EXAMPLE)) as (vm, machine):
        state = machine.save()
        (values,) = state.cpus
        assert problem_of(values) is None
        assert "hstatus" not in values
        for name, value, problem in (
            ("hvip", 1 << 12, "hvip cannot be 0x1000"),
            ("vsie", 1 << 2, "vsie cannot be 0x4"),
            ("user", 2, "user cannot be 0x2"),
            ("pc", 1 << 64, f"pc cannot be {1 << 64}"),
            ("vsatp", 15 << 60, f"vsatp {15 << 60:#x}: MODE 15 is reserved; 0 Bare, 8, 9 and 10 are defined"),
        ):
            assert problem_of({**values, name: value}) == problem
        assert problem_of({**values, "hgatp": 0}) == "it has no hgatp"
        assert problem_of({name: 0 for name in values if name != "f31"}) == "the snapshot does not have its f31"
        snapshot = vm.snapshot()
        assert snapshot.state.machine.started is False
        with pytest.raises(SnapshotError, match="engine unicorn"):
            machine.require(type(state)("unicorn", 0, False, None, state.cpus))
