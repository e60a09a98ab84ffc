"""The picture of an address space."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from stage2.address import KIB, MIB, Gpa, Hpa, Range
from stage2.flags import MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.render.space_picture import MAX_BANDS, space_svg
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion

RWX = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE
UART = 0x1000_0000


def made() -> AddressSpace:
    frames = FrameAllocator(PhysicalMemory([Range.sized(0x8000_0000, 64 * MIB)]))
    return AddressSpace("sv39x4", frames, name="guest")


def words(space: AddressSpace) -> list[str]:
    return [text.text or "" for text in ET.fromstring(space_svg(space)).iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_has_what_is_declared_and_whose_host_memory_is() -> None:
    space = made()
    space.map(MemoryRegion(Gpa(0x4000_0000), 2 * MIB, RWX, MapType.MAP_ALLOC, name="ram"))
    device = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.DEVICE
    space.map(MemoryRegion(Gpa(UART), 4 * KIB, device, MapType.MMIO, hpa=Hpa(UART), name="uart"))
    space.populate_range(Range.sized(0x4000_0000, 8 * KIB))
    shown = words(space)
    assert {"ram", "uart", "VM guest", "page tables of VM guest", "0x40000000", "0x10000000"} <= set(shown)
    assert {"memory", "page tables", "device registers"} <= set(shown)


def test_an_empty_space_has_a_picture_too() -> None:
    assert "page tables of VM guest" in words(made())


def test_many_regions_are_counted_and_long_names_cut() -> None:
    space = made()
    for number in range(MAX_BANDS + 5):
        start = 0x4000_0000 + number * 16 * KIB
        space.map(
            MemoryRegion(Gpa(start), 4 * KIB, RWX, MapType.MAP_ALLOC, name="n" * 60 if number == 0 else f"r{number}")
        )
    shown = words(space)
    assert "guest physical addresses, 5 more above" in shown
    assert "n" * 25 + "..." in shown
