"""What holds in an address space where a region does not say: the one place in which region, VM and default meet."""

from __future__ import annotations

from dataclasses import dataclass

from ..address import SIZE_4K
from .region import MemoryRegion, Populate, ViolationPolicy


@dataclass(frozen=True, slots=True)
class Policy:
    """How a space gives memory and answers what is forbidden; what is None in the arguments has its default here.

    Args:
        populate: when regions get frames; None for lazy.
        violation: what a forbidden access does; None for stop.
        largest: bytes of the largest leaf to use; None for what `AddressSpace` says of it.
        fault_around: bytes around a fault that are populated with it; None for one page of 4 KiB.
    """

    populate: Populate | None = None
    violation: ViolationPolicy | None = None
    largest: int | None = None
    fault_around: int | None = None

    def populate_of(self, region: MemoryRegion) -> Populate:
        """When a region gets its frames."""
        return region.populate or self.populate or Populate.LAZY

    def violation_of(self, region: MemoryRegion | None) -> ViolationPolicy:
        """What an access does that a region forbids, or its absence (None)."""
        said = None if region is None else region.violation
        return said or self.violation or ViolationPolicy.STOP

    @property
    def window(self) -> int:
        """Bytes of the aligned window around a fault that are populated with it."""
        return self.fault_around or SIZE_4K

    def gives_pages(self, page: int) -> bool:
        """Whether a fault populates one smallest page, of `page` bytes, and nothing else."""
        return max(self.largest or 0, self.window) <= page
