"""The host's device tree: RAM and what of it is reserved, CPUs, buses, interrupt controllers, the console, any node.

Devicetree Specification 0.4: 2.2.3 (paths), 2.4 (interrupts), 3.3 (/aliases), 3.6 (/chosen). Labels of a source are
what dtc keeps of them: properties of `/__symbols__`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property

from ..config.wording import shown
from ..errors import ImageError
from .fdt import Node
from .fdt_walk import Placed, Steps, bus_windows, nodes
from .host_parts import (
    ControllerKind,
    HostConsole,
    HostCpu,
    InterruptController,
    PciHost,
    RamBank,
    Reservation,
    TreePlace,
)
from .tree_file import TreeFile, read_tree

MEMRESERVE = "/memreserve/"
"""What stands for the node of an entry of the memory reservation block."""
_MOST_HINTS = 8
"""Limit: how often one command is told what a name may have meant; it takes a look at all nodes."""
_MOST_PARENTS = 16
"""Limit: interrupt controllers between a device and the CPU."""
_KINDS = {
    "arm,gic-v3": ControllerKind.GICV3,
    "arm,gic-400": ControllerKind.GICV2,
    "arm,cortex-a15-gic": ControllerKind.GICV2,
    "arm,cortex-a9-gic": ControllerKind.GICV2,
    "arm,cortex-a7-gic": ControllerKind.GICV2,
    "arm,pl390": ControllerKind.GICV2,
    "arm,eb11mp-gic": ControllerKind.GICV2,
    "arm,arm11mp-gic": ControllerKind.GICV2,
    "qcom,msm-qgic2": ControllerKind.GICV2,
    "riscv,plic0": ControllerKind.PLIC,
    "sifive,plic-1.0.0": ControllerKind.PLIC,
    "thead,c900-plic": ControllerKind.PLIC,
    "riscv,aplic": ControllerKind.APLIC,
    "riscv,imsics": ControllerKind.IMSIC,
}
"""The `compatible` of an interrupt controller -> its kind."""
_FRAMES = {"arm,gic-v3-its": "ITS", "arm,gic-v2m-frame": "V2M"}
"""The same of what stands below a GIC."""


class HostTree:
    """A host's device tree, read and checked.

    Args:
        found: the tree of a file.

    Raises:
        ImageError: it contradicts itself, or what is needed of it is damaged.
    """

    def __init__(self, found: TreeFile) -> None:
        self.file = found.file
        self._tree = found
        try:
            self.nodes: tuple[Placed, ...] = tuple(nodes(found.root, disabled=True))
        except ImageError as error:
            raise ImageError(error.problem, file=self.file) from None
        self._index: dict[str, int] = {}
        self._phandles: dict[int, Placed] = {}
        self._parents: dict[str, Placed | None] = {}
        for number, placed in enumerate(self.nodes):
            self._index.setdefault(placed.path, number)
            for handle in placed.node.cells("phandle")[:1] or placed.node.cells("linux,phandle")[:1]:
                self._phandles.setdefault(handle, placed)
        self._ends = _ends(self.nodes)
        self._children: dict[str, tuple[dict[str, Node], dict[str, list[Node]]]] = {}
        self._hints = _MOST_HINTS
        self._off = _disabled(self.nodes)
        self.ram = tuple(self._ram())
        self.reservations = tuple(self._reservations())
        self.cpus = tuple(self._cpus())
        self.pci = tuple(self._pci())
        self.controllers = tuple(self._controllers())
        self.console = self._console()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> HostTree:
        """Read one from a file, compiled (dtb) or source (dts, through dtc).

        Raises:
            ConfigError: the file cannot be read.
            ImageError: it is no device tree, or a damaged one.
            HostToolError: it is source, and dtc is missing or refuses it.
        """
        return cls(read_tree(path))

    def __repr__(self) -> str:
        return f"HostTree({self.file!r}, {len(self.nodes)} nodes)"

    @property
    def root(self) -> Node:
        """Its root node."""
        return self._tree.root

    @property
    def model(self) -> str:
        """What the machine is called."""
        return self._tree.root.text("model") or "unnamed"

    @cached_property
    def arch(self) -> str | None:
        """The architecture, by what the CPUs are; None where that does not tell."""
        names = [name for cpu in self.cpus for name in cpu.compatible]
        if any(name == "riscv" or name.startswith("riscv,") for name in names) or any(
            cpu.mmu_type for cpu in self.cpus
        ):
            return "riscv64"
        if any(name.startswith(("arm,cortex-", "arm,neoverse-", "arm,armv8", "arm,rainier")) for name in names):
            return "aarch64"
        known = {controller.kind for controller in self.controllers}
        if known & {ControllerKind.GICV2, ControllerKind.GICV3}:
            return "aarch64"
        return "riscv64" if known else None

    def place(self, placed: Placed) -> TreePlace:
        """Where a node stands."""
        return TreePlace(self.file, placed.path)

    def enabled(self, placed: Placed) -> bool:
        """Whether a node and all above it may be used."""
        return placed.path not in self._off

    def find(self, name: str, *, hint: bool = True) -> Placed:
        """A node by its path (unit addresses may be left out where that is unambiguous), alias or label.

        Args:
            name: `/soc/serial@10000000`, `serial0`, `serial0/child`, `&uart0`.
            hint: say in the error what may have been meant, which takes a look at all nodes.

        Raises:
            ImageError: there is none, or several.
        """
        if name.startswith("/"):
            return self._at(name, name, hint)
        first, _, rest = name.partition("/")
        target = None if first.startswith("&") else self._text("/aliases", first)
        if target is None:
            target = self._text("/__symbols__", first.removeprefix("&"))
        if target is None:
            near = self._near(name) if hint else ""
            known = "" if self._tree.source or "/__symbols__" in self._index else ", and it has no labels"
            raise ImageError(f"has no alias or label {shown(name)}{known}{near}: write the node's path", file=self.file)
        if not target.startswith("/"):
            raise ImageError(f"{shown(first)} leads to {shown(target)}, which is no path", file=self.file)
        return self._at(f"{target}/{rest}" if rest else target, name, hint)

    def below(self, placed: Placed) -> Iterator[Placed]:
        """A node and all nodes below it."""
        number = self._index[placed.path]
        yield from self.nodes[number : self._ends[number]]

    def count_below(self, placed: Placed) -> int:
        """How many nodes `below` gives."""
        number = self._index[placed.path]
        return self._ends[number] - number

    def by_phandle(self, handle: int) -> Placed | None:
        """The node that a phandle names."""
        return self._phandles.get(handle)

    def interrupt_parents(self, placed: Placed) -> tuple[Placed, ...]:
        """The interrupt controllers from a node up to the last one before the CPU (2.4).

        Raises:
            ImageError: they go in a circle, or a phandle names no node.
        """
        chain: dict[str, Placed] = {}
        at = placed
        while (above := self._interrupt_parent(at.path)) is not None and above.path != at.path:
            if above.path in chain:
                ring = " -> ".join([*list(chain)[list(chain).index(above.path) :], above.path])
                raise self.place(placed).error(f"its interrupt parents go in a circle: {ring}")
            chain[above.path] = above
            if len(chain) > _MOST_PARENTS:
                raise self.place(placed).error(f"has more than {_MOST_PARENTS} interrupt parents, one behind the other")
            at = above
        return tuple(chain.values())

    # --- inside ----------------------------------------------------------------------------------------------

    def _at(self, path: str, asked: str, hint: bool) -> Placed:
        """The node at a path whose parts may lack their unit addresses."""
        number = self._index.get(path.rstrip("/"))
        if number is not None:
            return self.nodes[number]
        node, where = self._tree.root, ""
        for part in filter(None, path.split("/")):
            exact, bare = self._names_below(where, node)
            fitting = [exact[part]] if part in exact else bare.get(part, [])
            if len(fitting) > 1:
                names = ", ".join(f"{where}/{child.name}" for child in fitting[:4])
                raise ImageError(f"{shown(asked)} may be {names}: write the unit address", file=self.file)
            if not fitting:
                near = self._near(path) if hint else ""
                raise ImageError(f"has no node {shown(asked)}{near}", file=self.file)
            node, where = fitting[0], f"{where}/{fitting[0].name}"
        if not where:
            raise ImageError(f"{shown(asked)} is the root, which is no device", file=self.file)
        return self.nodes[self._index[where]]

    def _names_below(self, path: str, node: Node) -> tuple[dict[str, Node], dict[str, list[Node]]]:
        """The children of a node by their names, and by their names without unit addresses."""
        if path not in self._children:
            exact: dict[str, Node] = {}
            bare: dict[str, list[Node]] = {}
            for child in node.children:
                exact.setdefault(child.name, child)
                bare.setdefault(child.name.split("@")[0], []).append(child)
            self._children[path] = exact, bare
        return self._children[path]

    def _near(self, path: str) -> str:
        """The nodes that may have been meant; only a few times, for a file may name thousands that are not there."""
        if not self._hints:
            return ""
        self._hints -= 1
        name, _, unit = path.rstrip("/").rpartition("/")[2].partition("@")
        # Comparing with thousands of paths takes seconds: those that begin alike or are at the same place are enough.
        likely = [
            placed.path
            for placed in self.nodes
            if placed.name[:3] == name[:3] or (unit and placed.node.name.endswith(f"@{unit}"))
        ][:100]
        near = difflib.get_close_matches(path[:255], [one[:255] for one in likely], 1, 0.6)
        return f" (did you mean {near[0]}?)" if near else ""

    def _text(self, path: str, name: str) -> str | None:
        number = self._index.get(path)
        return None if number is None else self.nodes[number].node.text(name)

    def _interrupt_parent(self, path: str) -> Placed | None:
        """What takes the interrupts of a node; None where nothing says. Known ones are kept: all below inherit them."""
        if path not in self._parents:
            node = self.nodes[self._index[path]].node if path else self._tree.root
            handle = node.cells("interrupt-parent")
            above = path.rpartition("/")[0]
            if handle:
                found = self._phandles.get(handle[0])
                if found is None:
                    raise TreePlace(self.file, path or "/").error(f"its interrupt-parent {handle[0]:#x} names no node")
            elif not path:
                found = None
            elif above and "interrupt-controller" in self.nodes[self._index[above]].node.properties:
                found = self.nodes[self._index[above]]
            else:
                found = self._interrupt_parent(above)
            self._parents[path] = found
        return self._parents[path]

    def _whole(self, placed: Placed) -> Placed:
        """A node whose `reg` is needed.

        Raises:
            ImageError: it has none on the CPU's bus, or a damaged one.
        """
        if placed.ranges is None or placed.missing:
            raise self.place(placed).error(placed.missing)
        return placed

    def _usable(self) -> Iterator[Placed]:
        return (placed for placed in self.nodes if placed.path not in self._off)

    def _ram(self) -> Iterator[RamBank]:
        for placed in self._usable():
            top = placed.path.count("/") == 1
            if placed.node.text("device_type") == "memory" or (top and placed.name == "memory"):
                for span in self._whole(placed).ranges or ():
                    yield RamBank(span, self.place(placed))

    def _reservations(self) -> Iterator[Reservation]:
        for span in self._tree.reserved:
            yield Reservation(span, span.size, False, False, TreePlace(self.file, MEMRESERVE))
        for placed in self._usable():
            parent, _, _ = placed.path.rpartition("/")
            if parent != "/reserved-memory":
                continue
            properties, where = placed.node.properties, self.place(placed)
            no_map, reusable = "no-map" in properties, "reusable" in properties
            if "reg" in properties:
                for span in self._whole(placed).ranges or ():
                    yield Reservation(span, span.size, no_map, reusable, where)
            elif "size" in properties:
                yield Reservation(None, _number(placed.node.cells("size")), no_map, reusable, where)

    def _cpus(self) -> Iterator[HostCpu]:
        number = self._index.get("/cpus")
        if number is None:
            return
        above = self.nodes[number].node
        cells = (above.cells("#address-cells") or (1,))[0]
        for placed in self.below(self.nodes[number]):
            if placed.path.count("/") != 2 or placed.node.text("device_type") != "cpu":
                continue
            reg = placed.node.cells("reg")
            if not 1 <= cells <= 2 or not reg or len(reg) % cells:
                raise self.place(placed).error(f"its reg of {len(reg)} cells is no id of a CPU, which has {cells}")
            ids = tuple(_number(reg[at : at + cells]) for at in range(0, len(reg), cells))
            # "disabled" is a CPU that waits to be started; only one that failed is none (3.8.1, 2.3.4).
            failed = (placed.node.text("status") or "").startswith("fail")
            yield HostCpu(ids, placed.node.text("mmu-type"), placed.compatible, not failed, self.place(placed))

    def _pci(self) -> Iterator[PciHost]:
        steps = Steps()
        for placed in self._usable():
            if placed.node.text("device_type") in ("pci", "pciex") and placed.ranges is not None:
                try:
                    windows = bus_windows(placed, steps)
                except ImageError as error:
                    raise self.place(placed).error(error.problem) from None
                yield PciHost(self._whole(placed).ranges or (), windows, self.place(placed))

    def _controllers(self) -> Iterator[InterruptController]:
        for placed in self._usable():
            kind = next((_KINDS[name] for name in placed.compatible if name in _KINDS), None)
            if kind is None or "interrupt-controller" not in placed.node.properties:
                continue
            self.interrupt_parents(placed)
            spans = self._whole(placed).ranges or ()
            names = self._names(placed, kind, len(spans))
            regions = list(zip(names, spans, strict=False))
            for child in placed.node.children:
                below = self.nodes[self._index[f"{placed.path}/{child.name}"]]
                frame = next((_FRAMES[name] for name in below.compatible if name in _FRAMES), None)
                if frame is not None and self.enabled(below):
                    regions += [(frame, span) for span in self._whole(below).ranges or ()]
            yield InterruptController(kind, tuple(regions), self.place(placed))

    def _names(self, placed: Placed, kind: ControllerKind, count: int) -> Sequence[str]:
        """What the regions of a controller's `reg` are, in order."""
        if kind is ControllerKind.GICV2:
            needed, names = 2, ["GICD", "GICC", "GICH", "GICV"]
        elif kind is ControllerKind.GICV3:
            redistributors = (placed.node.cells("#redistributor-regions") or (1,))[0]
            if redistributors > count:
                raise self.place(placed).error(
                    f"says that it has {redistributors} redistributor regions, and its reg has {count} in all"
                )
            needed, names = 2, ["GICD", *["GICR"] * redistributors, "GICC", "GICH", "GICV"]
        else:
            needed, names = 1, [kind.value] * count
        if count < needed:
            raise self.place(placed).error(f"is a {kind.value}, whose reg has {needed} regions at least, not {count}")
        return names

    def _console(self) -> HostConsole | None:
        written = self._text("/chosen", "stdout-path") or self._text("/chosen", "linux,stdout-path")
        if written is None:
            return None
        name, _, options = written.partition(":")
        try:
            placed = self.find(name)
        except ImageError as error:
            raise TreePlace(self.file, "/chosen").error(f"stdout-path = {shown(written)}: {error.problem}") from None
        self.interrupt_parents(placed)
        ranges = placed.ranges or ()
        return HostConsole(ranges, placed.compatible, options, self.place(placed), written)


def _ends(placed: Sequence[Placed]) -> list[int]:
    """For each node, parents first, the number of the first one behind it that is not below it."""
    ends = [len(placed)] * len(placed)
    above: list[int] = []
    for number, one in enumerate(placed):
        depth = one.path.count("/")
        while len(above) >= depth:
            ends[above.pop()] = number
        above.append(number)
    return ends


def _disabled(placed: Sequence[Placed]) -> frozenset[str]:
    """The paths of nodes that are not enabled, or stand below one that is not."""
    off: set[str] = set()
    for one in placed:
        if not one.enabled or one.path.rpartition("/")[0] in off:
            off.add(one.path)
    return frozenset(off)


def _number(cells: Sequence[int]) -> int:
    """Cells as one number."""
    value = 0
    for cell in cells[:2]:
        value = value << 32 | cell
    return value
