"""The page table case by case: upstream's tests where they apply, golden tables, and what edits cost and owe."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import format_lists
from stage2.address import SIZE_1G, SIZE_2M, SIZE_4K, Hpa, Range
from stage2.errors import (
    AddressError,
    EmptyRangeError,
    EncodingError,
    FrameError,
    MappingError,
    MisalignedError,
    NotMappedError,
    OutOfMemoryError,
    OutOfRangeError,
    OverlapError,
)
from stage2.flags import RWX, Access, MappingFlags, MemoryType
from stage2.formats import by_name
from stage2.formats.invalidation import Operation
from stage2.formats.outcome import ACCESSED, DIRTY, LEAF, NONE, FaultKind
from stage2.formats.x86 import ept
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tables.pagetable import PageTable
from stage2.tables.result import Fault, Mapped

RAM = Range(0x8000_0000, 0x8040_0000)
TABLES = Owner(OwnerKind.TABLES, "vm")
FAR = Hpa(8 * SIZE_1G)
"""An aligned HPA for leaves; tables do not care whether there is memory."""
RW = MappingFlags.READ | MappingFlags.WRITE
UNUSABLE = {"riscv": 0b101, "x86": 0b010, "arm": 0b101}
"""Entries that are reserved in a table above the pages, where the family has any so simple."""
every_format = pytest.mark.parametrize("name", format_lists.SMALL_PAGES)
x4 = pytest.mark.parametrize(("name", "quarter", "width"), [("sv39x4", 39, 41), ("sv48x4", 48, 50), ("sv57x4", 57, 59)])


@pytest.fixture
def frames() -> Iterator[FrameAllocator]:
    with PhysicalMemory([RAM]) as memory:
        yield FrameAllocator(memory)


def make(name: str, frames: FrameAllocator, **more: object) -> PageTable:
    return PageTable(by_name(name), frames, owner=TABLES, **more)  # type: ignore[arg-type]


@every_format
def test_a_new_table_is_its_root_and_destroying_it_returns_every_frame(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    fmt = by_name(name)
    assert table.root % fmt.root_size == 0
    assert frames.used_bytes == fmt.root_size
    assert table.statistics().leaves == {}
    assert table.statistics().tables == 1
    table.map_range(0, FAR, 3 * SIZE_4K, RW)
    table.destroy()
    assert frames.used_bytes == 0


@every_format
def test_a_destroyed_table_refuses_everything(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    table.destroy()
    for use in (
        lambda: table.map_page(0, FAR, RW),
        lambda: table.unmap_range(0, SIZE_4K),
        lambda: table.translate(0),
        lambda: table.translate_many([0]),
        lambda: table.rows(),
    ):
        with pytest.raises(MappingError, match="destroyed"):
            use()


def test_a_table_of_closed_memory_refuses_instead_of_crashing() -> None:
    memory = PhysicalMemory([RAM])
    table = make("sv39x4", FrameAllocator(memory))
    table.map_page(0, FAR, RW)
    memory.close()
    for use in (lambda: table.translate_many([0]), lambda: table.map_page(0x1000, FAR, RW), lambda: table.rows()):
        with pytest.raises(FrameError, match="closed"):
            use()


# --- the largest leaf that fits ---------------------------------------------------------------------------


@every_format
@pytest.mark.parametrize(
    ("start", "hpa", "size", "leaves"),
    [
        (0, 0, SIZE_2M + 3 * SIZE_4K, {SIZE_2M: 1, SIZE_4K: 3}),
        (SIZE_2M - SIZE_4K, SIZE_2M - SIZE_4K, SIZE_2M + 2 * SIZE_4K, {SIZE_2M: 1, SIZE_4K: 2}),
        (0, SIZE_1G, SIZE_1G + SIZE_2M + 3 * SIZE_4K, {SIZE_1G: 1, SIZE_2M: 1, SIZE_4K: 3}),
        (0, SIZE_4K, SIZE_2M, {SIZE_4K: 512}),
        (0, SIZE_2M, SIZE_1G, {SIZE_2M: 512}),
        (SIZE_2M, 0, SIZE_1G, {SIZE_2M: 512}),
        (SIZE_1G - SIZE_2M, SIZE_1G - SIZE_2M, SIZE_1G + 2 * SIZE_2M, {SIZE_1G: 1, SIZE_2M: 2}),
        (SIZE_4K, SIZE_4K, SIZE_4K, {SIZE_4K: 1}),
    ],
)
def test_a_range_is_mapped_in_the_largest_leaves_that_fit_both_addresses(
    name: str, frames: FrameAllocator, start: int, hpa: int, size: int, leaves: dict[int, int]
) -> None:
    table = make(name, frames)
    table.map_range(start, Hpa(hpa), size, RW)
    assert table.statistics().leaves == leaves
    (mapping,) = table.mappings()
    assert (mapping.start, mapping.hpa, mapping.size) == (start, hpa, size)


@pytest.mark.parametrize(
    ("name", "top"), [("sv48", 1 << 39), ("sv57x4", 1 << 48), ("sv39", SIZE_1G), ("ept4", SIZE_1G)]
)
def test_terabyte_leaves_are_used_where_the_format_has_them(name: str, top: int, frames: FrameAllocator) -> None:
    table = make(name, frames)
    table.map_range(0, Hpa(0), 2 * top, RW)
    assert table.statistics().leaves == {top: 2}


@every_format
@pytest.mark.parametrize(("largest", "leaves"), [(SIZE_4K, {SIZE_4K: 1024}), (SIZE_2M, {SIZE_2M: 2})])
def test_the_largest_leaf_can_be_bounded(
    name: str, frames: FrameAllocator, largest: int, leaves: dict[int, int]
) -> None:
    table = make(name, frames)
    table.map_range(0, Hpa(0), 2 * SIZE_2M, RW, largest=largest)
    assert table.statistics().leaves == leaves


# --- upstream's cases (inventory 5.6) ------------------------------------------------------------------------


@every_format
@pytest.mark.parametrize("offset", [0, 0x1000, 0x10_0000, 0x1F_F000])
def test_offsets_inside_a_huge_page(name: str, frames: FrameAllocator, offset: int) -> None:
    table = make(name, frames)
    table.map_page(0x1000_0000, Hpa(0x2000_0000), RW, SIZE_2M)
    found = table.translate(0x1000_0000 + offset)
    assert isinstance(found, Mapped)
    assert (found.hpa, found.size) == (0x2000_0000 + offset, SIZE_2M)
    assert isinstance(table.translate(0x1000_0000 + SIZE_2M), Fault)


@x4
def test_the_four_quarters_of_an_x4_root_do_not_alias(
    name: str, quarter: int, width: int, frames: FrameAllocator
) -> None:
    table = make(name, frames)
    for k in range(4):
        table.map_page(k << quarter, Hpa(0x1000 * (k + 1)), RW)
    for k in range(4):
        found = table.translate((k << quarter) + 0x10)
        assert isinstance(found, Mapped)
        assert found.hpa == 0x1000 * (k + 1) + 0x10
    assert table.memory.load_u64(Hpa(table.root + 8 * (3 << 9)))
    table.destroy()
    assert frames.used_bytes == 0


@x4
def test_an_address_beyond_the_width_is_an_error_for_edits_and_a_fault_for_walks(
    name: str, quarter: int, width: int, frames: FrameAllocator
) -> None:
    table = make(name, frames)
    table.map_page((1 << width) - SIZE_4K, FAR, RW)
    table.map_page(0, FAR, RW)
    with pytest.raises(OutOfRangeError, match=f"{width}-bit"):
        table.map_page(1 << width, FAR, RW)
    with pytest.raises(OutOfRangeError, match=f"{width}-bit"):
        table.unmap_range((1 << width) - SIZE_4K, 2 * SIZE_4K)
    fault = table.translate(1 << width)
    assert isinstance(fault, Fault)
    assert fault.kind is FaultKind.ADDRESS_SIZE


@pytest.mark.parametrize("name", ["sv39", "sv48", "sv57"])
def test_a_range_across_the_canonical_hole_is_refused(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    half = 1 << by_name(name).input_bits - 1
    for start in (half, half - SIZE_4K, (1 << 64) - half - SIZE_4K):
        with pytest.raises(OutOfRangeError):
            table.map_range(start, Hpa(0), 2 * SIZE_4K, RW)
    table.map_range((1 << 64) - half, Hpa(0), 2 * SIZE_4K, RW)
    (mapping,) = table.mappings()
    assert mapping.start == (1 << 64) - half
    (removed,) = table.unmap_range((1 << 64) - half, SIZE_4K).removed.tolist()
    assert removed == [(1 << 64) - half, 0, SIZE_4K]


@every_format
def test_unmapping_part_of_what_is_mapped_leaves_the_rest(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    table.map_range(0x1000, FAR, 5 * SIZE_4K, RW)
    edit = table.unmap_range(0x2000, 2 * SIZE_4K)
    assert edit.removed.tolist() == [[0x2000, FAR + 0x1000, 2 * SIZE_4K]]
    assert [change.span for change in edit.changes] == [Range(0x2000, 0x4000)]
    assert edit.owed
    assert table.statistics().leaves == {SIZE_4K: 3}
    assert [mapping.start for mapping in table.mappings(merge=False)] == [0x1000, 0x4000, 0x5000]


@every_format
def test_unmapping_nothing_is_harmless_and_owes_nothing(name: str, frames: FrameAllocator) -> None:
    flushed: list[Operation] = []
    table = make(name, frames, flush=flushed.extend)
    edit = table.unmap_range(0, SIZE_1G)
    assert (edit.tables_added, edit.tables_freed, len(edit.removed), edit.owed) == (0, 0, 0, ())
    assert flushed == []
    with pytest.raises(NotMappedError, match="0x5000"):
        table.unmap_page(0x5000)


@every_format
def test_empty_tables_go_at_once_and_a_block_fits_where_pages_were(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    for page in (1, 3, 5):
        table.map_page(page * SIZE_4K, FAR, RW)
    before = table.statistics().tables
    table.unmap_page(3 * SIZE_4K)
    assert table.statistics().tables == before
    table.unmap_page(1 * SIZE_4K)
    edit = table.unmap_range(5 * SIZE_4K, SIZE_4K)
    assert edit.tables_freed == before - 1
    assert table.statistics().tables == 1
    assert frames.used_bytes == by_name(name).root_size
    table.map_page(0, FAR, RW, SIZE_2M)


@every_format
def test_a_block_is_split_by_a_partial_unmap_and_everything_else_stays(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    table.map_range(0, FAR, SIZE_1G, RW)
    edit = table.unmap_range(SIZE_2M + SIZE_4K, SIZE_4K)
    assert edit.tables_added == 2
    assert table.statistics().leaves == {SIZE_2M: 511, SIZE_4K: 511}
    first, second = table.mappings()
    assert (first.start, first.hpa, first.size) == (0, FAR, SIZE_2M + SIZE_4K)
    assert (second.start, second.hpa) == (SIZE_2M + 2 * SIZE_4K, FAR + SIZE_2M + 2 * SIZE_4K)


@every_format
def test_a_split_without_frames_changes_nothing(name: str) -> None:
    fmt = by_name(name)
    with PhysicalMemory([Range.sized(0x8000_0000, fmt.root_size + (fmt.levels - 2) * SIZE_4K)]) as memory:
        frames = FrameAllocator(memory)
        table = make(name, frames)
        table.map_page(0, FAR, RW, SIZE_2M)
        assert frames.free_bytes == 0
        before = memory.words.copy()
        with pytest.raises(OutOfMemoryError):
            table.unmap_range(0, SIZE_4K)
        with pytest.raises(OutOfMemoryError):
            table.protect_range(SIZE_4K, SIZE_4K, RWX)
        assert np.array_equal(memory.words, before)


@every_format
def test_the_whole_width_can_be_unmapped_in_one_call(name: str, frames: FrameAllocator) -> None:
    """Scratch space follows the table, not the range: 2^59 bytes hold 2^38 possible tables."""
    table = make(name, frames)
    fmt = by_name(name)
    width = fmt.input_bits - fmt.sign_extended
    table.map_range(SIZE_1G, FAR, 4 * SIZE_4K, RW)
    table.map_range((1 << width) - SIZE_2M, FAR, SIZE_2M, RW, largest=SIZE_4K)
    edit = table.unmap_range(0, 1 << width)
    assert len(edit.removed) == 2
    assert table.statistics().tables == 1
    assert frames.used_bytes == fmt.root_size


@every_format
def test_wrong_sizes_and_addresses_are_refused(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    before = frames.memory.words.copy()
    cases: list[tuple[type[Exception], tuple[int, int, int]]] = [
        (EmptyRangeError, (0, 0, 0)),
        (EmptyRangeError, (0x1000, 0, -SIZE_4K)),
        (MisalignedError, (0x10, 0, SIZE_4K)),
        (MisalignedError, (0, 0x10, SIZE_4K)),
        (MisalignedError, (0, 0, 0x10)),
        (OutOfRangeError, ((1 << 64) - SIZE_4K, 0, 2 * SIZE_4K)),
        (OutOfRangeError, (-SIZE_4K, 0, SIZE_4K)),
        (OutOfRangeError, (0, -SIZE_4K, SIZE_4K)),
        (OutOfRangeError, (0, 1 << by_name(name).output_bits, SIZE_4K)),
        (OutOfRangeError, (0, 1 << 62, 1 << 62)),
    ]
    for error, (start, hpa, size) in cases:
        with pytest.raises(error):
            table.map_range(start, Hpa(hpa), size, RW)
    with pytest.raises(OutOfRangeError, match="has no leaf of 0x3000 bytes"):
        table.map_page(0, FAR, RW, 0x3000)
    with pytest.raises(MisalignedError):
        table.map_page(SIZE_4K, FAR, RW, SIZE_2M)
    with pytest.raises(MisalignedError):
        table.map_page(0, Hpa(FAR + SIZE_4K), RW, SIZE_2M)
    for size in (0, 0x10):
        with pytest.raises(AddressError):
            table.unmap_range(0, size)
    assert np.array_equal(frames.memory.words, before)


@every_format
def test_an_edit_over_something_mapped_names_the_place_and_what_is_there(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    table.map_page(0x5000, FAR, RW)
    before = frames.memory.words.copy()
    with pytest.raises(OverlapError, match=r"0x5000 is mapped already: HPA 0x200000000"):
        table.map_range(0, FAR, 8 * SIZE_4K, RW)
    with pytest.raises(OverlapError):
        table.map_page(0, FAR, RW, SIZE_2M)
    assert np.array_equal(frames.memory.words, before)


@every_format
def test_extents_map_as_one_edit_or_not_at_all(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    table.map_extents([(0, FAR, SIZE_4K), (SIZE_4K, FAR + SIZE_2M, SIZE_4K), (SIZE_1G, FAR, SIZE_2M)], RW)
    assert [(m.start, m.size) for m in table.mappings()] == [(0, SIZE_4K), (SIZE_4K, SIZE_4K), (SIZE_1G, SIZE_2M)]
    before = frames.memory.words.copy()
    for extents in (
        [(0x10_0000, FAR, SIZE_4K), (SIZE_1G, FAR, SIZE_4K)],
        [(0x10_0000, FAR, 2 * SIZE_4K), (0x10_1000, FAR, SIZE_4K)],
        [(0x20_0000, FAR, SIZE_4K), (0x10_0000, FAR, SIZE_4K)],
    ):
        with pytest.raises(OverlapError):
            table.map_extents(extents, RW)
        assert np.array_equal(frames.memory.words, before)
    assert table.map_extents([], RW).tables_added == 0


# --- protection, types, faults ---------------------------------------------------------------------------------


@every_format
def test_protection_keeps_accessed_and_dirty_bits_and_the_address(name: str, frames: FrameAllocator) -> None:
    fmt = by_name(name)
    controls = fmt.default_controls | fmt.hardware_ad
    table = make(name, frames, controls=controls)
    table.map_range(0, FAR, 2 * SIZE_4K, RWX)
    slot = Hpa(table.explain(0).steps[-1].slot)
    table.memory.store_u64(slot, fmt.forget(table.memory.load_u64(slot), DIRTY))

    def state(at: int) -> int:
        return fmt.decode(table.memory.load_u64(Hpa(at)), 0, controls)[2] & (ACCESSED | DIRTY)

    # What stays writable keeps its dirty state in every format; Arm keeps none of what does not.
    table.protect_range(0, 2 * SIZE_4K, RW)
    assert state(slot) == ACCESSED
    assert state(slot + 8) == ACCESSED | DIRTY
    table.protect_range(0, 2 * SIZE_4K, MappingFlags.READ)
    assert state(slot) == (ACCESSED if fmt.family != "arm" else ACCESSED | DIRTY)
    found = table.translate(0)
    assert isinstance(found, Mapped)
    assert (found.hpa, found.flags) == (FAR, MappingFlags.READ)


@every_format
def test_protecting_holes_and_parts_of_blocks(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    table.map_page(SIZE_2M, FAR, RW, SIZE_2M)
    edit = table.protect_range(0, SIZE_2M + SIZE_4K, MappingFlags.READ)
    assert edit.tables_added == 1
    assert len(edit.removed) == 0
    assert [(m.start, m.size, m.permissions & 2) for m in table.mappings()] == [
        (SIZE_2M, SIZE_4K, 0), (SIZE_2M + SIZE_4K, SIZE_2M - SIZE_4K, 2)
    ]  # fmt: skip
    denied = table.translate(SIZE_2M + 8, Access.WRITE)
    assert isinstance(denied, Fault)
    assert (denied.kind, denied.level) == (FaultKind.PERMISSION, 0)


def test_memory_types_reach_the_entry_and_stay_apart_in_listings(frames: FrameAllocator) -> None:
    table = make("ept4", frames)
    table.map_range(0, FAR, SIZE_4K, RW)
    table.map_range(SIZE_4K, Hpa(FAR + SIZE_4K), SIZE_4K, RW, memory_type=MemoryType.WRITE_COMBINING)
    assert len(table.mappings()) == 2
    assert table.memory.load_u64(Hpa(table.explain(SIZE_4K).steps[-1].slot)) >> 3 & 7 == 1


@every_format
@pytest.mark.parametrize("flags", [MappingFlags(0), MappingFlags.WRITE, MappingFlags.WRITE | MappingFlags.EXECUTE])
def test_flags_that_no_entry_can_say_are_refused(name: str, flags: MappingFlags, frames: FrameAllocator) -> None:
    table = make(name, frames)
    if by_name(name).family == "arm" and by_name(name).stage == 2 and flags:
        table.map_page(0, FAR, flags)  # Arm's stage 2 can say write-only
        return
    with pytest.raises(EncodingError):
        table.map_page(0, FAR, flags)
    assert table.statistics().leaves == {}


def test_an_output_beyond_maxphyaddr_is_refused_before_it_becomes_a_misconfiguration(frames: FrameAllocator) -> None:
    fmt = by_name("ept4")
    controls = fmt.default_controls & ~(0xFF << ept.MAXPHYADDR_SHIFT) | 36 << ept.MAXPHYADDR_SHIFT
    table = make("ept4", frames, controls=controls)
    table.map_page(0, Hpa((1 << 36) - SIZE_4K), RW)
    with pytest.raises(OutOfRangeError, match="0x1000000000"):
        table.map_page(SIZE_4K, Hpa(1 << 36), RW)


def test_host_memory_that_entries_cannot_point_to_is_refused() -> None:
    with PhysicalMemory([Range.sized(1 << 53, 1 << 20)]) as memory:
        frames = FrameAllocator(memory)
        make("sv39x4", frames).destroy()
        with pytest.raises(OutOfRangeError, match="reaches beyond"):
            make("ept4", frames)
        assert frames.used_bytes == 0


@every_format
def test_a_damaged_table_is_reported_and_left_alone(name: str, frames: FrameAllocator) -> None:
    fmt = by_name(name)
    table = make(name, frames)
    table.map_range(0, FAR, 4 * SIZE_4K, RW)
    step = table.explain(0).steps[-2]
    for word in (fmt.table_entry(0x7000_0000), UNUSABLE[fmt.family]):
        table.memory.store_u64(Hpa(step.slot), word)
        before = table.memory.words.copy()
        if fmt.decode(word, step.level, fmt.default_controls)[0] in (NONE, LEAF):
            continue  # nothing is reserved there in this format
        with pytest.raises(MappingError, match=r"damaged at 0x0"):
            table.unmap_range(0, SIZE_4K)
        with pytest.raises(MappingError, match=r"damaged at 0x0"):
            table.protect_range(0, SIZE_4K, RWX)
        with pytest.raises(MappingError):
            table.map_page(0x8000, FAR, RW)
        assert np.array_equal(table.memory.words, before)


@every_format
def test_tables_are_flushed_before_they_are_given_back(name: str, frames: FrameAllocator) -> None:
    used_when_flushed: list[int] = []
    table = make(name, frames, flush=lambda ranges: used_when_flushed.append(frames.used_bytes))
    table.map_page(0, FAR, RW)
    used = frames.used_bytes
    table.unmap_page(0)
    assert used_when_flushed == [used]
    assert frames.used_bytes < used


@every_format
def test_batches_keep_the_shape_of_their_input(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    table.map_page(0, FAR, RW)
    batch = table.translate_many(np.array([[0, 8], [16, 0x1000]], np.uint64))
    assert batch.hpa.tolist() == [[FAR, FAR + 8], [FAR + 16, (1 << 64) - 1]]
    assert batch.status.tolist() == [[0, 0], [0, FaultKind.TRANSLATION]]
    assert table.translate_many([]).hpa.shape == (0,)


@every_format
def test_results_can_be_written_to_an_earlier_batch_of_the_same_shape_only(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    table.map_page(0, FAR, RW)
    old = table.translate_many([0x1000, 0x2000])
    assert table.translate_many([8, 0x1000], out=old) is old
    assert old.hpa.tolist() == [FAR + 8, (1 << 64) - 1]
    for wrong in (
        table.translate_many([1, 2, 3]),
        replace(old, hpa=old.hpa.astype(np.int64)),
        replace(old, status=np.zeros(4, np.uint8)[::2]),
    ):
        with pytest.raises(OutOfRangeError):
            table.translate_many([8, 16], out=wrong)


@every_format
def test_many_addresses_can_be_asked_for_their_hpas_alone(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    page = table.format.page_size
    table.map_page(page, FAR, RW)
    found = table.translate_many([page + 8, 9 * page], hpa_only=True)
    assert found.tolist() == [FAR + 8, (1 << 64) - 1]
    assert [table.hpa_of(page + 8), table.hpa_of(9 * page), table.hpa_of(1 << 64)] == [FAR + 8, None, None]


@every_format
def test_a_lookup_says_the_same_before_and_after_it_is_compiled(name: str, frames: FrameAllocator) -> None:
    table = make(name, frames)
    page = table.format.page_size
    table.map_page(page, FAR, RW)
    for _ in range(100):
        assert table.translate(page + 8, Access.WRITE) == table.explain(page + 8, Access.WRITE).result
        assert table.translate(9 * page) == table.explain(9 * page).result
        assert table.translate(1 << 65) == table.explain(1 << 65).result
    assert table.hpa_of(page + 8) == FAR + 8
    table.unmap_page(page)
    assert table.hpa_of(page + 8) is None


@pytest.mark.parametrize("name", format_lists.SMALL_PAGES)
def test_more_addresses_than_the_kernel_remembers_upper_tables_for(name: str, frames: FrameAllocator) -> None:
    """Addresses a gigabyte apart share places in the walk cache: none may answer for another."""
    table = make(name, frames)
    fmt = by_name(name)
    gigabytes = min(1 << fmt.input_bits - 1 - 30, 4096)
    for gigabyte in (0, 1, 255, 256, gigabytes - 1):
        if table.query(gigabyte * SIZE_1G) is None and gigabyte < gigabytes:
            table.map_page(gigabyte * SIZE_1G, Hpa(gigabyte << 30 | 0x1000), RW)
    addresses = np.tile(np.arange(gigabytes, dtype=np.uint64) * np.uint64(SIZE_1G), 2)
    batch = table.translate_many(addresses)
    mapped = np.flatnonzero(batch.status == 0)
    assert set((addresses[mapped] >> np.uint64(30)).tolist()) == {
        g for g in (0, 1, 255, 256, gigabytes - 1) if g < gigabytes
    }
    assert (batch.hpa[mapped] == addresses[mapped] + np.uint64(0x1000)).all()
    assert set(batch.status.tolist()) == {0, FaultKind.TRANSLATION}


@pytest.mark.parametrize("name", ["x86-4level", "npt4"])
def test_a_table_can_be_built_where_nothing_forbids_fetches(name: str, frames: FrameAllocator) -> None:
    fmt = by_name(name)
    table = PageTable(fmt, frames, owner=TABLES, controls=fmt.controls_with("no-nx"))
    table.map_page(0, FAR, RWX)
    found = table.translate(8, Access.FETCH)
    assert isinstance(found, Mapped)
    assert found.hpa == FAR + 8
