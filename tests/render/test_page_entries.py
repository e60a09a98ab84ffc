"""Tables as runs of entries: a reader of runs makes the explained walk's steps, on sound tables and on damaged ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2 import AddressSpace, FrameAllocator, MappingFlags, MapType, MemoryRegion, PhysicalMemory, Populate
from stage2.address import GIB, MIB, Gpa, Range
from stage2.formats.outcome import LEAF, TABLE
from stage2.prove.source import HostTables
from stage2.prove.subject import Space as Tables
from stage2.prove.world import Scanned
from stage2.render.picture.entries import OUTSIDE, Entries, entries_of
from stage2.render.picture.page_tables import MOST_ROWS, Shapes, tabled
from stage2.tables.explain import explain_stage
from stage2.tables.regime import Regime
from stage2.tables.result import Mapped

FORMATS = (
    "sv39x4", "sv48x4", "sv57x4", "ept4", "ept5", "npt4", "arm-s2-4k-40", "arm-s2-4k-48", "arm-s2-16k-40",
    "arm-s2-64k-48", "arm-s2-4k-52-lpa2", "arm-s2-64k-48-lpa", "npt5",
)  # fmt: skip
RWX = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE | MappingFlags.USER
Step = tuple[int, int, int, int, int]
"""Level, table, index, entry and output of a step."""


def read(entries: Entries, gpa: int) -> tuple[list[Step], int | None]:
    """The steps of a walk and where it leads, from runs alone."""
    fmt = entries.regime.format
    steps: list[Step] = []
    table = entries.regime.root
    for number in range(fmt.levels - 1, -1, -1):
        place = gpa >> fmt.level_shift(number)
        run = next(one for one in entries.levels[number].runs if one.first <= place < one.first + one.count)
        shape = entries.shapes[run.shape]
        if shape.kind == OUTSIDE:
            return steps, None
        nth, step = place - run.first, (0, fmt.leaf_size(number), fmt.table_size)[run.grows]
        output = run.output + nth * step
        word = (run.word + nth * fmt.pack_address(step)) & (1 << 64) - 1
        steps.append((number, table, fmt.index(gpa, number), word, output))
        if shape.kind == LEAF:
            hpa = output if run.hpa is None else run.hpa + nth * fmt.leaf_size(number)
            return steps, hpa + gpa % fmt.leaf_size(number)
        if shape.kind != TABLE:
            return steps, None
        table = output
    raise AssertionError("a walk ends at level 0")


def agrees(entries: Entries, source: HostTables, gpa: int) -> None:
    walk = explain_stage(source, entries.regime, gpa)
    steps, hpa = read(entries, gpa)
    assert steps == [(one.level, one.table, one.index, one.entry, one.output) for one in walk.steps]
    assert hpa == (walk.result.hpa if isinstance(walk.result, Mapped) else None)
    for step in walk.steps:
        # What is said of an entry is told at another one of its shape.
        place = gpa >> entries.regime.format.level_shift(step.level)
        run = next(one for one in entries.levels[step.level].runs if one.first <= place < one.first + one.count)
        shape = entries.shapes[run.shape]
        other = next(
            one for one in explain_stage(source, entries.regime, shape.address).steps if one.level == step.level
        )
        assert (shape.kind, shape.level) == (step.kind, step.level)
        assert (other.permissions, other.attributes) == (step.permissions, step.attributes)


def samples(entries: Entries) -> list[int]:
    """The first and last address of every run, as far as there are few."""
    found = {0, (1 << entries.regime.format.input_bits) - 1}
    for number, level in enumerate(entries.levels):
        shift = entries.regime.format.level_shift(number)
        for run in level.runs[:64]:
            found |= {run.first << shift, ((run.first + run.count) << shift) - 1, (run.first + run.count // 2) << shift}
    return sorted(found)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_runs_are_the_tables_that_a_walk_reads(name: str, data: st.DataObject) -> None:
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        space = AddressSpace(name, FrameAllocator(memory), populate=Populate.EAGER)
        page = space.format.page_size
        start = 0
        for number in range(data.draw(st.integers(1, 3))):
            start += data.draw(st.integers(0, 600)) * page
            size = data.draw(st.sampled_from([1, 3, 511, 700])) * page
            space.map(MemoryRegion(Gpa(start), size, RWX, MapType.MAP_ALLOC, name=f"ram{number}"))
            start += size
        source, tables = HostTables(memory), space.page_table.table_ranges
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.sampled_from(tables)).start + 8 * data.draw(st.integers(0, 511))
            place = (at - memory.base) // 8
            flip = data.draw(st.integers(0, 63).map(lambda bit: 1 << bit) | st.integers(0, (1 << 64) - 1))
            memory.words[place] ^= np.uint64(flip)
        entries = entries_of(space.regime, source)
        if entries.until is None:
            for gpa in samples(entries):
                agrees(entries, source, gpa)


@pytest.mark.parametrize(("name", "switches"), [("sv39x4", ("napot",)), ("arm-s2-4k-40", ())])
def test_groups_of_leaves_lead_where_a_walk_leads(name: str, switches: tuple[str, ...]) -> None:
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        space, source = AddressSpace(name, FrameAllocator(memory), populate=Populate.EAGER), HostTables(memory)
        space.map(MemoryRegion(Gpa(0), 64 << 12, RWX, MapType.MAP_ALLOC, name="ram"))
        fmt = space.format
        regime = Regime.of(fmt, space.regime.root, controls=fmt.controls_with(*switches))
        for start, hpa, _, _ in space.page_table.rows(merge=False).tolist():
            assert hpa % 0x10000 == start % 0x10000, "frames of groups lie as their addresses do"
            place = (explain_stage(memory, regime, start).steps[-1].slot - memory.base) // 8
            memory.words[place] = np.uint64(fmt.group(int(memory.words[place]), 0))
        entries = entries_of(regime, source)
        assert any(run.hpa is not None for run in entries.levels[0].runs) == fmt.group_translates
        for gpa in samples(entries):
            agrees(entries, source, gpa)


@pytest.mark.parametrize("name", ["arm-s2-4k-48-lpa2", "arm-s2-64k-48-lpa", "sv57x4", "ept4"])
def test_runs_across_a_bit_that_stands_elsewhere_lead_where_a_walk_leads(name: str) -> None:
    edge = 1 << 50
    with PhysicalMemory([Range(edge - 256 * MIB, edge + 256 * MIB)]) as memory:
        space, source = AddressSpace(name, FrameAllocator(memory), populate=Populate.EAGER), HostTables(memory)
        size = 400 * MIB
        space.map(MemoryRegion(Gpa(GIB), size, RWX, MapType.MAP_ALLOC, name="ram"))
        assert {row[1] < edge for row in space.page_table.rows(merge=False).tolist()} == {True, False}
        entries = entries_of(space.regime, source)
        for gpa in samples(entries):
            agrees(entries, source, gpa)


def spread(memory: PhysicalMemory, pages: int, shuffled: bool) -> AddressSpace:
    """A space of single pages, in order or shuffled."""
    space = AddressSpace("sv39x4", FrameAllocator(memory), name="guest")
    space.map(MemoryRegion(Gpa(GIB), pages << 12, RWX, MapType.MAP_ALLOC, name="ram"))
    order = np.random.default_rng(1).permutation(pages) if shuffled else np.arange(pages)
    for page in order.tolist():
        space.populate_range(Range.sized(GIB + (page << 12), 4096))
    return space


def read_by(space: AddressSpace) -> Scanned:
    """The tables of a space as the prover reads them."""
    mine = Tables("guest", space.regime, tuple(space.memory_regions))
    return Scanned.of(mine, HostTables(space.frames.memory))


def test_many_pages_in_order_are_few_runs() -> None:
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        entries = entries_of(spread(memory, 5000, shuffled=False).regime, HostTables(memory))
        assert entries.until is None
        assert sum(len(level.runs) for level in entries.levels) < 64


def test_what_is_too_much_is_left_out_from_an_address_on_and_said() -> None:
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        space, source = spread(memory, 5000, shuffled=True), HostTables(memory)
        entries = entries_of(space.regime, source, 1000)
        assert sum(len(level.runs) for level in entries.levels) <= 1000
        until = entries.until
        assert until is not None
        assert GIB < until < GIB + (5000 << 12)
        assert list(entries.left_out) == [0]
        agrees(entries, source, until - 1)
        found = tabled(read_by(space), None, Shapes(), 1000)
        rows = found.data["rows"]
        assert rows is not None
        assert found.left_out == (
            f"Left out, so that this page stays small: the entries of level 0 from GPA {until:#x} on (the space has 12 "
            "tables with 5,000 leaves). The joined ranges are here instead, and `stage2 walk` tells the entries of any "
            "address."
        )
        for start, hpa, size, allows, level in rows:
            gpa = int(start, 16) + int(size, 16) - 1
            assert space.page_table.translate(gpa).hpa == int(hpa, 16) + int(size, 16) - 1  # type: ignore[union-attr]
            assert (allows, level) == ("rwx", "level 0")
        assert int(rows[-1][0], 16) + int(rows[-1][2], 16) == GIB + (5000 << 12)


def test_ranges_that_are_too_many_as_well_are_only_counted() -> None:
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        space = spread(memory, MOST_ROWS + 2000, shuffled=True)
        found = tabled(read_by(space), None, Shapes(), 500)
        assert found.data["rows"] is None
        assert found.left_out.endswith("joined ranges, which are many. `stage2 walk` tells of any address.")


@pytest.mark.parametrize("name", ["ept4", "npt4"])
def test_leaves_that_go_on_under_another_table_with_fewer_rights_are_a_run_of_their_own(name: str) -> None:
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        space, source = (
            AddressSpace(name, FrameAllocator(memory), largest=4096, populate=Populate.EAGER),
            HostTables(memory),
        )
        space.map(MemoryRegion(Gpa(GIB), 4 * MIB, RWX, MapType.MAP_ALLOC, name="ram"))
        below = explain_stage(memory, space.regime, GIB + 2 * MIB).steps
        slot = (below[-2].slot - memory.base) // 8
        memory.words[slot] &= np.uint64((1 << 64) - 1 ^ 2)  # the right to write, of EPT and NPT alike
        # Frames of both tables' leaves go on, so that nothing but the right tells them apart.
        for page in range(1024):
            place = (explain_stage(memory, space.regime, GIB + (page << 12)).steps[-1].slot - memory.base) // 8
            memory.words[place] = np.uint64(space.format.leaf_entry(0, 0x9000_0000 + (page << 12), RWX))
        entries = entries_of(space.regime, source)
        leaves = [run for run in entries.levels[0].runs if entries.shapes[run.shape].kind == LEAF]
        assert [(run.first << 12, run.count) for run in leaves] == [(GIB, 512), (GIB + 2 * MIB, 512)]
        for gpa in samples(entries):
            agrees(entries, source, gpa)


def written(memory: PhysicalMemory, space: AddressSpace, gpa: int, words: list[int]) -> Entries:
    """The entries of a space after those of its pages from a GPA on are overwritten."""
    for number, word in enumerate(words):
        slot = explain_stage(memory, space.regime, gpa + number * space.format.page_size).steps[-1].slot
        memory.words[(slot - memory.base) // 8] = np.uint64(word)
    return entries_of(space.regime, HostTables(memory))


def small_pages(name: str, memory: PhysicalMemory, *spans: Range) -> AddressSpace:
    space = AddressSpace(name, FrameAllocator(memory), largest=4096, populate=Populate.EAGER)
    for span in spans:
        space.map(MemoryRegion(Gpa(span.start), span.size, RWX, MapType.MAP_ALLOC, name=f"{span.start:x}"))
    return space


def test_leaves_on_both_sides_of_a_gap_between_tables_are_two_runs() -> None:
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        spans = (Range.sized(GIB, 2 * MIB), Range.sized(GIB + 4 * MIB, 2 * MIB))
        space = small_pages("sv39x4", memory, *spans)
        leaves = [space.format.leaf_entry(0, 0x9000_0000 + (page << 12), RWX) for page in range(1024)]
        written(memory, space, GIB, leaves[:512])
        entries = written(memory, space, GIB + 4 * MIB, leaves[512:])
        for gpa in (GIB, GIB + 2 * MIB - 1, GIB + 4 * MIB, GIB + 6 * MIB - 1):
            agrees(entries, HostTables(memory), gpa)


@pytest.mark.parametrize("name", ["sv39x4", "ept4", "npt4", "arm-s2-4k-40"])
def test_leaves_that_grow_beyond_what_addresses_may_have_are_cut_there(name: str) -> None:
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        space = small_pages(name, memory, Range.sized(GIB, 64 << 12))
        fmt = space.format
        first = fmt.leaf_entry(0, (1 << fmt.output_bits) - (32 << 12), RWX)
        words = [(first + page * fmt.pack_address(1 << 12)) & (1 << 64) - 1 for page in range(64)]
        entries = written(memory, space, GIB, words)
        for page in range(64):
            agrees(entries, HostTables(memory), GIB + (page << 12))


def test_groups_that_all_lead_to_one_are_told_apart() -> None:
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        space = small_pages("sv39x4", memory, Range.sized(GIB, 64 << 12))
        regime = Regime.of(space.format, space.regime.root, controls=space.format.controls_with("napot"))
        word = space.format.group(space.format.leaf_entry(0, 0x9000_0000, RWX), 0)
        written(memory, space, GIB, [word] * 64)
        entries = entries_of(regime, HostTables(memory))
        for page in range(64):
            agrees(entries, HostTables(memory), GIB + (page << 12) + 5)


def test_tables_outside_memory_are_read_word_by_word_as_far_as_they_are_few() -> None:
    with PhysicalMemory([Range(0x8000_0000, 0x8010_0000)]) as memory:
        space, source = AddressSpace("sv39x4", FrameAllocator(memory)), HostTables(memory)
        first = (space.regime.root - memory.base) // 8
        memory.words[first : first + 3] = np.uint64(space.format.table_entry(0x9000_0000))
        entries = entries_of(space.regime, source)
        assert entries.until is None
        for gpa in (0, 3 << 30, (3 << 30) - 1):
            agrees(entries, source, gpa)
        memory.words[first : first + 100] = np.uint64(space.format.table_entry(0x9000_0000))
        entries = entries_of(space.regime, source)
        assert entries.left_out == {1: 64 << 30}
        agrees(entries, source, (64 << 30) - 1)


def test_tables_that_lead_to_themselves_end() -> None:
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        space, source = AddressSpace("ept4", FrameAllocator(memory)), HostTables(memory)
        root = space.regime.root
        first = (root - memory.base) // 8
        memory.words[first : first + 512] = np.uint64(space.format.table_entry(root))
        entries = entries_of(space.regime, source)
        assert entries.until is not None
        for gpa in (0, 1 << 30, entries.until - 1):
            agrees(entries, source, gpa)
