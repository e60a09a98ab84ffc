"""Every leaf of a table, as ranges: against the listing, which goes down by the walker's own descent."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
from by_kind import all_by_kind
from hypothesis import given
from hypothesis import strategies as st

from stage2 import AddressSpace, FrameAllocator, MappingFlags, MapType, MemoryRegion, PhysicalMemory, Populate
from stage2.address import Gpa, Hpa, Range
from stage2.formats.outcome import WRITE
from stage2.prove.decoding import joined
from stage2.prove.scan import Scan, scan
from stage2.prove.source import HostTables

FORMATS = ("sv39x4", "sv48x4", "ept4", "npt4", "arm-s2-4k-40", "arm-s2-16k-40", "arm-s2-64k-48")
_RESTRICTING = {"ept4": 1 << 1, "npt4": 1 << 1}
"""The bit of a table's entry that lets writes through (SDM 28.3.2; APM 15.25.5)."""
RWX = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE | MappingFlags.USER


def scanned(space: AddressSpace) -> Scan:
    return scan(space.regime, HostTables(space.frames.memory))


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_a_scan_finds_what_the_listing_finds(name: str, data: st.DataObject) -> None:
    memory = PhysicalMemory([Range(0x8000_0000, 0xC000_0000)])
    with memory:
        space = AddressSpace(name, FrameAllocator(memory), populate=Populate.EAGER)
        page = space.format.page_size
        start = 0
        for number in range(data.draw(st.integers(1, 4))):
            start += data.draw(st.integers(0, 600)) * page
            size = data.draw(st.sampled_from([1, 3, 511, 700])) * page
            space.map(MemoryRegion(Gpa(start), size, RWX, MapType.MAP_ALLOC, name=f"ram{number}"))
            start += size
        if data.draw(st.booleans()):
            first = data.draw(st.integers(0, start // page - 1)) * page
            space.unmap(Gpa(first), page)
        found = scanned(space)
        # The listing's own joining takes leaves of different levels together; a scan's ranges have one level each.
        np.testing.assert_array_equal(found.rows, joined(space.page_table.rows(merge=False)))
        statistics = space.page_table.statistics()
        assert (found.leaves, len(found.tables)) == (sum(statistics.leaves.values()), statistics.tables)
        assert found.wrong == []
        assert found.size == sum(size * count for size, count in statistics.leaves.items())


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_full_tables_are_found_leaf_by_leaf_or_in_stretches(name: str, data: st.DataObject) -> None:
    """Tables without an empty entry, whose leaves go on from one to the next but where something cuts them."""
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        frames = FrameAllocator(memory)
        space = AddressSpace(name, frames, populate=Populate.EAGER, largest=1)
        page, block = space.format.page_size, space.format.leaf_size(1)
        tables = 2 if block <= 32 << 20 else 0
        if not tables:
            pytest.skip("a table of leaves of 64 KiB covers 512 MiB")
        space.map(MemoryRegion(Gpa(block), tables * block, RWX, MapType.MAP_ALLOC, name="ram"))
        pages = tables * block // page
        for _ in range(data.draw(st.integers(0, 3))):
            first = data.draw(st.integers(0, pages - 1))
            count = data.draw(st.integers(1, pages - first))
            flags = data.draw(st.sampled_from([RWX, RWX ^ MappingFlags.WRITE, RWX ^ MappingFlags.EXECUTE]))
            space.protect(Gpa(block + first * page), count * page, flags)
        if data.draw(st.booleans()):
            space.page_table.coalesce(block, tables * block, blocks=False, groups=True)
        slots = [space.page_table.explain(block + at * page).steps[-1].slot for at in (0, pages - 1)]
        if data.draw(st.booleans()):  # the first and the last change places
            words = [memory.load_u64(Hpa(slot)) for slot in slots]
            for slot, word in zip(slots, reversed(words), strict=True):
                memory.store_u64(Hpa(slot), word)
        if name in _RESTRICTING and data.draw(st.booleans()):
            step = space.page_table.explain(block).steps[-2]
            memory.store_u64(Hpa(step.slot), step.entry & ~_RESTRICTING[name])
        found = scanned(space)
        np.testing.assert_array_equal(found.rows, joined(space.page_table.rows(merge=False)))
        assert (found.leaves, found.wrong) == (pages, [])


@pytest.mark.parametrize("name", ["ept4", "npt4"])
@pytest.mark.parametrize("by_kind", [False, True], ids=["by row", "by kind"])
def test_what_a_table_above_takes_away_no_leaf_below_it_allows(name: str, by_kind: bool) -> None:
    """A few leaves here and there, in a table whose pointer does not let writes through."""
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        space = AddressSpace(name, FrameAllocator(memory), populate=Populate.EAGER, largest=1)
        for number in range(8):
            space.map(MemoryRegion(Gpa(number * 0x3000), 0x1000, RWX, MapType.MAP_ALLOC, name=f"ram{number}"))
        step = space.page_table.explain(0).steps[-2]
        memory.store_u64(Hpa(step.slot), step.entry & ~_RESTRICTING[name])
        with all_by_kind() if by_kind else nullcontext():
            found = scan(space.regime, HostTables(memory), [] if by_kind else None)
        attributes = {kind.attributes for kind in found.scattered} | set(found.rows[:, 3].tolist())
        assert attributes == set(space.page_table.rows(merge=False)[:, 3].tolist())
        assert all(not attribute & WRITE for attribute in attributes)
