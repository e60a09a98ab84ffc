"""The verifier's way through tables: one entry after the other, from the lowest address to the highest."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from ..formats.outcome import COMBINED, GROUPED, LEAF, NONE, TABLE
from .source import TableSource
from .subject import Space

_MASK = (1 << 64) - 1

Leaf = tuple[int, int, int, int]
"""Start, HPA, size, attributes with the level in bits 31:24."""


class DisagreementError(Exception):
    """The tables are not what the certificate says; the text is a sentence."""


class UnsoundError(Exception):
    """An entry is not sound, or tables are no tree; the text is a sentence."""


class Visit:
    """One way through all tables of a space. Of each table its address is kept, by level."""

    def __init__(self, space: Space, source: TableSource) -> None:
        self._space, self._source = space, source
        self._format, self._controls = space.regime.format, space.regime.controls
        self.tables: list[set[int]] = [set() for _ in range(self._format.levels)]
        self.leaves_seen = 0

    def leaves(self) -> Iterator[Leaf]:
        """Every leaf, in order of its address.

        Raises:
            UnsoundError: tables or entries are not sound.
        """
        return self._table(self._space.regime.root, self._format.levels - 1, 0, _MASK)

    def size(self, level: int) -> int:
        """Bytes of a table."""
        return 8 << self._format.index_bits(level)

    def _table(self, at: int, level: int, base: int, allowed: int) -> Iterator[Leaf]:
        fmt = self._format
        if any(at in known for known in self.tables):
            raise UnsoundError(f"{self._space.who}: two entries lead to the table at {at:#x}")
        data = self._source.bytes_at(at, self.size(level))
        if data is None:
            raise UnsoundError(f"{self._space.who}: the table at {at:#x} is outside the memory of tables")
        self.tables[level].add(at)
        size = 1 << fmt.level_shift(level)
        for index, (word,) in enumerate(struct.iter_unpack("<Q", data)):
            kind, output, attributes = (int(part) for part in fmt.decode(word, level, self._controls))
            start = base + index * size
            if kind == TABLE:
                yield from self._table(output, level - 1, start, allowed & (attributes | _MASK ^ COMBINED))
            elif kind == LEAF:
                self.leaves_seen += 1
                if attributes & GROUPED and fmt.group_translates:
                    output |= start & ((1 << fmt.group_bits_at(level)) - 1) * size
                yield start, output, size, attributes & (allowed | _MASK ^ COMBINED) | level << 24
            elif kind != NONE:
                raise UnsoundError(f"{self._space.who}: the entry {word:#x} at {at + 8 * index:#x} is not sound")

    def levels(self) -> list[dict[str, Any]]:
        """What a certificate says of the tables of each level, from the root's on."""
        found = []
        for level in range(self._format.levels - 1, -1, -1):
            digest = hashlib.sha256()
            for at in sorted(self.tables[level]):
                digest.update(struct.pack("<Q", at) + (self._source.bytes_at(at, self.size(level)) or b""))
            found.append({"level": level, "tables": len(self.tables[level]), "sha256": digest.hexdigest()})
        return found


def held_against(space: Space, leaves: Iterator[Leaf], rows: Iterable[Leaf]) -> Iterator[Leaf]:
    """The certificate's ranges, once it is sure that each is made of leaves, in order, and that there are no others.

    Raises:
        DisagreementError: that is not so.
    """
    for start, hpa, size, attributes in rows:
        done = 0
        while done < size:
            leaf = next(leaves, None)
            if leaf is None or (leaf[0], leaf[1], leaf[3]) != (start + done, hpa + done, attributes):
                break
            done += leaf[2]
        if not 0 < done == size:
            raise DisagreementError(f"{space.who}: the certificate's range at {start:#x} is not what the tables map")
        yield start, hpa, size, attributes
    more = next(leaves, None)
    if more is not None:
        raise DisagreementError(f"{space.who}: the tables map {more[0]:#x}, and the certificate does not say so")
