"""What the rows are measured on: host memory, tables and spaces of known contents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stage2.address import GIB, SIZE_2M, SIZE_4K, Gpa, Gva, Hpa, Range
from stage2.flags import RWX, Access, MappingFlags, MapType
from stage2.formats import by_name
from stage2.guest.memory import GuestMemory
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion
from stage2.tables.pagetable import PageTable
from stage2.tables.regime import Regime
from stage2.tables.result import Fault, Mapped

FORMATS = ("ept4", "arm-s2-4k-40", "sv39x4")
"""One of each architecture; all have a C twin."""
STAGE_1 = {"ept4": "x86-4level", "arm-s2-4k-40": "arm-s1-4k-48", "sv39x4": "sv39"}
"""The guest's own format beside each."""
HOST_BASE = 0x1_0000_0000
START = 0x8000_0000
"""First GPA that is mapped: a multiple of 1 GiB."""
FAR = Hpa(0x80_0000_0000)
"""Where leaves point that nobody reads through: a multiple of 1 GiB below 2^40, the narrowest output of the three."""
GVA_START = 0x10_0000_0000
READ_WRITE = MappingFlags.READ | MappingFlags.WRITE
TABLES = Owner(OwnerKind.TABLES, "benchmark")
U64Array = npt.NDArray[np.uint64]


@contextmanager
def host(size: int) -> Iterator[FrameAllocator]:
    """Host memory of so many bytes."""
    with PhysicalMemory([Range.sized(HOST_BASE, size)]) as memory:
        yield FrameAllocator(memory)


@contextmanager
def table_of(fmt: str, frames: FrameAllocator) -> Iterator[PageTable]:
    """An empty table."""
    table = PageTable(by_name(fmt), frames, owner=TABLES)
    try:
        yield table
    finally:
        table.destroy()


@contextmanager
def mapped(fmt: str, size: int) -> Iterator[PageTable]:
    """A table with so many bytes mapped in 4 KiB leaves from START on."""
    with host(2 * GIB + size // 256) as frames, table_of(fmt, frames) as table:
        table.map_range(START, FAR, size, RWX, largest=SIZE_4K)
        yield table


def random_addresses(start: int, size: int, count: int) -> U64Array:
    """So many random addresses, the same in every run."""
    return np.random.default_rng(1).integers(start, start + size, count, dtype=np.uint64)


def require_equal_to_walks(table: PageTable, addresses: U64Array) -> None:
    """The batch against the explained walk, element by element, with some addresses that nobody maps.

    Raises:
        SystemExit: they differ, so there is nothing to measure.
    """
    chosen = np.concatenate([addresses[:500], np.arange(8, dtype=np.uint64) * np.uint64(1 << 45)])
    batch = table.translate_many(chosen)
    for address, hpa, status in zip(chosen.tolist(), batch.hpa.tolist(), batch.status.tolist(), strict=True):
        found = table.explain(address).result
        right = status == found.kind if isinstance(found, Fault) else (status == 0 and hpa == found.hpa)
        if not right:
            raise SystemExit(f"the batch and the explained walk differ at {address:#x}: {hpa:#x} {status}, {found}")


@dataclass(frozen=True, slots=True)
class Nested:
    """A guest's tables over so much memory in 4 KiB pages, themselves under stage 2.

    Args:
        space: stage 2.
        stage_1: the guest's regime.
        size: bytes that both stages map.
    """

    space: AddressSpace
    stage_1: Regime
    size: int

    def gvas(self, count: int) -> U64Array:
        """Random GVAs that are mapped."""
        return random_addresses(GVA_START, self.size, count)

    def require_equal_to_walks(self, gvas: U64Array) -> None:
        """The batch against explained walks.

        Raises:
            SystemExit: they differ, so there is nothing to measure.
        """
        batch = self.space.translate_gva_many(gvas[:300], self.stage_1, Access.READ)
        for gva, hpa in zip(gvas[:300].tolist(), batch.hpa.tolist(), strict=True):
            found = self.space.walk(Gva(gva), self.stage_1, Access.READ).result
            if not isinstance(found, Mapped) or found.hpa != hpa:
                raise SystemExit(f"the two-stage batch and the explained walk differ at {gva:#x}: {hpa:#x}, {found}")


@contextmanager
def nested(fmt: str, size: int) -> Iterator[Nested]:
    """Both stages over `size` bytes in 4 KiB pages."""
    tables = Range.sized(HOST_BASE, 8 * SIZE_2M + size // 256)
    with host(2 * GIB + size // 64) as frames:
        space = AddressSpace(fmt, frames, largest=SIZE_4K)
        # The guest's tables are built in memory whose HPA equals its GPA, then used under stage 2.
        space.map(tables.start, tables.size, RWX, MapType.MAP_IDENTICAL)
        # Nothing reads the data itself, so a device's addresses will do for it.
        data = Gpa(1 << 37)
        space.map(MemoryRegion(data, size, READ_WRITE, MapType.MMIO, hpa=FAR))
        with PhysicalMemory([tables]) as shadow:
            guest = PageTable(by_name(STAGE_1[fmt]), FrameAllocator(shadow), owner=TABLES)
            guest.map_range(GVA_START, Hpa(data), size, READ_WRITE, largest=SIZE_4K)
            GuestMemory(space).write(Gpa(tables.start), shadow.read(Hpa(tables.start), tables.size))
            stage_1 = Regime.of(guest.format, guest.root, controls=guest.regime.controls)
            guest.destroy()
        try:
            yield Nested(space, stage_1, size)
        finally:
            space.destroy()
