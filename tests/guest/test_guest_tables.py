"""A guest's own tables, made in its memory by one call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stage2 import (
    Access,
    AddressSpace,
    EncodingError,
    Fault,
    FrameAllocator,
    Gpa,
    GuestMemory,
    GuestTables,
    Mapped,
    MappingFlags,
    MapType,
    MemoryRegion,
    NotMappedError,
    OutOfMemoryError,
    OverlapError,
    PhysicalMemory,
    Populate,
    Range,
    Stage2Error,
)
from stage2.errors import MisalignedError, OutOfRangeError

HOST = Range.sized(0x1_0000_0000, 64 << 20)
RAM, SIZE = 0x8000_0000, 16 << 20
TABLES = RAM + (8 << 20)
RW = MappingFlags.READ | MappingFlags.WRITE
PAIRS = [
    ("sv39", "sv39x4"), ("sv48", "sv48x4"), ("sv57", "sv39x4"), ("x86-4level", "ept4"), ("x86-5level", "npt4"),
    ("arm-s1-4k-39", "arm-s2-4k-40"), ("arm-s1-4k-48", "arm-s2-4k-40"), ("arm-s1-16k-47", "arm-s2-16k-40"),
]  # fmt: skip


@pytest.fixture(params=[Populate.LAZY, Populate.EAGER])
def populate(request: pytest.FixtureRequest) -> Populate:
    found: Populate = request.param
    return found


@pytest.fixture
def memory() -> Iterator[PhysicalMemory]:
    with PhysicalMemory([HOST]) as found:
        yield found


def space_of(second: str, memory: PhysicalMemory, populate: Populate = Populate.LAZY) -> AddressSpace:
    space = AddressSpace(second, FrameAllocator(memory))
    flags = RW | MappingFlags.EXECUTE
    space.map(MemoryRegion(Gpa(RAM), SIZE, flags, MapType.MAP_ALLOC, populate=populate))
    return space


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_what_is_mapped_is_walked_through_both_stages_and_gone_when_it_is_unmapped(
    first: str, second: str, memory: PhysicalMemory, populate: Populate
) -> None:
    space = space_of(second, memory, populate)
    tables = GuestTables(space, first, TABLES)
    page = tables.format.page_size
    block = tables.format.leaf_size(1)
    gva = block * 3
    # A block as well, where both addresses suit; its neighbour takes pages.
    tables.map(gva, RAM, 4 * page, RW)
    if 2 * block <= TABLES - RAM:
        tables.map(gva + block, RAM + block, block, RW)
    space.handle_page_fault(RAM + page, Access.WRITE)
    end = space.walk(gva + page + 8, tables.regime, Access.READ).result
    assert isinstance(end, Mapped)
    assert end.gpa == RAM + page + 8
    found = space.query(RAM + page + 8)
    assert found is not None
    assert found.hpa == end.hpa
    tables.protect(gva + page, page, MappingFlags.READ)
    refused = space.walk(gva + page, tables.regime, Access.WRITE).result
    assert isinstance(refused, Fault)
    assert refused.stage == 1
    tables.unmap(gva, 4 * page)
    gone = space.walk(gva, tables.regime).result
    assert isinstance(gone, Fault)
    assert gone.stage == 1
    assert 0 < tables.used <= tables.pool.size
    assert repr(tables).startswith(f"GuestTables({first}, root {TABLES:#x}")


def test_a_high_address_is_given_as_registers_hold_it(memory: PhysicalMemory) -> None:
    space = space_of("sv39x4", memory)
    tables = GuestTables(space, "sv39", TABLES)
    tables.map(0xFFFF_FFC0_0000_0000, RAM, 0x1000, RW)
    space.handle_page_fault(RAM, Access.READ)
    assert isinstance(space.walk(0xFFFF_FFC0_0000_0000, tables.regime).result, Mapped)
    with pytest.raises(OutOfRangeError):
        tables.map(0x40_0000_0000, RAM, 0x1000, RW)


def test_the_largest_leaves_that_fit_are_used(memory: PhysicalMemory) -> None:
    tables = GuestTables(space_of("sv39x4", memory), "sv39", TABLES)
    tables.map(0x4000_0000, RAM, 0x20_1000, RW)
    assert tables.used == 3 * 0x1000, "a block, and the tables of one page"


def test_refusals_are_errors_that_say_what_is_there(memory: PhysicalMemory) -> None:
    space = space_of("sv39x4", memory)
    tables = GuestTables(space, "sv39", TABLES, size=3 * 0x1000)
    tables.map(0x20_0000, RAM, 0x20_0000, RW)
    with pytest.raises(OverlapError, match="leaf of 0x200000"):
        tables.map(0x20_1000, RAM, 0x1000, RW)
    with pytest.raises(MisalignedError, match="cuts the leaf"):
        tables.unmap(0x20_0000, 0x1000)
    with pytest.raises(NotMappedError):
        tables.unmap(0, 0x1000)
    with pytest.raises(MisalignedError, match="no multiple of a page"):
        tables.map(0x123, RAM, 0x1000, RW)
    tables.map(0, RAM, 0x1000, RW)
    before = space_bytes(space)
    with pytest.raises(OutOfMemoryError, match="larger size"):
        tables.map(0x4000_0000, RAM, 0x1000, RW)
    with pytest.raises(OverlapError):
        tables.map(0x1F_F000, RAM, 0x2000, RW)
    with pytest.raises(NotMappedError):
        tables.unmap(0, 0x2000)
    assert space_bytes(space) == before, "a refused edit changes nothing"
    with pytest.raises(OutOfRangeError, match="do not hold the root"):
        GuestTables(space, "sv39", TABLES, size=0x800)
    with pytest.raises(EncodingError, match="own tables"):
        GuestTables(space, "sv39x4", TABLES)
    with pytest.raises(Stage2Error):
        GuestTables(space, "sv39", 0x1000)


def test_tables_that_are_empty_are_used_again(memory: PhysicalMemory) -> None:
    tables = GuestTables(space_of("sv39x4", memory), "sv39", TABLES, size=3 * 0x1000)
    for number in range(20):
        tables.map(number << 30, RAM, 0x1000, RW)
        assert tables.used == 3 * 0x1000
        tables.unmap(number << 30, 0x1000)
        assert tables.used == 0x1000, "the root stays"


def space_bytes(space: AddressSpace) -> bytes:
    """The guest's memory that its tables may lie in."""
    return GuestMemory(space).read(TABLES, 0x1_0000)
