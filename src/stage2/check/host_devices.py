"""Devices that VMs are given, beside what the host's device tree says of them: the rules S2601 and S2602."""

from __future__ import annotations

from collections.abc import Iterator

from ..address import SIZE_4K, Range
from ..config.devices import PassthroughDevice
from ..config.document import shown
from ..config.regions import PlannedVm
from ..images.host_parts import TreePlace
from ..images.host_tree import HostTree
from .finding import Finding, Location, Party, Rule, Severity
from .given import in_tree
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

_GUESTS_OWN = "GICV"
"""GICv2's virtual CPU interface, which is made to be mapped into a guest."""


def check_host_devices(setup: Setup) -> Iterator[Finding]:
    """What of the host's devices VMs are given, where a tree tells what they are."""
    if setup.tree is None:
        return
    for vm in setup.vms:
        for device in vm.devices.mapped:
            yield from _kept(setup, vm, device, setup.tree)


def _host(device: PassthroughDevice) -> Range:
    """The host memory that comes with a device: whole pages."""
    return Range.sized(device.hpa, device.size).widened(SIZE_4K)


def _party(vm: PlannedVm, device: PassthroughDevice) -> Party:
    return Party(f"device {shown(device.name)} of {vm.label}", _host(device))


def _kept(setup: Setup, vm: PlannedVm, device: PassthroughDevice, tree: HostTree) -> Iterator[Finding]:
    """The interrupt controllers, and the console."""
    kept: list[tuple[Rule, str, Range, TreePlace, str]] = [
        (
            CONTROLLER,
            controller.kind if name == controller.kind else f"the {controller.kind}'s {name}",
            span,
            controller.place,
            "leave it out: the hypervisor plays it",
        )
        for controller in tree.controllers
        for name, span in controller.regions
        if name != _GUESTS_OWN
    ]
    if tree.console is not None:
        kept += [
            (CONSOLE, "the console", span, tree.console.place, "give the guest another UART, or one that is emulated")
            for span in tree.console.ranges
        ]
    for rule, what, span, place, fix in kept:
        shared = span.intersection(_host(device))
        if shared is not None:
            own, other = _party(vm, device), Party(f"{what} of {place}", span)
            where = (Location.of(device.place, own.name), in_tree(setup, place.path))
            yield Finding(rule, f"{own} overlaps {other} in {shared}", (own, other), shared, where, fix)
