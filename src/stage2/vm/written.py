"""Which pages a guest writes, for several who want to know: writes are tracked once, and each is told since when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..flags import MappingFlags
from ..space.address_space import AddressSpace
from ..tables.mapping import U64Array

if TYPE_CHECKING:
    from ..address import Range

NO_PAGES: U64Array = np.zeros(0, np.uint64)


class WrittenPages:
    """The pages of one VM that it may write to. What other VMs write to memory that it shares is not seen.

    Edits tables: to be used while the VM's machine is at rest.

    Args:
        space: whose pages.
    """

    def __init__(self, space: AddressSpace) -> None:
        self.space = space
        self._readers: list[WrittenReader] = []
        self._spans: list[Range] = []

    def reader(self) -> WrittenReader:
        """Somebody who wants to know what is written from now on; the first makes tracking begin.

        Raises:
            EncodingError: the format cannot take write permission away alone; nothing changed.
        """
        with self.space.lock:
            if self._readers:
                self._harvest()
            else:
                self._begin()
            made = WrittenReader(self)
            self._readers.append(made)
            return made

    def tell(self, pages: U64Array, *, besides: WrittenReader | None = None) -> None:
        """The host wrote pages in a way of its own: let the readers know.

        Args:
            pages: GPAs of the format's smallest pages.
            besides: who knows already.
        """
        with self.space.lock:
            for reader in self._readers:
                if reader is not besides:
                    reader._found.append(pages)

    def _begin(self) -> None:
        for region in self.space.memory_regions:
            if region.map_type.holds_bytes and region.flags & MappingFlags.WRITE:
                try:
                    self.space.track_writes(region.start, region.size)
                except BaseException:
                    self._end()
                    raise
                self._spans.append(region.range)

    def _end(self) -> None:
        for span in self._spans:
            for part in self.space.tracked(span):
                self.space.stop_tracking(part.start, part.size)
        self._spans.clear()

    def _harvest(self) -> None:
        """Let every reader know what was written since the last time."""
        page = self.space.format.page_size
        found = [NO_PAGES]
        for span in self._spans:
            # Of what was undeclared meanwhile, nothing is tracked any more.
            for part in self.space.tracked(span):
                written = np.flatnonzero(self.space.harvest_writes(part.start, part.size)).astype(np.uint64)
                found.append(written * np.uint64(page) + np.uint64(part.start))
        pages: U64Array = np.concatenate(found)
        if len(pages):
            for reader in self._readers:
                reader._found.append(pages)

    def _leave(self, reader: WrittenReader) -> None:
        with self.space.lock:
            if reader in self._readers:
                self._readers.remove(reader)
                if not self._readers and not self.space.destroyed:
                    self._end()


class WrittenReader:
    """One who wants to know. Made by `WrittenPages.reader`.

    Args:
        pages: of whom.
    """

    def __init__(self, pages: WrittenPages) -> None:
        self._pages = pages
        self._found: list[U64Array] = []

    def take(self) -> U64Array:
        """The GPAs of the format's smallest pages that were written since the last time, in order."""
        with self._pages.space.lock:
            self._pages._harvest()
            found: U64Array = np.unique(np.concatenate([NO_PAGES, *self._found]))
            self._found.clear()
            return found

    def put_back(self, pages: U64Array) -> None:
        """Let `take` answer with these again, because nothing came of it."""
        self._found.append(pages)

    @property
    def count(self) -> int:
        """About how many there are now: without a harvest, so that nothing is tracked afresh."""
        fresh = sum(self._pages.space.written_so_far(span) for span in self._pages._spans)
        return fresh + len(np.unique(np.concatenate([NO_PAGES, *self._found])))

    def close(self) -> None:
        """It wants to know no more; tracking ends with the last. Harmless when repeated."""
        self._pages._leave(self)
