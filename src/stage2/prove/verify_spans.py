"""Stretches of memory for the verifier: joined, held against each other, and against what should cover them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import TypeVar

Span = tuple[int, int]
"""First byte, one past the last."""
Label = TypeVar("Label")
ROOM = 1 << 16
"""Stretches that wait until they are joined, at least: what bounds memory where frames are shuffled."""


class Spans:
    """Stretches in any order; those that touch become one. `twice` is where two of them meet."""

    def __init__(self) -> None:
        self._joined: list[Span] = []
        self._waiting: list[Span] = []
        self._twice: int | None = None

    def add(self, start: int, end: int) -> None:
        self._waiting.append((start, end))
        if len(self._waiting) > max(ROOM, len(self._joined)):
            self._join()

    @property
    def joined(self) -> Sequence[Span]:
        """All of it, in order."""
        self._join()
        return self._joined

    @property
    def twice(self) -> int | None:
        """An address that was added twice."""
        self._join()
        return self._twice

    def _join(self) -> None:
        found: list[Span] = []
        self._waiting.sort()
        for start, end in heapq.merge(self._joined, self._waiting):
            if found and start < found[-1][1] and self._twice is None:
                self._twice = start
            if found and start <= found[-1][1]:
                found[-1] = (found[-1][0], max(end, found[-1][1]))
            else:
                found.append((start, end))
        self._joined, self._waiting = found, []


def meetings(
    parties: Sequence[Iterable[tuple[int, int, Label]]],
) -> Iterator[tuple[int, Label, Label]]:
    """Where stretches of different parties meet: an address, and both labels.

    Args:
        parties: (first byte, one past the last, label) of each, in order.
    """
    begun: list[tuple[int, int, Label]] = []
    numbered = [zip(repeat(number), party, strict=False) for number, party in enumerate(parties)]
    for number, (start, end, label) in heapq.merge(*numbered, key=lambda item: item[1][0]):
        begun = [one for one in begun if one[0] > start]
        yield from ((start, other, label) for _, whose, other in begun if whose != number)
        begun.append((end, number, label))


def common(one: Iterable[Span], other: Iterable[Span]) -> int | None:
    """The first address in both; each is in order."""
    labelled = [((start, end, None) for start, end in party) for party in (one, other)]
    return next((at for at, _, _ in meetings(labelled)), None)


def uncovered(spans: Iterable[Span], cover: Sequence[Span]) -> int | None:
    """The first address of stretches that a cover does not have; both are in order, the cover is disjoint."""
    number = 0
    for start, end in spans:
        while start < end:
            while number < len(cover) and cover[number][1] <= start:
                number += 1
            if number == len(cover) or cover[number][0] > start:
                return start
            start = cover[number][1]
    return None
