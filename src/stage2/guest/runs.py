"""Where the bytes of one access lie in host memory: runs, and copying between them and a buffer.

Runs are arrays, so that memory in scattered frames costs no Python per page: few runs are copied one by one, many
as whole pages that numpy gathers and scatters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..address import SIZE_4K, Range
from ..memory.physical import PhysicalMemory

I64Array = npt.NDArray[np.int64]
Octets = npt.NDArray[np.uint8]
_FEW = 64
"""Limit: runs that are copied one slice at a time; with more, one indexed copy is faster."""
_PAGE_MASK = SIZE_4K - 1


@dataclass(frozen=True, slots=True)
class Runs:
    """The bytes of one access that are in host memory; what is between the runs is declared but not there yet.

    Args:
        offsets: of each run's first byte, counted from the first byte of the access; in order.
        hpas: where it is.
        sizes: bytes of each run. Runs that continue each other are joined.
        total: bytes of the access.
        touched: the GPA ranges it reaches.
    """

    offsets: I64Array
    hpas: I64Array
    sizes: I64Array
    total: int
    touched: tuple[Range, ...]

    @classmethod
    def joined(cls, offsets: I64Array, hpas: I64Array, sizes: I64Array, total: int, touched: tuple[Range, ...]) -> Runs:
        """Runs from pieces in order of offset, those that continue each other joined."""
        if len(offsets) > 1:
            first = starts_of_runs(sizes, offsets, hpas)
            offsets, hpas, sizes = offsets[first], hpas[first], np.add.reduceat(sizes, first)
        return cls(offsets, hpas, sizes, total, touched)

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        return int(self.sizes.sum()) == self.total

    @property
    def single(self) -> int | None:
        """The HPA of the first byte, when all bytes are there in one run."""
        return int(self.hpas[0]) if len(self.sizes) == 1 and self.sizes[0] == self.total else None

    def clip(self, first: int, size: int) -> Iterator[tuple[int, int]]:
        """(HPA, size) of what the bytes [first, first + size) of the access have."""
        low = int(np.searchsorted(self.offsets + self.sizes, first, side="right"))
        high = int(np.searchsorted(self.offsets, first + size))
        for offset, hpa, length in self._rows(low, high):
            start, end = max(offset, first), min(offset + length, first + size)
            yield hpa + start - offset, end - start

    def outside(self, memory: PhysicalMemory) -> tuple[int, int] | None:
        """(offset, HPA) of the first byte that host memory does not have; None when it has all."""
        hpa = self.single
        if hpa is not None and memory.contains(hpa, self.total):
            return None
        table = memory.range_table.astype(np.int64)
        index = np.searchsorted(table[:, 0], self.hpas, side="right") - 1
        inside = np.where(index >= 0, table[index, 1], 0)
        missing = np.flatnonzero(self.hpas + self.sizes > inside)
        if not len(missing):
            return None
        run = int(missing[0])
        good = max(int(inside[run]) - int(self.hpas[run]), 0)
        return int(self.offsets[run]) + good, int(self.hpas[run]) + good

    def load(self, memory: PhysicalMemory, into: Octets) -> None:
        """Copy the runs into a buffer of `total` bytes; where there is no run, it is left as it is."""
        host, base = _octets(memory), memory.base
        if len(self.offsets) > 1 and np.may_share_memory(host, into):
            # The buffer is guest memory itself: what is read later must not be what was written sooner.
            copy = into.copy()
            self.load(memory, copy)
            into[:] = copy
            return
        for offset, hpa, size in self._slices():
            into[offset : offset + size] = host[hpa - base : hpa - base + size]
        if len(self.offsets) > _FEW:
            body, rows, frames = self._pages(memory, into)
            body[rows] = host.reshape(-1, SIZE_4K)[frames]

    def store(self, memory: PhysicalMemory, data: Octets) -> None:
        """Copy a buffer of `total` bytes to the runs, which are complete and all in host memory."""
        host, base = _octets(memory), memory.base
        if len(self.offsets) > 1 and np.may_share_memory(host, data):
            data = data.copy()
        for offset, hpa, size in self._slices():
            host[hpa - base : hpa - base + size] = data[offset : offset + size]
        if len(self.offsets) > _FEW:
            body, rows, frames = self._pages(memory, data)
            host.reshape(-1, SIZE_4K)[frames] = body[rows]

    def _rows(self, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        return zip(
            self.offsets[low:high].tolist(), self.hpas[low:high].tolist(), self.sizes[low:high].tolist(), strict=True
        )

    def _slices(self) -> Iterator[tuple[int, int, int]]:
        """(offset, HPA, size) of what is copied piece by piece: all runs if few, else what is no whole page."""
        if len(self.offsets) <= _FEW:
            yield from self._rows(0, len(self.offsets))
            return
        # Runs end within a page only where the access does, so these are the head of the first and the tail of
        # the last run.
        first, last = next(self._rows(0, 1)), next(self._rows(len(self.offsets) - 1, len(self.offsets)))
        head = min(-first[1] & _PAGE_MASK, first[2])
        tail = (last[1] + last[2]) & _PAGE_MASK
        if head:
            yield first[0], first[1], head
        if tail:
            yield last[0] + last[2] - tail, last[1] + last[2] - tail, tail

    def _pages(self, memory: PhysicalMemory, buffer: Octets) -> tuple[Octets, I64Array, I64Array]:
        """The whole pages of the runs: the buffer as pages, their rows in it, and their frames in host memory."""
        low = (self.hpas + _PAGE_MASK) & ~_PAGE_MASK
        counts = np.maximum(((self.hpas + self.sizes) & ~_PAGE_MASK) - low, 0) >> 12
        # All pages stand at one distance from a multiple of the page size in the buffer.
        phase = (int(self.offsets[0]) - int(self.hpas[0])) & _PAGE_MASK
        rows = (self.offsets + low - self.hpas - phase) >> 12
        frames = (low - int(memory.base)) >> 12
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        whole = (len(buffer) - phase) >> 12
        body = buffer[phase : phase + (whole << 12)].reshape(-1, SIZE_4K)
        return body, np.repeat(rows, counts) + within, np.repeat(frames, counts) + within


def starts_of_runs(sizes: npt.NDArray[np.int64], *addresses: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Indices of the pieces that do not continue the one before them in all of the addresses."""
    breaks = np.zeros(len(sizes), np.bool_)
    breaks[:1] = True
    for column in addresses:
        breaks[1:] |= column[1:] != column[:-1] + sizes[:-1]
    return np.flatnonzero(breaks)


def _octets(memory: PhysicalMemory) -> Octets:
    return memory.words.view(np.uint8)
