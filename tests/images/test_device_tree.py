"""The flattened device tree: written, read back, and read by Debian's dtc."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.address import MIB, Range
from stage2.errors import ImageError
from stage2.images.devicetree import Description, SerialPort, riscv_blob, riscv_tree
from stage2.images.fdt import Node, flatten, parse
from waiting import HANG_S

NAMES = st.from_regex(r"[a-z][a-z0-9,._+-]{0,12}(@[0-9a-f]{1,8})?", fullmatch=True)
PROPERTIES = st.dictionaries(
    st.from_regex(r"[a-z#][a-z0-9,._+-]{0,12}", fullmatch=True), st.binary(max_size=24), max_size=4
)


@st.composite
def nodes(draw: st.DrawFn, depth: int = 3) -> Node:
    node = Node(draw(NAMES), draw(PROPERTIES))
    if depth:
        node.children = draw(st.lists(nodes(depth - 1), max_size=3))
    return node


def linux() -> Description:
    return Description(
        model="stage2 VM test",
        memory=[Range.sized(0x8000_0000, 256 * MIB), Range.sized(0x1_0000_0000, MIB)],
        cpus=2,
        timer_hz=10_000_000,
        bootargs="console=hvc0",
        ramdisk=Range.sized(0x8F00_0000, 12345),
        serial=[SerialPort("uart", Range.sized(0x1000_0000, 0x1000))],
        reserved=[Range.sized(0x9000_0000, 0x2000)],
    )


@given(nodes())
def test_a_tree_comes_back_as_it_was_written(tree: Node) -> None:
    read = parse(flatten(tree))
    tree.name = ""
    assert read == tree


@given(st.binary(max_size=400))
def test_bytes_that_are_no_tree_are_refused_and_never_crash_the_reader(blob: bytes) -> None:
    with pytest.raises(ImageError):
        parse(blob)


@given(st.data())
def test_a_damaged_tree_is_read_or_refused_but_never_crashes_the_reader(data: st.DataObject) -> None:
    blob = bytearray(riscv_blob(linux()))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        parse(bytes(blob))


def test_endless_nesting_is_refused() -> None:
    begin = struct.pack(">I", 1) + b"a\0\0\0"
    structure = begin * 10_000
    header = struct.pack(
        ">10I", 0xD00DFEED, 40 + len(structure), 40, 40 + len(structure), 40, 17, 16, 0, 0, len(structure)
    )
    with pytest.raises(ImageError, match="too deep"):
        parse(header + structure)


def test_a_guest_is_told_its_memory_harts_ramdisk_and_console() -> None:
    tree = parse(riscv_blob(linux()))
    memory = [node for node in tree.children if node.name.startswith("memory@")]
    assert [node.cells("reg") for node in memory] == [(0, 0x8000_0000, 0, 256 * MIB), (1, 0, 0, MIB)]
    cpus = tree.find("cpus")
    assert cpus is not None
    assert [cpu.cells("reg") for cpu in cpus.children] == [(0,), (1,)]
    assert cpus.cells("timebase-frequency") == (10_000_000,)
    chosen = tree.find("chosen")
    assert chosen is not None
    assert chosen.text("bootargs") == "console=hvc0"
    assert chosen.cells("linux,initrd-end") == (0, 0x8F00_0000 + 12345)
    uart = tree.find("soc/serial")
    assert uart is not None
    assert uart.text("compatible") == "ns16550a"
    phandles = [node.cells("phandle") for node in tree.walk() if "phandle" in node.properties]
    assert len(set(phandles)) == len(phandles)


def test_a_guest_is_told_of_its_interrupt_controller_and_what_interrupts_through_it() -> None:
    machine = replace(linux(), plic=(Range.sized(0xC00_0000, 0x60_0000), 96),
                      serial=[SerialPort("uart", Range.sized(0x1000_0000, 0x1000), 10)])  # fmt: skip
    tree = parse(riscv_blob(machine))
    plic, uart, cpus = tree.find("soc/interrupt-controller"), tree.find("soc/serial"), tree.find("cpus")
    assert plic is not None
    assert uart is not None
    assert cpus is not None
    harts = [cpu.children[0].cells("phandle")[0] for cpu in cpus.children]
    assert plic.cells("interrupts-extended") == (harts[0], 9, harts[1], 9)
    assert (plic.cells("reg"), plic.cells("riscv,ndev")) == ((0, 0xC00_0000, 0, 0x60_0000), (96,))
    assert uart.cells("interrupt-parent") == plic.cells("phandle")
    assert uart.cells("interrupts") == (10,)
    assert plic.cells("phandle")[0] not in harts


def test_dtc_reads_our_tree_as_we_meant_it() -> None:
    if shutil.which("dtc") is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs the Debian package device-tree-compiler")
        pytest.skip("needs the Debian package device-tree-compiler")
    blob = flatten(riscv_tree(linux()), reserved=[(0x8000_0000, 0x1000)])
    command = ["dtc", "-q", "-I", "dtb", "-O", "dtb"]
    again = subprocess.run(command, input=blob, capture_output=True, check=True, timeout=HANG_S).stdout
    assert parse(again) == parse(blob)
    source = subprocess.run(
        ["dtc", "-q", "-I", "dtb", "-O", "dts"], input=blob, capture_output=True, check=True, timeout=HANG_S
    ).stdout.decode()
    assert "/memreserve/\t0x0000000080000000 0x0000000000001000;" in source
    assert 'bootargs = "console=hvc0";' in source
