"""What is wrong with the device tree that a VM's file names: the rules S2221 to S2229.

Devicetree Specification 0.4; Linux, Documentation/arch/arm64/booting.rst ("2. Setup the device tree") and
Documentation/arch/riscv/boot.rst ("Device-Tree").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..address import Range
from ..config.regions import PlannedVm
from ..errors import ImageError
from ..images.fdt import Node, is_source, parse
from ..images.fdt_walk import Placed, nodes, reservations
from ..place import Place
from ..ranges import RangeMap
from .finding import Finding, Party, Rule, Severity, found_at

DAMAGED = Rule(
    "S2221", Severity.ERROR, "the device tree cannot be read",
    "The guest finds no machine: most stop without a message.",
)  # fmt: skip
SOURCE = Rule(
    "S2222", Severity.ERROR, "the device tree is source text",
    "Guests read the compiled form (DTB) only.",
)  # fmt: skip
MISALIGNED = Rule(
    "S2223", Severity.ERROR, "the device tree is not at a multiple of 8 bytes",
    "Kernels refuse it, or read it wrong.",
)  # fmt: skip
NO_MEMORY = Rule(
    "S2224", Severity.WARNING, "the device tree has no memory",
    "The guest has to find its RAM in another way, which most do not.",
)  # fmt: skip
MEMORY_OUTSIDE = Rule(
    "S2225", Severity.ERROR, "the device tree promises RAM that the VM does not have",
    "The guest uses it, and stage 2 faults where nothing is mapped.",
)  # fmt: skip
RESERVED_OUTSIDE = Rule(
    "S2226", Severity.WARNING, "reserved memory lies outside the VM's RAM",
    "The reservation keeps nobody from anything: it was probably made for another machine.",
)  # fmt: skip
INITRD_OUTSIDE = Rule(
    "S2227", Severity.ERROR, "the ramdisk is not where the device tree says",
    "The guest finds no root file system.",
)  # fmt: skip
UNBACKED = Rule(
    "S2228", Severity.WARNING, "the device tree names a device that stage 2 does not back",
    "The guest's driver faults at its first access, and the VM's policy decides what becomes of it.",
)  # fmt: skip
TOO_LARGE = Rule(
    "S2229", Severity.ERROR, "the device tree is larger than an arm64 kernel maps",
    "The kernel maps 2 MiB of it before it has its own tables, and ignores the tree or stops (booting.rst, 2).",
)  # fmt: skip

RULES = (DAMAGED, SOURCE, MISALIGNED, NO_MEMORY, MEMORY_OUTSIDE, RESERVED_OUTSIDE, INITRD_OUTSIDE, UNBACKED, TOO_LARGE)

_ALIGN = 8
_ARM64_LIMIT = 2 << 20
_MEMORY, _RESERVED = "memory", "reserved-memory"


def check_tree(
    vm: PlannedVm,
    blob: bytes,
    place: Place,
    load_addr: int | None = None,
    ramdisk: Range | None = None,
    arch: str | None = None,
) -> list[Finding]:
    """Hold a device tree against the VM's memory and devices.

    Args:
        vm: the file.
        blob: what the file's dtb_path leads to.
        place: where it is named.
        load_addr: GPA where it goes; None where that is chosen.
        ramdisk: where the ramdisk lies; None where there is none, or that is chosen.
        arch: the VM's architecture; None where that is not known.
    """
    if is_source(blob):
        fix = "compile it with `dtc -I dts -O dtb -o FILE.dtb FILE.dts` and name that"
        return [found_at(SOURCE, "the device tree is source text (.dts)", place, fix=fix)]
    if arch == "aarch64" and len(blob) > _ARM64_LIMIT:
        fix = "leave out symbols (dtc without -@) and nodes that the guest does not need"
        return [found_at(TOO_LARGE, f"the device tree has {len(blob):,} bytes, over 2 MiB", place, fix=fix)]
    try:
        root = parse(blob)
    except ImageError as error:
        return [found_at(DAMAGED, f"the device tree: {error.problem}", place)]
    found = []
    if load_addr is not None and load_addr % _ALIGN:
        fix = f"set dtb_load_addr to {load_addr + -load_addr % _ALIGN:#x}"
        found.append(found_at(MISALIGNED, f"the device tree is put at {load_addr:#x}", place, fix=fix))
    try:
        tree = _Tree(vm, root, reservations(blob), place, ramdisk)
    except ImageError as error:
        return [*found, found_at(DAMAGED, f"the device tree: {error.problem}", place)]
    return [*found, *tree.findings()]


class _Tree:
    """One tree beside one VM."""

    def __init__(
        self, vm: PlannedVm, root: Node, reserved: Sequence[Range], place: Place, ramdisk: Range | None
    ) -> None:
        self._root, self._reserved, self._place, self._ramdisk = root, reserved, place, ramdisk
        self._placed = list(nodes(root))
        self._ram: RangeMap[str] = RangeMap()
        self._backed: RangeMap[str] = RangeMap()
        for region in vm.plan.regions:
            if region.map_type.is_ram:
                self._ram.add(region.range, "RAM")
            self._backed.add(region.range, "backed")
        for device in vm.devices.emulated:
            if not device.on_ports and device.size:
                span = Range.sized(device.gpa, device.size)
                if not self._backed.overlapping(span):
                    self._backed.add(span, "backed")

    def findings(self) -> Iterator[Finding]:
        yield from self._memory()
        yield from self._reservations()
        yield from self._initrd()
        yield from self._devices()

    def _memory(self) -> Iterator[Finding]:
        named = [placed for placed in self._placed if self._is_memory(placed)]
        spans = [span for placed in named for span in placed.ranges or ()]
        if not spans:
            yield self._finding(NO_MEMORY, "the device tree has no memory node", fix="add memory@... with the VM's RAM")
        for placed in named:
            for span in placed.ranges or ():
                for gap in self._ram.gaps(span):
                    yield self._finding(
                        MEMORY_OUTSIDE, f"{placed.path} says that there is RAM at {gap}, where the VM has none",
                        (Party(placed.path, span, "GPA"),), f"the VM's RAM is {self._ram_text()}",
                    )  # fmt: skip

    def _reservations(self) -> Iterator[Finding]:
        kept = [("the memory reservation block", span) for span in self._reserved]
        for placed in self._placed:
            if f"/{_RESERVED}/" in f"{placed.path}/" and placed.name != _RESERVED:
                kept += [(placed.path, span) for span in placed.ranges or ()]
        for name, span in kept:
            if self._ram.gaps(span):
                yield self._finding(
                    RESERVED_OUTSIDE, f"{name} reserves {span}, which is not all RAM of the VM",
                    (Party(name, span, "GPA"),), f"the VM's RAM is {self._ram_text()}",
                )  # fmt: skip

    def _initrd(self) -> Iterator[Finding]:
        chosen = self._root.find("chosen")
        if chosen is None:
            return
        start, end = _number(chosen, "linux,initrd-start"), _number(chosen, "linux,initrd-end")
        if start is None or end is None:
            return
        if start >= end or self._ram.gaps(Range(start, end)):
            yield self._finding(
                INITRD_OUTSIDE,
                f"/chosen says that the ramdisk is at [{start:#x}, {end:#x}), which is not RAM of the VM",
                fix=f"the VM's RAM is {self._ram_text()}",
            )  # fmt: skip
        elif self._ramdisk is not None and not Range(start, end).covers(self._ramdisk):
            yield self._finding(
                INITRD_OUTSIDE, f"/chosen says that the ramdisk is at {Range(start, end)}, and it is put at "
                f"{self._ramdisk}", (Party("ramdisk", self._ramdisk, "GPA"),), "let both say the same",
            )  # fmt: skip

    def _devices(self) -> Iterator[Finding]:
        for placed in self._placed:
            if self._is_memory(placed) or f"/{_RESERVED}/" in f"{placed.path}/" or not placed.ranges:
                continue
            missing = [gap for span in placed.ranges for gap in self._backed.gaps(span)]
            if missing:
                compatible = placed.node.text("compatible")
                what = placed.path if compatible is None else f"{placed.path} ({compatible})"
                yield self._finding(
                    UNBACKED, f"{what} is at {missing[0]}, where the VM has nothing",
                    (Party(placed.path, placed.ranges[0], "GPA"),),
                    "pass the device through, emulate it, or disable its node",
                )  # fmt: skip

    def _is_memory(self, placed: Placed) -> bool:
        return placed.node.text("device_type") == _MEMORY or (placed.name == _MEMORY and placed.path.count("/") == 1)

    def _ram_text(self) -> str:
        return ", ".join(str(span) for span, _ in self._ram) or "none"

    def _finding(self, rule: Rule, message: str, parties: tuple[Party, ...] = (), fix: str = "") -> Finding:
        return found_at(rule, message, self._place, parties, fix)


def _number(node: Node, name: str) -> int | None:
    """A property of one or two cells."""
    cells = node.cells(name)
    if not 1 <= len(cells) <= 2:
        return None
    return cells[0] if len(cells) == 1 else cells[0] << 32 | cells[1]
