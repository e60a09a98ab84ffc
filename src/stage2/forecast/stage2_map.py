"""From a VM file and the host's device tree to the stage-2 map that AxVisor will make of them.

Upstream's steps, in its order; what comes first has the addresses, and nothing is moved:

1. the window: addresses that the tables and the weakest CPU reach
2. guest RAM
3. boot descriptions (DTB, ramdisk): they lie in RAM, which `config.regions` has seen to
4. memory that the host's tree reserves
5. x86: the local APIC
6. virtual devices, at an address of the file's or from the architecture's pool: holes, every access traps
7. what the hypervisor plays in place of the host's: interrupt controller and console, holes
8. passed-through devices; with guest_type "passthrough" the whole window, one to one, less all of the above
9. disabled nodes, and what the hypervisor keeps for itself: holes, in whole pages
10. neighbours of equal flags, kind and offset become one

Files of the formats before the present one have steps 1, 2, 6 (`emu_devices`), 8 and 9 (`excluded_devices`) only.
Facts: rcore-os/tgoskits, its pages on guest configuration and on machine and resource planning. That step 4 is the
host's reserved memory, and that `console0` takes the machine's console's place, is how these pages are read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..address import SIZE_4K, Range, format_size
from ..config.devices import PassthroughNode
from ..config.document import Notice
from ..config.generation import Generation
from ..config.guest_config import GuestType
from ..config.regions import PlannedVm
from ..config.virtual_devices import MAIN_CONSOLE, VirtualDevice
from ..config.wording import shown
from ..errors import ImageError
from ..flags import MappingFlags, MapType
from ..images.acpi import LOCAL_APIC
from ..images.host_nodes import NodeRange, node_ranges
from ..images.host_tree import HostTree
from ..ranges import RangeMap
from ..space.region import MemoryRegion
from .host_memory import HostMemory
from .machine import (
    DEVICE_SIZE,
    POOLS,
    Fixed,
    console,
    controllers,
    cpus_of,
    kept,
    window,
)
from .map_ranges import AnyPlace, Conflict, MapRange, RangeKind, Stage2Map, merged

_DEVICE = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.USER | MappingFlags.DEVICE
_NONE = MappingFlags(0)
_FIT = "taken to be the first fit in host RAM at a multiple of 2 MiB"
_MOST_HINTS = 8
"""Limit: nodes that do not exist for which is looked what may have been meant."""


def stage2_map(vm: PlannedVm, arch: str, tree: HostTree | None = None, taken: Sequence[Range] = ()) -> Stage2Map:
    """The map that will be.

    Args:
        vm: the VM's file, its memory planned on that host (`config.regions.plan_together`).
        arch: its architecture.
        tree: the host's device tree; without one what depends on the host is at upstream's defaults, or left open.
        taken: host RAM that is given to no VM beside what the tree reserves: the hypervisor's own image.
    """
    return _Builder(vm, arch, tree, taken).build()


class _Builder:
    """One map in the making."""

    def __init__(self, vm: PlannedVm, arch: str, tree: HostTree | None, taken: Sequence[Range]) -> None:
        self._vm, self._arch, self._tree = vm, arch, tree
        self._present = vm.generation is Generation.PRESENT
        self._window, self._window_reason, unsure = window(arch, [] if tree is None else cpus_of(vm, tree))
        self._pieces: RangeMap[MapRange] = RangeMap(merge=False)
        self._conflicts: list[Conflict] = []
        self._notices: list[Notice] = []
        self._hints = 0
        self._host = None
        if tree is not None:
            self._host = HostMemory(tree, taken)
        if unsure:
            self._notices.append(Notice(f"the window is assumed: {self._window_reason}", vm.place))

    def build(self) -> Stage2Map:
        self._ram()
        if self._present:
            self._reserved()
        if self._present and self._arch == "x86_64":
            self._hole(LOCAL_APIC, "local APIC", "every CPU has its local APIC here, which the hypervisor plays", (), 5)
        self._traps()
        if self._present:
            self._virtual_devices()
            self._replacements()
        self._disabled()
        self._passthrough()
        pieces = [piece.at(span) for span, piece in self._pieces]
        pieces += [
            MapRange(
                gap, RangeKind.HOLE, None, _NONE, "nothing", "no file and no tree puts anything here: accesses trap"
            )
            for gap in self._pieces.gaps(self._window)
        ]
        pieces.sort(key=lambda piece: piece.span)
        return Stage2Map(
            self._window, self._window_reason, merged(pieces), tuple(self._conflicts), tuple(self._notices)
        )

    # --- claims ----------------------------------------------------------------------------------------------

    def _claim(self, piece: MapRange, *, yields: bool = False) -> None:
        """Give a piece what of its addresses is free; what is not is a conflict, unless the piece yields."""
        inside = piece.span.intersection(self._window)
        if inside != piece.span and not yields:
            self._conflict(
                f"{piece.name} {piece.span} is beyond the VM's addresses, which end at {self._window.end:#x}: "
                f"{self._window_reason}", [piece], None,
            )  # fmt: skip
        if inside is None:
            return
        if not yields:
            for span, held in self._pieces.overlapping(inside):
                shared = span.intersection(inside)
                both = f"{piece.name} {piece.span} and {held.name} {span} both claim {shared}"
                self._conflict(f"{both}: upstream refuses the VM", [held.at(span), piece], shared)
        for gap in self._pieces.gaps(inside):
            self._pieces.add(gap, piece.at(gap))

    def _conflict(self, message: str, pieces: Sequence[MapRange], overlap: Range | None) -> None:
        places = tuple(place for piece in pieces for place in piece.places)
        self._conflicts.append(Conflict(message, tuple((one.name, one.span) for one in pieces), overlap, places))

    def _hole(
        self, span: Range, name: str, reason: str, places: tuple[AnyPlace, ...], step: int, *, yields: bool = False
    ) -> None:
        """A hole in whole pages."""
        self._claim(
            MapRange(span.widened(SIZE_4K), RangeKind.HOLE, None, _NONE, name, reason, places, step=step), yields=yields
        )

    # --- step 2 -----------------------------------------------------------------------------------------------

    def _ram(self) -> None:
        regions = [one for one in self._vm.plan.regions if one.map_type.holds_bytes]
        fixed = {one.start: self._at_fixed(one) for one in regions if one.map_type.is_identity}
        # As in the file: upstream allocates one after the other.
        for region in sorted(regions, key=lambda one: 0 if one.place is None else one.place.line):
            self._claim(fixed.get(region.start) or self._allocated(region))

    def _piece(self, region: MemoryRegion) -> MapRange:
        places = () if region.place is None else (region.place,)
        name = f"{region.map_type.noun} {region.label}"
        return MapRange(region.range, RangeKind.RAM, None, region.flags, name, "", places, step=2)

    def _at_fixed(self, region: MemoryRegion) -> MapRange:
        """Memory that is mapped one to one."""
        piece = replace(self._piece(region), hpa=int(region.start))
        if region.map_type is MapType.MAP_RESERVED:
            return replace(piece, reason="map_type 2 maps it one to one, at the file's address")
        assumed = self._vm.plan.is_assumed(region)
        for part in () if self._host is None else self._host.claim(region.range):
            self._conflict(f"{piece.name} needs host memory that is not free: {part}", [piece], part)
        if not assumed:
            return replace(piece, reason="map_type 1 maps it one to one, at the file's address")
        reason = f"map_type 1: its address in the file is a placeholder, GPA = HPA is where it is allocated, {_FIT}"
        return replace(piece, assumed=True, reason=reason)

    def _allocated(self, region: MemoryRegion) -> MapRange:
        """Memory whose place on the host is the allocator's choice."""
        piece = replace(self._piece(region), assumed=True)
        if self._host is None:
            where = "the board's allocator decides where in host memory it is, and no device tree of the host is given"
            return replace(piece, reason=where)
        found = self._host.take(region.size)
        if found is None:
            self._conflict(
                f"{piece.name} of {format_size(region.size)} cannot be had: no stretch of host RAM of that size, "
                "aligned to 2 MiB and not reserved, is free", [piece], None,
            )  # fmt: skip
            return replace(piece, reason="the host has no room for it")
        return replace(piece, hpa=found.start, reason=f"allocated, {_FIT}")

    # --- steps 4, 6 and 7 ------------------------------------------------------------------------------------

    def _reserved(self) -> None:
        for one in [] if self._tree is None else self._tree.reservations:
            if one.span is not None:
                what = "must not be mapped (no-map)" if one.no_map else "is reserved"
                reason = f"memory of the host that {what} by its device tree"
                self._hole(one.span, one.place.path, reason, (one.place,), 4, yields=True)

    def _traps(self) -> None:
        reason = "a device that the hypervisor plays: every access traps"
        for device in self._vm.devices.emulated:
            if device.size and not device.on_ports:
                span = Range.sized(device.gpa, device.size)
                self._hole(span, f"device {device.name}", reason, (device.place,), 6)
        for region in self._vm.extensions.regions:
            if region.map_type is MapType.EMULATED:
                span = Range.sized(region.gpa, region.size)
                self._hole(span, f"device {region.name}", reason, (region.place,), 6)

    def _virtual_devices(self) -> None:
        for device in sorted(self._vm.devices.virtual, key=lambda one: one.id):
            if device.id == MAIN_CONSOLE or _has_no_memory(device):
                continue
            pool = POOLS[self._arch]
            room = next((gap for gap in self._pieces.gaps(pool) if gap.size >= DEVICE_SIZE), None)
            name = f"virtual device {device.id} ({device.model})"
            if room is None:
                self._conflicts.append(Conflict(f"{name} finds no room in the pool {pool}", places=(device.place,)))
                continue
            reason = f"the lowest free page of {self._arch}'s pool {pool}, in order of ids: every access traps"
            self._hole(Range.sized(room.start, DEVICE_SIZE), name, reason, (device.place,), 6)

    def _replacements(self) -> None:
        fixed = list(controllers(self._arch, self._tree, self._vm.cpu_num))
        main = next((one for one in self._vm.devices.virtual if one.id == MAIN_CONSOLE), None)
        try:
            found = console(self._arch, self._tree)
        except ImageError as error:
            self._conflicts.append(Conflict(str(error)))
            found = None
        if found is not None and (main is None or not _has_no_memory(main)):
            fixed.append(found if main is None else replace(found, name=f"{MAIN_CONSOLE} ({main.model})"))
        for one in fixed:
            places: tuple[AnyPlace, ...] = () if one.place is None else (one.place,)
            if main is not None and one is fixed[-1] and one.name.startswith(MAIN_CONSOLE):
                places = (main.place, *places)
            self._hole(one.span, one.name, _played(one), places, 7)

    # --- steps 8 and 9 ---------------------------------------------------------------------------------------

    def _disabled(self) -> None:
        if self._tree is None:
            return
        for node in self._vm.devices.disabled:
            for found in self._resolved(node):
                reason = f"the {found.what} of a node that the file disables"
                self._hole(found.span, found.node, reason, (node.place, self._at(found)), 9, yields=True)
        if self._present:
            for name, span, controller in kept(self._tree):
                reason = f"the hypervisor keeps the {name} of the host's {controller.kind} for itself"
                self._hole(span, name, reason, (controller.place,), 9, yields=True)

    def _passthrough(self) -> None:
        self._passed_devices()
        nodes = self._vm.devices.nodes
        whole = self._vm.guest_type is GuestType.PASSTHROUGH
        if self._tree is None:
            for node in nodes:
                text = f"{shown(node.path)} is a node of the host's device tree, which is not given: it is unresolved"
                self._notices.append(Notice(text, node.place))
        else:
            for node in nodes:
                for found in self._resolved(node):
                    self._note_played(node, found)
                    self._pass_node(node, found)
            if whole and not nodes and self._arch != "x86_64":
                for found in node_ranges(self._tree, "/", [one.path for one in self._vm.devices.disabled]):
                    self._pass_node(PassthroughNode("/", self._vm.place), found)
        if whole:
            self._pass_window()

    def _note_played(self, node: PassthroughNode, found: NodeRange) -> None:
        """A node that the file itself names, where the hypervisor plays something."""
        held = self._pieces.find(found.span.start)
        if node.path != "/" and found.node == node.path and held is not None and held[1].step in (6, 7):
            text = f"{shown(node.path)} is given to the guest, but the hypervisor plays {held[1].name} there: a hole"
            self._notices.append(Notice(text, node.place))

    def _passed_devices(self) -> None:
        for device in (*self._vm.devices.passthrough, *self._vm.devices.addresses):
            span = Range.sized(device.gpa, device.size).widened(SIZE_4K)
            reason = "a device of the host's that the file passes through"
            self._claim_device(span, device.hpa - (device.gpa - span.start), device.name, reason, (device.place,))
        for region in (*self._vm.memory, *self._vm.extensions.regions):
            if region.map_type is MapType.MMIO:
                span, hpa = Range.sized(region.gpa, region.size), region.gpa if region.hpa is None else region.hpa
                self._claim_device(
                    span, hpa, region.name, "device memory that the file passes through", (region.place,)
                )

    def _pass_node(self, node: PassthroughNode, found: NodeRange) -> None:
        span = found.span.widened(SIZE_4K)
        widened = "" if span == found.span else f", in whole pages ({found.span} are its own)"
        reason = f"the {found.what} of a node that the guest is given, one to one{widened}"
        self._claim_device(span, span.start, found.node, reason, (node.place, self._at(found)))

    def _claim_device(self, span: Range, hpa: int, name: str, reason: str, places: tuple[AnyPlace, ...]) -> None:
        """A passed-through device: holes of the steps before stay, RAM in its place is a conflict."""
        piece = MapRange(span, RangeKind.PASSTHROUGH, hpa, _DEVICE, name, reason, places, step=8)
        for held_span, held in self._pieces.overlapping(span):
            shared = held_span.intersection(span)
            if shared is None or held.kind is RangeKind.HOLE:
                continue
            if held.kind is RangeKind.RAM or held.at(shared).hpa != piece.at(shared).hpa:
                both = f"{name} {span} and {held.name} {held_span} both claim {shared}"
                self._conflict(f"{both}: upstream refuses the VM", [held.at(held_span), piece], shared)
        self._claim(piece, yields=True)

    def _pass_window(self) -> None:
        """The rest of the window; what of it is RAM of the host is told apart, for it is others'."""
        every, where = 'guest_type = "passthrough" maps the whole window one to one', self._vm.place
        for bank in () if self._tree is None else self._tree.ram:
            reason, span = f"{every}: host RAM that is not this VM's, within its reach", bank.span.widened(SIZE_4K)
            places = (where, bank.place)
            ram = MapRange(span, RangeKind.PASSTHROUGH, span.start, _DEVICE, "host RAM", reason, places, step=8)
            self._claim(ram, yields=True)
        rest = MapRange(self._window, RangeKind.PASSTHROUGH, 0, _DEVICE, "the window", every, (where,), step=8)
        self._claim(rest, yields=True)

    def _resolved(self, node: PassthroughNode) -> tuple[NodeRange, ...]:
        """What a node comes with; a conflict where it does not exist."""
        assert self._tree is not None, "only where a tree is given"
        excluded = [one.path for one in self._vm.devices.disabled if one is not node]
        try:
            if node.path != "/" and self._hints >= _MOST_HINTS:
                self._tree.find(node.path, hint=False)
            found = node_ranges(self._tree, node.path, excluded if node in self._vm.devices.nodes else ())
        except ImageError as error:
            self._hints += 1
            self._conflicts.append(Conflict(f"{shown(node.path)}: {error}", places=(node.place,)))
            return ()
        if not found:
            text = f"{shown(node.path)} has no registers on the CPU's bus in {self._tree.file}: nothing comes of it"
            self._notices.append(Notice(text, node.place))
        return found

    def _at(self, found: NodeRange) -> AnyPlace:
        assert self._tree is not None, "only where a tree is given"
        return self._tree.place(self._tree.find(found.node))


def _has_no_memory(device: VirtualDevice) -> bool:
    """Whether a virtual device has no registers in memory: it is on I/O ports, or found by PCI."""
    return device.model.endswith("-pio") or device.options.get("transport") == "pci"


def _played(one: Fixed) -> str:
    return f"the hypervisor plays it: every access traps; {one.reason}"
