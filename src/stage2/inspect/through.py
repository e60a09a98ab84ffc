"""Guest physical memory as stage 2 shows it: where a guest's own tables are read from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..address import Range
from ..formats.outcome import READ, USER_SHIFT, WRITE
from ..formats.rules import TABLE_WALK
from ..prove.packing import U64Array
from ..tables.mapping import ATTRIBUTES
from ..tables.regime import Regime
from .source import MemorySource

NOWHERE = (1 << 64) - 1
"""As an HPA: there is none."""


class GuestPhysical:
    """The memory that a guest's physical addresses reach, as a source of tables.

    Only what stage 2 lets hardware read as a table is there: a stage-1 walk elsewhere ends in a stage-2 fault.

    Args:
        source: host physical memory.
        regime: stage 2.
        rows: (n, 4) all that it maps: GPA, HPA, size, attributes; in order.
    """

    def __init__(self, source: MemorySource, regime: Regime, rows: U64Array) -> None:
        self._source = source
        kinds, which = np.unique(rows[:, 3], return_inverse=True)
        good = np.array([_may_hold_tables(regime, int(kind)) for kind in kinds.tolist()], bool)
        self._rows = rows[good[which.ravel()]] if len(rows) else rows
        self._ends = self._rows[:, 0] + self._rows[:, 2]

    @property
    def readable(self) -> U64Array:
        """The rows that tables may be read through."""
        return self._rows

    def hpas(self, gpas: U64Array) -> U64Array:
        """Where GPAs lead; NOWHERE where a table cannot be read."""
        if not len(self._rows):
            return np.full_like(gpas, NOWHERE)
        at = np.searchsorted(self._ends, gpas, "right")
        row = self._rows[np.minimum(at, len(self._rows) - 1)]
        inside = (at < len(self._rows)) & (gpas >= row[:, 0])
        return np.where(inside, gpas - row[:, 0] + row[:, 1], np.uint64(NOWHERE))

    def _pieces(self, gpa: int, size: int) -> list[Range] | None:
        """The host memory of a stretch; None where some of it leads nowhere."""
        found: list[Range] = []
        while size:
            index = int(np.searchsorted(self._ends, np.uint64(gpa), "right"))
            if index == len(self._rows) or gpa < int(self._rows[index, 0]):
                return None
            start, hpa, length = (int(number) for number in self._rows[index, :3])
            taken = min(size, start + length - gpa)
            found.append(Range.sized(hpa + gpa - start, taken))
            gpa, size = gpa + taken, size - taken
        return found

    def contains(self, address: int, size: int = 1) -> bool:
        pieces = self._pieces(address, size) if 0 <= address < NOWHERE else None
        return pieces is not None and all(self._source.contains(part.start, part.size) for part in pieces)

    def word_at(self, hpa: int) -> int | None:
        found = self.bytes_at(hpa, 8)
        return None if found is None else int.from_bytes(found, "little")

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        pieces = self._pieces(hpa, size)
        if pieces is None:
            return None
        parts = [self._source.bytes_at(part.start, part.size) for part in pieces]
        return None if any(part is None for part in parts) else b"".join(part for part in parts if part is not None)

    def holds(self, addresses: U64Array, size: int) -> npt.NDArray[np.bool_]:
        first, last = self.hpas(addresses), self.hpas(addresses + np.uint64(size - 1))
        found = np.zeros(len(addresses), bool)
        whole = (first != np.uint64(NOWHERE)) & (last - first == np.uint64(size - 1))
        found[whole] = self._source.holds(first[whole], size)
        for number in np.flatnonzero(~whole & (first != np.uint64(NOWHERE))).tolist():
            found[number] = self.contains(int(addresses[number]), size)
        return found

    def tables(self, addresses: U64Array, entries: int) -> U64Array:
        size = 8 * entries
        first, last = self.hpas(addresses), self.hpas(addresses + np.uint64(size - 1))
        whole = last - first == np.uint64(size - 1)
        if whole.all():
            return self._source.tables(first, entries)
        found = np.zeros((len(addresses), entries), np.uint64)
        found[whole] = self._source.tables(first[whole], entries)
        for number in np.flatnonzero(~whole).tolist():
            data = self.bytes_at(int(addresses[number]), size)
            found[number] = np.frombuffer(data or bytes(size), "<u8")
        return found


def _may_hold_tables(regime: Regime, attributes: int) -> bool:
    """Whether hardware may read a stage-1 table through leaves with these attributes."""
    fmt = regime.format
    granted = int(fmt.permissions(attributes & ATTRIBUTES, regime.controls | TABLE_WALK))
    granted |= granted >> USER_SHIFT
    wanted = READ | (WRITE if fmt.walk_write(regime.controls) else 0)
    return granted & wanted == wanted
