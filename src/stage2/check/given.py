"""What of the host's device tree a VM is given: the nodes that its file names, and those its address ranges cover."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..address import SIZE_4K, Range
from ..config.guest_config import GuestType
from ..config.vm import VmConfig
from ..config.wording import shown
from ..errors import ImageError
from ..flags import MapType
from ..images.fdt_walk import Placed
from ..images.host_nodes import is_device, node_paths
from ..images.host_tree import HostTree
from ..place import Place
from ..ranges import RangeIndex
from .finding import Finding, FixIt, Location, Party, Rule
from .setup import Setup

T = TypeVar("T")

_MOST_LOOKS = 1 << 13
"""Limit: devices of the tree that are looked at for what one VM is given; boards have some hundreds."""
_MOST_NAMES = 3
"""Limit: nodes that a message names; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Gift:
    """One entry of a VM's file that gives it devices.

    Args:
        vm: the VM.
        name: of the entry: a path, or the name of a range.
        place: where it stands.
        nodes: what it gives, with what is below a node that is named.
        span: the host addresses of an entry that has some, as declared; None for one that is a path.
    """

    vm: VmConfig
    name: str
    place: Place
    nodes: tuple[Placed, ...]
    span: Range | None

    @property
    def party(self) -> Party:
        return Party(f"device {shown(self.name)} of {self.vm.label}", self.span)

    @property
    def location(self) -> Location:
        return Location.of(self.place, self.party.name)

    def is_one_of(self, nodes: Sequence[Placed]) -> bool:
        """Whether the entry names one of these nodes itself, and gives nothing that is not below it."""
        return any(node.path == self.name for node in nodes)

    @property
    def pages(self) -> tuple[Range, ...]:
        """The whole pages of the host that are mapped for it."""
        spans = [self.span] if self.span is not None else [one for node in self.nodes for one in node.ranges or ()]
        return tuple(span.widened(SIZE_4K) for span in spans)


def gifts(setup: Setup) -> Iterator[Gift]:
    """What VMs are given, entry by entry; nothing where there is no tree of the host."""
    if setup.tree is None:
        return
    placed = devices_by_address(setup.tree)
    for vm in setup.files:
        looks = Looks(setup.tree)
        for node in vm.devices.nodes:
            yield Gift(vm, node.path, node.place, tuple(_below(setup.tree, node.path, vm.devices.excluded)), None)
        if vm.guest_type is GuestType.PASSTHROUGH and not vm.devices.nodes and setup.tree.arch != "x86_64":
            yield Gift(vm, "/", vm.place, tuple(_below(setup.tree, "/", vm.devices.excluded)), None)
        for name, span, place in spans_of(vm):
            covered = dict(sorted(looks.counted(one for _, one in placed.meeting(span))))
            yield Gift(vm, name, place, tuple(covered.values()), span)


class Looks:
    """How many looks at devices one VM is worth: a small file must not keep us busy for minutes.

    Args:
        tree: the host's.
        most: how many.
    """

    def __init__(self, tree: HostTree, most: int = _MOST_LOOKS) -> None:
        self._tree, self._left = tree, most

    def counted(self, found: Iterable[T]) -> Iterator[T]:
        """The same, each one look.

        Raises:
            ImageError: they are more than all that are left.
        """
        for one in found:
            self._left -= 1
            if self._left < 0:
                raise ImageError("more devices have the same addresses than on any board", file=self._tree.file)
            yield one


def devices_by_address(tree: HostTree) -> RangeIndex[tuple[int, Placed]]:
    """The devices that are enabled, each with its number in the tree, by their addresses on the CPU's bus."""
    return RangeIndex(
        (span, (number, one))
        for number, one in enumerate(tree.nodes)
        if one.ranges and tree.enabled(one) and is_device(one)
        for span in one.ranges
    )


def spans_of(vm: VmConfig) -> Iterator[tuple[str, Range, Place]]:
    """The host addresses that a VM's file itself passes through, as they are declared: name, addresses, place."""
    for device in (*vm.devices.passthrough, *vm.devices.addresses):
        yield device.name, Range.sized(device.hpa, device.size), device.place
    for region in (*vm.memory, *vm.extensions.regions):
        if region.map_type is MapType.MMIO:
            yield region.name, Range.sized(region.gpa if region.hpa is None else region.hpa, region.size), region.place


def _below(tree: HostTree, path: str, excluded: Sequence[str]) -> Iterator[Placed]:
    """A node and what is below it; of "/" all that the hypervisor does not play."""
    out = set(node_paths(tree, excluded))
    top = None
    if path == "/":
        out.update(one.place.path for one in tree.controllers)
        out.update(() if tree.console is None else (tree.console.place.path,))
    else:
        try:
            top = tree.find(path, hint=False)
        except ImageError:
            return
    for placed in tree.nodes if top is None else tree.below(top):
        if placed.path in out or placed.path.rpartition("/")[0] in out:
            out.add(placed.path)
        elif (placed is top or tree.enabled(placed)) and is_device(placed):
            yield placed


def named(nodes: Sequence[Placed]) -> str:
    """Nodes in a message: the first few by their paths, the rest counted."""
    paths = list(dict.fromkeys(node.path for node in nodes))
    rest = len(paths) - _MOST_NAMES
    if rest > 0:
        return ", ".join(paths[:_MOST_NAMES]) + f" and {rest} more"
    return " and ".join((", ".join(paths[:-1]), paths[-1])) if len(paths) > 1 else "".join(paths)


def in_tree(setup: Setup, path: str) -> Location:
    """Where a node stands: the tree's file, with the line where the tree is source that shows it."""
    assert setup.tree is not None, "only where a tree is given"
    return Location(setup.tree.file, setup.tree_lines.get(path), says=path)


def about_nodes(
    setup: Setup,
    rule: Rule,
    gift: Gift,
    what: str,
    nodes: Sequence[Placed],
    fix: str,
    overlap: Range | None = None,
    edit: FixIt | None = None,
) -> Finding:
    """A finding about an entry and some nodes; the other arguments are those of `Finding`."""
    parties = (gift.party, *(Party(node.path, (node.ranges or (None,))[0]) for node in nodes))
    places = (gift.location, *(in_tree(setup, node.path) for node in nodes))
    return Finding(rule, f"{gift.party} {what}", parties, overlap, places, fix, edit=edit)
