"""What an address space answers to a stage-2 fault, and how it counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from .region import MemoryRegion, ViolationPolicy

_BUCKETS = 40


class Resolution(Enum):
    """How a stage-2 fault was resolved; `number` is what stands for it in arrays."""

    def __init__(self, text: str) -> None:
        self.number = len(type(self).__members__)
        self.retry = text in ("populated", "present", "tracked")
        """Whether the access can be repeated."""

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


RESOLUTIONS = tuple(Resolution)
"""All of them, by number."""


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
        return self.resolution.retry

    def __repr__(self) -> str:
        return f"FaultResult({self.resolution.value}, {self.region!r})"


class FaultCounters:
    """How often faults were resolved in which way, and how long that took."""

    __slots__ = ("_faults", "latency")

    def __init__(self) -> None:
        self._faults = [0] * len(RESOLUTIONS)
        self.latency = [0] * _BUCKETS
        """Count by power of two: element n counts faults that took less than 2^n ns and no less than half of it."""

    def count(self, number: int, took_ns: int) -> None:
        """Enter one fault.

        Args:
            number: of its resolution.
            took_ns: nanoseconds.
        """
        self._faults[number] += 1
        bucket = took_ns.bit_length()
        self.latency[bucket if bucket < _BUCKETS else -1] += 1

    def count_many(self, numbers: Sequence[int], took_ns: int) -> None:
        """Enter faults that were resolved together: each took its share.

        Args:
            numbers: how many, by the number of their resolution.
            took_ns: nanoseconds for all of them.
        """
        total = sum(numbers)
        if total:
            for number, count in enumerate(numbers):
                self._faults[number] += count
            self.latency[min((took_ns // total).bit_length(), _BUCKETS - 1)] += total

    @property
    def faults(self) -> dict[Resolution, int]:
        """Count by resolution."""
        return dict(zip(RESOLUTIONS, self._faults, strict=True))

    @property
    def total(self) -> int:
        return sum(self._faults)

    def histogram(self) -> dict[int, int]:
        """Faults by upper bound of their latency in ns, empty buckets left out."""
        return {1 << bucket: count for bucket, count in enumerate(self.latency) if count}
