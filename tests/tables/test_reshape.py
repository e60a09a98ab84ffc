"""Blocks split and merged, groups marked and unmarked: the same translations, and after a merge the same bytes."""

from collections.abc import Iterator

import pytest

from stage2.address import MIB, Hpa, Range
from stage2.flags import RWX, MappingFlags
from stage2.formats import by_name, names
from stage2.formats.change import ChangeKind
from stage2.formats.outcome import ACCESSED, DIRTY, GROUPED
from stage2.formats.record import Format
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tables.outward import outward
from stage2.tables.pagetable import PageTable

RAM = Range.sized(0x8000_0000, 4 * MIB)
R = MappingFlags.READ
every_format = pytest.mark.parametrize("name", names())


@pytest.fixture
def memory() -> Iterator[PhysicalMemory]:
    with PhysicalMemory([RAM]) as made:
        yield made


def make(fmt: Format, memory: PhysicalMemory, *switches: str) -> PageTable:
    controls = fmt.controls_with(*switches)
    return PageTable(fmt, FrameAllocator(memory), owner=Owner(OwnerKind.TABLES, "vm"), controls=controls)


def image(memory: PhysicalMemory) -> bytes:
    return bytes(memory.read(Hpa(RAM.start), RAM.size))


@every_format
def test_a_block_that_is_split_and_merged_again_is_the_same_bytes(name: str, memory: PhysicalMemory) -> None:
    fmt = by_name(name)
    table = make(fmt, memory, *(("ad",) if "ad" in fmt.switches else ()))
    block, page = fmt.leaf_size(1), fmt.page_size
    start = outward(fmt, 2 * block)
    table.map_range(start, Hpa(8 * block), block, RWX)
    table.mark(start, write=True)
    before = image(memory)
    table.protect_range(start + 3 * page, page, RWX)
    assert table.statistics().leaves == {page: block // page}
    assert image(memory) != before
    assert all(
        attributes & ACCESSED and attributes & DIRTY for _, _, _, attributes in table.rows(start, block).tolist()
    )
    edit = table.coalesce(start, block)
    assert image(memory) == before
    assert {change.kind for change in edit.changes} >= {ChangeKind.MERGED, ChangeKind.TABLE_FREED}
    assert edit.owed


@every_format
def test_leaves_that_differ_are_not_merged(name: str, memory: PhysicalMemory) -> None:
    fmt = by_name(name)
    table = make(fmt, memory)
    block, page = fmt.leaf_size(1), fmt.page_size
    start = outward(fmt, 2 * block)
    table.map_range(start, Hpa(8 * block), block, RWX)
    table.protect_range(start + 3 * page, page, R)
    before = image(memory)
    assert not table.coalesce(start, block).changes
    assert image(memory) == before


@every_format
def test_a_group_is_marked_whole_and_loses_its_mark_with_one_of_its_pages(name: str, memory: PhysicalMemory) -> None:
    fmt = by_name(name)
    table = make(fmt, memory, *(("napot",) if "napot" in fmt.switches else ()))
    page, count = fmt.page_size, 1 << fmt.group_bits_at(0)
    start = outward(fmt, fmt.leaf_size(1))
    table.map_range(start, Hpa(fmt.leaf_size(1)), 3 * count * page - page, RWX)

    def marked() -> list[bool]:
        return [bool(row[3] & GROUPED) for row in table.rows(merge=False).tolist()]

    def outputs() -> list[int]:
        return [row[1] for row in table.rows(merge=False).tolist()]

    before = outputs()
    edit = table.coalesce(start, 3 * count * page - page, blocks=False, groups=True)
    if count == 1:
        assert not edit.changes
        return
    assert marked() == [True] * 2 * count + [False] * (count - 1), "the third group has a page too few"
    assert outputs() == before
    gone = count + count // 2
    table.unmap_range(start + gone * page, page)
    assert marked() == [True] * count + [False] * (2 * count - 2)
    assert outputs() == before[:gone] + before[gone + 1 :]
