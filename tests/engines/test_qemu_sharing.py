"""Who gets which core and which device of QEMU's board, before anything runs."""

from __future__ import annotations

import pytest

from stage2.address import Range
from stage2.config.document import parse_document
from stage2.config.regions import plan_vm
from stage2.config.vm import VmConfig, read_vm
from stage2.engines.qemu.board import place
from stage2.engines.qemu.sharing import share_out
from stage2.errors import ConfigError
from stage2.flags import MapType
from stage2.images.fdt import Node
from stage2.images.host_tree import HostTree
from stage2.images.tree_file import TreeFile


def vm(name: str, id: int, more: str = "", devices: str = "", cpus: int = 1) -> VmConfig:
    text = f"""\
[base]
id = {id}
name = "{name}"
vm_type = 2
cpu_num = {cpus}
arch = "aarch64"
{more}
[kernel]
entry_point = 0x8020_0000
image_location = "fs"
kernel_path = "kernel"
kernel_load_addr = 0x8020_0000
memory_regions = [[0x8000_0000, 0x1000_0000, 0x7, 0]]
[devices]
passthrough_devices = [{devices}]
[stage2]
generation = "seed"
"""
    return read_vm(parse_document(text, f"{name}.toml"))


def board() -> HostTree:
    root = Node("")
    root.set("#address-cells", 2).set("#size-cells", 2).set("compatible", "linux,dummy-virt")
    root.child("chosen").set("stdout-path", "/pl011@9000000")
    for name, compatible, *spans in (
        ("intc@8000000", "arm,gic-v3", (0x800_0000, 0x1_0000), (0x80A_0000, 0xF6_0000)),
        ("pl011@9000000", "arm,pl011", (0x900_0000, 0x1000)),
        ("pl031@9010000", "arm,pl031", (0x901_0000, 0x1000)),
    ):
        node = root.child(name).set("compatible", compatible)
        node.set("reg", [cell for start, size in spans for cell in (0, start, 0, size)])
        if name.startswith("intc"):
            node.set("interrupt-controller").set("#interrupt-cells", 3).set("phandle", 1)
    root.set("interrupt-parent", 1)
    return HostTree(TreeFile("board.dtb", root, ()))


ALL = """
    ["gicd", 0x800_0000, 0x800_0000, 0x1_0000, 0], ["gicr", 0x80a_0000, 0x80a_0000, 0x2_0000, 0],
    ["serial", 0x900_0000, 0x900_0000, 0x1000, 33], ["clock", 0x901_0000, 0x901_0000, 0x1000, 34],
"""


def test_of_two_vms_that_name_the_same_devices_the_second_gets_models_of_controller_and_serial_port() -> None:
    first, second = share_out([vm("a", 1, devices=ALL), vm("b", 2, devices=ALL)], board())
    assert not first.devices.emulated
    assert len(first.devices.mapped) == 4
    assert [(one.name, one.gpa, one.size, one.irq) for one in second.devices.emulated] == [
        ("interrupt-controller", 0x800_0000, 0x2_0000, 0),
        ("console", 0x900_0000, 0x1000, 33),
    ]
    assert not second.devices.mapped
    said = [notice.text for notice in second.notices if "is not given whole" in notice.text]
    assert said[3] == "HPA [0x9010000, 0x9011000) is not given whole to VM 2 'b': VM 1 'a' has it"
    regions = plan_vm(second).plan.regions
    assert [region.range for region in regions if region.map_type is MapType.EMULATED] == [
        Range.sized(0x800_0000, 0x2_0000), Range.sized(0x900_0000, 0x1000)
    ]  # fmt: skip


def test_a_vm_that_names_others_devices_keeps_what_nobody_has() -> None:
    _, second = share_out([vm("a", 1, devices=ALL.split("[")[1].join(["[", ""])), vm("b", 2, devices=ALL)], board())
    assert {device.name for device in second.devices.mapped} == {"serial", "clock"}
    assert [one.name for one in second.devices.emulated] == ["interrupt-controller"]


def test_what_the_board_does_not_have_is_not_given_and_a_serial_port_there_becomes_a_model() -> None:
    elsewhere = '["pl011", 0x900_0000, 0x904_0000, 0x1000, 1], ["odd", 0xb00_0000, 0xb00_0000, 0x1000, 1]'
    (only,) = share_out([vm("a", 1, devices=elsewhere)], board())
    assert not only.devices.mapped
    assert [one.name for one in only.devices.emulated] == ["console"]
    assert sum("the board has nothing there" in notice.text for notice in only.notices) == 2


def test_a_file_of_one_vm_stays_as_it_is() -> None:
    config = vm("a", 1, devices=ALL)
    (only,) = share_out([config], board())
    assert only == config


def test_vcpus_get_cores_by_masks_then_by_ids_then_any() -> None:
    masked = vm("a", 1, "phys_cpu_sets = [0x4, 0x1]", cpus=2)
    known = vm("b", 2, "phys_cpu_ids = [3]")
    anywhere = vm("c", 3)
    assert place([masked, known, anywhere]) == [(2, 0), (3,), (1,)]
    # One without a wish makes room for one that has no choice.
    assert place([anywhere, vm("d", 4, "phys_cpu_sets = [0x1]")]) == [(1,), (0,)]
    # And nobody moves while a core is free.
    assert place([vm("x", 1), vm("y", 2)]) == [(0,), (1,)]


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ("phys_cpu_sets = [0x1]", "it may run on core 0 of the board's 8, and the qemu engine gives every vCPU a core"),
        ("phys_cpu_sets = [0x100]", "it may run on none of the board's 8"),
    ],
)
def test_vcpus_that_find_no_core_are_refused_with_who_has_them(masks: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        place([vm("a", 1, "phys_cpu_sets = [0x1]"), vm("b", 2, masks)])
    assert "b.toml:" in str(caught.value)
    assert "no core is left for vCPU 0 of VM 2 'b'" in str(caught.value)
    assert said in str(caught.value)
