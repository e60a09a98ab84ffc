"""Host memory that VMs do not get: what the user and the platform reserve, and the window that tables lie in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..address import Range
from ..config.regions import PlannedVm
from ..errors import ConfigError, OwnerConflictError
from ..flags import MapType
from ..memory.owners import Owner, OwnerKind
from ..memory.window import FrameWindow
from ..ranges import RangeMap

if TYPE_CHECKING:
    from .host import Host

_KEPT_FREE = Owner(OwnerKind.RESERVED, "reserved by the user")


def reserve(host: Host, spans: Sequence[Range]) -> None:
    """Keep everybody off ranges of host memory; what of them is no RAM goes without saying."""
    for span in spans:
        for ram in host.memory.ranges:
            part = ram.intersection(span)
            if part is not None:
                try:
                    host.frames.claim(part, owner=_KEPT_FREE)
                except OwnerConflictError as error:
                    raise ConfigError(f"--reserve {span}: {error}") from None


def reserve_platforms(host: Host, configs: Sequence[PlannedVm]) -> None:
    """Keep everybody off what the platform reserves, but the hypervisor that lies there and VMs that are given it."""
    given: RangeMap[None] = RangeMap()
    for config in configs:
        for region in config.plan.regions:
            if region.map_type is MapType.MAP_RESERVED:
                given.set(region.range, None)
    for reserved in host.platform.reserved:
        owner = Owner(OwnerKind.RESERVED, f"reserved by {reserved.who}")
        for ram in host.memory.ranges:
            part = ram.intersection(reserved.span)
            for free in [] if part is None else given.gaps(part):
                held: RangeMap[None] = RangeMap()
                for span, _ in host.frames.owners.overlapping(free):
                    held.set(span, None)
                for gap in held.gaps(free):
                    host.frames.claim(gap, owner=owner)


def table_window(host: Host, span: Range) -> FrameWindow:
    """The host memory that tables are to lie in.

    Raises:
        ConfigError: it is not all RAM, or not free.
    """
    if not host.memory.contains(span.start, span.size):
        ram = ", ".join(str(part) for part in host.memory.ranges)
        assumed = ", which was assumed since no host was given: name yours with --platform"
        raise ConfigError(
            f"--tables-at {span}: not all of it is host memory: RAM is {ram}"
            + (assumed if host.platform.file is None else "")
        )
    for taken, owner in host.frames.owners:
        if owner == _KEPT_FREE and taken.overlaps(span):
            raise ConfigError(
                f"--tables-at {span}: {taken} of it is reserved: choose a window that no reservation reaches into"
            )
    try:
        return FrameWindow(host.frames, span)
    except OwnerConflictError as error:
        raise ConfigError(f"--tables-at {span}: {error}") from None
