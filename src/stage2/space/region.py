"""A region: what the user declared about a stretch of guest physical memory."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..address import SIZE_4K, Gpa, Hpa, Range, require_aligned
from ..errors import EncodingError
from ..flags import MappingFlags, MapType
from ..place import Place


class Populate(Enum):
    """When a region gets its frames."""

    LAZY = "lazy"
    """At the guest's first access to each page."""
    EAGER = "eager"
    """At once, in the largest contiguous blocks that can be had."""


class ViolationPolicy(Enum):
    """What happens to an access that a region, or the absence of one, forbids."""

    STOP = "stop"
    """The guest is stopped and the access reported."""
    INJECT = "inject"
    """The guest gets its architecture's access fault, as from a bus that answers with an error."""
    DISCARD = "discard"
    """A write is dropped, a read returns all ones; the access is reported."""


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """A stretch of guest physical memory with one purpose.

    Args:
        start: first GPA, a multiple of 4 KiB.
        size: bytes, a positive multiple of 4 KiB.
        flags: what the guest may do there, and the memory type.
        map_type: where the memory comes from.
        hpa: for MMIO and SHARE the HPA behind `start`; None elsewhere (MAP_IDENTICAL and MAP_RESERVED use `start`).
        name: what reports call it.
        populate: when frames are given; None leaves it to the AddressSpace.
        violation: what a forbidden access does; None leaves it to the AddressSpace.
        place: where it was declared, for errors; None when no file says it.

    Raises:
        EmptyRangeError, OutOfRangeError, MisalignedError: start and size are no whole pages.
        EncodingError: the flags contradict the map type.
    """

    start: Gpa
    size: int
    flags: MappingFlags
    map_type: MapType
    hpa: Hpa | None = None
    name: str = ""
    populate: Populate | None = None
    violation: ViolationPolicy | None = None
    place: Place | None = None

    def __post_init__(self) -> None:
        Range.sized(self.start, self.size)
        require_aligned("region start", self.start, SIZE_4K)
        require_aligned("region size", self.size, SIZE_4K)
        if self.hpa is not None:
            require_aligned("region HPA", self.hpa, SIZE_4K)
            Range.sized(self.hpa, self.size)
        executable = bool(self.flags & MappingFlags.EXECUTE)
        if executable and not self.map_type.may_execute:
            raise EncodingError(f"{self.map_type.value} {self.range} must not be executable")
        if self.map_type is MapType.ROM and self.flags & MappingFlags.WRITE:
            raise EncodingError(f"ROM {self.range} must not be writable")
        if self.map_type is MapType.MMIO and self.hpa is None:
            raise EncodingError(f"MMIO {self.range} needs the HPA of the device")
        if self.hpa is not None and not self.map_type.names_hpa:
            raise EncodingError(f"{self.map_type.value} {self.range} takes no HPA: {self.map_type.meaning}")

    @property
    def end(self) -> int:
        """One past the last GPA."""
        return self.start + self.size

    @property
    def range(self) -> Range:
        return Range(self.start, self.end)

    @property
    def host_range(self) -> Range | None:
        """The HPAs behind it, as far as its declaration says them; None where frames are chosen, or nothing is."""
        if self.map_type.is_identity:
            return self.range
        return None if self.hpa is None else Range.sized(self.hpa, self.size)

    @property
    def label(self) -> str:
        """The name, or the map type where none was given."""
        return self.name or self.map_type.value

    def __str__(self) -> str:
        return f"{self.label} {self.range} {self.flags.short}"

    def __repr__(self) -> str:
        return f"MemoryRegion({self})"
