"""A guest's tree out of a board's: what it has is there, what stage 2 does not back is not."""

from __future__ import annotations

from dataclasses import replace

from stage2.address import Range
from stage2.images.devicetree import SerialPort
from stage2.images.fdt import Node, flatten, parse
from stage2.images.guest_tree import GicPlace, GuestBoard, bare_board, guest_tree

RAM = Range(0x8000_0000, 0x9000_0000)


def board(gic: str = "arm,gic-v3") -> Node:
    """Like QEMU's: an interrupt controller with an ITS, a clock, a timer, two serial ports, virtio, flash, PSCI."""
    root = Node("").set("#address-cells", 2).set("#size-cells", 2).set("interrupt-parent", 0x8002)
    root.set("compatible", "linux,dummy-virt")
    root.child("psci").set("compatible", "arm,psci-1.0").set("method", "smc")
    root.child("memory@40000000").set("device_type", "memory").set_u64("reg", 0x4000_0000, 0x8000_0000)
    root.child("chosen").set("stdout-path", "/pl011@9000000").set("bootargs", "of the board")
    cpus = root.child("cpus").set("#address-cells", 1).set("#size-cells", 0)
    for number in range(4):
        cpu = cpus.child(f"cpu@{number}").set("device_type", "cpu").set("compatible", "arm,cortex-a72")
        cpu.set("reg", number).set("enable-method", "psci")
    controller = root.child("intc@8000000").set("compatible", gic).set("phandle", 0x8002).set("interrupt-controller")
    if gic == "arm,gic-v3":
        controller.set_u64("reg", 0x800_0000, 0x1_0000, 0x80A_0000, 0xF6_0000)
        controller.set("#address-cells", 2).set("#size-cells", 2).set("ranges")
        controller.child("its@8080000").set("compatible", "arm,gic-v3-its").set_u64("reg", 0x808_0000, 0x2_0000)
    else:
        parts = [(0x800_0000 + part * 0x1_0000, 0x1_0000) for part in (0, 1, 3, 4)]
        controller.set_u64("reg", *(number for part in parts for number in part))
    root.child("apb-pclk").set("compatible", "fixed-clock").set("phandle", 0x8000).set("clock-frequency", 24_000_000)
    root.child("timer").set("compatible", ["arm,armv8-timer", "arm,armv7-timer"]).set("interrupts", [1, 13, 4])
    for base in (0x900_0000, 0x904_0000):
        port = root.child(f"pl011@{base:x}").set("compatible", ["arm,pl011", "arm,primecell"])
        port.set_u64("reg", base, 0x1000).set("clocks", [0x8000, 0x8000]).set("interrupts", [0, 1, 4])
    root.child("pl031@9010000").set("compatible", "arm,pl031").set_u64("reg", 0x901_0000, 0x1000).set("clocks", 0x9999)
    root.child("gpio-keys").set("compatible", "gpio-keys")
    root.child("flash@0").set("compatible", "cfi-flash").set_u64("reg", 0, 0x400_0000)
    return root


def guest(*given: Range, cpus: int = 1) -> GuestBoard:
    ranges = [RAM, *given]
    return GuestBoard(
        memory=[RAM], cpus=range(cpus), bootargs="console=x", ramdisk=Range(0x8800_0000, 0x8800_1234), reserved=[],
        backed=lambda span: any(one.covers(span) for one in ranges),
    )  # fmt: skip


DISTRIBUTOR, PORT, CLOCK = Range.sized(0x800_0000, 0x1_0000), Range.sized(0x900_0000, 0x1000), 0x901_0000
REDISTRIBUTORS = Range.sized(0x80A_0000, 4 * 0x2_0000)


def names(tree: Node) -> set[str]:
    return {node.name for node in tree.children}


def test_a_guest_has_what_it_was_given_and_what_its_cpu_has() -> None:
    tree = guest_tree(board(), guest(DISTRIBUTOR, REDISTRIBUTORS, PORT))
    assert names(tree) == {
        "chosen", "memory@80000000", "psci", "cpus", "intc@8000000", "apb-pclk", "timer", "pl011@9000000",
    }  # fmt: skip
    chosen = tree.find("chosen")
    assert chosen is not None
    assert (chosen.text("bootargs"), chosen.text("stdout-path")) == ("console=x", "/pl011@9000000")
    assert chosen.cells("linux,initrd-end") == (0, 0x8800_1234)
    psci, cpus = tree.find("psci"), tree.find("cpus")
    assert psci is not None
    assert psci.text("method") == "hvc"
    assert cpus is not None
    assert [cpu.name for cpu in cpus.children] == ["cpu@0"]
    assert parse(flatten(tree)).find("timer") is not None


def test_redistributors_are_those_of_all_the_boards_cpus_and_there_is_no_its() -> None:
    controller = guest_tree(board(), guest(DISTRIBUTOR, REDISTRIBUTORS, cpus=2)).find("intc@8000000")
    assert controller is not None
    assert controller.cells("reg") == (0, 0x800_0000, 0, 0x1_0000, 0, REDISTRIBUTORS.start, 0, REDISTRIBUTORS.size)
    assert controller.children == []
    fewer = Range.sized(REDISTRIBUTORS.start, REDISTRIBUTORS.size // 2)
    assert guest_tree(board(), guest(DISTRIBUTOR, fewer, cpus=2)).find("intc@8000000") is None


def test_of_a_gicv2_the_hypervisors_part_is_left_out() -> None:
    given = Range.sized(0x800_0000, 0x2_0000)
    controller = guest_tree(board("arm,cortex-a15-gic"), guest(given)).find("intc@8000000")
    assert controller is not None
    assert controller.cells("reg") == (0, 0x800_0000, 0, 0x1_0000, 0, 0x801_0000, 0, 0x1_0000)


def test_what_needs_a_node_that_is_gone_is_gone_too() -> None:
    clock = Range.sized(CLOCK, 0x1000)
    tree = guest_tree(board(), guest(DISTRIBUTOR, REDISTRIBUTORS, PORT, clock))
    assert "pl031@9010000" not in names(tree), "its clock is nowhere"
    half = guest_tree(board(), guest(DISTRIBUTOR, REDISTRIBUTORS, Range.sized(PORT.start, 0x800)))
    assert "pl011@9000000" not in names(half)
    chosen = half.find("chosen")
    assert chosen is not None
    assert chosen.text("stdout-path") is None


def test_the_boards_own_tree_stays_as_it_is() -> None:
    mine = board()
    before = flatten(mine)
    guest_tree(mine, guest(DISTRIBUTOR, REDISTRIBUTORS, PORT))
    assert flatten(mine) == before


def test_an_emulated_controller_has_the_place_of_the_boards_own() -> None:
    place = GicPlace(3, Range.sized(0x3000_0000, 0x1_0000), Range.sized(0x3010_0000, 0x2_0000))
    port = SerialPort("console", Range.sized(0x3020_0000, 0x1000), 35)
    tree = guest_tree(board(), replace(guest(PORT), gic=place, serial=[port]))
    assert names(tree) == {
        "chosen", "memory@80000000", "psci", "cpus", "intc@30000000", "apb-pclk", "timer", "pl011@9000000",
        "serial-clock", "pl011@30200000",
    }  # fmt: skip
    controller, serial, clock = tree.find("intc"), tree.find("pl011@30200000"), tree.find("serial-clock")
    assert controller is not None
    assert serial is not None
    assert clock is not None
    assert controller.cells("phandle") == tree.cells("interrupt-parent") == (0x8002,)
    assert controller.cells("reg") == (0, 0x3000_0000, 0, 0x1_0000, 0, 0x3010_0000, 0, 0x2_0000)
    assert serial.cells("interrupts") == (0, 3, 4)
    assert serial.cells("clocks") == clock.cells("phandle") * 2
    assert clock.cells("phandle")[0] not in (0x8000, 0x8002)


def test_an_emulated_distributor_goes_with_the_boards_virtual_cpu_interface() -> None:
    place = GicPlace(2, Range.sized(0x800_0000, 0x1_0000), None)
    controller = guest_tree(board("arm,cortex-a15-gic"), replace(guest(), gic=place)).find("intc")
    assert controller is not None
    assert controller.text("compatible") == "arm,cortex-a15-gic"
    assert controller.cells("reg") == (0, 0x800_0000, 0, 0x1_0000, 0, 0x801_0000, 0, 0x1_0000)


def test_a_guest_without_a_board_has_what_is_played_for_it() -> None:
    place = GicPlace(2, Range.sized(0x800_0000, 0x1_0000), Range.sized(0x801_0000, 0x1_0000))
    port = SerialPort("console", PORT, 33)
    tree = guest_tree(bare_board([0, 1]), replace(guest(cpus=2), gic=place, serial=[port]))
    assert names(tree) == {
        "chosen", "memory@80000000", "psci", "cpus", "intc@8000000", "timer", "serial-clock", "pl011@9000000",
    }  # fmt: skip
    chosen, cpus, timer = tree.find("chosen"), tree.find("cpus"), tree.find("timer")
    assert chosen is not None
    assert cpus is not None
    assert timer is not None
    assert chosen.text("stdout-path") == "/pl011@9000000"
    assert [(cpu.cells("reg"), cpu.text("enable-method")) for cpu in cpus.children] == [
        ((0, 0), "psci"), ((0, 1), "psci"),
    ]  # fmt: skip
    assert timer.cells("interrupts") == (1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4)
    assert parse(flatten(tree)).find("intc") is not None
