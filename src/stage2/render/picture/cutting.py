"""A space cut into ranges, each with all who have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import or_

from ...address import Range
from ...flags import MappingFlags
from .parties import Actual, Party


@dataclass(frozen=True, slots=True)
class Held:
    """A party in a space that is laid out.

    Args:
        party: who.
        span: its addresses in that space.
        owner: whose memory it is, where the space is the host's and the party a VM's; empty elsewhere.
        behind: it is there as the memory behind a VM's range.
    """

    party: Party
    span: Range
    owner: str = ""
    behind: bool = False

    @property
    def name(self) -> str:
        return f"{self.owner} {self.party.name}".strip()


@dataclass(frozen=True, slots=True)
class Cut:
    """A range, and all who have it."""

    span: Range
    held: tuple[Held, ...]

    @property
    def flags(self) -> MappingFlags | None:
        """What any of them may do there; None where nobody says."""
        return together(self.held)

    @property
    def actual(self) -> list[Actual] | None:
        """What tables have of it; None where that is not known of all."""
        found = [one.party.actual for one in self.held if not one.behind and one.party.actual is not None]
        return found if len(found) == len(self.held) else None

    @property
    def notes(self) -> list[str]:
        """In what the tables differ from the declaration, where it is all that a party declares."""
        return [note for one in self.held if not one.behind and one.span == self.span for note in one.party.notes]


def cut_up(held: Sequence[Held]) -> list[Cut]:
    """Ranges that the same parties have, sorted."""
    borders = sorted({border for one in held for border in (one.span.start, one.span.end)})
    starts = sorted(held, key=lambda one: (one.span.start, one.span.end))
    found: list[Cut] = []
    here: list[Held] = []
    following = 0
    for start, end in pairwise(borders):
        while following < len(starts) and starts[following].span.start <= start:
            here.append(starts[following])
            following += 1
        here = [one for one in here if one.span.end > start]
        if here:
            found.append(Cut(Range(start, end), tuple(here)))
    return found


def together(held: Sequence[Held]) -> MappingFlags | None:
    """What any of several may do; None where nobody says."""
    known = [one.party.flags for one in held if one.party.flags is not None]
    if not known:
        return None
    return reduce(or_, known)
