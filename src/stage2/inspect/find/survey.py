"""One pass over all memory: which pages hold words that could point to tables, and what else stands out.

Every page is looked at once, as words, by tests that all readings share. What a page is, is decided later, on the few
that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ...address import SIZE_4K, Range, align_down, align_up
from ...prove.packing import U64Array
from ..source import MemorySource
from .reading import Reading, Shape

_PIECE = 1 << 19
"""Bytes that are looked at together: so many that what is made of them stays in a CPU's cache."""
Found = TypeVar("Found")
_WORDS = SIZE_4K // 8
THREADS = 2
NOTE_BEGINS = int.from_bytes(b"OSRELEAS", "little")
"""Linux's VMCOREINFO begins so, at the start of a page (kernel/vmcore_info.c)."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and those of all."""


@dataclass(frozen=True, slots=True)
class PointerTest:
    """Words that could point to a table in memory.

    Args:
        shape: the bits that they have.
        field: the bits of the address.
        least: the field's value for the first address of the memory.
        span: how much more it may be.
    """

    shape: Shape
    field: int
    least: int
    span: int

    def hits(self, words: U64Array) -> npt.NDArray[np.bool_]:
        """Which words pass."""
        found = self.shape.fits(words)
        found &= (words & np.uint64(self.field)) - np.uint64(self.least) <= np.uint64(self.span)
        return found

    def covers(self, other: PointerTest) -> bool:
        """Whether whatever passes the other passes this."""
        same = (self.field & other.field, self.least & other.field) == (other.field, other.least)
        return same and self.span >= other.span and other.shape.implies(self.shape)


@dataclass(slots=True)
class Survey:
    """What one pass found.

    Args:
        size: bytes that were looked at.
        empty: bytes of pages with nothing in them.
        pages: for each test the addresses of pages with a word that passes, in order.
        notes: pages that begin as VMCOREINFO does.
        busy: addresses of all pages with something in them, in order.
    """

    size: int = 0
    empty: int = 0
    pages: dict[PointerTest, U64Array] = field(default_factory=dict)
    notes: U64Array = field(default_factory=lambda: np.zeros(0, np.uint64))
    busy: U64Array = field(default_factory=lambda: np.zeros(0, np.uint64))


def pointer_test(reading: Reading, hull: Range) -> PointerTest:
    """The test for a reading's pointers into a stretch of memory."""
    at, count, output = max(reading.packing.runs, key=lambda run: run[1])
    mask = ((1 << count) - 1) << at
    if hull.end - 1 >> output + count:  # addresses have bits elsewhere: all pass
        return PointerTest(reading.table, mask, 0, mask)
    least, last = (address >> output << at & mask for address in (hull.start, hull.end - 1))
    return PointerTest(reading.table, mask, least, last - least)


def tests_for(readings: Sequence[Reading], hull: Range) -> dict[Reading, PointerTest]:
    """For each reading a test, as few different ones as do for all."""
    own = {reading: pointer_test(reading, hull) for reading in readings}
    distinct = list(dict.fromkeys(own.values()))
    kept: list[PointerTest] = []
    for test in sorted(distinct, key=lambda test: (test.shape.mask.bit_count(), -test.field.bit_count())):
        if not any(other.covers(test) for other in kept):
            kept.append(test)
    return {reading: next(other for other in kept if other.covers(test)) for reading, test in own.items()}


def pieces_of(source: MemorySource, size: int = _PIECE) -> Iterator[Range]:
    """Whole pages of a source in stretches of at most `size` bytes."""
    for span in source.ranges():
        first, end = align_up(span.start, SIZE_4K), align_down(span.end, SIZE_4K)
        for start in range(first, end, size):
            yield Range(start, min(start + size, end))


def words_of(source: MemorySource, piece: Range) -> U64Array:
    """The words of whole pages, a row a page."""
    return np.frombuffer(source.read(piece.start, piece.size), "<u8").reshape(-1, _WORDS)


def survey(source: MemorySource, tests: Iterable[PointerTest], progress: Progress | None = None) -> Survey:
    """Look at all whole pages of a source.

    Raises:
        SourceError: it can no longer be read.
    """
    asked = tuple(dict.fromkeys(tests))
    whole = sum(span.size for span in source.ranges())
    found = Survey()
    hits: dict[PointerTest, list[U64Array]] = {test: [] for test in asked}
    notes: list[U64Array] = []
    busy: list[U64Array] = []
    for piece, seen in over_pieces(pieces_of(source), lambda piece: _look(source, piece, asked)):
        found.size += piece.size
        busy.append(seen[0])
        notes.append(seen[1])
        for test, pages in zip(asked, seen[2:], strict=True):
            hits[test].append(pages)
        if progress is not None:
            progress(found.size, whole)
    found.pages = {test: _together(pages) for test, pages in hits.items()}
    found.notes, found.busy = _together(notes), _together(busy)
    found.empty = found.size - SIZE_4K * len(found.busy)
    return found


def over_pieces(pieces: Iterator[Range], look: Callable[[Range], Found]) -> Iterator[tuple[Range, Found]]:
    """What a function finds in each piece, in order, on a few threads; only a few pieces are held at once."""
    with ThreadPoolExecutor(THREADS) as pool:
        while ahead := [piece for _, piece in zip(range(64), pieces, strict=False)]:
            yield from zip(ahead, pool.map(look, ahead), strict=True)


def _look(source: MemorySource, piece: Range, tests: Sequence[PointerTest]) -> list[U64Array]:
    words = words_of(source, piece)
    there = np.flatnonzero(np.bitwise_or.reduce(words, axis=1))
    at = np.uint64(piece.start) + there.astype(np.uint64) * np.uint64(SIZE_4K)
    if len(there) < len(words):
        words = words[there]
    seen = [at, at[words[:, 0] == np.uint64(NOTE_BEGINS)]]
    return list(chain(seen, (at[test.hits(words).any(axis=1)] for test in tests)))


def _together(parts: Sequence[U64Array]) -> U64Array:
    return np.concatenate([np.zeros(0, np.uint64), *parts])
