"""Every leaf of a table, as ranges: against the listing, which goes down by the walker's own descent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2 import AddressSpace, FrameAllocator, MappingFlags, MapType, MemoryRegion, PhysicalMemory, Populate
from stage2.address import Gpa, Range
from stage2.prove.scan import Scan, joined, scan
from stage2.prove.source import HostTables

FORMATS = ("sv39x4", "sv48x4", "ept4", "npt4", "arm-s2-4k-40", "arm-s2-16k-40", "arm-s2-64k-48")
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
