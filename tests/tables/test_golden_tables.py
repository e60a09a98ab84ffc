"""A whole table of every format as text, byte for byte.

`STAGE2_GOLDEN=write python -m pytest tests/tables/test_golden_tables.py` writes the files in `tests/golden` anew. Read
what changed with the manual at hand before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stage2.address import MIB, Hpa, Range
from stage2.errors import EncodingError
from stage2.flags import RWX, MappingFlags, MemoryType
from stage2.formats import by_name, names
from stage2.formats.record import Format
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.render.table_dump import render_page_table
from stage2.tables.outward import outward
from stage2.tables.pagetable import PageTable

FOLDER = Path(__file__).parent.parent / "golden"
REWRITE = os.environ.get("STAGE2_GOLDEN") == "write"
RAM = Range.sized(0x8000_0000, 16 * MIB)
TABLES = Owner(OwnerKind.TABLES, "golden")
every_format = pytest.mark.parametrize("name", names())
R, W, X, U = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE, MappingFlags.USER
DEVICE = R | W | MappingFlags.DEVICE
RESERVED = {"riscv": 0b101, "x86": 0b010, "arm": 0b101}
"""An entry that is no leaf: reserved, or for Arm at the last level invalid though not zero."""


def controls_of(fmt: Format) -> int:
    """The default, and what the format needs to know groups."""
    return fmt.controls_with("napot", "pbmt") if fmt.family == "riscv" else fmt.default_controls


def build(name: str, memory: PhysicalMemory) -> PageTable:
    """Pages of every kind, a group, a leaf at every level, the very last page, and broken entries."""
    fmt, page = by_name(name), by_name(name).page_size
    table = PageTable(fmt, FrameAllocator(memory), owner=TABLES, controls=controls_of(fmt))

    def at(address: int, hpa: int, size: int, flags: MappingFlags, memory_type: MemoryType | None = None) -> None:
        try:
            table.map_range(outward(fmt, address), Hpa(hpa), size, flags, memory_type=memory_type)
        except EncodingError:
            return  # an access or a type that the format cannot express leaves a hole

    pages = fmt.leaf_size(1)
    for place, flags in enumerate([R, R | W, R | X, X, W, RWX | U, R | U, DEVICE]):
        at(pages + place * page, 0x20_0000 + place * page, page, flags)
    for place, memory_type in enumerate(MemoryType):
        at(pages + (16 + place) * page, 0x4000_0000 + 5 * place * page, page, R | W, memory_type)
    at(pages + 64 * page, 0x6000_0000, 3 * page, RWX)
    for level in range(1, fmt.top_leaf_level + 1):
        size = fmt.leaf_size(level)
        if 3 * size <= 1 << fmt.input_bits - 1:
            at(2 * size, 5 * size, size, RWX)
    last = (1 << fmt.input_bits - (1 if fmt.sign_extended else 0)) - page
    at(last, (1 << fmt.output_bits) - page, page, R | W)
    if fmt.sign_extended:
        table.map_range((1 << 64) - page, Hpa(page), page, RWX)

    blocks, leaves = (step.table for step in table.explain(outward(fmt, pages + 64 * page)).steps[-2:])
    if group := fmt.group_bits_at(0):
        first = 1 << group + 1
        for place in range(first, first + (1 << group)):
            leaf = fmt.leaf_entry(0, 0x7000_0000 + place * page, R | W, controls=table.regime.controls)
            memory.store_u64(Hpa(leaves + 8 * place), fmt.group(leaf, 0))
    # A block whose address is no multiple of its size: reserved, but for Arm, where the bits below are ignored.
    misaligned = fmt.leaf_entry(1, 3 * pages + 2 * page, R, controls=table.regime.controls)
    memory.store_u64(Hpa(blocks + 8 * 7), misaligned)
    memory.store_u64(Hpa(leaves + 8 * (fmt.table_size // 8 - 1)), RESERVED[fmt.family])
    return table


@every_format
def test_a_whole_table_is_the_golden_one(name: str) -> None:
    with PhysicalMemory([RAM]) as memory:
        table = build(name, memory)
        found = render_page_table(memory, table.regime)
    path = FOLDER / f"{name}.txt"
    if REWRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def test_every_golden_table_is_of_a_format_that_exists() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(names())
