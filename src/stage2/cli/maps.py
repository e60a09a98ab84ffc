"""The stage-2 maps that VMs will have on the host of a device tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config.platform import PlatformConfig
    from ..config.regions import PlannedVm
    from ..forecast.map_ranges import Stage2Map
    from ..images.host_tree import HostTree


def maps_of(
    vms: Sequence[PlannedVm], archs: Sequence[str | None], host: PlatformConfig, tree: HostTree
) -> list[Stage2Map | None]:
    """The maps of VMs, as they lie beside each other, allocated in the order in which they are given.

    Args:
        vms: the VMs, planned on the host.
        archs: their architectures; None where nothing says, and then there is no map.
        host: the host of the tree.
        tree: its device tree.
    """
    from ..address import Range
    from ..forecast.map_ranges import RangeKind
    from ..forecast.stage2_map import stage2_map
    from ..hypervisor.layout import of_platform

    kernel = None if host.kernel_paddr is None else of_platform(host).hpa
    taken = [] if kernel is None else [kernel]
    fixed = [[region.range for region in vm.plan.regions if region.map_type.is_identity] for vm in vms]
    found: list[Stage2Map | None] = []
    for number, (vm, arch) in enumerate(zip(vms, archs, strict=True)):
        if arch is None:
            found.append(None)
            continue
        others = [span for other, spans in enumerate(fixed) if other != number for span in spans]
        made = stage2_map(vm, arch, tree, [*taken, *others])
        taken += [
            Range.sized(one.hpa, one.span.size)
            for one in made.ranges
            if one.kind is RangeKind.RAM and one.hpa is not None
        ]
        found.append(made)
    return found
