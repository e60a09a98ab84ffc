"""Reading a host again and again: tables that hold what they held are compared, and not decoded once more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .packing import U64Array
from .source import TableSource
from .subject import Space, Subject
from .world import Scanned, World


@dataclass(frozen=True, slots=True)
class _Known:
    """A space as it was read, and the words of its tables by (level, addresses)."""

    scanned: Scanned
    words: tuple[tuple[U64Array, U64Array], ...]

    def holds(self, space: Space, source: TableSource) -> bool:
        """Whether nothing of it has changed."""
        if space != self.scanned.space:
            return False
        return all(np.array_equal(source.tables(at, then.shape[1]), then) for at, then in self.words)


class Rereader:
    """Reads one host after every change. The tables are those of one source, and stay in its memory."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], _Known] = {}

    def world(self, subject: Subject) -> World:
        """All tables of a subject, as they are now."""
        before, self._known = self._known, {}
        for space in (*subject.spaces, *subject.own):
            key = space.name, space.regime.root
            known = before.get(key)
            if known is None or not known.holds(space, subject.source):
                known = _read(space, subject.source)
            self._known[key] = known
        read = [[self._known[one.name, one.regime.root].scanned for one in spaces] for spaces in
                (subject.spaces, subject.own)]  # fmt: skip
        return World.made(subject, *read)


def _read(space: Space, source: TableSource) -> _Known:
    """A space and the words of its tables. What a walker sets in between are accessed and dirty bits, which no theorem
    is about."""
    fmt = space.regime.format
    scanned = Scanned.of(space, source)
    words = []
    for level in range(fmt.levels - 1, -1, -1):
        at = scanned.scan.tables[scanned.scan.tables[:, 1] == np.uint64(level), 0]
        bits = fmt.index_bits(level)
        words.append((at, source.tables(at, 1 << bits).copy()))
    return _Known(scanned, tuple(words))
