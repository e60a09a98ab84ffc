"""Where the bytes of tables come from: a host's memory, or files."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..address import Hpa
from ..memory.physical import PhysicalMemory
from .lookup import within
from .packing import U64Array


class TableSource(Protocol):
    """Physical memory with tables in it; walks can be explained on it (`tables.explain.WordSource`)."""

    def contains(self, address: int, size: int = 1) -> bool:
        """Whether all `size` bytes from an HPA are there."""
        ...

    def word_at(self, hpa: int) -> int | None:
        """The 64-bit word at an HPA; None where it is not there."""
        ...

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        """The bytes from an HPA on; None where they are not all there."""
        ...

    def holds(self, addresses: U64Array, size: int) -> npt.NDArray[np.bool_]:
        """`contains` for many addresses."""
        ...

    def tables(self, addresses: U64Array, entries: int) -> U64Array:
        """Tables of so many entries each, a row each; all are there."""
        ...


class HostTables:
    """The memory of a running host.

    Args:
        memory: it.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory

    def contains(self, address: int, size: int = 1) -> bool:
        return self._memory.contains(address, size)

    def word_at(self, hpa: int) -> int | None:
        return self._memory.word_at(hpa)

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        return self._memory.read(Hpa(hpa), size) if self._memory.contains(hpa, size) else None

    def holds(self, addresses: U64Array, size: int) -> npt.NDArray[np.bool_]:
        return within(addresses, np.full_like(addresses, size), self._memory.ranges) >= 0

    def tables(self, addresses: U64Array, entries: int) -> U64Array:
        first = (addresses - np.uint64(self._memory.base)) >> np.uint64(3)
        if np.all(first[1:] - first[:-1] == np.uint64(entries)):  # one piece needs no copy
            start = int(first[0]) if len(first) else 0
            return self._memory.words[start : start + len(first) * entries].reshape(len(first), entries)
        if not np.any(first % np.uint64(entries)):
            words = self._memory.words
            whole = words[: len(words) // entries * entries].reshape(-1, entries)
            return whole.take(first // np.uint64(entries), axis=0)
        found: U64Array = self._memory.words[first[:, None] + np.arange(entries, dtype=np.uint64)]
        return found
