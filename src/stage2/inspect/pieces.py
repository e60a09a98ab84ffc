"""Memory that lies in a file piece by piece, read where it lies.

The pieces may stand anywhere in the file, at any alignment. Where two say something of the same address, the one that
comes first in the file's own list counts, as a debugger takes the first segment that holds an address; pieces that show
the same bytes of the file there do not contradict each other. An address in no piece is a hole.
"""

from __future__ import annotations

import heapq
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..address import Range
from ..errors import SourceError
from ..prove.packing import U64Array
from .file_bytes import FileBytes
from .source import Cpu, MemorySource

MOST_PIECES = 1 << 20
"""Limit: pieces of one file."""
_MOST_TIMES = 4
"""Limit: bytes of memory for each byte of the file, or a small file would be endless memory."""


class Pieces:
    """Where memory lies in a file: disjoint, in order of HPA, those that go on in both joined.

    Args:
        starts, lasts: HPAs of the first and the last byte of each.
        offsets: in the file.
    """

    def __init__(self, starts: U64Array, lasts: U64Array, offsets: U64Array) -> None:
        self.starts, self.lasts, self.offsets = starts, lasts, offsets

    def __len__(self) -> int:
        return len(self.starts)

    def touching(self) -> npt.NDArray[np.bool_]:
        """Of each piece but the first, whether it begins where the one before ends."""
        found: npt.NDArray[np.bool_] = self.starts[1:] == self.lasts[:-1] + np.uint64(1)
        return found


def laid_out(rows: U64Array, store: int, name: str, notices: list[str]) -> Pieces:
    """Pieces as a header lists them, made sound.

    Args:
        rows: HPA, size and offset in the store, in the order in which they are listed, shape (n, 3); any numbers.
        store: bytes that are there; what lies beyond is missing.
        name: of the file, for messages.
        notices: gets a sentence for what is missing of them.

    Raises:
        SourceError: none has a byte in the store, there are too many, or they say far more than the store has.
    """
    if len(rows) > MOST_PIECES:
        raise SourceError(f"{name} lists {len(rows)} pieces of memory; {MOST_PIECES} are the most that are read")
    starts, listed, offsets = (np.ascontiguousarray(rows[:, column]) for column in range(3))
    room = np.where(offsets < np.uint64(store), np.uint64(store) - offsets, np.uint64(0))
    sizes = np.minimum(listed, room)
    short = sizes < listed
    if short.any():
        missing = sum((listed[short] - sizes[short]).tolist())
        notices.append(
            f"{name} was cut off: {missing:#x} bytes of memory that it lists are missing, of {short.sum()} of its "
            f"{len(rows)} pieces"
        )
    wraps = (sizes > 0) & (starts + (sizes - np.uint64(1)) < starts)
    if wraps.any():
        notices.append(f"{name} lists memory above 2^64, which was left out")
        sizes[wraps] = np.uint64(0) - starts[wraps]
    there = sizes > 0
    if not there.any():
        what = "was cut off: none of the memory that it lists is in it" if short.any() else "lists no memory"
        raise SourceError(f"{name} {what}")
    starts, sizes, offsets = starts[there], sizes[there], offsets[there]
    order = np.argsort(starts, kind="stable")
    if not _disjoint(starts[order], sizes[order]):
        starts, sizes, offsets = _first_wins(starts, sizes, offsets, name, notices)
        order = np.argsort(starts, kind="stable")
    # As numbers of Python: a million sizes may add up to more than 64 bits.
    whole = sum(sizes.tolist())
    if whole > _MOST_TIMES * store:
        raise SourceError(
            f"{name} lists {whole:#x} bytes of memory and has {store:#x}: the same bytes of it stand for many "
            "addresses, as in no dump"
        )
    return _joined(starts[order], sizes[order], offsets[order])


def _disjoint(starts: U64Array, sizes: U64Array) -> bool:
    return bool(np.all(starts[1:] > starts[:-1] + (sizes[:-1] - np.uint64(1))))


def _joined(starts: U64Array, sizes: U64Array, offsets: U64Array) -> Pieces:
    """Sorted, disjoint pieces; those that go on in memory and in the file become one."""
    lasts = starts + (sizes - np.uint64(1))
    goes_on = (starts[1:] == lasts[:-1] + np.uint64(1)) & (offsets[1:] == offsets[:-1] + sizes[:-1])
    begins = np.flatnonzero(np.concatenate(([True], ~goes_on)))
    ends = np.concatenate((begins[1:], [len(starts)])) - 1
    return Pieces(starts[begins], lasts[ends], offsets[begins])


def _first_wins(
    starts: U64Array, sizes: U64Array, offsets: U64Array, name: str, notices: list[str]
) -> tuple[U64Array, U64Array, U64Array]:
    """Pieces of which some overlap, as disjoint ones: the first listed has what several claim."""
    begin, length, at = starts.tolist(), sizes.tolist(), offsets.tolist()
    events = sorted(range(len(begin)), key=begin.__getitem__)
    found: list[tuple[int, int, int]] = []
    claims: list[int] = []  # of the place that the sweep is at; the first listed is on top
    contradicted, example = 0, 0
    place, number = 0, 0
    while number < len(events) or claims:
        if not claims:
            place = begin[events[number]]
        while claims and begin[claims[0]] + length[claims[0]] <= place:
            heapq.heappop(claims)
        while number < len(events) and begin[events[number]] <= place:
            one = events[number]
            if claims and at[one] - begin[one] != at[claims[0]] - begin[claims[0]]:
                contradicted, example = contradicted + 1, example if contradicted else place
            heapq.heappush(claims, one)
            number += 1
        if not claims:
            continue
        top = claims[0]
        upto = begin[top] + length[top]
        if number < len(events):
            upto = min(upto, begin[events[number]])
        found.append((place, upto - place, at[top] + place - begin[top]))
        place = upto
    if contradicted:
        notices.append(
            f"{name} has {contradicted} pieces that say something else of memory that was listed before, the first at "
            f"HPA {example:#x}: what is listed first counts"
        )
    table = np.array(found, np.uint64)
    return table[:, 0], table[:, 1], table[:, 2]


class PiecedSource(MemorySource):
    """Memory in pieces of a store that has its own offsets; what the store is, is for those who inherit.

    Args:
        name: how messages call it.
        pieces: where memory lies in the store.
        arch: the architecture, where the file says it.
        cpus: the registers that it has.
        notices: what is missing of it, a sentence each.
    """

    def __init__(
        self,
        name: str,
        pieces: Pieces,
        *,
        arch: str | None = None,
        cpus: Sequence[Cpu] = (),
        notices: Sequence[str] = (),
    ) -> None:
        super().__init__(name)
        self.pieces = pieces
        self._arch, self._cpus, self._notices = arch, tuple(cpus), tuple(notices)
        self._starts: list[int] = pieces.starts.tolist()
        self._lasts: list[int] = pieces.lasts.tolist()
        self._offsets: list[int] = pieces.offsets.tolist()

    # --- for those who inherit -----------------------------------------------------------------------

    @abstractmethod
    def stored(self, offset: int, size: int) -> bytes:
        """Bytes of the store that are there."""

    @abstractmethod
    def stored_rows(self, offsets: U64Array, size: int) -> U64Array:
        """Rows of so many bytes, a multiple of 8, each at an offset of the store; all are there."""

    # --- a memory source -----------------------------------------------------------------------------

    @property
    def arch(self) -> str | None:
        return self._arch

    @property
    def notices(self) -> tuple[str, ...]:
        return self._notices

    def registers(self) -> tuple[Cpu, ...]:
        return self._cpus

    @cached_property
    def _ranges(self) -> tuple[Range, ...]:
        starts, lasts = self._joined
        return tuple(Range(start, last + 1) for start, last in zip(starts.tolist(), lasts.tolist(), strict=True))

    @cached_property
    def _joined(self) -> tuple[U64Array, U64Array]:
        """First and last byte of each range: pieces that touch are one, wherever they are stored."""
        begins = np.flatnonzero(np.concatenate(([True], ~self.pieces.touching())))
        ends = np.concatenate((begins[1:], [len(self.pieces)])) - 1
        return self.pieces.starts[begins], self.pieces.lasts[ends]

    def ranges(self) -> tuple[Range, ...]:
        return self._ranges

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        index = bisect_right(self._starts, hpa) - 1
        if index < 0 or size < 0:
            return None
        if hpa + size <= self._lasts[index] + 1:
            return self.stored(self._offsets[index] + hpa - self._starts[index], size)
        return self._across(index, hpa, size) if self.contains(hpa, size) else None

    def _across(self, index: int, hpa: int, size: int) -> bytes:
        """Bytes that begin in one piece and go on in those that follow it."""
        found = []
        while size:
            part = min(size, self._lasts[index] + 1 - hpa)
            found.append(self.stored(self._offsets[index] + hpa - self._starts[index], part))
            hpa, size, index = hpa + part, size - part, index + 1
        return b"".join(found)

    def holds(self, addresses: U64Array, size: int) -> npt.NDArray[np.bool_]:
        starts, lasts = self._joined
        index = np.searchsorted(starts, addresses, "right") - 1
        last = addresses + np.uint64(size - 1)
        inside: npt.NDArray[np.bool_] = (index >= 0) & (last <= lasts[np.maximum(index, 0)]) & (last >= addresses)
        return inside

    def tables(self, addresses: U64Array, entries: int) -> U64Array:
        size = 8 * entries
        index = np.maximum(np.searchsorted(self.pieces.starts, addresses, "right") - 1, 0)
        inside = addresses - self.pieces.starts[index]
        room = self.pieces.lasts[index] - self.pieces.starts[index]
        # Below the first piece `inside` wraps around, and is more than any room.
        whole = (inside <= room) & (room - np.minimum(inside, room) >= np.uint64(size - 1))
        if not whole.all():
            return super().tables(addresses, entries)
        return self.stored_rows(self.pieces.offsets[index] + inside, size)


class FileSource(PiecedSource):
    """Memory in pieces of a file, which is never read as a whole: what is asked for is taken from where it lies.

    Args:
        file: the file.
        pieces: where memory lies in it.
        arch, cpus, notices: as every `PiecedSource` has them.
    """

    def __init__(
        self,
        file: FileBytes,
        pieces: Pieces,
        *,
        arch: str | None = None,
        cpus: Sequence[Cpu] = (),
        notices: Sequence[str] = (),
    ) -> None:
        super().__init__(file.name, pieces, arch=arch, cpus=cpus, notices=notices)
        self._extents = file.extents
        self._octets = file.octets
        self._view = file.octets.data

    def close(self) -> None:
        # The mapping ends with the last array that looks at it.
        self._octets = np.zeros(0, np.uint8)
        self._view = self._octets.data

    @cached_property
    def _filled(self) -> tuple[Range, ...]:
        extents = self._extents or ()
        ends = [end for _, end in extents]
        found: list[Range] = []
        for start, last, offset in zip(self._starts, self._lasts, self._offsets, strict=True):
            size = last - start + 1
            for first, end in extents[bisect_right(ends, offset) :]:
                if first >= offset + size:
                    break
                low, high = max(first, offset), min(end, offset + size)
                begin = start + low - offset
                if found and found[-1].end == begin:
                    begin = found.pop().start
                found.append(Range(begin, start + high - offset))
        return tuple(found)

    def filled_ranges(self) -> tuple[Range, ...]:
        return self.ranges() if self._extents is None else self._filled

    def word_at(self, hpa: int) -> int | None:
        index = bisect_right(self._starts, hpa) - 1
        if index < 0 or hpa + 7 > self._lasts[index]:
            return super().word_at(hpa)
        at = self._offsets[index] + hpa - self._starts[index]
        return int.from_bytes(self._view[at : at + 8], "little")

    def stored(self, offset: int, size: int) -> bytes:
        return bytes(self._view[offset : offset + size])

    def stored_rows(self, offsets: U64Array, size: int) -> U64Array:
        return rows_of(self._octets, offsets, size)


def rows_of(octets: npt.NDArray[np.uint8], offsets: U64Array, size: int) -> U64Array:
    """Rows of bytes as 64-bit words: those that follow each other without a copy.

    Args:
        octets: what they are taken from.
        offsets: where each begins, whatever its alignment.
        size: bytes of a row, a multiple of 8.
    """
    count, words = len(offsets), size // 8
    if not count:
        return np.zeros((0, words), np.uint64)
    if np.all(offsets[1:] - offsets[:-1] == np.uint64(size)):
        first = int(offsets[0])
        return octets[first : first + count * size].view("<u8").reshape(count, words)
    phases = offsets % np.uint64(size)
    if np.all(phases == phases[0]):
        return _taken(octets, offsets, size, int(phases[0])).view("<u8").reshape(count, words)
    found = np.empty((count, words), "<u8")
    for phase in np.unique(phases).tolist():
        mine = phases == np.uint64(phase)
        found[mine] = _taken(octets, offsets[mine], size, phase).view("<u8").reshape(-1, words)
    return found


def _taken(octets: npt.NDArray[np.uint8], offsets: U64Array, size: int, phase: int) -> npt.NDArray[np.void]:
    """Rows whose offsets have the same remainder. As rows of plain bytes they need no alignment: numpy would copy the
    whole of a misaligned array of words before it takes a few of them.
    """
    count = (len(octets) - phase) // size
    rows = octets[phase : phase + count * size].view(f"V{size}")
    return rows.take(((offsets - np.uint64(phase)) // np.uint64(size)).astype(np.int64))
