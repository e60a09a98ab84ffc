"""What `query` says of a GPA beside the HPA."""

from __future__ import annotations

import pytest

from stage2.address import Gpa, Hpa, Range
from stage2.flags import MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate

RW = MappingFlags.READ | MappingFlags.WRITE
UART, RAM, SLOW = 0x1000_0000, 0x8000_0000, 0x9000_0000


@pytest.mark.parametrize(
    ("name", "device", "ram", "slow"),
    [
        ("arm-s2-4k-40", "device", "write-back", "uncached"),
        ("ept4", "uncached", "write-back", "uncached"),
        ("sv39x4", None, None, None),
    ],
)
def test_query_gives_device_and_the_memory_type_of_the_leaf(
    name: str, device: str | None, ram: str | None, slow: str | None
) -> None:
    with PhysicalMemory([Range(0x1_0000_0000, 0x1_0400_0000)]) as memory:
        space = AddressSpace(name, FrameAllocator(memory))
        space.map(MemoryRegion(Gpa(UART), 0x1000, RW | MappingFlags.DEVICE, MapType.MMIO, hpa=Hpa(0x900_0000)))
        for start, flags in ((RAM, RW), (SLOW, RW | MappingFlags.UNCACHED)):
            space.map(MemoryRegion(Gpa(start), 0x20_0000, flags, MapType.MAP_ALLOC, populate=Populate.EAGER))
        found = space.query(UART + 8)
        assert found is not None
        assert (found.hpa, found.flags, found.size) == (0x900_0008, RW | MappingFlags.DEVICE, 0x1000)
        assert found.memory_type == device
        assert str(found).startswith("HPA 0x9000008 rw--d-")
        plain, uncached = space.query(RAM), space.query(SLOW)
        assert plain is not None
        assert uncached is not None
        assert (plain.flags, plain.memory_type) == (RW, ram)
        assert (uncached.flags, uncached.memory_type) == (RW | MappingFlags.UNCACHED, slow)
        assert space.query(UART + 0x1000) is None
