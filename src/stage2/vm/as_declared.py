"""Regions whose host memory a VM cannot have, mapped as its file says: a proof shows what they would lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..address import Gpa, Hpa, Range
from ..config.conflict import ConflictError, raise_it
from ..config.document import Notice
from ..config.guest_config import GuestType
from ..config.regions import PlannedVm
from ..errors import ConfigError
from ..flags import MappingFlags, MapType
from ..memory.owners import Owner, OwnerKind
from ..ranges import RangeMap
from ..space.region import MemoryRegion

if TYPE_CHECKING:
    from ..space.address_space import AddressSpace
    from .host import Host

_WINDOW = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.DEVICE
"""What the guest may do in the window, at least; that it reaches it is what matters here."""


def refuse_but_memory(error: ConfigError) -> None:
    """End at what keeps VMs from being run together, but for host memory that two of them want."""
    if not isinstance(error, ConflictError) or error.kind != "host-memory":
        raise_it(error)


_ROOM = 16 << 20
"""Bytes that are left free for tables, where a VM's memory is all that the host has."""


class Unheld:
    """The regions of a host's VMs that are mapped and not held.

    Args:
        host: theirs.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._found: dict[str, list[MemoryRegion]] = {}

    def of(self, vm: str) -> tuple[MemoryRegion, ...]:
        """The regions of a VM, by the name that its memory is owned under."""
        return tuple(self._found.get(vm, ()))

    def add(self, vm: str, region: MemoryRegion, problem: ConfigError) -> None:
        """Note a region that its VM cannot hold, and hold what of it is free: no table of others is to land there.

        Args:
            vm: by the name that its memory is owned under.
            region: one with a place in the host.
            problem: why it cannot be held.
        """
        span = region.host_range
        assert span is not None, "only a region with a place is refused for it"
        self._found.setdefault(vm, []).append(region)
        text = f"{problem.problem}; it is mapped as declared, to show what that leads to"
        if region.place is not None:
            self._host.notices.append(Notice(text, region.place.whole_line))
        frames = self._host.frames
        held: RangeMap[None] = RangeMap()
        for taken, _ in frames.owners.overlapping(span):
            held.set(taken, None)
        for gap in held.gaps(span):
            for ram in self._host.memory.ranges:
                part = ram.intersection(gap)
                size = 0 if part is None else min(part.size, max(0, frames.free_bytes - _ROOM))
                if part is not None and size:
                    frames.claim(Range.sized(part.start, size), owner=Owner(OwnerKind.VM, vm))

    def add_if_ram(self, vm: str, region: MemoryRegion) -> None:
        """Note a region of a device's registers that is RAM of the host: AxVisor sets none of it aside.

        Args:
            vm, region: as for `add`.
        """
        span = region.host_range
        if region.map_type is not MapType.MMIO or span is None or self._host.platform.file is None:
            return
        if any(ram.overlaps(span) for ram in self._host.memory.ranges):
            self._found.setdefault(vm, []).append(region)

    def map_window(self, space: AddressSpace, config: PlannedVm) -> None:
        """Map what AxVisor's `guest_type = "passthrough"` declares beside its devices: the host's RAM, one to one.

        Args:
            space: the VM's, with all else mapped.
            config: the VM.
        """
        if config.guest_type is not GuestType.PASSTHROUGH:
            return
        mine: RangeMap[None] = RangeMap()
        for region in config.plan.regions:
            mine.set(region.range, None)
        for ram in self._host.memory.ranges:
            reached = ram.intersection(space.range)
            for gap in [] if reached is None else mine.gaps(reached):
                region = MemoryRegion(
                    Gpa(gap.start), gap.size, _WINDOW, MapType.MMIO, Hpa(gap.start), "whole window", place=config.place
                )
                self._found.setdefault(space.name, []).append(region)
                self.map(space, region, None)

    def map(self, space: AddressSpace, region: MemoryRegion, largest: int | None) -> bool:
        """Make the leaves of a region that was noted; False for any other.

        Args:
            space: its VM's.
            region: the region.
            largest: bytes of the largest leaf; None for the format's.
        """
        span = region.host_range
        if span is None or region not in self.of(space.name):
            return False
        space.page_table.map_range(int(region.start), Hpa(span.start), region.size, region.flags, largest=largest)
        return True
