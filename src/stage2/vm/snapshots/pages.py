"""The pages of a snapshot: their bytes by GPA, those that did not change shared with the snapshot before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ...address import SIZE_4K
from ...tables.mapping import U64Array

PAGE = SIZE_4K
"""Bytes of a page of a snapshot, whatever the format's smallest page is."""
_WORDS = PAGE // 8
_AT_ONCE = 1024
"""Pages that are handed on as one piece."""
Bytes = npt.NDArray[np.uint64]
"""Pages as rows of 64-bit words, shape (n, 512)."""


class Pages:
    """Pages by GPA. Immutable.

    Args:
        gpas: in order, each once.
        stores: arrays of pages, each the pages that were copied at one time.
        store, row: of each page, in which of `stores` and where it is.
    """

    def __init__(
        self, gpas: U64Array, stores: tuple[Bytes, ...], store: npt.NDArray[np.int32], row: npt.NDArray[np.int32]
    ) -> None:
        self.gpas, self._stores, self._store, self._row = gpas, stores, store, row

    @classmethod
    def of(cls, gpas: U64Array, data: Bytes) -> Pages:
        """Pages that share nothing.

        Args:
            gpas: in order.
            data: the page of each.
        """
        data.flags.writeable = False
        count = len(gpas)
        return cls(gpas, (data,), np.zeros(count, np.int32), np.arange(count, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.gpas)

    def index(self, gpas: U64Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Of each GPA, whether it is here, and which page it is."""
        at = np.searchsorted(self.gpas, gpas)
        inside = at < len(self.gpas)
        here = np.zeros(len(gpas), np.bool_)
        here[inside] = self.gpas[at[inside]] == gpas[inside]
        return here, at

    def renewed(self, gpas: U64Array, fresh: U64Array, data: Bytes) -> Pages:
        """These pages as they are later.

        Args:
            gpas: which there are then, in order; those that are not here are among `fresh`.
            fresh: those whose bytes are `data`, in order; the others' are the same as here.
        """
        data.flags.writeable = False
        here, at = self.index(gpas)
        store, row = np.full(len(gpas), -1, np.int32), np.zeros(len(gpas), np.int32)
        store[here], row[here] = self._store[at[here]], self._row[at[here]]
        where = np.searchsorted(gpas, fresh)
        store[where], row[where] = len(self._stores), np.arange(len(fresh), dtype=np.int32)
        assert not (store < 0).any(), "a page that was not here before is a fresh one"
        # What no page is in any more is let go of.
        used, number = np.unique(store, return_inverse=True)
        stores = (*self._stores, data)
        return Pages(gpas, tuple(stores[old] for old in used.tolist()), number.reshape(-1).astype(np.int32), row)

    def differing(self, other: Pages) -> U64Array:
        """The GPAs of pages here that are not the very same in `other`, or not there."""
        here, at = other.index(self.gpas)
        names = {id(store): number for number, store in enumerate(self._stores)}
        theirs = np.array([names.get(id(store), -1) for store in other._stores], np.int32)
        same = here.copy()
        same[here] = (theirs[other._store[at[here]]] == self._store[here]) & (other._row[at[here]] == self._row[here])
        found: U64Array = self.gpas[~same]
        return found

    def of_gpas(self, gpas: U64Array) -> Bytes:
        """The bytes of pages that are all here."""
        _, at = self.index(gpas)
        data: Bytes = np.empty((len(gpas), _WORDS), np.uint64)
        store, row = self._store[at], self._row[at]
        for number, pages in enumerate(self._stores):
            mine = store == number
            if mine.any():
                data[mine] = pages[row[mine]]
        return data

    def pieces(self) -> Iterator[Bytes]:
        """All bytes in order of GPA, some pages at a time."""
        for first in range(0, len(self.gpas), _AT_ONCE):
            yield self.of_gpas(self.gpas[first : first + _AT_ONCE])

    def read(self, gpa: int, size: int) -> bytes:
        """The bytes at a GPA; zero where there is no page.

        Args:
            gpa, size: of whatever alignment.
        """
        first, end = gpa // PAGE, -(-(gpa + size) // PAGE)
        gpas: U64Array = np.arange(first, end, dtype=np.uint64) * np.uint64(PAGE)
        data: Bytes = np.zeros((len(gpas), _WORDS), np.uint64)
        here, _ = self.index(gpas)
        data[here] = self.of_gpas(gpas[here])
        return data.tobytes()[gpa - first * PAGE :][:size]
