"""The flattened device tree: a writer of ours and a bounded reader (Devicetree Specification 0.4, chapter 5).

A tree is made of `Node`s; `flatten` gives its bytes, `parse` reads bytes from anywhere, hostile ones included.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import ImageError

MAGIC = 0xD00DFEED
_VERSION, _COMPATIBLE = 17, 16
_BEGIN_NODE, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9
_HEADER = struct.Struct(">10I")
MAX_SIZE = 2 << 20
"""Limit: bytes of a tree. Linux on arm64 takes none that is larger (its booting.rst)."""
_MAX_DEPTH, _MAX_NODES, _MAX_PROPERTIES = 64, 16_384, 65_536
"""Limits: the trees of large boards have some thousand nodes."""
# The specification allows 31 characters (2.2.1, 2.2.4); without a bound a small file could repeat megabytes.
_MAX_NAME = 255

Value = bytes | int | str | Sequence[int] | Sequence[str] | None


@dataclass(slots=True)
class Node:
    """A node: a name with its unit address, properties as bytes, children."""

    name: str
    properties: dict[str, bytes] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)

    def set(self, name: str, value: Value = None) -> Node:
        """Give the node a property; returns the node.

        Args:
            name: the property's name.
            value: None for an empty property, a string, several strings, one 32-bit cell, several cells, or bytes.
        """
        self.properties[name] = encode(value)
        return self

    def set_u64(self, name: str, *values: int) -> Node:
        """A property of 64-bit numbers, two cells each."""
        self.properties[name] = b"".join(struct.pack(">Q", value) for value in values)
        return self

    def child(self, name: str) -> Node:
        """A new child."""
        node = Node(name)
        self.children.append(node)
        return node

    def find(self, path: str) -> Node | None:
        """The node at a path below this one (`cpus/cpu@0`); a name without unit address finds the first such."""
        node = self
        for part in filter(None, path.split("/")):
            found = next((c for c in node.children if c.name == part or c.name.split("@")[0] == part), None)
            if found is None:
                return None
            node = found
        return node

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def cells(self, name: str) -> tuple[int, ...]:
        """A property as 32-bit cells; empty when it is absent."""
        data = self.properties.get(name, b"")
        return struct.unpack(f">{len(data) // 4}I", data[: len(data) // 4 * 4])

    def text(self, name: str) -> str | None:
        """A property as a string."""
        data = self.properties.get(name)
        return None if data is None else data.split(b"\0")[0].decode("utf-8", "replace")


def encode(value: Value) -> bytes:
    """The bytes of a property value.

    Raises:
        ImageError: a number that is no 32-bit cell, or a text with a NUL, at which the guest would stop reading.
    """
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        if not 0 <= value < 1 << 32:
            raise ImageError(f"{value:#x} is no 32-bit cell of a device tree")
        return struct.pack(">I", value)
    if isinstance(value, str):
        if "\0" in value:
            raise ImageError(f"{value!r} cannot be in a device tree: it holds a NUL")
        # The specification says ASCII, but a boot loader hands on the bytes it was given, and Linux takes them.
        return value.encode("utf-8", "surrogateescape") + b"\0"
    return b"".join(encode(item) for item in value)


def flatten(root: Node, reserved: Sequence[tuple[int, int]] = ()) -> bytes:
    """The bytes of a tree; the same tree gives the same bytes.

    Args:
        root: its name is written as empty.
        reserved: (address, size) of memory the system must not use.
    """
    strings: dict[str, int] = {}
    names = bytearray()
    structure = bytearray()

    def pad() -> None:
        structure.extend(bytes(-len(structure) % 4))

    def emit(node: Node, name: str) -> None:
        structure.extend(struct.pack(">I", _BEGIN_NODE) + name.encode("ascii") + b"\0")
        pad()
        for key, data in node.properties.items():
            if key not in strings:
                strings[key] = len(names)
                names.extend(key.encode("ascii") + b"\0")
            structure.extend(struct.pack(">III", _PROP, len(data), strings[key]) + data)
            pad()
        for child in node.children:
            emit(child, child.name)
        structure.extend(struct.pack(">I", _END_NODE))

    emit(root, "")
    structure.extend(struct.pack(">I", _END))
    entries = b"".join(struct.pack(">QQ", *entry) for entry in reserved) + bytes(16)
    at_structure = _HEADER.size + len(entries)
    at_strings = at_structure + len(structure)
    header = _HEADER.pack(
        MAGIC, at_strings + len(names), at_structure, at_strings, _HEADER.size,
        _VERSION, _COMPATIBLE, 0, len(names), len(structure),
    )  # fmt: skip
    return header + entries + bytes(structure) + bytes(names)


def is_source(data: bytes) -> bool:
    """Whether it is the text that dtc compiles, behind comments as well, and not what it compiles it to."""
    beginning = data[:65536]
    return b"/dts-v1/" in beginning and b"\0" not in beginning


def parse(blob: bytes) -> Node:
    """Read a flattened tree.

    Raises:
        ImageError: it is none, or it is damaged: what lies outside, does not end, or is nested too deep.
    """
    if len(blob) < _HEADER.size:
        raise ImageError(f"is no device tree: {len(blob)} bytes are too few")
    magic, total, at_structure, at_strings, _, version, compatible, _, strings_size, structure_size = (
        _HEADER.unpack_from(blob)
    )
    if magic != MAGIC:
        raise ImageError(f"is no device tree: it begins with {magic:#010x}, not {MAGIC:#010x}")
    if compatible > _VERSION or version < _COMPATIBLE:
        raise ImageError(f"device tree version {version} is not understood")
    if total > MAX_SIZE:
        raise ImageError(f"device tree of {total} bytes: {MAX_SIZE >> 20} MiB are allowed")
    if total > len(blob):
        raise ImageError(f"device tree says it has {total} bytes; {len(blob)} are there")
    if version >= 17 and at_structure + structure_size > total:
        raise ImageError("device tree is damaged: its blocks lie outside it")
    if at_structure > total or at_strings + strings_size > total or at_structure % 4:
        raise ImageError("device tree is damaged: its blocks lie outside it")
    if version < 17:
        # The structure block's size came with version 17: before, the next block ends it.
        structure_size = (at_strings if at_strings > at_structure else total) - at_structure
    return _Reader(
        blob, at_structure, at_structure + structure_size, blob[at_strings : at_strings + strings_size]
    ).read()


class _Reader:
    def __init__(self, blob: bytes, start: int, end: int, strings: bytes) -> None:
        self._blob, self._at, self._end, self._strings = blob, start, end, strings
        self._properties = 0

    def read(self) -> Node:
        root: Node | None = None
        open_nodes: list[Node] = []
        count = 0
        while True:
            token = self._cell()
            if token == _BEGIN_NODE:
                count += 1
                if count > _MAX_NODES or len(open_nodes) >= _MAX_DEPTH:
                    raise ImageError("device tree is damaged: too many nodes or too deep")
                node = Node(self._name())
                if open_nodes:
                    open_nodes[-1].children.append(node)
                elif root is None:
                    root = node
                else:
                    raise ImageError("device tree is damaged: two roots")
                open_nodes.append(node)
            elif token == _END_NODE:
                if not open_nodes:
                    raise ImageError("device tree is damaged: a node ends that never began")
                open_nodes.pop()
            elif token == _PROP:
                self._property(open_nodes)
            elif token == _END:
                if root is None or open_nodes:
                    raise ImageError("device tree is damaged: it ends within a node")
                return root
            elif token != _NOP:
                raise ImageError(f"device tree is damaged: unknown token {token:#x}")

    def _property(self, open_nodes: list[Node]) -> None:
        self._properties += 1
        if self._properties > _MAX_PROPERTIES:
            raise ImageError("device tree is damaged: too many properties")
        size, name_at = self._cell(), self._cell()
        if not open_nodes or self._at + size > self._end or name_at >= len(self._strings):
            raise ImageError("device tree is damaged: a property lies outside")
        name_end = self._strings.find(b"\0", name_at, name_at + _MAX_NAME + 1)
        if name_end < 0:
            raise ImageError("device tree is damaged: a property's name does not end or is too long")
        name = self._strings[name_at:name_end].decode("ascii", "replace")
        open_nodes[-1].properties[name] = self._blob[self._at : self._at + size]
        self._at += size + (-size % 4)

    def _cell(self) -> int:
        if self._at + 4 > self._end:
            raise ImageError("device tree is damaged: it has no end")
        self._at += 4
        return int.from_bytes(self._blob[self._at - 4 : self._at], "big")

    def _name(self) -> str:
        end = self._blob.find(b"\0", self._at, min(self._end, self._at + _MAX_NAME + 1))
        if end < 0:
            raise ImageError("device tree is damaged: a node's name does not end or is too long")
        name = self._blob[self._at : end].decode("ascii", "replace")
        self._at = (end + 4) // 4 * 4
        return name
