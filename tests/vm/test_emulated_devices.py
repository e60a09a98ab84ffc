"""What stands behind the devices that a VM's file names as emulated."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage2.address import Gpa
from stage2.config.load import load_vm
from stage2.errors import ConfigError
from stage2.images.fdt import parse
from stage2.vm.boot import load_images
from stage2.vm.gic.v2 import GicV2
from stage2.vm.gic.v3 import GicV3
from stage2.vm.host import Host, build
from stage2.vm.images import read_images

VM = """
[base]
id = 1
name = "vm"
vm_type = 1
cpu_num = {cpus}
arch = "{arch}"
[kernel]
entry_point = 0x8000_0000
image_location = "fs"
kernel_path = "kernel.bin"
kernel_load_addr = 0x8000_0000
memory_regions = [ [0x8000_0000, 0x80_0000, 0x7, 0] ]
[devices]
emu_devices = [{devices}]
passthrough_devices = []
[stage2]
generation = "{generation}"
"""
V3 = (
    '["gicd", 0x0800_0000, 0x1_0000, 0, 0x21, []], ["gicr", 0x080a_0000, 0x4_0000, 0, 0x20, [2, 0x2_0000, 0]], '
    '["console", 0x0900_0000, 0x1000, 33, 2, []], ["test", 0x0a00_0000, 0x1000, 0, 0, []]'
)


def host_of(folder: Path, devices: str, *, arch: str = "aarch64", cpus: int = 2, generation: str = "tg") -> Host:
    (folder / "kernel.bin").write_bytes(b"code" * 64)
    path = folder / "vm.toml"
    path.write_text(VM.format(devices=devices, arch=arch, cpus=cpus, generation=generation))
    config = load_vm(path)
    host = build([config])
    load_images(host.vms[0], config, read_images(config))
    return host


def test_a_file_names_a_gicv3_a_pl011_and_a_test_device(tmp_path: Path) -> None:
    with host_of(tmp_path, V3) as host:
        (vm,) = host.vms
        bus = vm.bus
        assert isinstance(vm.gic, GicV3)
        assert bus.read(Gpa(0x800_FFE8), 4) == 0x30
        assert bus.read(Gpa(0x80C_0008), 8) == 1 << 32 | 1 << 8 | 1 << 4
        assert bus.read(Gpa(0x900_0FE0), 4) == 0x11
        assert bus.write(Gpa(0xA00_0008), 4, 7)
        assert bus.read(Gpa(0xA00_0008), 4) == 7
        bus.write(Gpa(0x900_0038), 4, 1 << 5)
        bus.write(Gpa(0x900_0000), 4, 0x21)
        assert (vm.console.text, bus.read(Gpa(0x800_0204), 4)) == ("!", 2)
        assert vm.boot.device_tree is not None
        tree = parse(vm.memory.read(vm.boot.device_tree, 4096))
        assert [node.name for node in tree.children] == [
            "chosen", "memory@80000000", "psci", "cpus", "intc@8000000", "timer", "serial-clock", "pl011@9000000",
        ]  # fmt: skip


def test_a_gicv2_in_one_piece_has_its_cpu_interface_behind_its_distributor(tmp_path: Path) -> None:
    with host_of(tmp_path, '["gic", 0x0800_0000, 0x2_0000, 0, 1, []]', generation="seed") as host:
        (vm,) = host.vms
        assert isinstance(vm.gic, GicV2)
        assert (vm.bus.read(Gpa(0x800_0FE8), 4), vm.bus.read(Gpa(0x801_00FC), 4)) == (0x20, 2 << 16)
        for cpu in (0, 1):
            assert vm.bus.read(Gpa(0x800_0800), 4, cpu) == 0x0101_0101 << cpu


def test_a_distributor_alone_is_that_of_a_controller_passed_through_in_part(tmp_path: Path) -> None:
    with host_of(tmp_path, '["gicd", 0x0800_0000, 0x1_0000, 0, 0x21, []]') as host:
        assert host.vms[0].gic is None
        assert host.vms[0].bus.read(Gpa(0x800_FFE8), 4) == 0


def test_a_console_elsewhere_is_a_16550(tmp_path: Path) -> None:
    with host_of(tmp_path, '["uart", 0x1000_0000, 0x100, 10, 2, []]', arch="riscv64") as host:
        assert host.vms[0].bus.read(Gpa(0x1000_0005), 1) == 0x60


@pytest.mark.parametrize(
    ("devices", "cpus", "text"),
    [
        (V3.replace("0x4_0000", "0x2_0000"), 2, "gicr has 0x20000 bytes; the GICv3 of 2 CPUs needs 0x40000 there"),
        ('["gic", 0x0800_0000, 0x2_0000, 0, 1, []]', 9, "a GICv2 is for 8 CPUs; VM vm has 9: give a GICv3"),
        ('["gic", 0x0800_0000, 0x100, 0, 1, []]', 1, "gic has 0x100 bytes; the distributor of a GICv2 has 0x1000"),
    ],
)
def test_a_controller_without_room_is_refused(tmp_path: Path, devices: str, cpus: int, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        host_of(tmp_path, devices, cpus=cpus)
    assert refused.value.problem == text
    assert refused.value.line == 15


PLIC = '["plic", 0x0c00_0000, {size:#x}, 0, 0x30, []], ["console", 0x1000_0000, 0x1000, 10, 2, []]'


def test_a_file_names_a_plic_and_a_16550_that_interrupts_through_it(tmp_path: Path) -> None:
    with host_of(tmp_path, PLIC.format(size=0x60_0000), arch="riscv64") as host:
        (vm,) = host.vms
        assert vm.plic is not None
        assert vm.bus.write(Gpa(0xC00_0000 + 4 * 10), 4, 1)
        assert vm.bus.write(Gpa(0xC00_2080), 4, 1 << 10)
        assert vm.bus.write(Gpa(0x1000_0001), 1, 2), "IER: the transmitter is empty"
        assert [vm.plic.interrupts(hart) for hart in range(2)] == [False, True]
        assert vm.bus.read(Gpa(0xC20_1004), 4) == 10


def test_a_plic_that_is_too_small_for_the_harts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        host_of(tmp_path, PLIC.format(size=0x20_1000), arch="riscv64")
    assert str(caught.value).endswith("plic has 0x201000 bytes; the PLIC of 2 harts needs 0x202000")
