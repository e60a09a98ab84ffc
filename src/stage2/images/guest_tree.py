"""The device tree of a guest that is given parts of a board: the board's own tree, less what the guest does not have.

Nothing stays that stage 2 does not back: a node whose registers are not all the guest's is left out, and so is one that
needs such a node for its interrupts, clocks or power. What the hypervisor plays stands in its place: an interrupt
controller, to which all that stays refers then, and serial ports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..address import Range
from .devicetree import SerialPort
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


_CLOCK_HZ = 24_000_000
"""Of an emulated serial port, whose wire takes no time anyway."""
_SPI, _PPI, _LEVEL_HIGH = 0, 1, 4
"""Cells of `interrupts` (Linux, bindings, interrupt-controller/arm,gic.yaml)."""
_FIRST_SPI = 32
_TIMERS = (13, 14, 11, 10)
"""PPIs of the secure and non-secure physical, the virtual and the hypervisor's timer, from INTID 16 on (Arm BSA)."""


@dataclass(frozen=True, slots=True)
class GicPlace:
    """Where a guest has an emulated interrupt controller.

    Args:
        version: 2 or 3.
        distributor: its distributor.
        cpus: the redistributors, or a GICv2's CPU interface; None where that one is the board's: its GICV, at the GPA
            of the board's own CPU interface.
    """

    version: int
    distributor: Range
    cpus: Range | None


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
        gic: its emulated interrupt controller, if it has one.
        serial: its emulated serial ports (PL011).
    """

    memory: Sequence[Range]
    cpus: Sequence[int]
    bootargs: str
    ramdisk: Range | None
    reserved: Sequence[Range]
    backed: Callable[[Range], bool]
    gic: GicPlace | None = None
    serial: Sequence[SerialPort] = ()


def bare_board(affinities: Sequence[int]) -> Node:
    """A board that has CPUs with their timers, and nothing else.

    Args:
        affinities: of each CPU, as in MPIDR_EL1.
    """
    root = Node("").set("#address-cells", 2).set("#size-cells", 2).set("compatible", "linux,dummy-virt")
    cpus = root.child("cpus").set("#address-cells", 2).set("#size-cells", 0)
    for affinity in affinities:
        cpu = cpus.child(f"cpu@{affinity:x}").set("device_type", "cpu").set("compatible", "arm,armv8")
        cpu.set_u64("reg", affinity)
    timer = root.child("timer").set("compatible", "arm,armv8-timer").set("always-on")
    timer.set("interrupts", [cell for number in _TIMERS for cell in (_PPI, number, _LEVEL_HIGH)])
    return root


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
    if guest.gic is None:
        for node in kept:
            for controller in node.walk():
                if _is_gic(controller):
                    _give_gic(controller, board)
    else:
        kept = [node for node in kept if not _is_gic(node)]
        kept.insert(0, _made_gic(root, board, guest.gic))
    kept += _made_serial(board, guest.serial)
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
    if guest.serial and "stdout-path" not in made.properties:
        made.set("stdout-path", f"/{_serial_name(guest.serial[0])}")
    return root


def _handles(board: Node) -> set[int]:
    return {handle for node in board.walk() for handle in node.cells("phandle")}


def _made_gic(root: Node, board: Node, place: GicPlace) -> Node:
    """An emulated interrupt controller, under the handle of the board's own, to which other nodes refer."""
    own = next((one for one in nodes(board) if _is_gic(one.node) and one.ranges), None)
    handle = next(iter(own.node.cells("phandle")), None) if own is not None else None
    if handle is None:
        handle = max(_handles(board), default=0) + 1
    root.set("interrupt-parent", handle)
    node = Node(f"intc@{place.distributor.start:x}").set("phandle", handle)
    node.set("compatible", _GIC_V3 if place.version == 3 else _GIC_V2[0])
    node.set("interrupt-controller").set("#interrupt-cells", 3)
    second = place.cpus
    if second is None and own is not None and own.ranges is not None and len(own.ranges) > 1:
        second = own.ranges[1]
    spans = [place.distributor] if second is None else [place.distributor, second]
    node.properties["reg"] = b"".join(_reg(span, board) for span in spans)
    return node


def _serial_name(port: SerialPort) -> str:
    return f"pl011@{port.registers.start:x}"


def _made_serial(board: Node, ports: Sequence[SerialPort]) -> list[Node]:
    """Emulated serial ports, and the clock that their driver wants to see."""
    if not ports:
        return []
    handle = max(_handles(board), default=0) + 2
    clock = Node("serial-clock").set("compatible", "fixed-clock").set("#clock-cells", 0).set("phandle", handle)
    made = [clock.set("clock-frequency", _CLOCK_HZ)]
    for port in ports:
        node = Node(_serial_name(port)).set("compatible", ["arm,pl011", "arm,primecell"])
        node.properties["reg"] = _reg(port.registers, board)
        node.set("clocks", [handle, handle]).set("clock-names", ["uartclk", "apb_pclk"])
        if port.irq >= _FIRST_SPI:
            node.set("interrupts", [_SPI, port.irq - _FIRST_SPI, _LEVEL_HIGH])
        made.append(node)
    return made


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
    there = _cpu_nodes(board)
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


def _gic_ranges(node: Node, ranges: Sequence[Range], board: Node) -> list[Range]:
    """What a guest has of an interrupt controller: of redistributors those of all CPUs of the board, for systems look
    for their own up to the one that says it is the last (Arm IHI 0069, GICR_TYPER.Last)."""
    first, second = ranges[:2] if len(ranges) > 1 else (ranges[0], ranges[0])
    if _GIC_V3 in _compatible(node):
        second = Range.sized(second.start, min(second.size, len(_cpu_nodes(board)) * _REDISTRIBUTOR))
    return [first, second]


def _cpu_nodes(board: Node) -> list[Node]:
    theirs = board.find("cpus")
    return [] if theirs is None else [node for node in theirs.children if node.text("device_type") == "cpu"]


def _give_gic(node: Node, board: Node) -> None:
    """Leave an interrupt controller the ranges that the guest has. What is below it are ITS and MSI frames, whose DMA
    and doorbells are nothing that stage 2 backs by itself."""
    placed = next(one for one in nodes(board) if one.node.name == node.name and one.ranges)
    node.properties["reg"] = b"".join(_reg(span, board) for span in _gic_ranges(node, placed.ranges or (), board))
    node.children.clear()


def _backed(board: Node, guest: GuestBoard) -> dict[int, bool]:
    """By node, whether its registers are the guest's; nodes without any are not in it."""
    found = {}
    for placed in nodes(board):
        if placed.ranges:
            gic = _is_gic(placed.node)
            ranges = _gic_ranges(placed.node, placed.ranges, board) if gic else placed.ranges
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
