"""Output addresses out of arrays of entries: the inverse of a format's `pack_address`, bit by bit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ..formats.record import Format

U64Array = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the bits of an output address stand in an entry.

    Args:
        runs: (first bit in the entry, number of bits, first bit of the address), from the lowest.
    """

    runs: tuple[tuple[int, int, int], ...]

    def mask(self, low: int = 0) -> int:
        """The entry's bits for the address's bits from `low` on."""
        found = 0
        for at, count, output in self.runs:
            for bit in range(count):
                if output + bit >= low:
                    found |= 1 << (at + bit)
        return found

    def outputs(self, entries: U64Array) -> U64Array:
        """The addresses in entries."""
        found = np.zeros_like(entries)
        for at, count, output in self.runs:
            part = entries >> np.uint64(at) & np.uint64((1 << count) - 1)
            found |= part << np.uint64(output)
        return found


@cache
def packing_of(fmt: Format) -> Packing:
    """The packing of a format's entries, found by asking for every bit of an address."""
    runs: list[tuple[int, int, int]] = []
    for bit in range(fmt.page_shift, fmt.output_bits):
        at = int(fmt.pack_address(1 << bit)).bit_length() - 1
        if runs and (at, bit) == (runs[-1][0] + runs[-1][1], runs[-1][2] + runs[-1][1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, runs[-1][2])
        else:
            runs.append((at, 1, bit))
    return Packing(tuple(runs))
