"""Defects of upstream's page tables that must not exist here (inventory 4.3), and its cases of 5.5 and 5.6."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from upstream_bench import RAM, RW, R, every_table, host

from format_lists import COMPILED_FORMATS
from stage2.address import SIZE_1G, SIZE_2M, SIZE_4K, Hpa, Range
from stage2.errors import AddressError, EmptyRangeError, MisalignedError, OutOfRangeError, OverlapError
from stage2.flags import RWX, Access
from stage2.formats import by_name
from stage2.formats.outcome import FaultKind
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.tables.pagetable import PageTable
from stage2.tables.result import Fault, Mapped

TABLES = Owner(OwnerKind.TABLES, "vm")
FAR = Hpa(16 * SIZE_1G)


@pytest.fixture
def frames() -> Iterator[FrameAllocator]:
    with host() as made:
        yield made


def make(fmt: str, frames: FrameAllocator) -> PageTable:
    return PageTable(by_name(fmt), frames, owner=TABLES)


def hpa_of(table: PageTable, address: int) -> int | None:
    found = table.translate(address)
    return found.hpa if isinstance(found, Mapped) else None


PARTS = [(0, 1), (1, 1), (255, 2), (0, 511), (511, 1)]
"""(first page, pages) of a block: its head, its inside, across its middle, all but its tail, its tail."""


@every_table
@pytest.mark.parametrize("block", [SIZE_2M, SIZE_1G])
@pytest.mark.parametrize(("first", "count"), PARTS)
def test_unmapping_part_of_a_block_keeps_the_rest(
    fmt: str, block: int, first: int, count: int, frames: FrameAllocator
) -> None:
    table = make(fmt, frames)
    base = 2 * SIZE_1G
    table.map_page(base, FAR, RW, block)
    start, end = base + first * SIZE_4K, base + (first + count) * SIZE_4K
    removed = table.unmap_range(start, end - start).removed.tolist()
    assert removed == [[start, FAR + start - base, end - start]]
    for address in (base, start - 1, start, end - 1, end, base + block - 1):
        if base <= address < base + block:
            expected = None if start <= address < end else FAR + address - base
            assert hpa_of(table, address) == expected
    assert table.statistics().mapped_bytes == block - (end - start)
    table.destroy()
    assert frames.used_bytes == 0


@every_table
@pytest.mark.parametrize("block", [SIZE_2M, SIZE_1G])
@pytest.mark.parametrize(("first", "count"), PARTS)
def test_protecting_part_of_a_block_keeps_the_rest(
    fmt: str, block: int, first: int, count: int, frames: FrameAllocator
) -> None:
    table = make(fmt, frames)
    base = 2 * SIZE_1G
    table.map_page(base, FAR, RW, block)
    start, end = base + first * SIZE_4K, base + (first + count) * SIZE_4K
    table.protect_range(start, end - start, R)
    for address in (base, start - 1, start, end - 1, end, base + block - 1):
        if base <= address < base + block:
            assert hpa_of(table, address) == FAR + address - base
            allowed = isinstance(table.translate(address, Access.WRITE), Mapped)
            assert allowed is not (start <= address < end)
    assert table.statistics().mapped_bytes == block


@every_table
@pytest.mark.parametrize("block", [SIZE_2M, SIZE_1G])
def test_mapping_2m_where_a_4k_page_was_works(fmt: str, block: int, frames: FrameAllocator) -> None:
    table = make(fmt, frames)
    used = frames.used_bytes
    for page in (0, 7, 511):
        table.map_page(page * SIZE_4K, FAR, RW)
    table.unmap_range(0, SIZE_2M)
    assert frames.used_bytes == used
    table.map_page(0, FAR, RW, block)
    assert table.statistics().leaves == {block: 1}


@every_table
def test_protecting_holes_blocks_and_pages_at_once_works(fmt: str, frames: FrameAllocator) -> None:
    table = make(fmt, frames)
    table.map_page(SIZE_4K, FAR, RW)
    table.map_page(SIZE_2M, FAR, RW, SIZE_2M)
    table.map_page(3 * SIZE_2M, FAR, RW, SIZE_2M)
    table.protect_range(0, 3 * SIZE_2M + SIZE_4K, R)
    writable = [(m.start, m.size) for m in table.mappings() if m.permissions & 2]
    assert writable == [(3 * SIZE_2M + SIZE_4K, SIZE_2M - SIZE_4K)]
    assert table.statistics().mapped_bytes == SIZE_4K + 2 * SIZE_2M


@every_table
def test_protecting_or_unmapping_a_hole_touches_nothing(fmt: str, frames: FrameAllocator) -> None:
    """Upstream's AArch64 takes a zero entry for a block, and asserts."""
    table = make(fmt, frames)
    table.map_page(SIZE_4K, FAR, RW)
    before = frames.memory.words.copy()
    for start, size in ((0, SIZE_4K), (2 * SIZE_4K, SIZE_2M), (SIZE_2M, SIZE_1G)):
        for edit in (table.protect_range(start, size, RWX), table.unmap_range(start, size)):
            assert (edit.tables_added, edit.tables_freed, len(edit.removed)) == (0, 0, 0)
    assert (frames.memory.words == before).all()


@every_table
def test_misaligned_addresses_are_refused_and_never_rounded_down(fmt: str, frames: FrameAllocator) -> None:
    table = make(fmt, frames)
    before = frames.memory.words.copy()
    for size in (SIZE_4K, SIZE_2M, SIZE_1G):
        for start, hpa in ((size + 8, FAR), (size, FAR + 8), (size + size // 2, FAR), (size, FAR + size // 2)):
            with pytest.raises(MisalignedError):
                table.map_page(start, Hpa(hpa), RW, size)
    for use in (table.unmap_range, lambda start, size: table.protect_range(start, size, RW)):
        for start, size in ((8, SIZE_4K), (0, 8), (0x800, 0x800)):
            with pytest.raises(MisalignedError):
                use(start, size)
    assert (frames.memory.words == before).all()


@every_table
def test_an_hpa_beyond_what_entries_hold_is_refused(fmt: str, frames: FrameAllocator) -> None:
    table = make(fmt, frames)
    end = 1 << by_name(fmt).output_bits
    table.map_page(0, Hpa(end - SIZE_4K), RW)
    assert hpa_of(table, 0xFFF) == end - 1
    before = frames.memory.words.copy()
    for hpa, size in ((end, SIZE_4K), (end - SIZE_4K, 2 * SIZE_4K), (1 << 63, SIZE_4K), ((1 << 64) - SIZE_4K, SIZE_4K)):
        with pytest.raises(OutOfRangeError):
            table.map_range(SIZE_2M, Hpa(hpa), size, RW)
    assert (frames.memory.words == before).all()


@every_table
def test_frames_of_tables_come_back_however_the_table_was_changed(fmt: str, frames: FrameAllocator) -> None:
    table = make(fmt, frames)
    table.map_range(0, FAR, SIZE_1G, RW)
    for page in (3, 600, 100_000):
        table.unmap_range(page * SIZE_4K, SIZE_4K)
    table.protect_range(5 * SIZE_2M + SIZE_4K, SIZE_4K, R)
    assert frames.used_bytes == table.statistics().table_bytes
    table.unmap_range(0, SIZE_2M)
    assert frames.used_bytes == table.statistics().table_bytes
    table.destroy()
    assert frames.used_bytes == 0
    assert not frames.memory.words.any(), "freed tables are zero"


@pytest.mark.parametrize("fmt", COMPILED_FORMATS)
def test_2048_random_steps_leak_no_frame(fmt: str, frames: FrameAllocator) -> None:
    """Upstream's allocation test (5.5): three maps to one unmap, seed 1234; ours keeps a model too."""
    table, rng, model = make(fmt, frames), random.Random(1234), dict[int, int]()
    limit = 1 << by_name(fmt).output_bits
    for _ in range(2048):
        if rng.randrange(4) < 3:
            page, hpa = rng.randrange(1 << 22), rng.randrange(limit >> 12) << 12
            if page in model:
                with pytest.raises(OverlapError):
                    table.map_page(page << 12, Hpa(hpa), RW)
                continue
            table.map_page(page << 12, Hpa(hpa), RW)
            model[page] = hpa
        elif model:
            page = rng.choice(list(model))
            assert table.unmap_page(page << 12).hpa == model.pop(page)
        assert frames.used_bytes <= RAM.size
    assert {m.start >> 12: m.hpa for m in table.mappings(merge=False)} == model
    held = frames.owners.of(TABLES)
    assert sum(span.size for span in held) == table.statistics().table_bytes
    assert all(RAM.covers(span) for span in held)
    table.destroy()
    assert frames.used_bytes == 0


# --- upstream's cases (5.6) ------------------------------------------------------------------------------


@every_table
def test_a_translation_keeps_the_offset_and_ends_with_its_page_or_block(fmt: str, frames: FrameAllocator) -> None:
    table = make(fmt, frames)
    table.map_page(0x1000, Hpa(0x2000), RW)
    table.map_page(SIZE_2M, FAR, RW, SIZE_2M)
    table.map_page(SIZE_1G, FAR, RW, SIZE_1G)
    assert hpa_of(table, 0x1001) == 0x2001
    assert hpa_of(table, 2 * SIZE_2M - 1) == FAR + SIZE_2M - 1
    assert hpa_of(table, 2 * SIZE_1G - 1) == FAR + SIZE_1G - 1
    for outside in (0, 0xFFF, 0x2000, SIZE_2M - 1, 2 * SIZE_2M, SIZE_1G - 1, 2 * SIZE_1G):
        found = table.translate(outside)
        assert isinstance(found, Fault)
        assert found.kind is FaultKind.TRANSLATION


@every_table
def test_a_page_far_away_has_one_table_on_every_level(fmt: str, frames: FrameAllocator) -> None:
    table, record = make(fmt, frames), by_name(fmt)
    far = (1 << record.input_bits - record.sign_extended) - SIZE_4K
    table.map_page(far, FAR, RW)
    assert table.statistics().tables == record.levels
    assert len(table.explain(far).steps) == record.levels
    table.map_page(0, FAR, RW)
    assert table.statistics().tables == 2 * record.levels - 1


@every_table
def test_pages_and_blocks_of_every_size_side_by_side(fmt: str, frames: FrameAllocator) -> None:
    table = make(fmt, frames)
    table.map_page(SIZE_1G, FAR, RW, SIZE_1G)
    table.map_page(SIZE_1G - SIZE_2M, FAR, R, SIZE_2M)
    table.map_page(SIZE_1G - SIZE_2M - SIZE_4K, FAR, RWX)
    assert [(m.start, m.size, m.permissions & 7) for m in table.mappings()] == [
        (SIZE_1G - SIZE_2M - SIZE_4K, SIZE_4K, 7), (SIZE_1G - SIZE_2M, SIZE_2M, 1), (SIZE_1G, SIZE_1G, 3)
    ]  # fmt: skip
    with pytest.raises(OverlapError):
        table.map_page(SIZE_1G + SIZE_4K, FAR, RW)
    assert table.unmap_page(SIZE_1G + 12345).size == SIZE_1G
    assert table.statistics().leaves == {SIZE_4K: 1, SIZE_2M: 1}


@every_table
def test_a_listing_of_an_empty_or_reversed_range_is_refused(fmt: str, frames: FrameAllocator) -> None:
    table = make(fmt, frames)
    table.map_page(0x1000, FAR, RW)
    for size in (0, -SIZE_4K):
        with pytest.raises(EmptyRangeError):
            table.rows(0x1000, size)
    with pytest.raises(AddressError):
        table.rows((1 << 64) - SIZE_4K, 2 * SIZE_4K)
    assert len(table.rows(0x2000, SIZE_4K)) == 0
    assert Range(0x1000, 0x2000) == Range.sized(*table.rows(0, SIZE_2M)[0, [0, 2]].tolist())
