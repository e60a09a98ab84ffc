"""A dump of tables that no edit of ours would make: loops, holes in memory, too many lines."""

from collections.abc import Iterator

import pytest

from stage2.address import Hpa, Range
from stage2.flags import RWX, MappingFlags
from stage2.formats import by_name
from stage2.formats.outcome import EntryKind
from stage2.formats.riscv.formats import BARE_STAGE_2
from stage2.memory.physical import PhysicalMemory
from stage2.render.table_dump import entry_runs, render_page_table
from stage2.tables.regime import Regime

ROOT = 0x8000_0000
EPT = by_name("ept4")


@pytest.fixture
def memory() -> Iterator[PhysicalMemory]:
    with PhysicalMemory([Range.sized(ROOT, 0x10_0000)]) as made:
        yield made


def put(memory: PhysicalMemory, table: int, index: int, entry: int) -> None:
    memory.store_u64(Hpa(table + 8 * index), entry)


def test_a_table_that_points_to_itself_is_shown_once_a_level(memory: PhysicalMemory) -> None:
    put(memory, ROOT, 0, EPT.table_entry(ROOT))
    put(memory, ROOT, 1, EPT.table_entry(ROOT))
    runs = list(entry_runs(memory, Regime.of(EPT, ROOT)))
    # One table a level, whose second entry points to what stands above; at the last level both are leaves of type 0.
    assert [(run.level, run.shown) for run in runs if run.kind is EntryKind.TABLE] == [
        (3, False), (2, False), (1, False), (1, True), (2, True), (3, True),
    ]  # fmt: skip
    assert len([run for run in runs if run.kind is EntryKind.LEAF]) == 2


def test_a_table_outside_memory_is_named_and_not_read(memory: PhysicalMemory) -> None:
    put(memory, ROOT, 5, EPT.table_entry(0x9000_0000))
    text = render_page_table(memory, Regime.of(EPT, ROOT))
    assert "L3[5] [0x28000000000, 0x30000000000) table 0x90000000 (outside memory) 0x0000000090000007" in text


def test_permissions_are_those_of_all_tables_above(memory: PhysicalMemory) -> None:
    put(memory, ROOT, 0, EPT.table_entry(ROOT + 0x1000) & ~2)
    put(memory, ROOT + 0x1000, 0, EPT.leaf_entry(2, 0x4000_0000, RWX))
    assert "to 0x40000000 r-x/r-x" in render_page_table(memory, Regime.of(EPT, ROOT))


def test_leaves_are_one_run_only_where_output_and_attributes_continue(memory: PhysicalMemory) -> None:
    pages = Regime.of(by_name("arm-s2-64k-25"), ROOT)
    for index, (page, flags) in enumerate([(1, RWX), (2, RWX), (3, MappingFlags.READ), (4, RWX), (6, RWX), (7, RWX)]):
        put(memory, ROOT, index, pages.format.leaf_entry(0, page << 16, flags))
    put(memory, ROOT, 7, pages.format.leaf_entry(0, 8 << 16, RWX))
    found = [(run.index, run.count, run.output >> 16) for run in entry_runs(memory, pages)]
    assert found == [(0, 2, 1), (2, 1, 3), (3, 1, 4), (4, 2, 6), (7, 1, 8)]


def test_a_limit_cuts_the_text_and_says_so(memory: PhysicalMemory) -> None:
    for index in range(10):
        put(memory, ROOT, 2 * index, EPT.table_entry(0))
    lines = render_page_table(memory, Regime.of(EPT, ROOT), limit=4).splitlines()
    assert len(lines) == 6
    assert lines[-1] == "... more than 4 lines: the rest is left out"


def test_bare_has_no_tables(memory: PhysicalMemory) -> None:
    assert "no tables" in render_page_table(memory, Regime.of(BARE_STAGE_2))
    assert list(entry_runs(memory, Regime.of(BARE_STAGE_2))) == []


def test_an_address_too_wide_is_named(memory: PhysicalMemory) -> None:
    fmt = by_name("arm-s2-4k-40")
    put(memory, ROOT, 0, fmt.table_entry(1 << 40))
    assert "its address is too wide" in render_page_table(
        memory, Regime.of(fmt, ROOT, controls=fmt.controls_with("pa36"))
    )
