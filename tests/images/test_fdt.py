"""Device trees from hostile or odd sources: names, texts, numbers, old versions."""

from __future__ import annotations

import struct
import tracemalloc

import pytest

from stage2.address import MIB, Range
from stage2.errors import ImageError
from stage2.images.devicetree import Description, riscv_blob
from stage2.images.fdt import Node, flatten, parse


def machine(model: str = "m", bootargs: str = "") -> Description:
    return Description(model, [Range.sized(0x8000_0000, MIB)], 1, 10_000_000, bootargs)


def many_properties(count: int, size: int) -> bytes:
    """A tree whose properties name themselves by tails of one string of a size."""
    strings = b"a" * size + b"\0"
    properties = b"".join(struct.pack(">III", 3, 0, at % size) for at in range(count))
    structure = struct.pack(">II", 1, 0) + properties + struct.pack(">II", 2, 9)
    head = 40 + 16
    header = struct.pack(
        ">10I", 0xD00DFEED, head + len(structure) + len(strings), head, head + len(structure), 40, 17, 16, 0,
        len(strings), len(structure),
    )  # fmt: skip
    return header + bytes(16) + structure + strings


def test_a_small_file_cannot_make_the_reader_take_much_memory() -> None:
    blob = many_properties(1000, 1 << 18)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="too long"):
            parse(blob)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(blob)
    finally:
        tracemalloc.stop()


def test_more_properties_than_any_machine_has_are_refused() -> None:
    with pytest.raises(ImageError, match="too many properties"):
        parse(many_properties(70_000, 8))


@pytest.mark.parametrize("text", ["é", "虚拟机", "\udcff"])
def test_a_name_or_command_line_in_any_script_reaches_the_guest_as_the_bytes_it_was(text: str) -> None:
    tree = parse(riscv_blob(machine(text, text)))
    chosen = tree.find("chosen")
    assert chosen is not None
    wanted = text.encode("utf-8", "surrogateescape") + b"\0"
    assert chosen.properties["bootargs"] == wanted
    assert tree.properties["model"] == wanted


@pytest.mark.parametrize("value", ["a\0b", -1, 1 << 32])
def test_what_a_property_cannot_hold_is_refused(value: str | int) -> None:
    with pytest.raises(ImageError, match=r"NUL|32-bit cell"):
        Node("").set("p", value)


def test_a_version_16_tree_is_read_though_its_header_is_shorter() -> None:
    tree = Node("").set("model", "old")
    new = flatten(tree)
    fields = list(struct.unpack_from(">9I", new))
    fields[5] = 16
    # Version 16's header ends before the structure block's size: everything behind it moves up by four bytes.
    # The reservation block must stay 8-byte aligned, so it is left where it is.
    old = struct.pack(">9I", *fields) + b"\xff\xff\xff\xff" + new[40:]
    assert parse(old) == tree
