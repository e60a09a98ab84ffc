"""Devices of the host's tree that VMs are given: the rules S2603 to S2607."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from ..address import Range
from ..errors import ImageError
from ..flags import MapType
from ..images.fdt_walk import Placed
from ..images.host_tree import HostTree
from ..place import Rewrite
from ..ranges import RangeIndex
from .finding import Finding, FixIt, Location, Party, Rule, Severity
from .given import Gift, Looks, about_nodes, gifts, in_tree, named
from .setup import Setup

KEPT = Rule(
    "S2603", Severity.ERROR, "a timer or IOMMU that the hypervisor needs is given to a VM",
    "The guest changes what keeps all VMs going, or apart from each other.",
)  # fmt: skip
HALF_PAGE = Rule(
    "S2604", Severity.WARNING, "a page of a device that a VM is given holds another device",
    "Stage 2 maps whole pages: the guest reaches the neighbour's registers too, which nobody gave it.",
)  # fmt: skip
INTERRUPT_PARENT = Rule(
    "S2605", Severity.WARNING, "a device is given without its interrupt controller",
    "Its interrupts pass a controller that the guest cannot program: none arrives.",
)  # fmt: skip
MEMORY_REGION = Rule(
    "S2606", Severity.WARNING, "a device is given without the memory that belongs to it",
    "Its driver, or the device itself, uses reserved memory that the guest's stage 2 does not map.",
)  # fmt: skip
DISABLED = Rule(
    "S2607", Severity.WARNING, "a device that the host's tree disables is given to a VM",
    "The board says that it is not there, not wired, or not powered: an access may hang the bus.",
)  # fmt: skip
RULES = (KEPT, HALF_PAGE, INTERRUPT_PARENT, MEMORY_REGION, DISABLED)

_TIMERS = ("arm,armv7-timer-mem", "riscv,clint0", "sifive,clint0", "sifive,clint2", "thead,c900-clint",
           "thead,c900-aclint-mtimer", "riscv,aclint-mtimer")  # fmt: skip
"""Timers with registers, by Linux's bindings: timer/arm,arch_timer_mmio and timer/sifive,clint."""


def check_given_devices(setup: Setup) -> Iterator[Finding]:
    """Every entry that gives a VM devices, held against the host's tree."""
    if setup.tree is None:
        return
    found = list(gifts(setup))
    giving: dict[str, list[Gift]] = {}
    for gift in found:
        for node in gift.nodes:
            giving.setdefault(node.path, []).append(gift)
    near = RangeIndex(
        (span, (number, node))
        for number, node in enumerate(setup.tree.nodes)
        if node.ranges and setup.tree.enabled(node)
        for span in node.ranges
    )
    looks = {id(gift.vm): Looks(setup.tree) for gift in found}
    spans = {one.place.path: one.span for one in setup.tree.reservations}
    mapped = {
        vm.file: [one.host_range for one in vm.plan.regions if one.map_type is not MapType.EMULATED] for vm in setup.vms
    }
    has: dict[int, set[str]] = {}
    for gift in found:
        has.setdefault(id(gift.vm), set()).update(node.path for node in gift.nodes)
    for gift in found:
        yield from _kept(setup, gift)
        yield from _interrupts(setup, setup.tree, gift, has[id(gift.vm)])
        yield from _memory(setup, setup.tree, gift, spans, mapped.get(gift.vm.file))
        off = [node for node in gift.nodes if not setup.tree.enabled(node)]
        if off:
            text = f"gives {named(off)}, which the host's tree disables"
            yield about_nodes(setup, DISABLED, gift, text, off, "take it out", edit=_without(gift, off))
        beside = _neighbours(gift, near, has[id(gift.vm)], looks[id(gift.vm)])
        for node, span, pages in beside:
            owner = next((one for one in giving.get(node.path, ()) if one.vm is not gift.vm), None)
            yield _neighbour(setup, gift, node, span, pages, owner)


def _without(gift: Gift, nodes: Sequence[Placed]) -> FixIt | None:
    """The file without an entry, where that names one of these nodes itself."""
    return FixIt.of(Rewrite(gift.place, "")) if gift.is_one_of(nodes) else None


def keeps_vms_going(node: Placed) -> bool:
    """Whether a device is a timer or IOMMU that the hypervisor needs for itself."""
    return "#iommu-cells" in node.node.properties or bool(set(node.compatible) & set(_TIMERS))


def _kept(setup: Setup, gift: Gift) -> Iterator[Finding]:
    if gift.name == "/":
        return
    kept = [node for node in gift.nodes if keeps_vms_going(node)]
    if kept:
        text = f"gives {named(kept)}, which the hypervisor needs for itself"
        yield about_nodes(setup, KEPT, gift, text, kept, "take it out", edit=_without(gift, kept))


def _interrupts(setup: Setup, tree: HostTree, gift: Gift, has: set[str]) -> Iterator[Finding]:
    """Controllers between a named node and the host's main one; that one is played, or given, as the file says."""
    if gift.span is not None:
        return
    main = {one.place.path for one in tree.controllers}
    lacking: dict[str, Placed] = {}
    users: list[Placed] = []
    for node in gift.nodes:
        if not {"interrupts", "interrupts-extended"} & node.node.properties.keys():
            continue
        try:
            chain = tree.interrupt_parents(node)
        except ImageError:
            continue
        without = {one.path: one for one in chain if one.ranges and one.path not in main and one.path not in has}
        if without:
            users.append(node)
            lacking |= without
    if lacking:
        text = f"gives {named(users)} without {named(list(lacking.values()))}, which takes its interrupts"
        yield about_nodes(setup, INTERRUPT_PARENT, gift, text, [*users, *lacking.values()], "give the controller too")


def _memory(
    setup: Setup,
    tree: HostTree,
    gift: Gift,
    spans: Mapping[str, Range | None],
    mapped: Sequence[Range | None] | None,
) -> Iterator[Finding]:
    """Reservations that nodes name, and the VM does not map."""
    if gift.span is not None or mapped is None:
        return
    for node in gift.nodes:
        for handle in dict.fromkeys(node.node.cells("memory-region")):
            area = tree.by_phandle(handle)
            span = None if area is None else spans.get(area.path)
            if area is None or span is None or any(one is not None and one.covers(span) for one in mapped):
                continue
            text = f"gives {node.path} without its memory-region {area.path}, HPA {span}"
            fix = f"map it one to one: a region of map_type 2 at {span.start:#x} of {span.size:#x} bytes"
            yield about_nodes(setup, MEMORY_REGION, gift, text, [node, area], fix)


def _neighbours(
    gift: Gift, near: RangeIndex[tuple[int, Placed]], mine: Collection[str], looks: Looks
) -> Iterator[tuple[Placed, Range, Range]]:
    """Devices in the pages of an entry that are not in the entry itself."""
    own = [gift.span] if gift.span is not None else [one for node in gift.nodes for one in node.ranges or ()]
    edges = dict.fromkeys(pages for declared, pages in zip(own, gift.pages, strict=True) if pages != declared)
    beside: dict[tuple[int, Range], tuple[Placed, Range, Range]] = {}
    for pages in edges:
        for span, (number, node) in looks.counted(near.meeting(pages)):
            if node.path not in mine:
                beside.setdefault((number, span), (node, span, pages))
    for _, one in sorted(beside.items(), key=lambda item: item[0]):
        yield one


def _neighbour(setup: Setup, gift: Gift, node: Placed, span: Range, pages: Range, owner: Gift | None) -> Finding:
    whose = "which nobody was given" if owner is None else f"which {owner.vm.label} is given"
    text = f"{gift.party} is mapped as HPA {pages} and reaches {node.path} HPA {span}, {whose}"
    places = [gift.location, in_tree(setup, node.path), *([] if owner is None else [owner.location])]
    return Finding(
        HALF_PAGE, text, (gift.party, Party(node.path, span)), pages.intersection(span), tuple[Location, ...](places),
        "let one VM have all devices of the page, or have the device emulated",
        severity=None if owner is None else Severity.ERROR,
    )  # fmt: skip
