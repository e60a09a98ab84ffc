"""A guest's memory as a source of its own, so that its tables can be searched for as the host's are."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from ...address import Range
from ...prove.packing import U64Array
from ...tables.regime import Regime
from ..listing import Lister
from ..source import MemorySource
from ..through import GuestPhysical

_MOST_TABLES = 1 << 16
_MOST_ROWS = 1 << 18


class GuestMemory(MemorySource):
    """What a stage 2 maps to memory that there is, by guest physical addresses.

    Args:
        source: host physical memory.
        regime: the stage 2.
    """

    def __init__(self, source: MemorySource, regime: Regime) -> None:
        super().__init__(f"the guest of {regime.format.name}@{regime.root:#x} in {source.name}")
        lister = Lister(regime, source, most=_MOST_TABLES, strict=False)
        parts: list[U64Array] = []
        held = 0
        for rows in lister.parts():
            parts.append(rows)
            held += len(rows)
            if held > _MOST_ROWS:
                break
        self._rows = np.concatenate([np.zeros((0, 4), np.uint64), *parts])
        self._host = source
        self._through = GuestPhysical(source, regime, self._rows)

    @property
    def arch(self) -> str | None:
        return self._host.arch

    @cached_property
    def _spans(self) -> tuple[Range, ...]:
        """GPAs of what is in the host's memory, touching ones joined."""
        found: list[Range] = []
        spans = self._host.ranges()
        # What a guest may not read is in no table of its own either.
        rows = self._through.readable
        starts = np.array([span.start for span in spans], np.uint64)
        for gpa, hpa, size, _ in rows.tolist():
            index = max(int(np.searchsorted(starts, hpa, "right")) - 1, 0)
            while index < len(spans) and spans[index].start < hpa + size:
                low, high = max(spans[index].start, hpa), min(spans[index].end, hpa + size)
                if low < high:
                    start, end = gpa + low - hpa, gpa + high - hpa
                    if found and found[-1].end == start:
                        found[-1] = Range(found[-1].start, end)
                    else:
                        found.append(Range(start, end))
                index += 1
        return _at_most(found, 2 * sum(span.size for span in spans))

    def ranges(self) -> tuple[Range, ...]:
        return self._spans

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        return self._through.bytes_at(hpa, size)

    def tables(self, addresses: U64Array, entries: int) -> U64Array:
        return self._through.tables(addresses, entries)

    def hpas(self, gpas: U64Array) -> U64Array:
        """Where GPAs lead; `through.NOWHERE` where there is nothing."""
        return self._through.hpas(gpas)

    def backing(self) -> npt.NDArray[np.uint64]:
        """(n, 2) HPA and size of what is mapped."""
        return self._rows[:, 1:3]


def _at_most(spans: list[Range], limit: int) -> tuple[Range, ...]:
    """The first ranges, no more bytes than a limit: tables may map the same memory any number of times."""
    kept: list[Range] = []
    for span in spans:
        if limit <= 0:
            break
        kept.append(Range(span.start, min(span.end, span.start + limit)))
        limit -= kept[-1].size
    return tuple(kept)
