"""Devices that read and write memory by themselves (DMA), where nothing translates their addresses: S2701 to S2704."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..address import Range
from ..config.platform import PlatformConfig
from ..config.regions import PlannedVm
from ..config.vm import VmConfig
from ..config.wording import shown
from ..errors import ImageError
from ..flags import MapType
from ..images.fdt_walk import Placed, dma_windows
from ..images.host_tree import HostTree
from .finding import Finding, Party, Rule, Severity, found_at
from .given import Gift, about_nodes, gifts, named, spans_of
from .setup import Setup

ELSEWHERE = Rule(
    "S2701", Severity.ERROR, "a device would read and write memory that is not its VM's",
    "The driver tells the device guest physical addresses, and nothing translates them for it: its DMA goes to host "
    "memory of the same numbers. Data is lost, and what lies there is overwritten.",
)  # fmt: skip
UNGUARDED = Rule(
    "S2702", Severity.WARNING, "a device that a VM is given reaches all of the host's memory",
    "No IOMMU stands between it and memory: with its DMA the guest reads and writes the hypervisor and other VMs. "
    "That holds for every board without an IOMMU, and is a matter of whether the guest is trusted.",
)  # fmt: skip
WITHOUT_IOMMU = Rule(
    "S2703", Severity.WARNING, "a device is given without the IOMMU that its DMA passes",
    "The guest cannot program the IOMMU: DMA works only as far as hypervisor or firmware let it through.",
)  # fmt: skip
REACH = Rule(
    "S2704", Severity.WARNING, "a device's DMA does not reach all of its VM's memory",
    "The tree's dma-ranges end before the VM's RAM does: buffers beyond are never read or written.",
)  # fmt: skip
RULES = (ELSEWHERE, UNGUARDED, WITHOUT_IOMMU, REACH)

_TRUST = "give it only to a guest that you trust, or emulate it"
_NAMES = ("ethernet", "sata", "usb", "dma-controller", "gpu")
"""Generic names of devices that master memory (Devicetree Specification, generic names)."""
_COMPATIBLE = (
    "virtio,mmio",  # virtqueues lie in memory (virtio)
    "qemu,fw-cfg-mmio",  # its DMA interface (QEMU, docs/specs/fw_cfg)
    "arm,pl080", "arm,pl330",  # Linux, bindings/dma
    "generic-ahci", "generic-ehci", "generic-ohci", "generic-xhci", "snps,dwc3",  # bindings/ata, bindings/usb
    "snps,dwmac", "cdns,macb", "cdns,gem",  # bindings/net
)  # fmt: skip
"""Devices that master memory, by what they are compatible with."""
_PROPERTIES = ("dma-coherent", "iommus", "iommu-map", "dma-ranges")
"""What nodes of masters have (Devicetree Specification; Linux, bindings/iommu)."""
_Owned = tuple[str, str, Range]
"""Host memory whose owner is known: the owner's file, what it is, where."""
_Windows = dict[str, tuple[Range, ...] | None]
"""By the path of a bus, what of its children's DMA it lets through."""
_BUSES = ("simple-bus", "simple-mfd", "simple-pm-bus")
"""Whose dma-ranges speak of their children."""


def masters_memory(placed: Placed) -> bool:
    """Whether a device reads or writes memory by itself, as far as its node tells."""
    if set(placed.compatible) & set(_BUSES) or "#iommu-cells" in placed.node.properties:
        return False
    known = placed.name in _NAMES or set(placed.compatible) & set(_COMPATIBLE)
    is_pci = placed.node.text("device_type") in ("pci", "pciex")
    return bool(known or is_pci or placed.node.properties.keys() & set(_PROPERTIES))


def said_of(vm: VmConfig, name: str, nodes: Sequence[Placed] = ()) -> bool | None:
    """Whether a VM's file says that an entry's device masters memory, or that one of its nodes does; None for nothing.

    Args:
        vm: the VM.
        name: of the entry.
        nodes: of the host's tree, which it gives.
    """
    said = vm.options.dma.get(name)
    if said is not None:
        return said.masters
    of_nodes = [_said_of_node(vm, node) for node in nodes]
    if any(of_nodes):
        return True
    return False if of_nodes and False in of_nodes and None not in of_nodes else None


def _said_of_node(vm: VmConfig, node: Placed) -> bool | None:
    """What a file says of a node, by its own path or the nearest above it that is named."""
    path = node.path if vm.options.dma else ""
    while path:
        if path in vm.options.dma:
            return vm.options.dma[path].masters
        path = path.rpartition("/")[0]
    whole = vm.options.dma.get("/")
    return None if whole is None else whole.masters


def reaches_pci(span: Range, host: PlatformConfig | None) -> bool:
    """Whether host addresses have PCI's configuration space, or a window to its devices, which master memory.

    Of the configuration space the beginning counts: that of all 256 buses would cover other devices on some boards.

    Args:
        span: the addresses.
        host: as a platform file or the host's tree describes it.
    """
    if host is None:
        return False
    has_config = bool(host.pci_ecam_base) and span.contains(host.pci_ecam_base or 0)
    return has_config or any(one.overlaps(span) for one in host.pci_ranges)


def given_masters(
    vm: VmConfig, name: str, span: Range | None, nodes: Sequence[Placed], host: PlatformConfig | None
) -> bool | None:
    """Whether what an entry gives a VM reads or writes memory by itself; None where nothing tells.

    What the VM's file says goes before what the host's tree, and its platform file, say.

    Args:
        vm: the VM.
        name: of the entry.
        span: its host addresses; None where only its nodes have some.
        nodes: of the host's tree, as far as there is one.
        host: the same host.
    """
    said = said_of(vm, name, nodes)
    if said is not None:
        return said
    spans = [span] if span is not None else [one for node in nodes for one in node.ranges or ()]
    is_master = any(masters_memory(node) for node in nodes) or any(reaches_pci(one, host) for one in spans)
    return True if is_master else None


def reach_through_buses(tree: HostTree, vm: VmConfig, name: str, nodes: Sequence[Placed]) -> tuple[Range, ...] | None:
    """What of the host's addresses an entry's devices reach with their DMA; None for all, and where that is not plain.

    It is plain where one bus above has dma-ranges: with several the addresses of one are translated by the next.

    Args:
        tree: the host's.
        vm, name, nodes: as for `given_masters`.

    Raises:
        ImageError: the dma-ranges of a bus are damaged.
    """
    masters = _masters_among(vm, name, nodes)
    windows: _Windows = {}
    found: list[Range] = []
    for node in masters:
        spans = _dma_windows(tree, node, windows)
        if not spans or sum(bool(bus.node.properties.get("dma-ranges")) for bus in _above(tree, node)) != 1:
            return None
        found += spans
    return tuple(dict.fromkeys(found)) or None


def _above(tree: HostTree, node: Placed) -> Iterator[Placed]:
    """The buses above a node, the nearest first."""
    path = node.path.rpartition("/")[0]
    while path:
        yield tree.find(path, hint=False)
        path = path.rpartition("/")[0]


def check_dma(setup: Setup) -> Iterator[Finding]:
    """Every entry that gives a VM devices with DMA, beside where the VM's RAM lies."""
    plans = {vm.file: vm for vm in setup.vms}
    owners = tuple(_owners(setup))
    yield from _without_nodes(setup, owners)
    if setup.tree is None:
        return
    windows: _Windows = {}
    for gift in gifts(setup):
        masters = _masters_among(gift.vm, gift.name, gift.nodes)
        vm = plans.get(gift.vm.file)
        if not masters or vm is None:
            continue
        behind, bare = list[Placed](), list[Placed]()
        for node in masters:
            (behind if {"iommus", "iommu-map"} & node.node.properties.keys() else bare).append(node)
        if behind:
            text = f"gives {named(behind)}, whose DMA passes an IOMMU that is not the guest's"
            yield about_nodes(
                setup, WITHOUT_IOMMU, gift, text, behind, "see that the hypervisor programs it for this VM"
            )
        moved = [one.range for one in vm.plan.regions if one.map_type is MapType.MAP_ALLOC]
        if bare and moved:
            meets = _meets(owners, setup, vm, moved)
            text = f"gives {named(bare)}, whose DMA to the VM's RAM at GPA {moved[0]} goes to the same HPA: {meets}"
            yield about_nodes(setup, ELSEWHERE, gift, text, bare, "map the VM's RAM one to one (map_type 1)", moved[0])
        free = [node for node in bare if _dma_windows(setup.tree, node, windows) is None]
        if free and not moved:
            text = f"gives {named(free)}, whose DMA reaches all of the host's RAM{_others(owners, vm)}"
            yield about_nodes(setup, UNGUARDED, gift, text, free, _TRUST)
        yield from _reach(setup, setup.tree, gift, vm, bare, windows)


def _masters_among(vm: VmConfig, name: str, nodes: Sequence[Placed]) -> list[Placed]:
    """The nodes of an entry that master memory: all of them where the file says it of the entry."""
    of_entry = said_of(vm, name)
    if of_entry is not None:
        return list(nodes) if of_entry else []
    said = [(node, _said_of_node(vm, node)) for node in nodes]
    return [node for node, masters in said if (masters_memory(node) if masters is None else masters)]


def _without_nodes(setup: Setup, owners: Sequence[_Owned]) -> Iterator[Finding]:
    """Entries that master memory by what their file says, or as PCI's, and that no node of a tree stands for."""
    known = {(gift.vm.file, gift.place) for gift in gifts(setup) if _masters_among(gift.vm, gift.name, gift.nodes)}
    for vm in setup.vms:
        for name, span, place in spans_of(vm):
            if (vm.file, place) in known or not given_masters(vm, name, span, (), setup.host):
                continue
            party = Party(f"device {shown(name)} of {vm.label}", span)
            ram = [one.range for one in vm.plan.regions if one.map_type is MapType.MAP_ALLOC]
            if ram:
                text = (
                    f"{party} reads and writes memory by itself, and its DMA to the VM's RAM at GPA {ram[0]} goes to "
                    f"the same HPA: {_meets(owners, setup, vm, ram)}"
                )
                yield found_at(ELSEWHERE, text, place, (party,), "map the VM's RAM one to one (map_type 1)")
            else:
                text = (
                    f"{party} reads and writes memory by itself: it reaches all of the host's RAM{_others(owners, vm)}"
                )
                yield found_at(UNGUARDED, text, place, (party,), _TRUST)


def _owners(setup: Setup) -> Iterator[_Owned]:
    """Host memory whose owner is known: the owner's file, what it is, where."""
    kernel = setup.kernel
    if kernel is not None and kernel.hpa is not None:
        yield "", kernel.title, kernel.hpa
    for vm in setup.vms:
        for region in vm.plan.regions:
            span = region.host_range
            if span is not None and region.map_type.is_ram and region.map_type.fixed_hpa:
                yield vm.file, f"RAM of {vm.label}", span


def _meets(owners: Sequence[_Owned], setup: Setup, vm: VmConfig, spans: Sequence[Range]) -> str:
    """What lies in host memory at a VM's guest physical addresses."""
    for file, what, held in owners:
        if file != vm.file and any(held.overlaps(span) for span in spans):
            return what
    ram = [bank.span for bank in setup.tree.ram] if setup.tree is not None else []
    if setup.tree is None:
        if setup.host is None:
            return "memory that is not the VM's, but by chance"
        ram = list(setup.host.memory)
    if any(bank.overlaps(span) for bank in ram for span in spans):
        return "RAM of the host that is not the VM's, but by chance"
    return "no RAM of the host"


def _others(owners: Sequence[_Owned], vm: PlannedVm) -> str:
    names = list(dict.fromkeys(what for file, what, _ in owners if file != vm.file))
    if not names:
        return ", the hypervisor's too"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f", also {', '.join(names[:3])}{more}"


def _reach(
    setup: Setup, tree: HostTree, gift: Gift, vm: PlannedVm, masters: Sequence[Placed], known_windows: _Windows
) -> Iterator[Finding]:
    """RAM that is mapped one to one at a place of the file's, against the dma-ranges of the bus above."""
    ram = [
        one.range for one in vm.plan.regions
        if one.map_type.is_ram and one.map_type.is_identity and not vm.plan.is_assumed(one)
    ]  # fmt: skip
    for node in masters:
        windows = _dma_windows(tree, node, known_windows)
        if windows is None:
            continue
        beyond = next((span for span in ram if not any(one.covers(span) for one in windows)), None)
        if beyond is not None:
            known = ", ".join(map(str, windows)) or "nothing"
            text = f"gives {node.path}, whose DMA reaches {known}, and RAM is at {beyond}"
            yield about_nodes(setup, REACH, gift, text, [node], "move the RAM to where the device reaches it")


def _dma_windows(tree: HostTree, node: Placed, known: _Windows) -> tuple[Range, ...] | None:
    """What the nearest bus with dma-ranges lets through; None where none restricts anything.

    Args:
        tree: the host's.
        node: whose DMA it is.
        known: what was found for buses before, by path.
    """
    path = node.path.rpartition("/")[0]
    if not path:
        return None
    if path not in known:
        bus = tree.find(path, hint=False)
        try:
            found = dma_windows(bus)
        except ImageError as error:
            raise tree.place(bus).error(error.problem) from None
        known[path] = _dma_windows(tree, bus, known) if found is None else found
    return known[path]
