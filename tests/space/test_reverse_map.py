"""From an HPA back to every GPA that leads there, in one space and in all of a host."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import format_lists
from stage2.address import SIZE_2M, SIZE_4K, Gpa, Hpa, Range
from stage2.errors import MappingError, OutOfRangeError
from stage2.flags import Access, MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate
from stage2.space.reverse import ReverseMap, reverse

RAM = Range(0x8000_0000, 0x8100_0000)
READ = MappingFlags.READ
RW = READ | MappingFlags.WRITE
RWX = RW | MappingFlags.EXECUTE
SECOND_STAGES = format_lists.SECOND_STAGES


@pytest.fixture
def frames() -> Iterator[FrameAllocator]:
    with PhysicalMemory([RAM]) as memory:
        yield FrameAllocator(memory)


def share(frames: FrameAllocator, size: int, name: str = "box") -> Hpa:
    return frames.allocate(size, owner=Owner(OwnerKind.SHARE, name))


def shared(start: int, size: int, hpa: int, flags: MappingFlags = RW) -> MemoryRegion:
    return MemoryRegion(Gpa(start), size, flags, MapType.SHARE, hpa=Hpa(hpa))


@pytest.mark.parametrize("name", SECOND_STAGES)
def test_every_byte_of_a_space_leads_back_to_its_gpa(frames: FrameAllocator, name: str) -> None:
    space = AddressSpace(name, frames)
    region = MemoryRegion(Gpa(SIZE_2M), SIZE_2M + 0x3000, RWX, MapType.MAP_ALLOC, populate=Populate.EAGER)
    space.map(region)
    every = ReverseMap([space])
    for gpa in (SIZE_2M, SIZE_2M + 0x1234, 2 * SIZE_2M - 1, 2 * SIZE_2M + 0x2FFF):
        found = space.query(gpa)
        assert found is not None
        (alias,) = reverse(space, found.hpa)
        assert (alias.space, alias.gpa, alias.region, alias.flags) == (space, gpa, region, RWX)
        assert alias.gpa + alias.size == region.end
        reached = every.find(found.hpa)
        assert reached.aliases == (alias,)
        assert reached.owner == space.owner
        assert f"{gpa:#x}" in str(alias)


def test_the_aliases_of_a_share_are_found_in_both_vms(frames: FrameAllocator) -> None:
    one, two = (AddressSpace("sv39x4", frames, name=name) for name in ("one", "two"))
    hpa = share(frames, 0x4000)
    one.map(shared(0x10_0000, 0x4000, hpa))
    two.map(shared(0x20_0000, 0x4000, hpa, READ))
    two.map(shared(0x30_0000, 0x1000, hpa + 0x2000))
    every = ReverseMap([one, two])
    reached = every.find(hpa + 0x2010)
    assert [(a.space.name, a.gpa, a.flags) for a in reached.aliases] == [
        ("one", 0x10_2010, RW), ("two", 0x20_2010, READ), ("two", 0x30_0010, RW)
    ]  # fmt: skip
    assert [alias.size for alias in reached.aliases] == [0x1FF0, 0x1FF0, 0xFF0]
    assert reached.owner == Owner(OwnerKind.SHARE, "box")
    assert [a.gpa for a in reverse(two, hpa + 0x2010)] == [0x20_2010, 0x30_0010]
    assert [a.gpa for a in every.find(hpa + 0x3000).aliases] == [0x10_3000, 0x20_3000]
    assert len(every.find(hpa).aliases) == 2
    for beside in (hpa - 1, hpa + 0x4000):
        assert reverse(one, beside) == []
        assert every.find(beside).aliases == ()


def test_what_nobody_reaches_has_no_alias_and_yet_an_owner(frames: FrameAllocator) -> None:
    space = AddressSpace("sv39x4", frames, name="vm")
    space.map(MemoryRegion(Gpa(0), 0x1000, RW, MapType.MAP_ALLOC, populate=Populate.EAGER))
    every = ReverseMap([space])
    table = every.find(space.root_page_table)
    assert (table.aliases, table.owner) == ((), Owner(OwnerKind.TABLES, "vm"))
    for nothing in (0, RAM.start - 1, RAM.end, (1 << 64) - 1):
        assert every.find(nothing).aliases == ()
        assert every.find(nothing).owner is None
        assert reverse(space, nothing) == []
    for impossible in (-1, 1 << 64):
        with pytest.raises(OutOfRangeError):
            every.find(impossible)
        with pytest.raises(OutOfRangeError):
            reverse(space, impossible)


def test_a_device_that_is_passed_through_is_found_and_owned(frames: FrameAllocator) -> None:
    space = AddressSpace("sv39x4", frames, name="vm")
    uart = MemoryRegion(Gpa(0x1000_0000), 0x1000, RW | MappingFlags.DEVICE, MapType.MMIO, hpa=Hpa(0x900_0000))
    space.map(uart)
    reached = ReverseMap([space]).find(0x900_0008)
    assert [alias.gpa for alias in reached.aliases] == [0x1000_0008]
    assert reached.owner == frames.owners.at(0x900_0008)
    assert reached.owner is not None


def test_the_map_is_a_snapshot_until_it_is_refreshed(frames: FrameAllocator) -> None:
    one, two = (AddressSpace("sv39x4", frames, name=name) for name in ("one", "two"))
    every = ReverseMap([one])
    assert every.find(RAM.start).aliases == ()
    one.map(MemoryRegion(Gpa(0), 0x1000, RW, MapType.MAP_ALLOC))
    one.handle_page_fault(0, Access.WRITE)
    found = one.query(0)
    assert found is not None
    assert every.find(found.hpa).aliases == ()
    generation = every.generation
    every.refresh()
    assert every.generation == generation + 1
    assert [alias.gpa for alias in every.find(found.hpa).aliases] == [0]
    two.map(shared(0x5000, 0x1000, share(frames, 0x1000)))
    every.refresh([one, two])
    assert every.spaces == (one, two)
    one.destroy()
    every.refresh()
    assert every.find(found.hpa).aliases == ()
    assert every.find(found.hpa).owner is None
    assert reverse(one, found.hpa) == []


def test_spaces_of_two_hosts_are_not_mixed(frames: FrameAllocator) -> None:
    with PhysicalMemory([RAM]) as other:
        spaces = [AddressSpace("sv39x4", frames, name="one"), AddressSpace("sv39x4", FrameAllocator(other), name="two")]
        with pytest.raises(MappingError, match="one and two"):
            ReverseMap(spaces)


def test_a_host_without_vms_reaches_nothing() -> None:
    every = ReverseMap([])
    assert every.find(5).aliases == ()
    assert every.find_many([1, 2]).counts.tolist() == [0, 0]
    assert every.find_many([]).counts.tolist() == []


@given(st.data())
def test_the_map_agrees_with_the_tables_for_every_page_of_the_host(data: st.DataObject) -> None:
    with PhysicalMemory([RAM]) as memory:
        frames = FrameAllocator(memory)
        spaces = [AddressSpace(name, frames, name=name) for name in ("sv39x4", "ept4")]
        box = share(frames, 0x8000)
        for space in spaces:
            space.map(MemoryRegion(Gpa(0), 0x2_0000, RW, MapType.MAP_ALLOC))
            for page in data.draw(st.lists(st.integers(0, 31), unique=True, max_size=32)):
                space.handle_page_fault(page * SIZE_4K, Access.WRITE)
            for index in range(data.draw(st.integers(0, 3))):
                first = data.draw(st.integers(0, 7))
                count = data.draw(st.integers(1, 8 - first))
                start = 0x10_0000 * (index + 1)
                space.map(shared(start, count * SIZE_4K, box + first * SIZE_4K, data.draw(st.sampled_from([RW, READ]))))
        # The forward tables page by page, turned round, as the oracle.
        expected: dict[int, list[tuple[int, int]]] = {}
        for number, space in enumerate(spaces):
            for gpa in [
                *range(0, 0x2_0000, SIZE_4K),
                *(i * 0x10_0000 + page * SIZE_4K for i in (1, 2, 3) for page in range(8)),
            ]:
                found = space.query(gpa)
                if found is not None:
                    expected.setdefault(found.hpa, []).append((number, gpa))
        every = ReverseMap(spaces)
        hpas = np.arange(RAM.start - SIZE_4K, RAM.end + SIZE_4K, SIZE_4K) + 0x123
        many = every.find_many(hpas)
        assert int(many.counts.sum()) == sum(len(aliases) for aliases in expected.values())
        for index, hpa in enumerate(hpas.tolist()):
            part = slice(int(many.first[index]), int(many.first[index + 1]))
            found_here = list(
                zip(many.space[part].tolist(), (many.gpas[part] - np.uint64(0x123)).tolist(), strict=True)
            )
            assert found_here == expected.get(hpa - 0x123, [])
            owner = many.owners[many.owner[index]] if many.owner[index] >= 0 else None
            assert owner == frames.owners.at(hpa)
        for hpa, aliases in list(expected.items())[:20]:
            reached = every.find(hpa + 8)
            assert [(spaces.index(a.space), a.gpa) for a in reached.aliases] == [(n, gpa + 8) for n, gpa in aliases]
            for alias in reached.aliases:
                back = alias.space.query(alias.gpa)
                assert back is not None
                assert back.hpa == hpa + 8
                assert (back.flags, back.region) == (alias.flags, alias.region)
                assert alias in reverse(alias.space, hpa + 8)
        for space in spaces:
            space.destroy()
