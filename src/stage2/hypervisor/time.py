"""Time as the hypervisor counts it: nanoseconds, whole ones."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import OutOfRangeError

NANOS_PER_SEC = 1_000_000_000
NANOS_PER_MS = 1_000_000
_UNITS = (("s", NANOS_PER_SEC), ("ms", 1_000_000), ("us", 1_000), ("ns", 1))


@dataclass(frozen=True, slots=True, order=True)
class TimeValue:
    """A point in time of a `Clock`, or the distance between two; never a float.

    Args:
        nanos: nanoseconds, not below 0.

    Raises:
        OutOfRangeError: it is below 0.
    """

    nanos: int = 0

    def __post_init__(self) -> None:
        if self.nanos < 0:
            raise OutOfRangeError(f"{self.nanos} ns: time does not go below 0")

    @classmethod
    def of(cls, *, seconds: int = 0, millis: int = 0, micros: int = 0, nanos: int = 0) -> TimeValue:
        """The sum of whole numbers of each unit."""
        return cls(seconds * NANOS_PER_SEC + millis * 1_000_000 + micros * 1_000 + nanos)

    @classmethod
    def of_ticks(cls, ticks: int, frequency: int) -> TimeValue:
        """When a counter of `frequency` Hz that began at 0 reaches `ticks`: the first whole nanosecond at which it
        has."""
        return cls(-(-ticks * NANOS_PER_SEC // frequency))

    def ticks(self, frequency: int) -> int:
        """What a counter of `frequency` Hz that began at 0 reads then: whole ticks that have passed."""
        return self.nanos * frequency // NANOS_PER_SEC

    @property
    def seconds(self) -> int:
        """Whole seconds."""
        return self.nanos // NANOS_PER_SEC

    @property
    def subsec_nanos(self) -> int:
        """What is left beside the whole seconds, in nanoseconds."""
        return self.nanos % NANOS_PER_SEC

    def __add__(self, other: TimeValue) -> TimeValue:
        return TimeValue(self.nanos + other.nanos) if isinstance(other, TimeValue) else NotImplemented

    def __sub__(self, other: TimeValue) -> TimeValue:
        """The distance.

        Raises:
            OutOfRangeError: `other` is later; `since` answers 0 then.
        """
        return TimeValue(self.nanos - other.nanos) if isinstance(other, TimeValue) else NotImplemented

    def since(self, other: TimeValue) -> TimeValue:
        """The distance from `other`, 0 when `other` is later."""
        return TimeValue(max(self.nanos - other.nanos, 0))

    def __mul__(self, count: int) -> TimeValue:
        return TimeValue(self.nanos * count) if isinstance(count, int) else NotImplemented

    __rmul__ = __mul__

    def __floordiv__(self, count: int) -> TimeValue:
        return TimeValue(self.nanos // count) if isinstance(count, int) else NotImplemented

    def __str__(self) -> str:
        """In the largest unit that leaves no rest, or in seconds with a fraction: `250 ms`, `1.000000001 s`."""
        if self.nanos > NANOS_PER_SEC and self.subsec_nanos:
            return f"{self.seconds}.{self.subsec_nanos:09d}".rstrip("0") + " s"
        name, size = next((unit for unit in _UNITS if self.nanos and self.nanos % unit[1] == 0), _UNITS[0])
        return f"{self.nanos // size} {name}"
