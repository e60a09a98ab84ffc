"""Devices that VMs are given, beside what the host's device tree says of them: the rules S2601 and S2602."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..address import SIZE_4K, Range
from ..config.devices import PassthroughDevice
from ..config.regions import PlannedVm
from ..config.wording import shown
from ..images.host_parts import TreePlace
from ..images.host_tree import HostTree
from ..ranges import RangeIndex
from .finding import Finding, Location, Party, Rule, Severity
from .given import Looks, in_tree
from .setup import Setup

CONTROLLER = Rule(
    "S2601", Severity.WARNING, "a VM is given the host's interrupt controller",
    "The guest can route, mask and forge every interrupt of the host: nothing isolates other VMs, or the hypervisor, "
    "from it.",
)  # fmt: skip
CONSOLE = Rule(
    "S2602", Severity.WARNING, "a VM is given the console that the hypervisor prints on",
    "Both write to one UART: their output is mixed, and the guest may set it up anew, or take the input.",
)  # fmt: skip
RULES = (CONTROLLER, CONSOLE)

_MOST_LOOKS = 1 << 11
"""Limit: controllers and consoles that the devices of one VM meet; boards have a handful."""
_GUESTS_OWN = "GICV"
"""GICv2's virtual CPU interface, which is made to be mapped into a guest."""


def check_host_devices(setup: Setup) -> Iterator[Finding]:
    """What of the host's devices VMs are given, where a tree tells what they are."""
    if setup.tree is None:
        return
    kept = _kept(setup.tree)
    for vm in setup.vms:
        looks = Looks(setup.tree, _MOST_LOOKS)
        for device in vm.devices.mapped:
            met = looks.counted(kept.meeting(_host(device)))
            for span, (_, one) in sorted(met, key=lambda entry: entry[1][0]):
                yield _meeting(setup, vm, device, one, span)


def _host(device: PassthroughDevice) -> Range:
    """The host memory that comes with a device: whole pages."""
    return Range.sized(device.hpa, device.size).widened(SIZE_4K)


def _party(vm: PlannedVm, device: PassthroughDevice) -> Party:
    return Party(f"device {shown(device.name)} of {vm.label}", _host(device))


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the hypervisor keeps for itself."""

    rule: Rule
    what: str
    place: TreePlace
    fix: str


def controller_parts(tree: HostTree) -> Iterator[tuple[str, Range, TreePlace]]:
    """The host's interrupt controllers, but for what of them is made for guests: what, where, by which node."""
    for controller in tree.controllers:
        for name, span in controller.regions:
            if name != _GUESTS_OWN:
                what = controller.kind if name == controller.kind else f"the {controller.kind}'s {name}"
                yield what, span, controller.place


def _kept(tree: HostTree) -> RangeIndex[tuple[int, _Kept]]:
    """The interrupt controllers, and the console, in order."""
    kept = [
        (span, _Kept(CONTROLLER, what, place, "leave it out: the hypervisor plays it"))
        for what, span, place in controller_parts(tree)
    ]
    if tree.console is not None:
        console = _Kept(
            CONSOLE, "the console", tree.console.place, "give the guest another UART, or one that is emulated"
        )
        kept += [(span, console) for span in tree.console.ranges]
    return RangeIndex((span, (number, one)) for number, (span, one) in enumerate(kept))


def _meeting(setup: Setup, vm: PlannedVm, device: PassthroughDevice, kept: _Kept, span: Range) -> Finding:
    shared = span.intersection(_host(device))
    own, other = _party(vm, device), Party(f"{kept.what} of {kept.place}", span)
    where = (Location.of(device.place, own.name), in_tree(setup, kept.place.path))
    return Finding(kept.rule, f"{own} overlaps {other} in {shared}", (own, other), shared, where, kept.fix)
