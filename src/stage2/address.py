"""Addresses, page sizes, and checked arithmetic on both.

`Gva`, `Gpa`, `Hpa` and `Hva` are plain integers at run time and different types to mypy. A GPA is what Arm
calls an IPA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from .errors import EmptyRangeError, MisalignedError, OutOfRangeError

Gva = NewType("Gva", int)
"""Guest virtual address: what a guest's program uses."""
Gpa = NewType("Gpa", int)
"""Guest physical address: what the guest takes for physical memory."""
Hpa = NewType("Hpa", int)
"""Host physical address: where the byte really is."""
Hva = NewType("Hva", int)
"""Host virtual address: where this process sees a byte of host physical memory."""

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
SIZE_4K = 4 * KIB
SIZE_2M = 2 * MIB
SIZE_1G = GIB
ADDRESS_LIMIT = 1 << 64
"""One past the largest address a 64-bit register holds."""


def is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def align_down(address: int, alignment: int) -> int:
    """The largest multiple of `alignment` (a power of two) that is at most `address`."""
    return address & ~(alignment - 1)


def align_up(address: int, alignment: int) -> int:
    """The smallest multiple of `alignment` (a power of two) that is at least `address`."""
    return (address + alignment - 1) & ~(alignment - 1)


def align_offset(address: int, alignment: int) -> int:
    """How far `address` is above the multiple of `alignment` below it."""
    return address & (alignment - 1)


def is_aligned(address: int, alignment: int) -> bool:
    return address & (alignment - 1) == 0


def require_aligned(what: str, value: int, alignment: int) -> None:
    """Raise MisalignedError unless `value` is a multiple of `alignment`.

    Args:
        what: the name of the value for the error's text ("GPA", "size").
        value: address or size in bytes.
        alignment: a power of two, in bytes.
    """
    if not is_aligned(value, alignment):
        raise MisalignedError(f"{what} {value:#x} is not a multiple of {alignment:#x}")


def format_size(size: int) -> str:
    """A size in bytes as people write it: 4096 -> "4 KiB", 4097 -> "4097 B"."""
    for unit, name in ((1 << 40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """The half-open range [start, end) of addresses, never empty, within 64 bits.

    Raises:
        EmptyRangeError: end is not above start.
        OutOfRangeError: start is negative or end is above 2^64.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise EmptyRangeError(f"range [{self.start:#x}, {self.end:#x}) has no byte in it")
        if self.start < 0 or self.end > ADDRESS_LIMIT:
            raise OutOfRangeError(f"range [{self.start:#x}, {self.end:#x}) leaves the 64-bit address space")

    @classmethod
    def sized(cls, start: int, size: int) -> Range:
        """The range of `size` bytes from `start`."""
        return cls(start, start + size)

    @property
    def size(self) -> int:
        return self.end - self.start

    def contains(self, address: int) -> bool:
        return self.start <= address < self.end

    def covers(self, other: Range) -> bool:
        """True when every address of `other` is in this range."""
        return self.start <= other.start and other.end <= self.end

    def overlaps(self, other: Range) -> bool:
        return self.start < other.end and other.start < self.end

    def intersection(self, other: Range) -> Range | None:
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Range(start, end) if start < end else None

    def widened(self, alignment: int) -> Range:
        """The smallest range around this one that begins and ends at multiples of `alignment`, a power of two."""
        return Range(align_down(self.start, alignment), align_up(self.end, alignment))

    def __str__(self) -> str:
        return f"[{self.start:#x}, {self.end:#x})"

    def __repr__(self) -> str:
        return f"Range({self.start:#x}, {self.end:#x})"
