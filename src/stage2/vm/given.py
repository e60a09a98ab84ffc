"""The devices of a host: which its VMs are given, whether these master memory, and which are the hypervisor's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..address import Range
from ..check.dma import given_masters, reach_through_buses
from ..check.given import devices_by_address, spans_of
from ..check.given_devices import keeps_vms_going
from ..check.host_devices import controller_parts
from ..errors import ImageError
from ..images.acpi import LOCAL_APIC
from ..images.host_tree import HostTree
from ..prove.subject import GivenDevice

if TYPE_CHECKING:
    from .host import Host


@dataclass(frozen=True, slots=True)
class Given:
    """What of a host's devices does not change while its VMs run.

    Args:
        vms, tree: of how many VMs, and by which tree.
        devices: in the hands of VMs.
        kept: the hypervisor's, whomever they are given to: what, and where.
    """

    vms: int
    tree: HostTree | None
    devices: tuple[GivenDevice, ...]
    kept: tuple[tuple[str, Range], ...]


_KNOWN: WeakKeyDictionary[Host, Given] = WeakKeyDictionary()


def given_of(host: Host) -> Given:
    """The devices of a host. One that is proved after every edit is asked once.

    Args:
        host: with its VMs.
    """
    found = _KNOWN.get(host)
    if found is None or found.vms != len(host.vms) or found.tree is not host.tree:
        found = Given(len(host.vms), host.tree, tuple(_devices(host)), tuple(_kept(host)))
        _KNOWN[host] = found
    return found


def _kept(host: Host) -> Iterator[tuple[str, Range]]:
    """Devices that are the hypervisor's, whomever they are given to: what, and where."""
    if not host.platform.takes_no_interrupts and any(vm.arch == "x86_64" for vm in host.vms):
        yield "local APIC", LOCAL_APIC
    if host.tree is not None:
        for what, span, _ in controller_parts(host.tree):
            yield what, span
        for node in host.tree.nodes:
            for span in (node.ranges or ()) if keeps_vms_going(node) and host.tree.enabled(node) else ():
                yield node.path, span


def _devices(host: Host) -> Iterator[GivenDevice]:
    """What VMs are given, and whether it masters memory: by what their files and the host's tree say."""
    platform = None if host.platform.file is None else host.platform
    placed = None if host.tree is None else devices_by_address(host.tree)
    for vm, config in zip(host.vms, host.configs, strict=True):
        entries = [(name, span) for name, span, _ in spans_of(config)]
        entries += [(one.name, Range.sized(one.hpa, one.size)) for one in config.devices.resolved or ()]
        for name, span in entries:
            nodes = () if placed is None else tuple(dict(one for _, one in placed.meeting(span)).values())
            masters = given_masters(config, name, span, nodes, platform)
            reach = None
            if masters and host.tree is not None:
                # What damaged dma-ranges let through nobody knows: it may be everything.
                with suppress(ImageError):
                    reach = reach_through_buses(host.tree, config, name, nodes)
            yield GivenDevice(vm.space.name, name, masters, span, reach=reach)
