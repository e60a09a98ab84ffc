"""Walking a device tree as an operating system does: which addresses a node has on the CPU's bus.

Devicetree Specification 0.4: 2.3.5 (#address-cells and #size-cells), 2.3.6 (reg), 2.3.8 (ranges), 2.3.4 (status), 5.3
(the memory reservation block).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..address import ADDRESS_LIMIT, Range
from .fdt import Node

_ADDRESS_CELLS, _SIZE_CELLS = 2, 1
"""What a node has that does not say (2.3.5)."""
_MOST_CELLS = 2
"""Of an address on the CPU's bus; PCI's have three and are of another space."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A node and where it is.

    Args:
        path: from the root: `/soc/serial@10000000`.
        node: the node.
        ranges: its `reg` on the CPU's bus, in order; None where a bus on the way does not translate.
    """

    path: str
    node: Node
    ranges: tuple[Range, ...] | None

    @property
    def enabled(self) -> bool:
        """Whether its own status lets it be used; `nodes` leaves out what lies below one that is not."""
        return self.node.text("status") in (None, "okay", "ok")

    @property
    def name(self) -> str:
        """Its name without the unit address."""
        return self.node.name.split("@")[0]


@dataclass(frozen=True, slots=True)
class _Window:
    """What a bus hands on: child addresses [start, start + size) are at `parent`."""

    start: int
    parent: int
    size: int


def nodes(root: Node) -> Iterator[Placed]:
    """Every node that is enabled with all above it, parents first."""
    yield from _below(root, "", [None])


def _below(node: Node, path: str, buses: list[Sequence[_Window] | None]) -> Iterator[Placed]:
    """The children of a node; `buses` are the windows from the root down, None for one that translates nothing away,
    and an empty one for a bus that hands on nothing."""
    address_cells, size_cells = _cells(node)
    for child in node.children:
        at = f"{path}/{child.name}"
        own = _registers(child, address_cells, size_cells)
        placed = Placed(at, child, None if own is None else _up(own, buses))
        if not placed.enabled:
            continue
        yield placed
        yield from _below(child, at, [*buses, _windows(child, address_cells)])


def _cells(node: Node) -> tuple[int, int]:
    address, size = node.cells("#address-cells"), node.cells("#size-cells")
    return (address[0] if address else _ADDRESS_CELLS), (size[0] if size else _SIZE_CELLS)


def _registers(node: Node, address_cells: int, size_cells: int) -> list[Range] | None:
    """`reg` as it stands; None where there is none, or its numbers are no addresses."""
    if "reg" not in node.properties or not 0 < address_cells <= _MOST_CELLS or not 0 < size_cells <= _MOST_CELLS:
        return None
    return [
        Range.sized(start, size)
        for start, size in _tuples(node.cells("reg"), (address_cells, size_cells))
        if size and start + size <= ADDRESS_LIMIT
    ]


def _windows(node: Node, parent_cells: int) -> Sequence[_Window] | None:
    """`ranges` of a bus: None for an empty property, which hands on all as it is."""
    if "ranges" not in node.properties:
        return ()
    if not node.properties["ranges"]:
        return None
    address_cells, size_cells = _cells(node)
    found = _tuples(node.cells("ranges"), (address_cells, parent_cells, size_cells))
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


def _up(spans: list[Range], buses: Sequence[Sequence[_Window] | None]) -> tuple[Range, ...] | None:
    """Ranges on the CPU's bus, through every bus above; None where one does not hand them on."""
    for windows in reversed(buses):
        if windows is None:
            continue
        moved = []
        for span in spans:
            window = next((w for w in windows if w.start <= span.start and span.end <= w.start + w.size), None)
            if window is None or window.parent + span.end - window.start > ADDRESS_LIMIT:
                return None
            moved.append(Range.sized(window.parent + span.start - window.start, span.size))
        spans = moved
    return tuple(spans)


def reservations(blob: bytes) -> tuple[Range, ...]:
    """The memory reservation block of a tree that `fdt.parse` accepts: memory that is not to be used.

    Entries that hold no address are left out.
    """
    at = int.from_bytes(blob[16:20], "big")
    found = []
    while at + 16 <= len(blob):
        start, size = (int.from_bytes(blob[place : place + 8], "big") for place in (at, at + 8))
        if not start and not size:
            break
        if size and start + size <= ADDRESS_LIMIT:
            found.append(Range.sized(start, size))
        at += 16
    return tuple(found)
