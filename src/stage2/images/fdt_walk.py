"""Walking a device tree as an operating system does: which addresses a node has on the CPU's bus.

Devicetree Specification 0.4: 2.3.5 (#address-cells and #size-cells), 2.3.6 (reg), 2.3.8 (ranges), 2.3.4 (status), 5.3
(the memory reservation block).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..address import ADDRESS_LIMIT, Range
from ..errors import ImageError
from .fdt import Node

_ADDRESS_CELLS, _SIZE_CELLS = 2, 1
"""What a node has that does not say (2.3.5)."""
_MOST_CELLS = 2
"""Of an address on the CPU's bus; PCI's have three and are of another space."""
_WIDEST_CELLS = 4
"""Limit: cells of any address; the widest known, PCI's, has three."""
_MOST_RESERVATIONS = 1024
"""Limit: entries of the memory reservation block; boards have a handful."""
_LONGEST_PATH = 1024
"""Limit: characters of a node's path."""
_MOST_STEPS, _SPAN_STEPS = 1 << 18, 4
"""Limit: windows of buses that are looked at in one walk, and how many an address costs beside them: a small file must
not keep us busy for minutes."""
_MOST_DMA_BYTES = 4096
"""Limit: bytes of dma-ranges; boards have one to four windows, of 12 to 28 bytes."""
_STEP_BYTES = 8
"""Bytes of `reg` or `ranges` whose reading is one step."""


@dataclass(slots=True)
class Steps:
    """What is left of the work that a walk may do."""

    left: int = _MOST_STEPS

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ImageError("device tree is damaged: too many addresses through too many buses")


@dataclass(frozen=True, slots=True)
class _Window:
    """What a bus hands on: child addresses [start, start + size) are at `parent`."""

    start: int
    parent: int
    size: int


@dataclass(frozen=True, slots=True)
class _Bus:
    """What is between a node and the CPU.

    Args:
        path: of the node that is the bus.
        windows: what it hands on; None for all, as it is.
    """

    path: str
    windows: Sequence[_Window] | None


@dataclass(frozen=True, slots=True)
class Placed:
    """A node and where it is.

    Args:
        path: from the root: `/soc/serial@10000000`.
        node: the node.
        ranges: its `reg` on the CPU's bus, in order; None where it has none there.
        missing: why `ranges` is None, or lacks something that `reg` has; empty where there is nothing to say.
    """

    path: str
    node: Node
    ranges: tuple[Range, ...] | None
    missing: str = field(default="", compare=False)
    _buses: tuple[_Bus, ...] = field(default=(), compare=False, repr=False)
    _parent_cells: int = field(default=_ADDRESS_CELLS, compare=False, repr=False)

    @property
    def enabled(self) -> bool:
        """Whether its own status lets it be used; `nodes` leaves out what lies below one that is not."""
        return self.node.text("status") in (None, "okay", "ok")

    @property
    def name(self) -> str:
        """Its name without the unit address."""
        return self.node.name.split("@")[0]

    @property
    def compatible(self) -> tuple[str, ...]:
        """The programming models it names, the most specific one first."""
        data = self.node.properties.get("compatible", b"")
        return tuple(part.decode("utf-8", "replace") for part in data.split(b"\0") if part)


@dataclass(frozen=True, slots=True)
class BusWindow:
    """Addresses of the CPU's bus that a bus hands on to its children.

    Args:
        span: where they are to the CPU.
        child: the first address that the bus has for them.
        space: PCI's code of the space (0 configuration, 1 I/O, 2 memory of 32 bits, 3 of 64); None on other buses.
    """

    span: Range
    child: int
    space: int | None


def nodes(root: Node, *, disabled: bool = False) -> Iterator[Placed]:
    """Every node that is enabled with all above it, parents first.

    Args:
        root: of the tree.
        disabled: give those that are not enabled, too.

    Raises:
        ImageError: a name is none, paths are too long, or placing the nodes is more work than any tree makes.
    """
    yield from _below(root, "", (), Steps(), disabled)


def _below(node: Node, path: str, buses: tuple[_Bus, ...], steps: Steps, disabled: bool) -> Iterator[Placed]:
    """The children of a node; `buses` are those from the root down."""
    address_cells, size_cells = _cells(node)
    for child in node.children:
        if not child.name or "/" in child.name:
            raise ImageError(f"device tree is damaged: {child.name!r} below {path or '/'} is no name of a node (2.2.1)")
        at = f"{path}/{child.name}"
        if len(at) > _LONGEST_PATH:
            raise ImageError(f"device tree is damaged: a path of more than {_LONGEST_PATH} characters")
        steps.take(sum(len(child.properties.get(name, b"")) for name in ("reg", "ranges")) // _STEP_BYTES)
        own, missing = _registers(child, address_cells, size_cells)
        ranges = None
        if own is not None:
            ranges, stopped = _up(own, buses, steps)
            missing = missing if ranges is not None else stopped
        placed = Placed(at, child, ranges, missing, buses, address_cells)
        if not placed.enabled and not disabled:
            continue
        yield placed
        yield from _below(child, at, (*buses, _Bus(at, _windows(child, address_cells))), steps, disabled)


def _cells(node: Node) -> tuple[int, int]:
    address, size = node.cells("#address-cells"), node.cells("#size-cells")
    return (address[0] if address else _ADDRESS_CELLS), (size[0] if size else _SIZE_CELLS)


def _registers(node: Node, address_cells: int, size_cells: int) -> tuple[list[Range] | None, str]:
    """`reg` as it stands, None where there is none or its numbers are no addresses, and what is to be said of that."""
    data = node.properties.get("reg")
    if data is None:
        return None, "has no reg"
    if not 0 < address_cells <= _MOST_CELLS or not 0 < size_cells <= _MOST_CELLS:
        return None, f"has a reg of {address_cells} and {size_cells} cells, which is no place on the CPU's bus"
    step = 4 * (address_cells + size_cells)
    missing = f"has a reg of {len(data)} bytes, which is no multiple of {step}" if len(data) % step else ""
    found = []
    for start, size in _tuples(node.cells("reg"), (address_cells, size_cells)):
        if start + size > ADDRESS_LIMIT:
            missing = f"has a reg of {size:#x} bytes from {start:#x}, which end beyond 64 bits"
        elif size:
            found.append(Range.sized(start, size))
    return found, missing


def _windows(node: Node, parent_cells: int, name: str = "ranges") -> Sequence[_Window] | None:
    """`ranges`, or `dma-ranges`, of a bus: None for an empty property, which hands on all as it is."""
    if name not in node.properties:
        return ()
    if not node.properties[name]:
        return None
    address_cells, size_cells = _cells(node)
    if max(address_cells, size_cells, parent_cells) > _WIDEST_CELLS:
        return ()
    found = _tuples(node.cells(name), (address_cells, parent_cells, size_cells))
    return [_Window(start, parent, size) for start, parent, size in found]


def _tuples(cells: Sequence[int], widths: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Numbers of so many cells each, one group after the other; cells that fill no group are left."""
    step = sum(widths)
    for at in range(0, len(cells) - step + 1, step) if step else ():
        group, place = [], at
        for width in widths:
            value = 0
            for cell in cells[place : place + width]:
                value = value << 32 | cell
            group.append(value)
            place += width
        yield tuple(group)


def _up(spans: list[Range], buses: Sequence[_Bus], steps: Steps) -> tuple[tuple[Range, ...] | None, str]:
    """Ranges on the CPU's bus, through every bus above; None where one does not hand them on, and which one."""
    for bus in reversed(buses):
        if bus.windows is None:
            continue
        moved = []
        for span in spans:
            steps.take(len(bus.windows) + _SPAN_STEPS)
            window = next((w for w in bus.windows if w.start <= span.start and span.end <= w.start + w.size), None)
            if window is None or window.parent + span.end - window.start > ADDRESS_LIMIT:
                return None, f"is at {span} on the bus {bus.path}, whose ranges do not hand that on to the CPU"
            moved.append(Range.sized(window.parent + span.start - window.start, span.size))
        spans = moved
    return tuple(spans), ""


def bus_windows(placed: Placed, steps: Steps | None = None) -> tuple[BusWindow, ...]:
    """What a node that is a bus hands on to its children (`ranges`), where the CPU sees it, in order.

    What no bus above hands on, and windows without a size, are left out; a bus that hands on all as it is has none.
    For PCI's addresses see IEEE 1275's PCI bus binding, 2.2.1.1: the space is in bits 24 and 25 of the first cell.

    Args:
        placed: the bus.
        steps: what is left of the work, where several buses are looked at.

    Raises:
        ImageError: that is more work than any machine's tree makes.
    """
    steps, found = steps or Steps(), []
    pci = _cells(placed.node)[0] == 3
    for window in _windows(placed.node, placed._parent_cells) or ():
        if not window.size or window.parent + window.size > ADDRESS_LIMIT:
            continue
        spans, _ = _up([Range.sized(window.parent, window.size)], placed._buses, steps)
        if spans is not None:
            child, space = window.start, None
            if pci:
                child, space = window.start & (1 << 64) - 1, window.start >> 88 & 3
            found.append(BusWindow(spans[0], child, space))
    return tuple(found)


def dma_windows(placed: Placed) -> tuple[Range, ...] | None:
    """Addresses of the bus above to which a bus lets its children's DMA through; None where it says nothing.

    Raises:
        ImageError: it says more than any board's.
    """
    size = len(placed.node.properties.get("dma-ranges", b""))
    if not size:
        return None
    if size > _MOST_DMA_BYTES:
        raise ImageError(f"has dma-ranges of {size:,} bytes: {_MOST_DMA_BYTES:,} are allowed")
    found = _windows(placed.node, placed._parent_cells, "dma-ranges") or ()
    return tuple(
        Range.sized(one.parent, one.size) for one in found if one.size and one.parent + one.size <= ADDRESS_LIMIT
    )


def reservations(blob: bytes) -> tuple[Range, ...]:
    """The memory reservation block of a tree that `fdt.parse` accepts: memory that is not to be used.

    Entries that hold no address are left out.

    Raises:
        ImageError: there are more than on any machine.
    """
    at = int.from_bytes(blob[16:20], "big")
    found: list[Range] = []
    while at + 16 <= len(blob):
        start, size = (int.from_bytes(blob[place : place + 8], "big") for place in (at, at + 8))
        if not start and not size:
            break
        if size and start + size <= ADDRESS_LIMIT:
            found.append(Range.sized(start, size))
        if len(found) > _MOST_RESERVATIONS:
            raise ImageError(f"device tree is damaged: more than {_MOST_RESERVATIONS:,} reservations")
        at += 16
    return tuple(found)
