"""What a VM gets with a node of the host's device tree: its registers, those of what is below it, PCI's windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..address import SIZE_4K, Range, align_up
from ..config.devices import PassthroughDevice, PassthroughNode
from ..config.document import NO_TREE, Notice
from ..config.guest_config import GuestType
from ..config.vm import VmConfig
from ..config.wording import shown
from ..errors import ImageError
from .fdt_walk import Placed
from .host_tree import HostTree

_NO_DEVICES = ("/cpus", "/memory", "/reserved-memory", "/chosen", "/aliases", "/__symbols__")
"""Nodes at the top that stand for no device, with what is below them (2.2.3 and chapter 3 of the specification)."""
_MOST_NODES = 1 << 17
"""Limit: nodes that a VM is given, counted once for each entry that gives them."""
_MOST_RANGES = 1 << 14
"""Limit: ranges that come with the nodes of a VM; boards have some hundreds."""


@dataclass(frozen=True, slots=True)
class NodeRange:
    """Addresses on the CPU's bus that belong to a node.

    Args:
        node: the path.
        span: the addresses, as the tree has them: not widened to pages.
        what: what they are to the node: `registers`, or `PCI window`.
    """

    node: str
    span: Range
    what: str = "registers"


def node_ranges(tree: HostTree, path: str, excluded: Sequence[str] = ()) -> tuple[NodeRange, ...]:
    """All ranges that come with a node: its own, those of enabled nodes below it, and the windows of PCI hosts.

    Args:
        tree: the host's.
        path: of the node, "/" for all; an alias or a label will do.
        excluded: nodes to leave out, with what is below them; those that do not exist are none.

    Raises:
        ImageError: there is no such node, its own reg is damaged, or it has more ranges than any board.
    """
    out = set(node_paths(tree, excluded))
    found: list[NodeRange] = []
    windows = {host.place.path: host.windows for host in tree.pci}
    top = None if path == "/" else tree.find(path)
    for placed in tree.nodes if top is None else tree.below(top):
        if placed.path in out or placed.path.rpartition("/")[0] in out:
            out.add(placed.path)
            continue
        if (placed is not top and not tree.enabled(placed)) or not is_device(placed):
            continue
        if placed is top and placed.missing and "reg" in placed.node.properties:
            raise tree.place(placed).error(placed.missing)
        found += [NodeRange(placed.path, span) for span in placed.ranges or ()]
        found += [NodeRange(placed.path, window.span, "PCI window") for window in windows.get(placed.path, ())]
        if len(found) > _MOST_RANGES:
            raise ImageError(f"{path} has more than {_MOST_RANGES:,} ranges of registers", file=tree.file)
    return tuple(found)


def _count(tree: HostTree, path: str) -> int:
    """How many nodes come with an entry."""
    try:
        return len(tree.nodes) if path == "/" else tree.count_below(tree.find(path, hint=False))
    except ImageError:
        return 1


def is_device(placed: Placed) -> bool:
    """Whether a node stands for a device, or a bus of them, and not for memory, a CPU or mere words."""
    top = "/" + placed.path.split("/")[1].split("@")[0]
    return top not in _NO_DEVICES and placed.node.text("device_type") != "memory"


def node_paths(tree: HostTree, names: Sequence[str]) -> Iterator[str]:
    """The paths of nodes by paths, aliases or labels; those that do not exist are left out."""
    for name in names:
        try:
            yield tree.find(name, hint=False).path
        except ImageError:
            continue


def with_nodes(vm: VmConfig, tree: HostTree, *, lenient: bool = False) -> VmConfig:
    """A VM whose passed-through nodes have the addresses that the host's tree gives them.

    A guest of type "passthrough" whose list is empty gets every node but what the hypervisor plays: interrupt
    controllers and the console.

    Args:
        vm: the VM as its file has it.
        tree: the host's.
        lenient: a node that does not exist is a notice, not an error.

    Raises:
        ConfigError: there is no such node, or they are more, or have more ranges, than on any board.
    """
    devices, notices = vm.devices, [one for one in vm.notices if one.kind != NO_TREE]
    excluded = list(devices.excluded)
    wanted = devices.nodes
    if vm.guest_type is GuestType.PASSTHROUGH and not wanted and tree.arch != "x86_64":
        wanted = (PassthroughNode("/", vm.place),)
        excluded += [one.place.path for one in tree.controllers]
        excluded += [] if tree.console is None else [tree.console.place.path]
    found: list[PassthroughDevice] = []
    looked = 0
    for node in wanted:
        looked += _count(tree, node.path)
        if looked > _MOST_NODES:
            raise node.place.error(f"the entries up to this one give more than {_MOST_NODES:,} nodes")
        try:
            ranges = node_ranges(tree, node.path, excluded)
        except ImageError as error:
            if not lenient:
                raise node.place.error(str(error)) from None
            notices.append(Notice(f"{error}: nothing is mapped", node.place, "no-node"))
            continue
        if not ranges:
            text = f"{shown(node.path)} has no registers on the CPU's bus in {tree.file}: nothing is mapped"
            notices.append(Notice(text, node.place, "no-registers"))
        found += _devices(ranges, node)
        if len(found) > _MOST_RANGES:
            raise node.place.error(f"the nodes up to this one have more than {_MOST_RANGES:,} ranges of registers")
    return replace(vm, devices=replace(devices, resolved=tuple(found)), notices=tuple(notices))


def _devices(ranges: Sequence[NodeRange], node: PassthroughNode) -> Iterator[PassthroughDevice]:
    """Ranges as devices, those that share a page or touch as one: a page is mapped once."""
    group: list[NodeRange] = []
    end = 0
    for one in sorted(ranges, key=lambda found: found.span):
        if group and one.span.start > align_up(end, SIZE_4K):
            yield _device(group, node)
            group = []
        group.append(one)
        end = max(end, one.span.end)
    if group:
        yield _device(group, node)


def _device(group: Sequence[NodeRange], node: PassthroughNode) -> PassthroughDevice:
    names = list(dict.fromkeys(one.node for one in group))
    name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    start, end = group[0].span.start, max(one.span.end for one in group)
    return PassthroughDevice(name, start, start, end - start, None, node.place)
