"""The stage-2 map that will be: ranges of guest physical addresses, each with what is there and why."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from ..address import Range
from ..config.document import Notice
from ..flags import MappingFlags
from ..images.host_parts import TreePlace
from ..place import Place

AnyPlace = Place | TreePlace


class RangeKind(StrEnum):
    """What is at a guest physical address."""

    RAM = "ram"
    PASSTHROUGH = "passthrough"
    HOLE = "hole"


@dataclass(frozen=True, slots=True)
class MapRange:
    """A stretch of guest physical addresses with one answer.

    Args:
        span: the addresses.
        kind: what is there.
        hpa: where its first byte is on the host; None for a hole, and where that cannot be known.
        flags: of the mapping; 0 for a hole.
        name: who has it, in a few words: `RAM ram0`, `/soc/serial@10000000`.
        reason: why it is so, a sentence.
        places: where that stands, in files and trees.
        assumed: a board may decide otherwise: its allocator's choice cannot be known.
        step: which of upstream's steps decides it (`stage2_map`).
    """

    span: Range
    kind: RangeKind
    hpa: int | None
    flags: MappingFlags
    name: str
    reason: str
    places: tuple[AnyPlace, ...] = ()
    assumed: bool = False
    step: int = 0

    def at(self, span: Range) -> MapRange:
        """A part of it."""
        return replace(self, span=span, hpa=None if self.hpa is None else self.hpa + span.start - self.span.start)

    def continues(self, other: MapRange) -> bool:
        """Whether it goes on where another one ends, with nothing different but the address."""
        return other.span.end == self.span.start and other.at(self.span) == self

    def maps_like(self, other: MapRange) -> bool:
        """Whether a table would have both as one mapping: kind, flags and offset are the same."""
        same = (self.kind, self.flags, self.hpa is None) == (other.kind, other.flags, other.hpa is None)
        return same and other.span.end == self.span.start and other.at(self.span).hpa == self.hpa


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two that claim the same addresses, or something that cannot be done; upstream refuses the VM.

    Args:
        message: one sentence.
        parties: who claims them: a name and a range each.
        overlap: what both claim; None where that is not the matter.
        places: where they stand.
    """

    message: str
    parties: tuple[tuple[str, Range], ...] = ()
    overlap: Range | None = None
    places: tuple[AnyPlace, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage2Map:
    """All guest physical addresses of a VM.

    Args:
        window: those that the VM can have at all.
        window_reason: why it ends where it ends.
        ranges: sorted; together they are the window.
        conflicts: why upstream would refuse the VM; what came first has the addresses.
        notices: what is to be known beside that.
    """

    window: Range
    window_reason: str
    ranges: tuple[MapRange, ...]
    conflicts: tuple[Conflict, ...] = ()
    notices: tuple[Notice, ...] = ()

    def at(self, gpa: int) -> MapRange:
        """What is at an address; outside the window a hole that says so."""
        if not self.window.contains(gpa):
            span = Range.sized(gpa, 1)
            return MapRange(
                span, RangeKind.HOLE, None, MappingFlags(0), "beyond the window",
                f"the VM's addresses end at {self.window.end:#x}: {self.window_reason}", step=1,
            )  # fmt: skip
        return self.ranges[bisect_right([one.span.start for one in self.ranges], gpa) - 1]

    @property
    def mappings(self) -> tuple[MapRange, ...]:
        """What is mapped, neighbours merged as upstream merges them: equal flags, kind and offset."""
        return merged((one for one in self.ranges if one.kind is not RangeKind.HOLE), as_mapped=True)


def merged(ranges: Iterable[MapRange], *, as_mapped: bool = False) -> tuple[MapRange, ...]:
    """Sorted ranges with neighbours joined that belong together.

    Args:
        ranges: sorted.
        as_mapped: join what a table would have as one mapping; else what differs in nothing but the address.
    """
    joins = MapRange.maps_like if as_mapped else MapRange.continues
    found: list[MapRange] = []
    for one in ranges:
        if found and joins(one, found[-1]):
            found[-1] = replace(found[-1], span=Range(found[-1].span.start, one.span.end))
        else:
            found.append(one)
    return tuple(found)
