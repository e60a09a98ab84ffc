"""What holds in an address space where a region does not say: the one place in which region, VM and default meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..address import SIZE_4K
from .region import MemoryRegion, Populate, ViolationPolicy

FaultAround = int | Literal["adaptive"]
"""Bytes of the window around every fault, or windows that grow while faults come in sequence (`fault_window`)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a space gives memory and answers what is forbidden; what is None in the arguments has its default here.

    Args:
        populate: when regions get frames; None for lazy.
        violation: what a forbidden access does; None for stop.
        largest: bytes of the largest leaf to use; None for what `AddressSpace` says of it.
        fault_around: what is populated with a fault; None for one page of 4 KiB.
        promote: make a block of pages once they could be one.
    """

    populate: Populate | None = None
    violation: ViolationPolicy | None = None
    largest: int | None = None
    fault_around: FaultAround | None = None
    promote: bool = False

    def populate_of(self, region: MemoryRegion) -> Populate:
        """When a region gets its frames."""
        return region.populate or self.populate or Populate.LAZY

    def violation_of(self, region: MemoryRegion | None) -> ViolationPolicy:
        """What an access does that a region forbids, or its absence (None)."""
        said = None if region is None else region.violation
        return said or self.violation or ViolationPolicy.STOP

    @property
    def window(self) -> int:
        """Bytes of the aligned window around a fault that are populated with it, where they are the same for all."""
        said = self.fault_around
        return said if isinstance(said, int) else SIZE_4K

    @property
    def adaptive(self) -> bool:
        """Whether the windows go by the faults."""
        return self.fault_around == "adaptive"

    def gives_pages(self, page: int) -> bool:
        """Whether a fault populates one smallest page, of `page` bytes, and nothing else."""
        return max(self.largest or 0, self.window) <= page and not self.adaptive and not self.promote
