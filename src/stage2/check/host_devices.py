"""Devices that VMs are given, beside what the host's device tree says of them: the rules S2601, S2602 and S2701."""

from __future__ import annotations

from collections.abc import Iterator

from ..address import SIZE_4K, Range
from ..config.devices import PassthroughDevice
from ..config.document import shown
from ..config.regions import PlannedVm
from ..flags import MapType
from ..images.host_parts import TreePlace
from ..images.host_tree import HostTree
from .finding import Finding, Location, Party, Rule, Severity
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
DMA = Rule(
    "S2701", Severity.WARNING, "a device that masters memory is given to a VM whose RAM is elsewhere than it thinks",
    "The device is told GPAs by the guest and uses them as HPAs: it reads and writes memory of others. That takes an "
    "IOMMU whose tables are the VM's stage 2, or RAM with map_type 1.",
)  # fmt: skip
RULES = (CONTROLLER, CONSOLE, DMA)


def check_host_devices(setup: Setup) -> Iterator[Finding]:
    """What of the host's devices VMs are given, where a tree tells what they are."""
    if setup.tree is None:
        return
    for vm in setup.vms:
        for device in vm.devices.mapped:
            yield from _kept(vm, device, setup.tree)
        yield from _masters(vm, setup.tree)


def _host(device: PassthroughDevice) -> Range:
    """The host memory that comes with a device: whole pages."""
    return Range.sized(device.hpa, device.size).widened(SIZE_4K)


def _party(vm: PlannedVm, device: PassthroughDevice) -> Party:
    return Party(f"device {shown(device.name)} of {vm.label}", _host(device))


def _kept(vm: PlannedVm, device: PassthroughDevice, tree: HostTree) -> Iterator[Finding]:
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
            where = (Location.of(device.place, own.name), Location(place.file, says=place.path))
            yield Finding(rule, f"{own} overlaps {other} in {shared}", (own, other), shared, where, fix)


def _masters(vm: PlannedVm, tree: HostTree) -> Iterator[Finding]:
    """PCI host bridges: every function behind them masters memory."""
    moved = [region for region in vm.plan.regions if region.map_type is MapType.MAP_ALLOC]
    if not moved:
        return
    for bridge in tree.pci:
        for device in vm.devices.mapped:
            if any(span.overlaps(_host(device)) for span in bridge.config):
                own, ram = _party(vm, device), moved[0]
                message = (
                    f"{own} is the PCI host bridge {bridge.place}, whose functions master memory, and RAM "
                    f"{shown(ram.label)} GPA {ram.range} lies wherever the host has frames"
                )
                where = (Location.of(device.place, own.name), Location.of(ram.place or vm.place, ram.label))
                fix = "give the VM its RAM with map_type 1, or an IOMMU"
                yield Finding(DMA, message, (own, Party(ram.label, ram.range, "GPA")), locations=where, fix=fix)
                break
