"""Edits and listings against a slow reference: entry by entry, in plain Python on the explained walk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from effort import examples
from format_lists import KINDS
from stage2.address import MIB, Hpa, Range, align_down
from stage2.errors import EncodingError, OverlapError
from stage2.flags import RWX, MappingFlags, MemoryType
from stage2.formats import by_name, names
from stage2.formats.change import ChangeKind
from stage2.formats.outcome import DIRTY, GLOBAL, GROUPED, LEAF, TABLE
from stage2.formats.record import Format
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tables.assembly import leaf_output, plain
from stage2.tables.editor import DISTINGUISHING
from stage2.tables.explain import Step
from stage2.tables.pagetable import PageTable

RAM = Range.sized(0x8000_0000, 16 * MIB)
TABLES = Owner(OwnerKind.TABLES, "slow")
R, RW = MappingFlags.READ, MappingFlags.READ | MappingFlags.WRITE
BLOCKS = 3
"""Leaves of level 1 that the window is long."""
Leaf = tuple[int, Step]
"""(first address, the step that read it)."""


class Slow:
    """A table that is made like another, and edited entry by entry."""

    def __init__(self, fmt: Format) -> None:
        self.fmt = fmt
        self.memory = PhysicalMemory([RAM])
        self.frames = FrameAllocator(self.memory)
        switches = [name for name in ("ad", "napot", "pbmt") if name in fmt.switches]
        self.table = PageTable(fmt, self.frames, owner=TABLES, controls=fmt.controls_with(*switches))
        self.controls = self.table.regime.controls
        self.output_of = leaf_output(fmt, plain)

    # --- reading ----------------------------------------------------------------------------------------------

    def leaves(self, start: int, end: int) -> Iterator[Leaf]:
        """The leaves that a range touches, each found by a walk."""
        while start < end:
            step = self.table.explain(start).steps[-1]
            size = self.fmt.leaf_size(step.level)
            base = align_down(start, size)
            if step.kind == LEAF:
                yield base, step
            start = base + size

    def output(self, base: int, step: Step) -> int:
        return int(self.output_of(step.output, step.attributes, base, step.level))

    def rows(self, start: int, end: int) -> list[tuple[int, ...]]:
        return [
            (base, self.output(base, step), self.fmt.leaf_size(step.level), step.attributes | step.level << 24)
            for base, step in self.leaves(start, end)
        ]

    def dump(self, table: int, level: int) -> Any:
        """The bytes of a table and of those below it, without the addresses of tables."""
        bits = self.fmt.root_bits if level == self.fmt.levels - 1 else self.fmt.bits
        words = np.frombuffer(self.memory.read(Hpa(table), 8 << bits), np.uint64)
        found = []
        for index in np.flatnonzero(words).tolist():
            entry = int(words[index])
            kind, output, _ = self.fmt.decode(entry, level, self.controls) if level else (LEAF, 0, 0)
            if kind == TABLE:
                found.append((index, entry ^ self.fmt.pack_address(output), self.dump(output, level - 1)))
            else:
                found.append((index, entry, None))
        return found

    def image(self) -> Any:
        return self.dump(self.table.root, self.fmt.levels - 1)

    # --- editing ----------------------------------------------------------------------------------------------

    def split_edges(self, start: int, end: int, attribute: int) -> None:
        for boundary in (start, end):
            while True:
                found = list(self.leaves(boundary, boundary + 1)) if boundary < 1 << 64 else []
                if not found or found[0][0] == boundary or found[0][1].attributes & attribute != attribute:
                    break
                base, step = found[0]
                fmt, below = self.fmt, step.level - 1
                table = self.frames.allocate(fmt.table_size, owner=TABLES)
                bits = fmt.resize(step.entry, step.level, below)
                for index in range(1 << fmt.bits):
                    output = self.output(base, step) + index * fmt.leaf_size(below)
                    self.memory.store_u64(Hpa(table + 8 * index), fmt.pack_address(output) | bits)
                self.memory.store_u64(step.slot_hpa, fmt.table_entry(table, self.controls))

    def ungroup_edges(self, start: int, end: int) -> None:
        fmt = self.fmt
        for boundary, inside in ((start, start), (end, end - fmt.page_size)):
            for _, step in list(self.leaves(inside, inside + 1)):
                size = fmt.leaf_size(step.level) << fmt.group_bits_at(step.level)
                if not step.attributes & GROUPED or not boundary % size:
                    continue
                for base, one in list(self.leaves(align_down(inside, size), align_down(inside, size) + size)):
                    self.memory.store_u64(one.slot_hpa, fmt.ungroup(one.entry, one.level, self.output(base, one)))

    def changing(self, start: int, end: int, attribute: int = 0) -> list[Leaf]:
        """The leaves that an edit changes, of a range that nothing reaches out of any more."""
        if any(
            step.attributes & GROUPED and step.attributes & attribute == attribute
            for _, step in self.leaves(start, end)
        ):
            self.ungroup_edges(start, end)
        self.split_edges(start, end, attribute)
        return [leaf for leaf in self.leaves(start, end) if leaf[1].attributes & attribute == attribute]

    def unmap(self, start: int, end: int) -> None:
        for base, step in self.changing(start, end):
            above = self.table.explain(base).steps[-2::-1]
            self.memory.store_u64(step.slot_hpa, 0)
            below = step
            for parent in above:
                if any(self.memory.read(Hpa(below.table), self.fmt.table_size)):
                    break
                self.memory.store_u64(parent.slot_hpa, 0)
                below = parent

    def protect(self, start: int, end: int, flags: MappingFlags, memory_type: MemoryType) -> None:
        fmt = self.fmt
        for base, step in self.changing(start, end):
            bits = fmt.encode_leaf(step.level, flags, memory_type, self.controls)
            made = fmt.inherit(step.entry, fmt.pack_address(self.output(base, step)) | bits)
            self.memory.store_u64(step.slot_hpa, made)

    def harvest(self, start: int, end: int) -> None:
        for _, step in self.changing(start, end, DIRTY):
            self.memory.store_u64(step.slot_hpa, self.fmt.forget(step.entry, DIRTY))

    def change_of_protection(
        self, start: int, end: int, flags: MappingFlags, memory_type: MemoryType
    ) -> ChangeKind | None:
        """Which change new leaf bits are, from one leaf after the other."""
        fmt, controls = self.fmt, self.controls
        wanted = fmt.decode(fmt.encode_leaf(0, flags, memory_type, controls), 0, controls)[2]
        kinds = set()
        for _, step in self.leaves(start, end):
            old = step.attributes
            lost = fmt.permissions(old, controls) & ~fmt.permissions(wanted, controls)
            if (old ^ wanted) & DISTINGUISHING or (fmt.break_before_make and wanted & ~old & GLOBAL):
                kinds.add(ChangeKind.REMAPPED)
            kinds.add(ChangeKind.RESTRICTED if lost else ChangeKind.RELAXED)
        order = (ChangeKind.REMAPPED, ChangeKind.RESTRICTED, ChangeKind.RELAXED)
        return next((kind for kind in order if kind in kinds), None)


def joined(rows: list[tuple[int, ...]], columns: int) -> list[list[int]]:
    """Rows that continue each other, with equal attributes where there are any, as one."""
    found: list[list[int]] = []
    for row in rows:
        last = found[-1] if found else None
        if (
            last is not None
            and (last[0] + last[2], last[1] + last[2]) == row[:2]
            and (columns < 4 or (last[3] ^ row[3]) & 0xFF_FFFF == 0)
        ):
            last[2] += row[2]
        else:
            found.append(list(row[:columns]))
    return found


def clipped(rows: list[tuple[int, ...]], start: int, end: int) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for base, output, size, *_ in rows:
        first, last = max(base, start), min(base + size, end)
        found.append((first, output + first - base, last - first))
    return found


PLACES = st.tuples(st.integers(0, BLOCKS - 1), st.sampled_from([0, 0, 1, 2, 3, 15, 16, 17, 32, -1, -2, -16]))
LENGTHS = st.tuples(st.sampled_from([0, 0, 0, 1]), st.sampled_from([1, 2, 3, 16, 40, 0, -1]))
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["map", "map", "map blocks", "unmap", "protect", "protect", "harvest", "mark", "coalesce"]),
        PLACES, LENGTHS, st.sampled_from([R, RW, RWX]), st.sampled_from([None, None, MemoryType.UNCACHED]),
        st.sampled_from([0, 0, 1]),
    ),
    min_size=3, max_size=9,
)  # fmt: skip


def edit_both(fast: Slow, slow: Slow, base: int, step: Any) -> None:
    """One edit of the table and its reference; the edit's own report is checked too."""
    what, (block, page), (blocks, pages), flags, asked, off = step
    fmt = fast.fmt
    size_1, limit = fmt.leaf_size(1), base + BLOCKS * fmt.leaf_size(1)
    start = base + (block * size_1 + page * fmt.page_size) % (BLOCKS * size_1)
    size = min(max(blocks * size_1 + pages * fmt.page_size, fmt.page_size), limit - start)
    if what == "map blocks":
        start, size = align_down(start, size_1), size_1
    end, table = start + size, fast.table
    memory_type = asked or flags.memory_type
    if what.startswith("map"):
        hpa = Hpa((start - base) + 16 * size_1 + off * fmt.page_size * (what == "map"))
        for one in (table, slow.table):
            try:
                one.map_range(start, hpa, size, flags)
            except OverlapError:
                assert list(fast.leaves(start, end))
    elif what == "unmap":
        gone = joined(clipped(fast.rows(start, end), start, end), 3)
        assert table.unmap_range(start, size).removed.tolist() == gone
        slow.unmap(start, end)
    elif what == "protect":
        try:
            expected = fast.change_of_protection(start, end, flags, memory_type)
        except EncodingError:
            return
        changes = table.protect_range(start, size, flags, memory_type=asked).changes
        assert [change.kind for change in changes[:1]] == [expected] * bool(expected)
        slow.protect(start, end, flags, memory_type)
    elif what == "harvest":
        dirty = [row for row in fast.rows(start, end) if row[3] & DIRTY]
        assert table.harvest(start, size, DIRTY).tolist() == joined(clipped(dirty, start, end), 3)
        slow.harvest(start, end)
    elif what == "mark":
        for one in (table, slow.table):
            one.mark(start, fmt.page_size, write=True)
    else:
        for one in (table, slow.table):
            one.coalesce(base, limit - base, blocks=bool(blocks), groups=True)


def begin_with(table: PageTable, begin: str, base: int) -> None:
    fmt = table.format
    size = fmt.leaf_size(1)
    if begin == "blocks":
        table.map_range(base, Hpa(16 * size), BLOCKS * size, RWX)
    elif begin != "nothing":
        table.map_range(base, Hpa(16 * size), 64 * fmt.page_size, RWX, largest=fmt.page_size)
        table.coalesce(base, size, blocks=False, groups=begin == "groups")


@pytest.mark.parametrize("name", names())
def test_a_change_of_protection_is_what_it_is_for_any_of_the_leaves(name: str) -> None:
    """Remapped before restricted before relaxed; all of them follow from what the plan met on its way."""
    fmt = by_name(name)
    base = (1 << 64) - (1 << fmt.input_bits) if fmt.high_half else 5 * fmt.leaf_size(1)
    page, seen = fmt.page_size, set()
    for held in ([(RW, None)], [(R, None), (RWX, None)], [(RW, None), (RW, MemoryType.UNCACHED)]):
        for flags in (R, RW, RWX):
            for asked in (None, MemoryType.UNCACHED):
                made = Slow(fmt)
                with made.memory:
                    for index, (old, old_type) in enumerate(held):
                        # Twenty pages that continue each other are looked at as one, a single page is not.
                        for first, count in ((base + 64 * index * page, 20), (base + (64 * index + 40) * page, 1)):
                            made.table.map_range(first, Hpa(16 * page), count * page, old, memory_type=old_type)
                    span = (base, 64 * len(held) * page)
                    expected = made.change_of_protection(base, base + span[1], flags, asked or flags.memory_type)
                    edit = made.table.protect_range(*span, flags, memory_type=asked)
                    assert {change.kind for change in edit.changes} == {expected}
                    seen.add(expected)
    assert {ChangeKind.RESTRICTED, ChangeKind.RELAXED, ChangeKind.REMAPPED} == seen


@pytest.mark.parametrize("name", KINDS)
def test_edits_leave_the_bytes_that_a_slow_reference_leaves(name: str) -> None:
    fmt = by_name(name)
    # One place is enough: what depends on it, the model of pages goes through.
    base = (1 << 64) - (1 << fmt.input_bits) if fmt.high_half else 5 * fmt.leaf_size(1)

    @settings(max_examples=examples(20 if fmt.bits < 11 else 3))
    @given(begin=st.sampled_from(["nothing", "blocks", "blocks", "pages", "groups"]), edits=EDITS)
    @example("groups", [("unmap", (0, 3), (0, 2), R, None, 0), ("protect", (0, 17), (0, 1), R, None, 0)])
    def run(begin: str, edits: list[Any]) -> None:
        fast, slow = Slow(fmt), Slow(fmt)
        with fast.memory, slow.memory:
            for one in (fast.table, slow.table):
                begin_with(one, begin, base)
            for step in edits:
                edit_both(fast, slow, base, step)
                assert fast.image() == slow.image(), step
            rows = slow.rows(base, base + BLOCKS * fmt.leaf_size(1))
            assert fast.table.rows(merge=False).tolist() == [list(row) for row in rows]
            assert fast.table.rows().tolist() == joined(rows, 4)
            held = len(rows)
            assert sum(fast.table.statistics().leaves.values()) == held

    run()


@pytest.mark.parametrize("name", ["ept4", "sv39x4", "arm-s2-4k-40"])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 512, 1500])
def test_a_listing_has_all_rows_however_many_there_are(name: str, count: int) -> None:
    """Few rows fit the room of the first try; of more the first try only counts."""
    fmt = by_name(name)
    made = Slow(fmt)
    with made.memory:
        page = fmt.page_size
        made.table.map_range(0x40_0000, Hpa(0x8000_3000), count * page, RW, largest=page)
        rows = made.table.rows(merge=False)
        assert rows[:, :3].tolist() == [[0x40_0000 + i * page, 0x8000_3000 + i * page, page] for i in range(count)]
        assert len(np.unique(rows[:, 3])) == 1
        assert made.table.rows()[:, :3].tolist() == [[0x40_0000, 0x8000_3000, count * page]]
