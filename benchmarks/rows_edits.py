"""Rows of edits and listings: 1 GiB in pages, in blocks, in one block, and one page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from stage2.address import GIB, SIZE_1G, SIZE_2M, SIZE_4K, format_size
from stage2.flags import RWX, MappingFlags
from stage2.formats.outcome import ACCESSED
from stage2.tables.pagetable import PageTable

from .measure import Row
from .settings import FAR, READ_WRITE, START, host, mapped, table_of
from .twins import READ, OnOurs, Twin

PAGES = GIB // SIZE_4K
_MS, _US = 1e-3, 1e-6
_KEEPS = "keeps its tables"


@contextmanager
def edit_rows(fmt: str) -> Iterator[list[Row]]:
    """Rows of edits, in three sizes of leaves."""
    with host(2 * GIB) as frames, table_of(fmt, frames) as table:
        twin = Twin(fmt)
        try:
            rows = page_rows(table, twin)
            rows += _blocks(table, twin, SIZE_2M, "2 MiB blocks", 1)
            rows += _blocks(table, twin, SIZE_1G, "one 1 GiB block", 2)
            rows += [*_one_page(table), *_one_block(table), *_bits(table)]
            yield rows
        finally:
            twin.close()


class _Works:
    """What maps a range in leaves of one size and unmaps it again, on a table and on the twin's.

    Args:
        table, twin: empty ones.
        size: bytes of the range.
        leaf: bytes of a leaf.
        level: of such a leaf.
    """

    def __init__(self, table: PageTable, twin: Twin, size: int, leaf: int, level: int) -> None:
        self._table, self._twin = table, twin
        self._size, self._leaf, self._level = size, leaf, level

    def map(self) -> None:
        self._table.map_range(START, FAR, self._size, RWX, largest=self._leaf)

    def clear(self) -> None:
        self._table.unmap_range(START, self._size)

    def fill(self) -> None:
        self.clear()
        self.map()

    def twin_map(self) -> None:
        self._twin.map(START, FAR, self._size // self._leaf, self._level)

    def twin_unmap(self) -> None:
        self._twin.unmap(START, self._size)

    def twin_fill(self) -> None:
        self._twin.forget()
        self.twin_map()


def page_rows(table: PageTable, twin: Twin, size: int = GIB) -> list[Row]:
    """Mapping `size` bytes in 4 KiB pages, unmapping and protecting them."""
    what, works = format_size(size), _Works(table, twin, size, SIZE_4K, 0)
    flags = [RWX, READ_WRITE]

    def protect() -> None:
        # The other permissions each time, so that every leaf changes.
        flags.reverse()
        table.protect_range(START, size, flags[0])

    twin_flags = [twin.allows, READ]

    def twin_protect() -> None:
        twin_flags.reverse()
        twin.protect(START, size, twin_flags[0])

    def ready() -> None:
        if not table.rows(START, SIZE_4K).size:
            works.map()

    return [
        Row(f"map {what} in 4 KiB pages", "ms", _MS, works.map, works.twin_map, works.clear, twin.forget),
        Row("unmap it, tables freed", "ms", _MS, works.clear, works.twin_unmap, works.fill, works.twin_fill, _KEEPS),
        Row("protect it", "ms", _MS, protect, twin_protect, ready, works.twin_fill, "owes no invalidation"),
    ]


def _blocks(table: PageTable, twin: Twin, leaf: int, what: str, level: int) -> list[Row]:
    works = _Works(table, twin, GIB, leaf, level)
    through = "is called from Python once a measured call, as ours is"
    return [
        Row(f"map 1 GiB in {what}", "us", _US, works.map, works.twin_map, works.clear, twin.forget, through, calls=20),
        Row(f"unmap 1 GiB in {what}", "us", _US, works.clear, works.twin_unmap, works.fill, works.twin_fill,
            f"{_KEEPS}; {through}", calls=20),
    ]  # fmt: skip


def _one_page(table: PageTable) -> list[Row]:
    def there_and_gone() -> None:
        table.map_page(START, FAR, RWX)
        table.unmap_page(START)

    def neighbour() -> None:
        table.unmap_range(START, GIB)
        table.map_page(START + SIZE_4K, FAR, RWX)

    def many() -> None:
        for _ in range(200):
            there_and_gone()

    return [Row("map and unmap one page", "us", 200 * _US, many, before=neighbour)]


def _one_block(table: PageTable) -> list[Row]:
    def block() -> None:
        table.unmap_range(START, GIB)
        table.map_range(START, FAR, SIZE_2M, RWX)

    def split() -> None:
        table.protect_range(START, SIZE_4K, MappingFlags.READ)

    def pages() -> None:
        block()
        split()
        table.protect_range(START, SIZE_4K, RWX)

    def merge() -> None:
        table.coalesce(START, SIZE_2M)

    return [
        Row("split a 2 MiB block", "us", _US, split, before=block, calls=50),
        Row("merge a 2 MiB block", "us", _US, merge, before=pages, calls=50),
    ]


def _bits(table: PageTable) -> list[Row]:
    def full() -> None:
        table.unmap_range(START, GIB)
        table.map_range(START, FAR, GIB, RWX, largest=SIZE_4K)

    def marked() -> None:
        full()
        table.mark(START, GIB, write=False)

    return [
        Row("harvest 1 GiB of accessed bits", "ms", _MS, lambda: table.harvest(START, GIB, ACCESSED), before=marked),
        Row("merge 1 GiB into blocks", "ms", _MS, lambda: table.coalesce(START, GIB), before=full),
    ]


@contextmanager
def listing_rows(fmt: str) -> Iterator[list[Row]]:
    """Rows of listings, the twin's on the same table."""
    with mapped(fmt, GIB) as table:
        rows, twin = np.empty((PAGES + 1, 4), np.uint64), OnOurs(table)
        each = table.rows(merge=False)
        if twin.list_leaves(rows, merge=False) != PAGES or not (rows[:PAGES, :3] == each[:, :3]).all():
            raise SystemExit("the twin's listing differs from ours")
        differs = "writes into an array used before"
        yield [
            Row("list 262,144 leaves, each", "ms", _MS, lambda: table.rows(merge=False),
                lambda: twin.list_leaves(rows, merge=False), differs=differs),
            Row("list 262,144 leaves, merged", "ms", _MS, table.rows, lambda: twin.list_leaves(rows, merge=True),
                differs=differs),
        ]  # fmt: skip
