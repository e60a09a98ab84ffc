"""Several sources as one memory, each with its own part of the addresses."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..address import Range
from ..errors import SourceError
from ..prove.packing import U64Array
from .source import Cpu, MemorySource


def joined(sources: Sequence[MemorySource]) -> MemorySource:
    """Sources as one; a single one is itself.

    Raises:
        SourceError: there is none, or two have memory at the same address.
    """
    if not sources:
        raise SourceError("no file was named")
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


class JoinedSource(MemorySource):
    """Sources that have no address in common.

    Args:
        sources: what CPUs and architecture they know is taken together.

    Raises:
        SourceError: two have memory at the same address.
    """

    def __init__(self, sources: Sequence[MemorySource]) -> None:
        super().__init__(", ".join(dict.fromkeys(source.name for source in sources)))
        self.sources = tuple(sources)
        spans = [(span.start, span.end, number) for number, one in enumerate(sources) for span in one.ranges()]
        spans.sort()
        for (_, end, first), (start, _, second) in pairwise(spans):
            if start < end:
                names = f"{sources[first].name} and {sources[second].name}"
                raise SourceError(f"{names} both have memory at HPA {start:#x}: give bases that keep them apart")
        self._spans = spans
        self._firsts = np.array([start for start, _, _ in spans], np.uint64)
        self._lasts = np.array([end - 1 for _, end, _ in spans], np.uint64)
        self._owners = np.array([number for _, _, number in spans], np.intp)
        found: list[Range] = []
        for start, end, _ in spans:
            if found and found[-1].end == start:
                start = found.pop().start
            found.append(Range(start, end))
        self._ranges = tuple(found)

    def ranges(self) -> tuple[Range, ...]:
        return self._ranges

    def filled_ranges(self) -> tuple[Range, ...]:
        spans = [span for source in self.sources for span in source.filled_ranges()]
        return tuple(sorted(spans, key=lambda span: span.start))

    def registers(self) -> tuple[Cpu, ...]:
        return tuple(cpu for source in self.sources for cpu in source.registers())

    @property
    def arch(self) -> str | None:
        return next((source.arch for source in self.sources if source.arch is not None), None)

    @property
    def notices(self) -> tuple[str, ...]:
        return tuple(text for source in self.sources for text in source.notices)

    def close(self) -> None:
        for source in self.sources:
            source.close()

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        if not self.contains(hpa, size):
            return None
        found = []
        index = bisect_right(self._spans, (hpa, 1 << 65, 0)) - 1
        while size:
            _, end, owner = self._spans[index]
            part = min(size, end - hpa)
            found.append(self.sources[owner].read(hpa, part))
            hpa, size, index = hpa + part, size - part, index + 1
        return b"".join(found)

    def tables(self, addresses: U64Array, entries: int) -> U64Array:
        index = np.maximum(np.searchsorted(self._firsts, addresses, "right") - 1, 0)
        last = addresses + np.uint64(8 * entries - 1)
        if not len(addresses) or np.any((addresses < self._firsts[index]) | (last > self._lasts[index])):
            return super().tables(addresses, entries)
        owners = self._owners[index]
        if np.all(owners == owners[0]):
            return self.sources[int(owners[0])].tables(addresses, entries)
        found = np.empty((len(addresses), entries), np.uint64)
        for owner in np.unique(owners).tolist():
            mine = owners == owner
            found[mine] = self.sources[owner].tables(addresses[mine], entries)
        return found
