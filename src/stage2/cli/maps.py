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
    """The maps of VMs, as they lie beside each other.

    Args:
        vms: the VMs, planned on the host.
        archs: their architectures; None where nothing says, and then there is no map.
        host: the host of the tree.
        tree: its device tree.
    """
    from ..forecast.stage2_map import stage2_map
    from ..hypervisor.layout import of_platform

    kernel = None if host.kernel_paddr is None else of_platform(host).hpa
    own = [[region.range for region in vm.plan.regions if region.map_type.is_identity] for vm in vms]
    found: list[Stage2Map | None] = []
    for number, (vm, arch) in enumerate(zip(vms, archs, strict=True)):
        others = [span for other, spans in enumerate(own) if other != number for span in spans]
        taken = others if kernel is None else [kernel, *others]
        found.append(None if arch is None else stage2_map(vm, arch, tree, taken))
    return found
