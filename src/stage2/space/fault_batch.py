"""What an address space answers to an array of stage-2 faults."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .faults import RESOLUTIONS, FaultResult, Resolution
from .policy import Policy
from .region import MemoryRegion

_RETRY = np.array([resolution.retry for resolution in RESOLUTIONS])


@dataclass(frozen=True, slots=True)
class FaultBatch:
    """What `handle_page_faults` did, fault by fault.

    Args:
        resolutions: the number of each fault's `Resolution`, in the shape of the addresses.
        counts: how many there are of each, by number.
        addresses: the faulting addresses.
        regions: the regions they can be in, in order.
        told: results that say more than the others do, by position in the flattened array.
        policy: the space's.
    """

    resolutions: npt.NDArray[np.uint8]
    counts: tuple[int, ...]
    addresses: npt.NDArray[np.uint64]
    regions: tuple[MemoryRegion, ...]
    told: Mapping[int, FaultResult]
    policy: Policy

    def result(self, index: int) -> FaultResult:
        """What `handle_page_fault` answers to one of the faults, by its position in the flattened array."""
        flat = self.resolutions.reshape(-1)
        at = range(len(flat))[index]
        if at in self.told:
            return self.told[at]
        resolution, gpa = RESOLUTIONS[flat[at]], int(self.addresses.reshape(-1)[at])
        below = bisect_right(self.regions, gpa, key=lambda region: region.start)
        region = None if resolution is Resolution.HOLE else self.regions[below - 1]
        refused = resolution in (Resolution.HOLE, Resolution.VIOLATION)
        return FaultResult(resolution, region, self.policy.violation_of(region) if refused else None)

    def count(self, resolution: Resolution) -> int:
        """How many faults ended so."""
        return self.counts[resolution.number]

    @property
    def retry(self) -> npt.NDArray[np.bool_]:
        """Which accesses can be repeated."""
        found: npt.NDArray[np.bool_] = _RETRY[self.resolutions]
        return found
