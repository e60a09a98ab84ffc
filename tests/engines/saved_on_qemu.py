"""A VM on a board of QEMU's of its own, which a test saves and puts back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stage2.config.document import parse_document
from stage2.config.regions import PlannedVm, plan_vm
from stage2.config.vm import read_vm
from stage2.engines.qemu.board import board_host, give_cores, open_machines
from stage2.engines.qemu.saved import SavedQemuVm
from stage2.space.region import Populate
from stage2.vm.boot import load_images
from stage2.vm.host import Options, build
from stage2.vm.images import read_images
from stage2.vm.vm import Vm
from waiting import HANG_S

_DEVICES = {
    "riscv64": """
    ["plic", 0x0c00_0000, 0x60_0000, 0, 0x1, []],
    ["uart", 0x1000_0000, 0x1000, 10, 0x2, []],
""",
    "aarch64": """
    ["gic", 0x0800_0000, 0x2_0000, 0, 0x1, []],
    ["uart", 0x0900_0000, 0x1000, 33, 0x2, []],
""",
}
_WORDS = {"riscv64": "console=ttyS0", "aarch64": "earlycon"}


def linux(arch: str, *, cpus: int = 2) -> PlannedVm:
    """Linux with an emulated interrupt controller and serial port."""
    text = f"""\
[base]
id = 1
name = "linux"
vm_type = 2
cpu_num = {cpus}
arch = "{arch}"
[kernel]
entry_point = 0x8020_0000
image_location = "fs"
kernel_path = "fetched:linux-{arch}"
kernel_load_addr = 0x8020_0000
ramdisk_path = "fetched:linux-{arch}"
cmdline = "quiet {_WORDS[arch]} panic=-1 cryptomgr.notests"
memory_regions = [[0x8000_0000, 0x1000_0000, 0x7, 0]]
[devices]
emu_devices = [{_DEVICES[arch]}]
passthrough_devices = []
[stage2]
generation = "head"
fault_around = 0x1_0000
"""
    return plan_vm(read_vm(parse_document(text, "linux.toml")))


@contextmanager
def on_a_board(config: PlannedVm, arch: str) -> Iterator[tuple[Vm, SavedQemuVm[Any]]]:
    """A VM on a board of its own, which has not begun."""
    platform, tree = board_host([config], arch)
    with build([config], platform=platform, options=Options(Populate.LAZY, shared_memory=True)) as host:
        give_cores(host)
        load_images(host.vms[0], config, read_images(config), None if tree is None else tree.root)
        made, (machine,) = open_machines(host)
        assert isinstance(machine, SavedQemuVm)
        try:
            yield host.vms[0], machine
        finally:
            machine.close()
            made.close()


@contextmanager
def running(machine: SavedQemuVm[Any]) -> Iterator[None]:
    """While another thread runs it, until it has ended."""
    thread = threading.Thread(target=machine.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(HANG_S)
        assert not thread.is_alive()
