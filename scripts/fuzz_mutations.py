"""How scripts/fuzz_check.py changes TOML files and device trees."""

from __future__ import annotations

import copy
import random
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stage2.errors import ImageError
from stage2.images.fdt import Node, flatten, parse

_TOKENS = re.compile(r'"[^"\n]*"|[A-Za-z_][\w-]*|[-+]?\d[\w.]*|[\[\]{}=,.#\n]')
_ARRAY = re.compile(r"(?<== )\[(?:[^][\n]|\[[^][\n]*\]|\n)+\]")
_NUMBER = re.compile(r"(?<![\w.])-?\d\w*")
NUMBERS = (
    "0", "-1", "1", "0xfff", "0x1000", "0x7fff_ffff", "0xffff_ffff", "0x1_0000_0000", "0xffff_ffff_f000",
    "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616",
    "-9223372036854775809",
    "0xffff_ffff_ffff_f000", "1e309", "-1e309", "nan", "inf", "-inf", "1.5", "true", "0o777",
    "0b1", "9" * 400, "9" * 5000,
    "1979-05-27T07:32:00Z", "07:32:00", '"0x1000"', '"0xffff_ffff_ffff_ffff"', "[]", "{}", '""',
)  # fmt: skip
ODD = (
    "\x00", "\x1b[31m", "\u202e", "\ufeff", "\U000e0001", "\u2028", "é", "\ud7ff", "\r", "\x7f",
    "\x85", "'''", '"""', "\\u0000",
    "\\x1b", "${x}", "%s", "../" * 50, "\U0001f4a9" * 80, "a\u0301" * 50,
)  # fmt: skip
CELLS = (
    0, 1, 2, 3, 4, 5, 0xFF, 0xFFF, 0x1000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_F000, 0xFFFF_FFFF, 0x4000_0000, 0x0900_0000,
    0x0200_0000, 0xC00_0000, 0x1000_0000,
)  # fmt: skip
PROPERTIES = (
    "reg", "ranges", "dma-ranges", "#address-cells", "#size-cells", "interrupt-parent",
    "interrupts", "phandle", "status",
    "interrupts-extended", "memory-region", "iommus", "iommu-map", "compatible", "device_type", "interrupt-controller",
    "#interrupt-cells", "stdout-path", "linux,stdout-path", "linux,phandle", "no-map", "reusable", "size", "alignment",
    "#redistributor-regions", "#iommu-cells", "model", "mmu-type", "dma-coherent", "interrupt-map", "alloc-ranges",
)  # fmt: skip
WORDS = (
    b"memory\0", b"cpu\0", b"pci\0", b"okay\0", b"disabled\0", b"fail\0", b"riscv,plic0\0",
    b"arm,gic-v3\0", b"arm,gic-400\0",
    b"arm,gic-v3-its\0", b"simple-bus\0", b"virtio,mmio\0", b"riscv,imsics\0", b"/\0",
    b"serial0\0", b"&a\0", b"\xff\xfe\0",
    b"\x1b[31m\0", b"", b"riscv\0", b"arm,cortex-a53\0", b"/soc\0", b"riscv,clint0\0",
)  # fmt: skip
NAMES = (
    "memory", "memory@0", "cpus", "cpu@0", "reserved-memory", "chosen", "aliases", "__symbols__",
    "soc", "x" * 200, "a@1@2",
    "", "a/b", "plic@0", "pcie@0", "\x1b[31m", "'\"",
)  # fmt: skip


# --- TOML ---------------------------------------------------------------------------------------------------------


def changed_text(rng: random.Random, texts: Sequence[str]) -> bytes:
    """A file of `texts`, changed one to six times, then maybe in its bytes."""
    text = rng.choice(texts)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        text = rng.choice(_TEXT_CHANGES)(rng, text, texts)[: 1 << 20]
    data = text.encode("utf-8", "surrogatepass")
    return changed_bytes(rng, data) if rng.randrange(6) == 0 else data


def changed_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes replaced, put in, taken out or repeated."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(4):
            case 0 if at < len(out):
                out[at] = rng.randrange(256)
            case 1:
                out[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 2:
                del out[at : at + rng.randrange(1, 64)]
            case _:
                out[at:at] = out[at : at + rng.randrange(1, 256)] * rng.randrange(1, 4)
    return bytes(out)


def _number(rng: random.Random, text: str, texts: Sequence[str]) -> str:
    found = list(_NUMBER.finditer(text))
    if not found:
        return text
    one = rng.choice(found)
    near = rng.choice(NUMBERS)
    if rng.randrange(3) == 0:
        near = str(rng.choice((1 << rng.randrange(70), (1 << rng.randrange(70)) - 1, -(1 << rng.randrange(70)))))
    return text[: one.start()] + near + text[one.end() :]


def _token(rng: random.Random, text: str, texts: Sequence[str]) -> str:
    found = list(_TOKENS.finditer(text))
    other = _TOKENS.findall(rng.choice(texts)) or [""]
    if not found:
        return text
    one = rng.choice(found)
    return text[: one.start()] + rng.choice((rng.choice(other), "", one[0] * 2)) + text[one.end() :]


def _lines(rng: random.Random, text: str, texts: Sequence[str]) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        case 2:
            lines.insert(at, rng.choice(rng.choice(texts).split("\n")))
        case 3:
            rng.shuffle(lines)
        case _:
            cut = rng.randrange(len(lines))
            lines = lines[:at] + rng.choice(texts).split("\n")[cut:]
    return "\n".join(lines)


def _many(rng: random.Random, text: str, texts: Sequence[str]) -> str:
    """An array that is long, or a key or table that is there very often."""
    count = rng.choice((10, 100, 200, 1000, 5000))
    match rng.randrange(4):
        case 0:
            arrays = [
                one for one in re.finditer(r"\[(?:[^][\n]|\[[^][\n]*\])+\]", text) if "=" in text[: one.start()][-4:]
            ]
            if not arrays:
                return text
            one = rng.choice(arrays)
            inner = one[0][1:-1]
            count = min(count, (1 << 20) // (len(inner) + 1) + 1)
            if rng.randrange(2) and (first := _NUMBER.search(inner)):
                start = rng.choice((0x1000, 0x20_0000))
                rows = (inner[: first.start()] + hex(start * (n + 1)) + inner[first.end() :] for n in range(count))
                return text[: one.start()] + "[" + ", ".join(rows) + "]" + text[one.end() :]
            return text[: one.start()] + "[" + ", ".join([inner] * count) + "]" + text[one.end() :]
        case 1:
            return text + "\n" + "".join(f"key{n} = {n}\n" for n in range(count))
        case 2:
            name = rng.choice(
                ("share", "region", "devices.passthrough", "a", "stage2", "base", "kernel.memory_regions")
            )
            return text + f"\n[[{name}]]\na = 1" * count
        case _:
            return text + "\n" + "# stage2: allow S2301 reason\n" * count


def _nested(rng: random.Random, text: str, texts: Sequence[str]) -> str:
    depth = rng.choice((2, 20, 100, 1000, 10000))
    match rng.randrange(4):
        case 0:
            value = "[" * depth + "]" * rng.choice((depth, depth - 1))
        case 1:
            value = "{a=" * depth + "1" + "}" * depth
        case 2:
            return text + "\n" + ".".join(["a"] * depth) + " = 1\n"
        case _:
            return text + "\n[" + ".".join(["a"] * depth) + "]\nb = 1\n"
    found = list(_NUMBER.finditer(text))
    if not found or rng.randrange(3) == 0:
        return f"deep = {value}\n{text}"
    one = rng.choice(found)
    return text[: one.start()] + value + text[one.end() :]


def _odd(rng: random.Random, text: str, texts: Sequence[str]) -> str:
    quotes = [one.start() + 1 for one in re.finditer('"', text)]
    at = rng.choice(quotes) if quotes and rng.randrange(3) else rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(ODD) * rng.choice((1, 1, 3, 1000)) + text[at:]


_TEXT_CHANGES: tuple[Callable[[random.Random, str, Sequence[str]], str], ...] = (
    _number, _number, _number, _token, _token, _lines, _lines, _many, _nested, _odd,
)  # fmt: skip


# --- device trees -------------------------------------------------------------------------------------------------


@dataclass
class Tree:
    """A device tree: its root and its reservations."""

    root: Node
    reserved: list[tuple[int, int]]


def tree_bytes(tree: Tree) -> bytes:
    """It as a file."""
    return flatten(tree.root, tree.reserved)


def changed_tree(rng: random.Random, trees: Sequence[Tree]) -> bytes:
    """A tree of `trees`, changed in its nodes and properties, its cells, or its bytes."""
    tree = copy.deepcopy(rng.choice(trees))
    for _ in range(rng.choice((0, 1, 1, 2, 4, 12))):
        rng.choice(_TREE_CHANGES)(rng, tree, trees)
    try:
        data = tree_bytes(tree)
    except (ValueError, RecursionError, struct.error):
        data = tree_bytes(rng.choice(trees))
    match rng.randrange(6):
        case 0:
            data = changed_bytes(rng, data)
        case 1:
            out = bytearray(data)
            for _ in range(rng.choice((1, 1, 4, 20))):
                at = rng.randrange(min(len(out), rng.choice((40, 1 << 30))) // 4) * 4
                out[at : at + 4] = struct.pack(">I", rng.choice(CELLS))
            data = bytes(out)
    return data


def tree_paths(rng: random.Random, data: bytes) -> list[str]:
    """Some paths of nodes; none where it is no tree."""
    try:
        root = parse(data)
    except ImageError:
        return []
    found = []
    level = [("", root)]
    while level and len(found) < 400:
        path, node = level.pop(rng.randrange(len(level)))
        below = [(f"{path}/{child.name}", child) for child in node.children[:50]]
        found += [name for name, _ in below if name.isprintable()]
        level += below
    return [*found, "/", "/nowhere", "&uart0", "serial0"]


def _all(tree: Tree) -> list[Node]:
    return list(tree.root.walk())


def _cells(rng: random.Random, tree: Tree) -> bytes:
    handles = [cell for node in _all(tree) for cell in node.cells("phandle")[:1]] or [1]
    count = rng.choice((0, 1, 1, 2, 3, 4, 5, 7, 8, 14, 16, 1000, 20000))
    pool = [*rng.choices(CELLS, k=4), *rng.choices(handles, k=4)]
    data = struct.pack(f">{count}I", *rng.choices(pool, k=count))
    return data if rng.randrange(6) else data[: -rng.randrange(1, 4)]


def _property(rng: random.Random, tree: Tree, trees: Sequence[Tree]) -> None:
    node = rng.choice(_all(tree))
    name = rng.choice(PROPERTIES) if rng.randrange(3) or not node.properties else rng.choice(list(node.properties))
    match rng.randrange(6):
        case 0:
            node.properties.pop(name, None)
        case 1:
            node.properties[name] = rng.choice(WORDS)
        case 2:
            other = rng.choice(_all(rng.choice(trees)))
            node.properties |= other.properties
        case 3 if node.properties.get(name):
            node.properties[name] = changed_bytes(rng, node.properties[name])
        case _:
            node.properties[name] = _cells(rng, tree)


def _cycle(rng: random.Random, tree: Tree, trees: Sequence[Tree]) -> None:
    """Interrupt parents in a circle, or one behind the other."""
    chosen = rng.choices(_all(tree), k=rng.choice((1, 2, 3, 20)))
    for at, node in enumerate(chosen):
        node.set("phandle", 0x100 + at).set("interrupt-parent", 0x100 + (at + 1) % len(chosen))
        node.set(rng.choice(("interrupt-controller", "interrupts")), None)
        node.set("memory-region", 0x100 + (at + 1) % len(chosen)).set("iommus", 0x100 + at)


def _copies(rng: random.Random, tree: Tree, trees: Sequence[Tree]) -> None:
    """A node that is there often, under the same or another name."""
    parent = rng.choice(_all(tree))
    node = rng.choice(parent.children or [rng.choice(_all(rng.choice(trees)))])
    if len(_all(tree)) > 5000 or sum(1 for _ in node.walk()) > 40:
        return
    renamed = rng.randrange(2)
    for number in range(rng.choice((1, 10, 100, 1000, 3000))):
        one = copy.deepcopy(node)
        one.name = f"{node.name.split('@')[0]}@{number:x}" if renamed else node.name
        if rng.randrange(2) and node.properties.get("reg"):
            one.properties["reg"] = struct.pack(">I", rng.choice(CELLS)) + node.properties["reg"][4:]
        parent.children.append(one)


def _deep(rng: random.Random, tree: Tree, trees: Sequence[Tree]) -> None:
    node = rng.choice(_all(tree))
    for _ in range(rng.choice((2, 10, 40, 70))):
        node = node.child(rng.choice(("b", "bus@0", "x" * 60)))
        if rng.randrange(2):
            node.set("ranges", _cells(rng, tree)[:2000])


def _rename(rng: random.Random, tree: Tree, trees: Sequence[Tree]) -> None:
    rng.choice(_all(tree)).name = rng.choice(NAMES)


def _move(rng: random.Random, tree: Tree, trees: Sequence[Tree]) -> None:
    parent, other = rng.choice(_all(tree)), rng.choice(_all(rng.choice(trees)))
    if parent.children and rng.randrange(2):
        del parent.children[rng.randrange(len(parent.children))]
    elif sum(1 for _ in other.walk()) < 200:
        parent.children.append(copy.deepcopy(other))


def _reserve(rng: random.Random, tree: Tree, trees: Sequence[Tree]) -> None:
    count = rng.choice((1, 3, 100, 1000, 2000))
    sizes = [size for size in (1, 0x1000, 1 << 63, (1 << 64) - 1) for _ in range(2)]
    tree.reserved += [(rng.randrange(1 << rng.choice((32, 40, 64))), rng.choice(sizes)) for _ in range(count)]


_TREE_CHANGES: tuple[Callable[[random.Random, Tree, Sequence[Tree]], None], ...] = (
    _property, _property, _property, _property, _cycle, _copies, _deep, _rename, _move, _reserve,
)  # fmt: skip
