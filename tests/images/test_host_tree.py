"""The host's device tree: QEMU's own trees, tiny ones for each corner, and hostile ones."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.address import MIB, Range
from stage2.errors import ConfigError, HostToolError, ImageError, Stage2Error
from stage2.images.fdt import Node, flatten, parse
from stage2.images.fdt_walk import BusWindow
from stage2.images.host_parts import ControllerKind
from stage2.images.host_tree import HostTree
from stage2.images.tree_file import TreeFile
from trees import bus, host_tree, need_dtc, qemu_tree, small_tree, write_tree


def sized(start: int, size: int) -> Range:
    return Range.sized(start, size)


def refused(folder: Path, root: Node) -> str:
    """What is said of a tree, behind the name of its file."""
    with pytest.raises(ImageError) as caught:
        host_tree(folder, root)
    return str(caught.value).removeprefix(f"{folder}/")


# --- QEMU's trees: hw/arm/virt.c and hw/riscv/virt.c of QEMU ---------------------------------------------------


def test_qemus_arm_machine_is_what_its_memory_map_says(tmp_path: Path) -> None:
    tree = HostTree.read(qemu_tree("aarch64", tmp_path))
    assert tree.arch == "aarch64"
    assert [(bank.span, bank.place.path) for bank in tree.ram] == [
        (sized(0x4000_0000, 0x4000_0000), "/memory@40000000")
    ]
    assert [(cpu.ids, cpu.compatible, cpu.enabled) for cpu in tree.cpus] == [
        ((0,), ("arm,cortex-a72",), True), ((1,), ("arm,cortex-a72",), True),
    ]  # fmt: skip
    (gic,) = tree.controllers
    assert gic.kind is ControllerKind.GICV3
    assert gic.regions == (
        ("GICD", sized(0x800_0000, 0x1_0000)), ("GICR", sized(0x80A_0000, 0xF6_0000)),
        ("ITS", sized(0x808_0000, 0x2_0000)),
    )  # fmt: skip
    assert str(gic.place) == f"{tmp_path}/aarch64.dtb:/intc@8000000"
    assert tree.console is not None
    assert (tree.console.place.path, tree.console.ranges) == ("/pl011@9000000", (sized(0x900_0000, 0x1000),))
    (pci,) = tree.pci
    assert pci.config == (sized(0x40_1000_0000, 0x1000_0000),)
    assert pci.windows == (
        BusWindow(sized(0x3EFF_0000, 0x1_0000), 0, 1),
        BusWindow(sized(0x1000_0000, 0x2EFF_0000), 0x1000_0000, 2),
        BusWindow(sized(0x80_0000_0000, 0x80_0000_0000), 0x80_0000_0000, 3),
    )


def test_qemus_arm_machine_with_a_gicv2_has_its_frames(tmp_path: Path) -> None:
    tree = HostTree.read(qemu_tree("aarch64", tmp_path, "virt,gic-version=2"))
    (gic,) = tree.controllers
    assert gic.kind is ControllerKind.GICV2
    assert gic.regions == (
        ("GICD", sized(0x800_0000, 0x1_0000)), ("GICC", sized(0x801_0000, 0x1_0000)),
        ("V2M", sized(0x802_0000, 0x1000)),
    )  # fmt: skip


def test_qemus_riscv_machine_is_what_its_memory_map_says(tmp_path: Path) -> None:
    tree = HostTree.read(qemu_tree("riscv64", tmp_path))
    assert tree.arch == "riscv64"
    assert [bank.span for bank in tree.ram] == [sized(0x8000_0000, 0x4000_0000)]
    assert [cpu.ids for cpu in tree.cpus] == [(0,), (1,)]
    assert all((cpu.mmu_type or "").startswith("riscv,sv") for cpu in tree.cpus)
    (plic,) = tree.controllers
    assert plic.kind is ControllerKind.PLIC
    assert plic.named("PLIC") == (sized(0xC00_0000, 0x60_0000),)
    assert tree.console is not None
    assert (tree.console.place.path, tree.console.ranges) == ("/soc/serial@10000000", (sized(0x1000_0000, 0x100),))
    (pci,) = tree.pci
    assert pci.config == (sized(0x3000_0000, 0x1000_0000),)
    assert [window.span for window in pci.windows] == [
        sized(0x300_0000, 0x1_0000), sized(0x4000_0000, 0x4000_0000), sized(0x4_0000_0000, 0x4_0000_0000),
    ]  # fmt: skip


# --- corners -------------------------------------------------------------------------------------------------


def test_reserved_memory_says_whether_it_may_be_mapped_and_where_it_comes_from(tmp_path: Path) -> None:
    root = small_tree()
    kept = root.child("reserved-memory").set("#address-cells", 2).set("#size-cells", 2).set("ranges")
    kept.child("firmware@80000000").set_u64("reg", 0x8000_0000, 0x20_0000).set("no-map")
    kept.child("pool").set_u64("size", 0x100_0000).set("reusable")
    kept.child("off@90000000").set_u64("reg", 0x9000_0000, 0x1000).set("status", "disabled")
    tree = host_tree(tmp_path, root, [(0x8800_0000, 0x1000)])
    found = [(one.place.path, one.span, one.size, one.no_map, one.reusable) for one in tree.reservations]
    assert found == [
        ("/memreserve/", sized(0x8800_0000, 0x1000), 0x1000, False, False),
        ("/reserved-memory/firmware@80000000", sized(0x8000_0000, 0x20_0000), 0x20_0000, True, False),
        ("/reserved-memory/pool", None, 0x100_0000, False, True),
    ]


def test_a_node_is_placed_through_every_bus_above_it(tmp_path: Path) -> None:
    root = small_tree()
    outer = root.child("outer").set("#address-cells", 1).set("#size-cells", 1)
    outer.set("ranges", [0x1000, 0, 0x4000_0000, 0x1_0000])
    inner = outer.child("inner@2000").set("#address-cells", 1).set("#size-cells", 1).set("reg", [0x2000, 0x1000])
    inner.set("ranges", [0, 0x3000, 0x800])
    inner.child("uart@100").set("reg", [0x100, 0x80])
    inner.child("far@700").set("reg", [0x700, 0x200])
    tree = host_tree(tmp_path, root)
    assert tree.find("/outer/inner@2000").ranges == (sized(0x4000_1000, 0x1000),)
    assert tree.find("/outer/inner@2000/uart@100").ranges == (sized(0x4000_2100, 0x80),)
    far = tree.find("/outer/inner/far")
    assert far.ranges is None
    assert far.missing == (
        "is at [0x700, 0x900) on the bus /outer/inner@2000, whose ranges do not hand that on to the CPU"
    )


def test_a_node_is_found_by_alias_by_label_and_without_its_unit_address(tmp_path: Path) -> None:
    root = small_tree()
    uart = bus(root).child("serial@10000000").set_u64("reg", 0x1000_0000, 0x100)
    uart.child("dma@0")
    root.child("aliases").set("serial0", "/soc/serial@10000000")
    root.child("__symbols__").set("uart0", "/soc/serial@10000000")
    tree = host_tree(tmp_path, root)
    for name in ("/soc/serial@10000000", "/soc/serial", "serial0", "&uart0", "uart0", "/soc/serial@10000000/"):
        assert tree.find(name).path == "/soc/serial@10000000"
    assert tree.find("serial0/dma").path == "/soc/serial@10000000/dma@0"
    assert [placed.path for placed in tree.below(tree.find("/soc"))] == [
        "/soc", "/soc/serial@10000000", "/soc/serial@10000000/dma@0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/soc/seriall@10000000", "has no node '/soc/seriall@10000000' (did you mean /soc/serial@10000000?)"),
        ("/soc/serial", "'/soc/serial' may be /soc/serial@10000000, /soc/serial@10001000: write the unit address"),
        ("serial7", "has no alias or label 'serial7', and it has no labels: write the node's path"),
        ("astray", "has no node 'astray'"),
        ("loop", "'loop' leads to 'loop', which is no path"),
        ("/", "'/' is the root, which is no device"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_what_may_have_been_meant(tmp_path: Path, name: str, said: str) -> None:
    root = small_tree()
    for start in (0x1000_0000, 0x1000_1000):
        bus(root).child(f"serial@{start:x}").set_u64("reg", start, 0x100)
    root.child("aliases").set("astray", "/soc/nothing").set("loop", "loop")
    with pytest.raises(ImageError) as caught:
        host_tree(tmp_path, root).find(name)
    assert str(caught.value) == f"{tmp_path}/host.dtb: {said}"


def test_the_console_is_found_through_an_alias_and_its_options_are_kept(tmp_path: Path) -> None:
    root = small_tree()
    bus(root).child("serial@10000000").set_u64("reg", 0x1000_0000, 0x100).set("compatible", "ns16550a")
    root.child("aliases").set("serial0", "/soc/serial@10000000")
    root.child("chosen").set("stdout-path", "serial0:115200n8")
    console = host_tree(tmp_path, root).console
    assert console is not None
    assert (console.place.path, console.options, console.ranges, console.compatible) == (
        "/soc/serial@10000000", "115200n8", (sized(0x1000_0000, 0x100),), ("ns16550a",),
    )  # fmt: skip


def test_a_console_that_is_no_node_is_an_error(tmp_path: Path) -> None:
    root = small_tree()
    root.child("chosen").set("stdout-path", "/soc/serial@1")
    assert refused(tmp_path, root) == ("host.dtb: /chosen: stdout-path = '/soc/serial@1': has no node '/soc/serial@1'")


def test_a_tree_without_console_or_controllers_has_none(tmp_path: Path) -> None:
    tree = host_tree(tmp_path, small_tree())
    assert (tree.console, tree.controllers, tree.pci, tree.reservations) == (None, (), (), ())


def test_cpus_have_ids_of_two_cells_and_a_failed_one_is_not_enabled(tmp_path: Path) -> None:
    root = small_tree("aarch64")
    cpus = root.find("cpus")
    assert cpus is not None
    cpus.children.clear()
    cpus.set("#address-cells", 2)
    cpus.child("cpu@0").set("device_type", "cpu").set("reg", [1, 0x100]).set("status", "disabled")
    cpus.child("cpu@1").set("device_type", "cpu").set("reg", [0, 1]).set("status", "fail-sss")
    assert [(cpu.ids, cpu.enabled) for cpu in host_tree(tmp_path, root).cpus] == [
        ((0x1_0000_0100,), True), ((1,), False),
    ]  # fmt: skip


def gic(root: Node, *regions: int, version: str = "arm,gic-v3") -> Node:
    node = bus(root).child("intc@8000000").set("compatible", version).set("interrupt-controller")
    return node.set_u64("reg", *regions)


def test_redistributors_may_lie_in_several_regions(tmp_path: Path) -> None:
    root = small_tree("aarch64")
    gic(root, 0x800_0000, 0x1_0000, 0x80A_0000, 0x4_0000, 0x90A_0000, 0x4_0000, 0xA00_0000, 0x2000).set(
        "#redistributor-regions", 2
    )
    (found,) = host_tree(tmp_path, root).controllers
    assert found.named("GICR") == (sized(0x80A_0000, 0x4_0000), sized(0x90A_0000, 0x4_0000))
    assert found.named("GICC") == (sized(0xA00_0000, 0x2000),)


def test_an_interrupt_controller_that_lacks_a_region_is_an_error(tmp_path: Path) -> None:
    root = small_tree("aarch64")
    gic(root, 0x800_0000, 0x1_0000)
    assert refused(tmp_path, root) == (
        "host.dtb: /soc/intc@8000000: is a GICv3, whose reg has 2 regions at least, not 1"
    )


def test_more_redistributor_regions_than_there_are_regions_are_an_error(tmp_path: Path) -> None:
    root = small_tree("aarch64")
    gic(root, 0x800_0000, 0x1_0000, 0x80A_0000, 0x4_0000).set("#redistributor-regions", 0xFFFF_FFFF)
    assert refused(tmp_path, root) == (
        "host.dtb: /soc/intc@8000000: says that it has 4294967295 redistributor regions, and its reg has 2 in all"
    )


def test_interrupt_parents_end_at_the_controller_that_is_its_own(tmp_path: Path) -> None:
    root = small_tree("aarch64").set("interrupt-parent", 1)
    gic(root, 0x800_0000, 0x1_0000, 0x80A_0000, 0x4_0000).set("phandle", 1)
    bus(root).child("serial@9000000").set_u64("reg", 0x900_0000, 0x1000)
    tree = host_tree(tmp_path, root)
    assert [one.path for one in tree.interrupt_parents(tree.find("/soc/serial"))] == ["/soc/intc@8000000"]
    assert tree.interrupt_parents(tree.find("/soc/intc")) == ()


# --- source --------------------------------------------------------------------------------------------------


SOURCE = """\
/dts-v1/;
/ {
  #address-cells = <1>; #size-cells = <1>;
  memory@80000000 { device_type = "memory"; reg = <0x80000000 0x40000000>; };
  soc { #address-cells = <1>; #size-cells = <1>; ranges;
    uart0: serial@10000000 { reg = <0x10000000 0x100>; };
  };
};
"""


def test_source_is_compiled_and_its_labels_are_known(tmp_path: Path) -> None:
    need_dtc()
    file = tmp_path / "host.dts"
    file.write_text(SOURCE)
    tree = HostTree.read(file)
    assert tree.find("&uart0").ranges == (sized(0x1000_0000, 0x100),)
    assert tree.ram[0].place.file == str(file)


def test_a_mistake_in_source_is_told_as_dtc_tells_it(tmp_path: Path) -> None:
    need_dtc()
    file = tmp_path / "host.dts"
    file.write_text(SOURCE.replace("ranges;", "ranges"))
    with pytest.raises(HostToolError) as caught:
        HostTree.read(file)
    assert str(caught.value) == (f"{file}: compiling it with dtc failed: Error: {file}:6.5-11 syntax error")


def test_source_without_dtc_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "host.dts"
    file.write_text(SOURCE)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HostToolError) as caught:
        HostTree.read(file)
    assert str(caught.value) == (
        f"{file} is device tree source, which dtc compiles, and this host has none: install the Debian package "
        "device-tree-compiler, or give the compiled tree (.dtb)"
    )


def test_source_for_the_c_preprocessor_says_what_to_run_first(tmp_path: Path) -> None:
    need_dtc()
    file = tmp_path / "host.dts"
    file.write_text(SOURCE.replace("/ {", '#include "soc.dtsi"\n/ {'))
    with pytest.raises(ImageError, match=r"C preprocessor .*: run `cpp -nostdinc"):
        HostTree.read(file)


@pytest.mark.parametrize("included", ['/incbin/("/dev/zero")', '/incbin/("host.dts", 0, 0xffffffff)'])
def test_source_that_includes_without_end_is_ended(tmp_path: Path, included: str) -> None:
    need_dtc()
    file = tmp_path / "host.dts"
    file.write_text(SOURCE.replace("ranges;", f"ranges; data = {included};"))
    with pytest.raises(HostToolError, match=r"host.dts: compiling it with dtc failed: "):
        HostTree.read(file)


# --- hostile -------------------------------------------------------------------------------------------------


def test_interrupt_parents_in_a_circle_are_an_error(tmp_path: Path) -> None:
    root = small_tree()
    for number in range(3):
        node = bus(root).child(f"plic@{number}").set("compatible", "riscv,plic0").set("interrupt-controller")
        node.set_u64("reg", 0xC00_0000 + number, 0x1000).set("phandle", number + 1)
        node.set("interrupt-parent", (number + 1) % 3 + 1)
    assert refused(tmp_path, root) == (
        "host.dtb: /soc/plic@0: its interrupt parents go in a circle: "
        "/soc/plic@1 -> /soc/plic@2 -> /soc/plic@0 -> /soc/plic@1"
    )


def test_an_interrupt_parent_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    root = small_tree()
    node = bus(root).child("plic@0").set("compatible", "riscv,plic0").set("interrupt-controller")
    node.set_u64("reg", 0xC00_0000, 0x1000).set("interrupt-parent", 77)
    assert refused(tmp_path, root) == "host.dtb: /soc/plic@0: its interrupt-parent 0x4d names no node"


def test_ram_whose_reg_is_cut_short_or_ends_beyond_64_bits_is_an_error(tmp_path: Path) -> None:
    root = small_tree()
    memory = root.find("memory")
    assert memory is not None
    memory.set("reg", [0, 0x8000_0000, 0])
    assert refused(tmp_path, root) == ("host.dtb: /memory@80000000: has a reg of 12 bytes, which is no multiple of 16")
    memory.set_u64("reg", 0xFFFF_FFFF_FFFF_F000, 0x2000)
    assert refused(tmp_path, root) == (
        "host.dtb: /memory@80000000: has a reg of 0x2000 bytes from 0xfffffffffffff000, which end beyond 64 bits"
    )


def test_cells_that_no_address_has_are_an_error_where_the_address_is_needed(tmp_path: Path) -> None:
    root = small_tree().set("#address-cells", 0xFFFF_FFFF)
    assert refused(tmp_path, root) == (
        "host.dtb: /memory@80000000: has a reg of 4294967295 and 2 cells, which is no place on the CPU's bus"
    )


def test_a_bus_with_huge_cells_hands_on_nothing_and_costs_nothing(tmp_path: Path) -> None:
    root = small_tree()
    huge = root.child("huge").set("#address-cells", 400_000).set("#size-cells", 1)
    huge.set("ranges", bytes(1 << 20))
    huge.child("uart@0").set("reg", bytes(64))
    assert host_tree(tmp_path, root).find("/huge/uart@0").ranges is None


def test_many_addresses_through_many_windows_are_refused_before_they_take_minutes(tmp_path: Path) -> None:
    root = small_tree()
    slow = root.child("slow").set("#address-cells", 1).set("#size-cells", 1)
    slow.set("ranges", struct.pack(">IQI", 0, 0, 1) * 60_000 + struct.pack(">IQI", 0xF000_0000, 0, 16))
    slow.child("uart@0").set("reg", struct.pack(">II", 0xF000_0000, 1) * 100_000)
    assert refused(tmp_path, root) == "host.dtb: device tree is damaged: too many addresses through too many buses"


@pytest.mark.parametrize("name", ["", "serial/0"])
def test_a_name_that_no_path_can_have_is_an_error(tmp_path: Path, name: str) -> None:
    root = small_tree()
    bus(root).child(name)
    assert refused(tmp_path, root) == (
        f"host.dtb: device tree is damaged: {name!r} below /soc is no name of a node (2.2.1)"
    )


def test_a_deep_tree_with_long_names_takes_little_memory(tmp_path: Path) -> None:
    root = node = small_tree()
    for _ in range(60):
        node = node.child("a" * 200)
    for number in range(10_000):
        node.child(f"b@{number}")
    assert refused(tmp_path, root) == "host.dtb: device tree is damaged: a path of more than 1024 characters"


def test_a_file_that_is_no_tree_or_is_cut_short_is_one_line(tmp_path: Path) -> None:
    file = write_tree(tmp_path, small_tree())
    blob = file.read_bytes()
    file.write_bytes(blob[:200])
    with pytest.raises(ImageError) as caught:
        HostTree.read(file)
    assert str(caught.value) == f"{file}: device tree says it has {len(blob)} bytes; 200 are there"
    file.write_bytes(bytes(10 * MIB))
    with pytest.raises(ConfigError) as too_big:
        HostTree.read(file)
    assert str(too_big.value) == f"{file}: is larger than 2 MiB, which no device tree is"


@given(st.data())
def test_whatever_bytes_are_changed_the_answer_is_a_tree_or_one_error(data: st.DataObject) -> None:
    root = small_tree()
    gic(root, 0x800_0000, 0x1_0000, 0x80A_0000, 0x4_0000).set("phandle", 1)
    bus(root).child("pci@0").set("device_type", "pci").set_u64("reg", 0, 0x1000).set("#address-cells", 3).set(
        "ranges", [0x200_0000, 0, 0x4000_0000, 0, 0x4000_0000, 0, 0x1000]
    )
    root.child("chosen").set("stdout-path", "/soc/pci@0")
    blob = bytearray(flatten(root, [(0x8000_0000, 0x1000)]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Stage2Error):
        tree = HostTree(TreeFile("host.dtb", parse(bytes(blob)), ()))
        for placed in tree.nodes:
            tree.interrupt_parents(placed)
