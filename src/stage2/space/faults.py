"""What an address space answers to a stage-2 fault, and how it counts them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from .region import MemoryRegion, ViolationPolicy

_BUCKETS = 40


class Resolution(Enum):
    """How a stage-2 fault was resolved."""

    POPULATED = "populated"
    """The page got a frame; the access can be repeated."""
    PRESENT = "present"
    """The page was there already (another vCPU was faster); the access can be repeated."""
    TRACKED = "tracked"
    """The first write to a page whose writes are tracked; the access can be repeated."""
    DEVICE = "device"
    """The address belongs to an emulated device."""
    VIOLATION = "violation"
    """The region does not allow the access."""
    HOLE = "hole"
    """Nothing is declared at the address."""
    OUT_OF_MEMORY = "out of memory"
    """The region allows it, but there is no frame left, or the space has reached its limit."""


_RETRY = frozenset({Resolution.POPULATED, Resolution.PRESENT, Resolution.TRACKED})


@dataclass(frozen=True, slots=True)
class FaultResult:
    """What `handle_page_fault` did.

    Args:
        resolution: how it ended.
        region: the region at the address, None in a hole.
        policy: for VIOLATION and HOLE, what is to happen to the access.
        reason: for OUT_OF_MEMORY, one sentence.
    """

    resolution: Resolution
    region: MemoryRegion | None
    policy: ViolationPolicy | None = None
    reason: str = ""

    @property
    def retry(self) -> bool:
        """True when the access can be repeated."""
        return self.resolution in _RETRY


@dataclass(slots=True)
class FaultCounters:
    """How often faults were resolved in which way, and how long that took.

    Args:
        faults: count by resolution.
        latency: count by power of two: element n counts faults that took less than 2^n ns and no less than half
            of it.
    """

    faults: dict[Resolution, int] = field(default_factory=lambda: dict.fromkeys(Resolution, 0))
    latency: list[int] = field(default_factory=lambda: [0] * _BUCKETS)

    def count(self, resolution: Resolution, took_ns: int) -> None:
        """Enter one fault."""
        self.faults[resolution] += 1
        self.latency[min(took_ns.bit_length(), _BUCKETS - 1)] += 1

    @property
    def total(self) -> int:
        return sum(self.faults.values())

    def histogram(self) -> dict[int, int]:
        """Faults by upper bound of their latency in ns, empty buckets left out."""
        return {1 << bucket: count for bucket, count in enumerate(self.latency) if count}
