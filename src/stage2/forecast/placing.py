"""VMs on a host: where memory lies whose place the host decides."""

from __future__ import annotations

from collections.abc import Sequence

from ..address import Range
from ..config.board import BoardConfig
from ..config.platform import PlatformConfig
from ..config.regions import PlannedVm, plan_together
from ..hypervisor.layout import of_platform


def on_host(
    vms: Sequence[PlannedVm],
    platform: PlatformConfig | BoardConfig | None,
    reserved: Sequence[Range] = (),
    kernel: Range | None = None,
) -> list[PlannedVm]:
    """VMs as they lie on a host.

    Args:
        vms: the VMs.
        platform: the host; None, or a board file, for one of which only what the VMs want is known.
        reserved: host memory that nobody gets, besides what the platform reserves and the hypervisor's own kernel
            occupies.
        kernel: what that is; None for what is computed from the platform.

    Raises:
        ConfigError: there is no room for a VM.
    """
    if not isinstance(platform, PlatformConfig):
        return plan_together(vms, None, [*reserved, *([] if kernel is None else [kernel])])
    if kernel is None and platform.kernel_paddr is not None:
        kernel = of_platform(platform).hpa
    taken = [*reserved, *(one.span for one in platform.reserved), *([] if kernel is None else [kernel])]
    return plan_together(vms, platform.memory, taken)
