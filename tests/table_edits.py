"""Edits of tables that tests make: random ones, and scenes each of which owes something in every format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from stage2.address import ADDRESS_LIMIT, Hpa, Range
from stage2.errors import EncodingError, OutOfMemoryError, OverlapError
from stage2.flags import RWX, MappingFlags, MemoryType
from stage2.formats import by_name
from stage2.formats.invalidation import Operation
from stage2.formats.outcome import ACCESSED, DIRTY
from stage2.formats.record import Format
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tables.mapping import Edit
from stage2.tables.pagetable import PageTable
from stage2.tlb.checker import TlbChecker

TABLES = Owner(OwnerKind.TABLES, "checked")
R, RW, RX = MappingFlags.READ, MappingFlags.READ | MappingFlags.WRITE, MappingFlags.READ | MappingFlags.EXECUTE


def base_of(fmt: Format) -> int:
    """Where the format's addresses begin."""
    return ADDRESS_LIMIT - (1 << fmt.input_bits) if fmt.high_half else 0


@contextmanager
def checked(
    name: str, perform: Callable[[Operation], bool] = lambda _: True, *, hardware_ad: bool = False, lean: bool = False
) -> Iterator[tuple[PageTable, TlbChecker]]:
    """An empty table whose every edit is checked."""
    fmt = by_name(name)
    with PhysicalMemory([Range.sized(0x8000_0000, 16 << 20)]) as memory:
        controls = fmt.default_controls | (fmt.hardware_ad if hardware_ad else 0)
        table = PageTable(fmt, FrameAllocator(memory), owner=TABLES, identifier=5, controls=controls)
        checker = TlbChecker(table, perform, lean=lean)
        yield table, checker
        table.destroy()


def random_edits(table: PageTable, rng: np.random.Generator, count: int) -> int:
    """Edits of every kind in a window of two blocks and a few pages; how many were not refused."""
    fmt = table.format
    page, block = fmt.page_size, fmt.leaf_size(1)
    pages = (2 * block + 8 * page) // page
    base = base_of(fmt)
    done = 0
    for _ in range(count):
        first = int(rng.choice([0, 1, block // page, block // page + 1, int(rng.integers(pages))]))
        length = int(rng.choice([1, 2, 16, block // page, int(rng.integers(1, pages))]))
        length = min(length, pages - first)
        start, size = base + first * page, length * page
        flags = (R, RW, RX, RWX)[int(rng.integers(4))]
        kind = (MemoryType.WRITE_BACK, MemoryType.DEVICE)[int(rng.random() < 0.1)]
        hpa = Hpa((first * page) + (64 << 30) + page * int(rng.random() < 0.1))
        try:
            match int(rng.integers(8)):
                case 0 | 1:
                    largest = page if rng.random() < 0.5 else None
                    table.map_range(start, hpa, size, flags, memory_type=kind, largest=largest)
                case 2 | 3:
                    table.unmap_range(start, size)
                case 4:
                    table.protect_range(start, size, flags, memory_type=kind)
                case 5:
                    table.harvest(start, size, ACCESSED if rng.random() < 0.3 else DIRTY)
                case 6:
                    table.mark(start, size, write=rng.random() < 0.5)
                case _:
                    table.coalesce(start, size, blocks=rng.random() < 0.7, groups=rng.random() < 0.7)
            done += 1
        except (OverlapError, OutOfMemoryError, EncodingError):
            continue
    return done


def prepare(table: PageTable) -> None:
    """A block, pages beside it, and a hole."""
    fmt = table.format
    page, block, base = fmt.page_size, fmt.leaf_size(1), base_of(fmt)
    table.map_range(base, Hpa(block), block, RWX)
    table.map_range(base + block, Hpa(4 * block + page), 4 * page, RWX)
    table.map_range(base + 2 * block, Hpa(8 * block), block, RWX, largest=page)


def _pages(table: PageTable) -> int:
    return base_of(table.format) + table.format.leaf_size(1)


def _filled(table: PageTable) -> int:
    return base_of(table.format) + 2 * table.format.leaf_size(1)


SCENES: dict[str, Callable[[PageTable], Edit | object]] = {
    "unmap a page": lambda t: t.unmap_range(_pages(t), t.format.page_size),
    "unmap all pages of a table": lambda t: t.unmap_range(_pages(t), 4 * t.format.page_size),
    "unmap a block": lambda t: t.unmap_range(base_of(t.format), t.format.leaf_size(1)),
    "unmap part of a block": lambda t: t.unmap_range(base_of(t.format), t.format.page_size),
    "unmap a whole table of pages": lambda t: t.unmap_range(_filled(t), t.format.leaf_size(1)),
    "take writes from a page": lambda t: t.protect_range(_pages(t), t.format.page_size, RX),
    "take writes from part of a block": lambda t: t.protect_range(base_of(t.format), t.format.page_size, RX),
    "merge pages into a block": lambda t: t.coalesce(_filled(t), t.format.leaf_size(1)),
}
