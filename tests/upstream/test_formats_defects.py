"""Defects of upstream's entry formats and invalidations that must not exist here (inventory 4.4)."""

from __future__ import annotations

from functools import partial

import pytest
from upstream_bench import RAM, RW, RX, R, W, X, device, eager, every_format, every_table, host, region, space_on

from stage2.address import SIZE_1G, SIZE_2M, SIZE_4K, Hpa, Range
from stage2.errors import EncodingError
from stage2.flags import RWX, Access, MappingFlags, MapType
from stage2.formats import by_name
from stage2.formats.invalidation import Operation
from stage2.formats.outcome import LEAF, MEMORY_TYPE_MASK, NONE, USER_SHIFT, FaultKind
from stage2.formats.riscv.registers import AddressTranslationRegister, decode_hgatp
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.tables.pagetable import PageTable
from stage2.tables.result import Fault, Mapped

X4 = pytest.mark.parametrize(("fmt", "mode"), [("sv39x4", 8), ("sv48x4", 9), ("sv57x4", 10)])
UC, WB = 0, 6
"""EPT memory types (SDM Vol. 3C, table 30-6)."""


def table_of(fmt: str, frames: FrameAllocator, **more: object) -> PageTable:
    return PageTable(by_name(fmt), frames, owner=Owner(OwnerKind.TABLES, "vm"), **more)  # type: ignore[arg-type]


@every_table
def test_no_entry_is_made_that_hardware_would_refuse_or_read_otherwise(fmt: str) -> None:
    """Upstream encodes EPT's write-only entries, drops Arm's execute permission, and inverts a permission decoded."""
    record = by_name(fmt)
    made = 0
    output = 1 << record.output_bits - 1
    if record.leaf_size(record.top_leaf_level) > output:
        output = 0
    for bits in range(64):
        flags = MappingFlags(bits)
        for level in range(record.top_leaf_level + 1):
            try:
                entry = record.leaf_entry(level, output, flags)
            except EncodingError:
                assert not flags & R, "what can be read can be said in every format"
                assert record.family != "arm" or record.stage == 1 or not flags.permissions
                continue
            made += 1
            kind, address, attributes = record.decode(entry, level, record.default_controls)
            assert (kind, address) == (LEAF, output)
            granted = record.permissions(attributes, record.default_controls)
            granted |= granted >> USER_SHIFT
            assert granted & 7 & ~flags.permissions == 0 or record.stage != 2
            assert granted & flags.permissions == flags.permissions
    assert made


@every_table
@pytest.mark.parametrize("flags", [MappingFlags(0), W, W | X, MappingFlags.USER | W])
def test_write_without_read_cannot_be_made(fmt: str, flags: MappingFlags) -> None:
    record = by_name(fmt)
    if record.family == "arm" and record.stage == 2 and flags:
        return  # to Arm's stage 2 it is legal
    for level in range(record.top_leaf_level + 1):
        with pytest.raises(EncodingError):
            record.leaf_entry(level, 0, flags)


@pytest.mark.parametrize(
    ("flags", "type_"),
    [
        (RW, WB),
        (RW | MappingFlags.UNCACHED, UC),
        (RW | MappingFlags.DEVICE, UC),
        (RW | MappingFlags.DEVICE | MappingFlags.UNCACHED, UC),
    ],
)
def test_uncached_is_not_forgotten_in_ept(flags: MappingFlags, type_: int) -> None:
    for level in range(3):
        assert by_name("ept4").leaf_entry(level, 0, flags) >> 3 & 7 == type_


@every_table
def test_an_absent_entry_has_neither_permissions_nor_a_memory_type(fmt: str) -> None:
    record = by_name(fmt)
    for level in range(record.levels):
        kind, address, attributes = record.decode(0, level, record.default_controls)
        assert (kind, address, attributes & (7 | MEMORY_TYPE_MASK)) == (NONE, 0, 0)


@every_table
def test_every_edit_that_a_tlb_could_contradict_owes_exactly_its_range(fmt: str) -> None:
    with host() as frames:
        table = table_of(fmt, frames)
        assert table.map_range(0, Hpa(0), SIZE_2M + SIZE_4K, RW).owed == (), "what becomes valid is in no TLB"
        for edit, start in (
            (partial(table.protect_range, SIZE_4K, SIZE_4K, R), SIZE_4K),
            (partial(table.unmap_range, 0, SIZE_4K), 0),
            (partial(table.unmap_range, SIZE_2M, SIZE_4K), SIZE_2M),
        ):
            # Upstream drops the wrong regime's entries, or a guess of them. Not every architecture has an operation by
            # address; what has one names these pages.
            owed = edit().owed
            assert owed
            assert owed[-1].span in (None, Range.sized(start, SIZE_4K))
        assert table.unmap_range(SIZE_2M, SIZE_4K).owed == ()


@every_format
def test_a_space_flushes_before_what_it_unmapped_can_belong_to_another(fmt: str) -> None:
    seen: list[tuple[int, bool]] = []

    def flush(_: tuple[Operation, ...]) -> None:
        seen.append((frames.used_by(space.owner), isinstance(space.translate(SIZE_4K), Fault)))

    with host() as frames, space_on(frames, fmt, flush=flush) as space:
        space.map(eager(0, SIZE_2M))
        space.unmap(SIZE_4K, SIZE_4K)
        # Before that, Arm's block is broken and flushed to be split.
        assert seen[-1] == (SIZE_2M, True)
        assert len(seen) == 1 + space.format.break_before_make


@X4
def test_the_x4_root_is_four_pages_and_aligned_to_them(fmt: str, mode: int) -> None:
    with host(Range.sized(RAM.start + SIZE_4K, SIZE_2M)) as frames, space_on(frames, fmt, identifier=5) as space:
        assert space.format.root_size == 4 * SIZE_4K
        assert space.root_page_table % (4 * SIZE_4K) == 0
        assert frames.owners.bytes_of(space.page_table.owner) == 4 * SIZE_4K
        value = AddressTranslationRegister(space.format, space.regime.identifier, space.root_page_table).value()
        assert (value >> 60, value >> 44 & 0x3FFF) == (mode, 5), "upstream's MODE is 8 whatever the table"
        assert decode_hgatp(value).root == space.root_page_table


@every_format
@pytest.mark.parametrize("flags", [R, RW, RX, RWX])
def test_what_a_region_allows_the_guest_can_do_without_asking_for_user(fmt: str, flags: MappingFlags) -> None:
    """At upstream's seed passed-through devices lack RISC-V's U bit, so every access to them faults."""
    with host() as frames, space_on(frames, fmt) as space:
        space.map(eager(0x1000, 0x1000, flags))
        assert not flags & MappingFlags.USER
        if not flags & X:
            space.map(device(0x8000, 0x1000, 0x900_0000, flags))
        for gpa in (0x1000, 0x8000):
            if space.region_at(gpa) is None:
                continue
            for access in Access:
                for user in (False, True):
                    found = space.page_table.translate(gpa, access, user=user)
                    assert isinstance(found, Mapped) is bool(flags & access.flag)


@every_format
def test_a_fetch_is_judged_by_the_execute_flag(fmt: str) -> None:
    """Upstream's AArch64 ignores EXECUTE, so all of a guest's memory can be executed."""
    with host() as frames, space_on(frames, fmt) as space:
        space.map(eager(0, 0x1000, RW))
        space.map(eager(0x1000, 0x1000, RX))
        space.map(device(0x2000, 0x1000, 0x900_0000))
        found = [space.translate(gpa, Access.FETCH) for gpa in (0, 0x1000, 0x2000)]
        assert [isinstance(one, Mapped) for one in found] == [False, True, False]
        assert {one.kind for one in found if isinstance(one, Fault)} == {FaultKind.PERMISSION}


@every_format
def test_a_fault_tells_kind_stage_level_address_and_access(fmt: str) -> None:
    """Upstream decodes three bits of an EPT violation, and tells neither level nor whether an entry was there."""
    with host() as frames, space_on(frames, fmt) as space:
        space.map(eager(0, SIZE_2M, R))
        space.map(region(SIZE_1G, SIZE_4K, RW, MapType.EMULATED))
        for gpa, access, kind, level in (
            (0x1238, Access.WRITE, FaultKind.PERMISSION, 1),
            (SIZE_2M + 8, Access.READ, FaultKind.TRANSLATION, 1),
            (SIZE_1G + 8, Access.FETCH, FaultKind.TRANSLATION, 2),
        ):
            found = space.translate(gpa, access)
            assert isinstance(found, Fault)
            assert (found.kind, found.stage, found.level, found.gpa, found.access) == (kind, 2, level, gpa, access)
            assert hex(gpa) in str(found)
