"""The host as its device tree describes it, and the nodes that VM files pass through."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage2.address import Range
from stage2.config.board import BoardConfig, read_board
from stage2.config.document import parse_document
from stage2.config.platform import PlatformConfig, ReservedMemory, read_platform
from stage2.config.regions import plan_vm
from stage2.config.vm import VmConfig, read_vm
from stage2.errors import ConfigError, ImageError
from stage2.images.fdt import Node
from stage2.images.host_nodes import NodeRange, node_ranges, with_nodes
from stage2.images.host_platform import platform_of
from stage2.images.host_tree import HostTree
from trees import bus, host_tree, qemu_tree, small_tree


def platform_file(arch: str = "riscv64", kernel: str = "0x8020_0000") -> PlatformConfig:
    text = f"""\
arch = "{arch}"
platform = "mine"
[plat]
phys-memory-base = 0x8000_0000
phys-memory-size = 0x2000_0000
kernel-base-paddr = {kernel}
"""
    return read_platform(parse_document(text, "mine.toml"))


def board_file() -> BoardConfig:
    text = 'target = "aarch64-unknown-none-softfloat"\nfeatures = ["ept-level-4"]\n'
    return read_board(parse_document(text, "board.toml"))


def test_qemus_riscv_machine_is_a_host(tmp_path: Path) -> None:
    host = platform_of(HostTree.read(qemu_tree("riscv64", tmp_path)))
    assert (host.arch, host.memory, host.file) == (
        "riscv64", (Range(0x8000_0000, 0xC000_0000),), f"{tmp_path}/riscv64.dtb",
    )  # fmt: skip
    assert len(host.virtio_mmio) == 8
    assert (host.uart_paddr, host.pci_ecam_base, host.gicd_paddr) == (0x1000_0000, 0x3000_0000, None)
    assert Range(0xC00_0000, 0xC60_0000) in host.mmio
    assert Range(0x4000_0000, 0x8000_0000) in host.pci_ranges


def test_qemus_arm_machine_tells_where_its_gic_is(tmp_path: Path) -> None:
    host = platform_of(HostTree.read(qemu_tree("aarch64", tmp_path)))
    assert (host.gicd_paddr, host.gicr_paddr, host.uart_paddr) == (0x800_0000, 0x80A_0000, 0x900_0000)


def test_banks_are_joined_and_cut_to_whole_pages(tmp_path: Path) -> None:
    root = small_tree()
    root.child("memory@c0000000").set("device_type", "memory").set_u64(
        "reg", 0xC000_0000, 0x1000_0800, 0x1_0000_0800, 0x2000, 0x2_0000_0000, 0x800
    )
    assert platform_of(host_tree(tmp_path, root)).memory == (
        Range(0x8000_0000, 0xD000_0000), Range(0x1_0000_1000, 0x1_0000_2000),
    )  # fmt: skip


def test_what_the_tree_reserves_is_kept_but_not_what_a_system_may_use(tmp_path: Path) -> None:
    root = small_tree()
    kept = root.child("reserved-memory").set("#address-cells", 2).set("#size-cells", 2).set("ranges")
    kept.child("firmware@80000000").set_u64("reg", 0x8000_0000, 0x800).set("no-map")
    kept.child("cma@90000000").set_u64("reg", 0x9000_0000, 0x1000).set("reusable")
    host = platform_of(host_tree(tmp_path, root, [(0x8100_0000, 0x2000)]))
    file = f"{tmp_path}/host.dtb"
    assert host.reserved == (
        ReservedMemory(Range(0x8100_0000, 0x8100_2000), f"{file}:/memreserve/"),
        ReservedMemory(Range(0x8000_0000, 0x8000_1000), f"{file}:/reserved-memory/firmware@80000000"),
    )


def test_a_platform_file_keeps_the_hypervisor_and_takes_the_trees_memory(tmp_path: Path) -> None:
    given = platform_file()
    host = platform_of(host_tree(tmp_path, small_tree()), given)
    assert (host.kernel_paddr, host.memory, host.file) == (
        0x8020_0000, (Range(0x8000_0000, 0xC000_0000),), "mine.toml",
    )  # fmt: skip
    assert [str(notice) for notice in host.notices] == [
        f"mine.toml:6: RAM is what {tmp_path}/host.dtb says, [0x80000000, 0xc0000000), not what this file says"
    ]


def test_a_board_file_keeps_its_number_of_levels(tmp_path: Path) -> None:
    host = platform_of(host_tree(tmp_path, small_tree("aarch64")), board_file())
    assert (host.arch, host.four_levels) == ("aarch64", True)


def test_a_tree_of_another_architecture_than_the_platform_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        platform_of(host_tree(tmp_path, small_tree("aarch64")), platform_file())
    assert str(caught.value) == (f"{tmp_path}/host.dtb: is of aarch64, and mine.toml says riscv64: name one host")


def test_a_hypervisor_outside_the_trees_memory_is_refused(tmp_path: Path) -> None:
    root = small_tree()
    memory = root.find("memory")
    assert memory is not None
    memory.set_u64("reg", 0x9000_0000, 0x1000_0000)
    with pytest.raises(ConfigError) as caught:
        platform_of(host_tree(tmp_path, root), platform_file())
    assert str(caught.value) == (
        f"mine.toml:6: plat.kernel-base-paddr: 0x80200000 is in no RAM of {tmp_path}/host.dtb: [0x90000000, 0xa0000000)"
    )


def test_a_tree_without_memory_is_no_host(tmp_path: Path) -> None:
    root = small_tree()
    root.children.pop(0)
    with pytest.raises(ImageError) as caught:
        platform_of(host_tree(tmp_path, root))
    assert str(caught.value) == (f"{tmp_path}/host.dtb: has no memory node with a whole page of RAM: a host needs one")


# --- nodes ---------------------------------------------------------------------------------------------------


def machine(folder: Path) -> HostTree:
    root = small_tree()
    soc = bus(root)
    soc.child("serial@10000000").set_u64("reg", 0x1000_0000, 0x100).set("compatible", "ns16550a")
    soc.child("spi@10000100").set_u64("reg", 0x1000_0100, 0x100)
    soc.child("off@10001000").set_u64("reg", 0x1000_1000, 0x1000).set("status", "disabled")
    plic = soc.child("plic@c000000").set("compatible", "riscv,plic0").set("interrupt-controller")
    plic.set_u64("reg", 0xC00_0000, 0x1000)
    pci = soc.child("pci@30000000").set("device_type", "pci").set_u64("reg", 0x3000_0000, 0x1000)
    pci.set("#address-cells", 3).set("#size-cells", 2)
    pci.set("ranges", [0x200_0000, 0, 0x4000_0000, 0, 0x4000_0000, 0, 0x1000_0000])
    soc.child("words")
    root.child("chosen").set("stdout-path", "/soc/serial@10000000")
    return host_tree(folder, root)


def test_a_node_comes_with_what_is_below_it_and_the_windows_of_pci(tmp_path: Path) -> None:
    tree = machine(tmp_path)
    assert node_ranges(tree, "/soc", ["/soc/plic@c000000"]) == (
        NodeRange("/soc/serial@10000000", Range(0x1000_0000, 0x1000_0100)),
        NodeRange("/soc/spi@10000100", Range(0x1000_0100, 0x1000_0200)),
        NodeRange("/soc/pci@30000000", Range(0x3000_0000, 0x3000_1000)),
        NodeRange("/soc/pci@30000000", Range(0x4000_0000, 0x5000_0000), "PCI window"),
    )


def test_a_node_that_is_named_itself_comes_even_when_it_is_disabled(tmp_path: Path) -> None:
    assert node_ranges(machine(tmp_path), "/soc/off") == (
        NodeRange("/soc/off@10001000", Range(0x1000_1000, 0x1000_2000)),
    )


def vm(devices: str, base: str = "") -> VmConfig:
    text = f"""\
[base]
id = 1
name = "linux"
{base}
[kernel]
entry_point = 0x9000_0000
kernel_path = "linux"
kernel_load_addr = 0x9000_0000
memory_regions = [[0x9000_0000, 0x20_0000, 0x7, 0]]
[devices]
{devices}
"""
    return read_vm(parse_document(text, "vm.toml"))


def test_more_ranges_than_any_board_has_are_refused(tmp_path: Path) -> None:
    root = small_tree()
    for number in range(2):
        spans = [cell for at in range(9000) for cell in (at * 0x2000 + number * 0x1000_0000, 0x1000)]
        bus(root).child(f"wide@{number}").set_u64("reg", *spans)
    tree = host_tree(tmp_path, root)
    with pytest.raises(ImageError) as caught:
        node_ranges(tree, "/")
    assert str(caught.value) == f"{tmp_path}/host.dtb: / has more than 16,384 ranges of registers"
    with pytest.raises(ConfigError) as named:
        with_nodes(vm('passthrough_devices = [["/soc/wide@0"], ["/soc/wide@1"]]'), tree)
    assert str(named.value) == (
        "vm.toml:11: devices.passthrough_devices[1]: the nodes up to this one have more than 16,384 ranges of registers"
    )


def test_nodes_become_regions_and_those_in_one_page_one_region(tmp_path: Path) -> None:
    found = with_nodes(vm('passthrough_devices = [["/soc"]]\nexcluded_devices = [["/soc/plic"]]'), machine(tmp_path))
    plan = plan_vm(found)
    assert [(region.name, str(region.range), region.map_type.value) for region in plan.plan.regions] == [
        ("/soc/serial@10000000 and 1 more", "[0x10000000, 0x10001000)", "MMIO"),
        ("/soc/pci@30000000", "[0x30000000, 0x30001000)", "MMIO"),
        ("/soc/pci@30000000", "[0x40000000, 0x50000000)", "MMIO"),
        ("ram0", "[0x90000000, 0x90200000)", "MAP_ALLOC"),
    ]
    assert not any("not at hand" in notice.text for notice in plan.notices)


def test_a_passthrough_guest_gets_all_but_what_the_hypervisor_plays(tmp_path: Path) -> None:
    found = with_nodes(vm("passthrough = []", 'guest_type = "passthrough"'), machine(tmp_path))
    assert [device.name for device in found.devices.mapped] == [
        "/soc/spi@10000100", "/soc/pci@30000000", "/soc/pci@30000000",
    ]  # fmt: skip


def test_a_node_that_does_not_exist_is_told_at_its_line(tmp_path: Path) -> None:
    config = vm('passthrough_devices = [["/soc/seria1@10000000"]]')
    with pytest.raises(ConfigError) as caught:
        with_nodes(config, machine(tmp_path))
    problem = f"{tmp_path}/host.dtb: has no node '/soc/seria1@10000000' (did you mean /soc/serial@10000000?)"
    assert str(caught.value) == f"vm.toml:11: devices.passthrough_devices[0]: {problem}"
    (notice,) = with_nodes(config, machine(tmp_path), lenient=True).notices[-1:]
    assert str(notice) == f"vm.toml:11: devices.passthrough_devices[0]: {problem}: nothing is mapped"


def test_a_node_without_registers_is_a_notice(tmp_path: Path) -> None:
    notice = with_nodes(vm('passthrough_devices = [["/soc/words"]]'), machine(tmp_path)).notices[-1]
    assert str(notice) == (
        "vm.toml:11: devices.passthrough_devices[0]: '/soc/words' has no registers on the CPU's bus in "
        f"{tmp_path}/host.dtb: nothing is mapped"
    )


def test_a_node_with_a_damaged_reg_is_an_error_where_it_is_named(tmp_path: Path) -> None:
    root: Node = small_tree()
    bus(root).child("uart@0").set("reg", [1, 2, 3])
    with pytest.raises(ConfigError, match=r"vm.toml:11: .*host.dtb: /soc/uart@0: has a reg of 12 bytes, which is no "):
        with_nodes(vm('passthrough_devices = [["/soc/uart@0"]]'), host_tree(tmp_path, root))
