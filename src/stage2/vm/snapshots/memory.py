"""A VM's populated pages as arrays: where they are, their bytes, and bytes put back."""

from __future__ import annotations

import numpy as np

from ...memory.physical import PhysicalMemory
from ...space.leaves import HPA, SIZE, START, expand
from ...tables.mapping import U64Array
from .pages import PAGE, Bytes

_SHIFT = PAGE.bit_length() - 1


class PagesOfMemory:
    """The pages behind leaves.

    Args:
        memory: the host's.
        leaves: (start, HPA, size) in order, as `AddressSpace.leaves_of_memory` has them.
    """

    def __init__(self, memory: PhysicalMemory, leaves: U64Array) -> None:
        which, offset = expand(leaves[:, START], leaves[:, SIZE], np.full(len(leaves), PAGE, np.uint64))
        self.leaves = leaves
        self.gpas: U64Array = leaves[which, START] + offset
        self._memory = memory
        self._index: U64Array = (leaves[which, HPA] + offset - np.uint64(memory.base)) >> np.uint64(_SHIFT)

    def _rows(self, gpas: U64Array) -> U64Array:
        found: U64Array = self._index[np.searchsorted(self.gpas, gpas)]
        return found

    def copy(self, gpas: U64Array) -> Bytes:
        """The bytes of populated pages."""
        pages: Bytes = self._memory.words.reshape(-1, PAGE // 8)[self._rows(gpas)]
        return pages

    def put(self, gpas: U64Array, data: Bytes) -> None:
        """Store the bytes of populated pages."""
        self._memory.words.reshape(-1, PAGE // 8)[self._rows(gpas)] = data


def pages_in(gpas: U64Array, size: int) -> U64Array:
    """The pages of a snapshot that pages of the format are.

    Args:
        gpas: of the format's pages.
        size: bytes of one.
    """
    which, offset = expand(gpas, np.full(len(gpas), size, np.uint64), np.full(len(gpas), PAGE, np.uint64))
    found: U64Array = gpas[which] + offset
    return found
