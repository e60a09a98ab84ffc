"""The device tree of a guest that is given parts of a board: the board's own tree, less what the guest does not have.

Nothing stays that stage 2 does not back: a node whose registers are not all the guest's is left out, and so is one that
needs such a node for its interrupts, clocks or power.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..address import Range
from .fdt import Node
from .fdt_walk import nodes

_ANEW = ("memory", "chosen", "cpus", "psci", "reserved-memory", "aliases")
"""Nodes that are made for the guest, by the name before the unit address; aliases name nodes that may be gone."""
_WITHOUT_REGISTERS = ("arm,armv8-timer", "arm,armv7-timer", "fixed-clock", "fixed-factor-clock")
"""Nodes without registers that a guest may have, by what they are compatible with: it has them by its CPU, or they are
facts."""
_REFERENCES = ("interrupt-parent", "clocks", "power-domains", "resets", "dmas", "iommus", "phys", "msi-parent")
"""Properties that begin with another node's phandle (Devicetree Specification 2.4; Linux, bindings)."""
_GIC_V2 = ("arm,cortex-a15-gic", "arm,gic-400", "arm,cortex-a9-gic")
_GIC_V3 = "arm,gic-v3"
"""Interrupt controllers of which a guest has the first two ranges: distributor, and CPU interface or redistributors.
The others are the hypervisor's (Linux, bindings, interrupt-controller/arm,gic.yaml and arm,gic-v3.yaml)."""
_REDISTRIBUTOR = 0x2_0000
"""Bytes of a CPU's redistributor: two frames of 64 KiB (Arm IHI 0069, 12.10)."""


@dataclass(frozen=True, slots=True)
class GuestBoard:
    """What a guest has of a board.

    Args:
        memory: its RAM, in GPA.
        cpus: the board's CPUs that are its, by their place in the board's tree.
        bootargs: kernel command line.
        ramdisk: where the ramdisk lies, if there is one.
        reserved: parts of RAM that it must leave alone.
        backed: whether stage 2 leads all of a range to the same host addresses.
    """

    memory: Sequence[Range]
    cpus: Sequence[int]
    bootargs: str
    ramdisk: Range | None
    reserved: Sequence[Range]
    backed: Callable[[Range], bool]


def guest_tree(board: Node, guest: GuestBoard) -> Node:
    """The tree of a guest.

    Args:
        board: the board's, which is left as it is.
        guest: what it has.
    """
    root = Node("", dict(board.properties))
    made = root.child("chosen").set("bootargs", guest.bootargs)
    chosen = board.find("chosen")
    if chosen is not None and chosen.text("stdout-path") is not None:
        made.set("stdout-path", chosen.text("stdout-path"))
    if guest.ramdisk is not None:
        made.set_u64("linux,initrd-start", guest.ramdisk.start).set_u64("linux,initrd-end", guest.ramdisk.end)
    for span in guest.memory:
        _addressed(root, "memory", span, board).set("device_type", "memory")
    if guest.reserved:
        held = root.child("reserved-memory").set("ranges")
        for name in ("#address-cells", "#size-cells"):
            held.properties[name] = board.properties.get(name, b"")
        for span in guest.reserved:
            _addressed(held, "reserved", span, board).set("no-map")
    root.child("psci").set("compatible", ["arm,psci-1.0", "arm,psci-0.2"]).set("method", "hvc")
    _cpus(root, board, guest.cpus)
    backed = _backed(board, guest)
    kept = [found for node in board.children if (found := _kept(node, backed)) is not None]
    for node in kept:
        for controller in node.walk():
            if _is_gic(controller):
                _give_gic(controller, board, guest.cpus)
    while True:
        there = {handle for node in (*kept, root) for below in node.walk() for handle in below.cells("phandle")}
        left = [node for node in kept if _satisfied(node, there)]
        if len(left) == len(kept):
            break
        kept = left
    root.children += kept
    path = made.text("stdout-path")
    if path is not None and root.find(path.partition(":")[0]) is None:
        del made.properties["stdout-path"]
    return root


def _addressed(parent: Node, name: str, span: Range, board: Node) -> Node:
    """A child with one range of registers, as wide as the board's cells."""
    node = parent.child(f"{name}@{span.start:x}")
    node.properties["reg"] = _reg(span, board)
    return node


def _reg(span: Range, board: Node) -> bytes:
    """An entry of `reg` below the root."""
    widths = [(board.cells(key) or (default,))[0] for key, default in (("#address-cells", 2), ("#size-cells", 1))]
    values = zip((span.start, span.size), widths, strict=True)
    return b"".join(value.to_bytes(4 * width, "big") for value, width in values)


def _cpus(root: Node, board: Node, numbers: Sequence[int]) -> None:
    """The guest's CPUs, started by PSCI."""
    theirs = board.find("cpus")
    cpus = root.child("cpus")
    if theirs is None:
        return
    cpus.properties.update(theirs.properties)
    there = [node for node in theirs.children if node.text("device_type") == "cpu"]
    for node in [there[number] for number in numbers]:
        mine = Node(node.name, dict(node.properties))
        mine.set("enable-method", "psci")
        for name in ("cpu-idle-states", "next-level-cache", "power-domains", "clocks"):
            mine.properties.pop(name, None)
        cpus.children.append(mine)


def _compatible(node: Node) -> set[str]:
    return set(node.properties.get("compatible", b"").decode("ascii", "replace").split("\0"))


def _is_gic(node: Node) -> bool:
    return bool(_compatible(node) & {*_GIC_V2, _GIC_V3})


def _gic_ranges(node: Node, ranges: Sequence[Range], cpus: Sequence[int]) -> list[Range]:
    """What a guest has of an interrupt controller: of redistributors those up to its last CPU's."""
    first, second = ranges[:2] if len(ranges) > 1 else (ranges[0], ranges[0])
    if _GIC_V3 in _compatible(node):
        second = Range.sized(second.start, min(second.size, (max(cpus) + 1) * _REDISTRIBUTOR))
    return [first, second]


def _give_gic(node: Node, board: Node, cpus: Sequence[int]) -> None:
    """Leave an interrupt controller the ranges that the guest has. What is below it are ITS and MSI frames, whose DMA
    and doorbells are nothing that stage 2 backs by itself."""
    placed = next(one for one in nodes(board) if one.node.name == node.name and one.ranges)
    node.properties["reg"] = b"".join(_reg(span, board) for span in _gic_ranges(node, placed.ranges or (), cpus))
    node.children.clear()


def _backed(board: Node, guest: GuestBoard) -> dict[int, bool]:
    """By node, whether its registers are the guest's; nodes without any are not in it."""
    found = {}
    for placed in nodes(board):
        if placed.ranges:
            gic = _is_gic(placed.node)
            ranges = _gic_ranges(placed.node, placed.ranges, guest.cpus) if gic else placed.ranges
            found[id(placed.node)] = all(guest.backed(span) for span in ranges)
    return found


def _kept(node: Node, backed: dict[int, bool]) -> Node | None:
    """A node as the guest has it, with what it has below it; None where the guest does not have it."""
    if node.name.split("@")[0] in _ANEW or node.text("status") not in (None, "okay", "ok"):
        return None
    below = [found for child in node.children if (found := _kept(child, backed)) is not None]
    if not backed.get(id(node), False) and not _compatible(node) & set(_WITHOUT_REGISTERS):
        bus = id(node) not in backed and below
        if not bus:
            return None
    return Node(node.name, dict(node.properties), below)


def _satisfied(node: Node, there: set[int]) -> bool:
    """Whether what a node and those below it refer to is there."""
    for one in node.walk():
        for name in _REFERENCES:
            cells = one.cells(name)
            if cells and cells[0] not in there:
                return False
    return True
