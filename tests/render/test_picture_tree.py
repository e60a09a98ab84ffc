"""The picture of page tables level by level: what is counted, what is taken together, and the file."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from test_picture import GOLDEN, SVG, texts, vm

from stage2.address import GIB, KIB, MIB, Gpa, Range
from stage2.cli.main import call
from stage2.flags import MappingFlags, MapType
from stage2.formats import by_name
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.prove.packing import U64Array
from stage2.prove.source import HostTables
from stage2.prove.subject import Space, Subject
from stage2.render.picture.tree import MOST_GROUPS, Fullness, Group, Tree, TreeLevel, tree, trees
from stage2.render.picture.tree_svg import tree_svg
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion
from stage2.tables.regime import Regime

__all__ = ["vm"]

RWX = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE


def fullness(each: int, count: int = 1) -> Fullness:
    return Fullness(each * count, each, each)


def group(count: int, at: int, span: Range, leaves: int, tables: int, wrong: int = 0, entries: int = 512) -> Group:
    each = [fullness(number, count) for number in (leaves, tables, wrong, entries - leaves - tables - wrong)]
    return Group(count, at, span.start, span.end, span, each[0], each[1], each[2], each[3], True)


def deep() -> list[Tree]:
    """A VM of 16 GiB in small pages, and a lazily populated one of Arm with an entry that is wrong."""
    sv39x4, arm = by_name("sv39x4"), by_name("arm-s2-4k-40")
    full = Range.sized(2 * GIB, 16 * GIB)
    large = Tree("VM 1 large", Regime.of(sv39x4, 0x8000_0000), (
        TreeLevel(2, 2048, GIB, (group(1, 0x8000_0000, Range(0, 1 << 41), 0, 16, entries=2048),)),
        TreeLevel(1, 512, 2 * MIB, (group(16, 0x8001_0000, full, 0, 512),)),
        TreeLevel(0, 512, 4 * KIB, (group(8192, 0x8010_0000, full, 512, 0),)),
    ), 34 * MIB)  # fmt: skip
    pages = [Range.sized(GIB + number * 2 * MIB, 2 * MIB) for number in range(40)]
    ends = [group(1, 0x9000_0000 + number * 4 * KIB, pages[number], number * 7, 0) for number in (0, 1, 2, 37, 38, 39)]
    between = Range(pages[3].start, pages[36].end)
    mixed = Group(
        34, 0x9100_0000, between.start, between.end, between, Fullness(6000, 1, 511), Fullness(0, 0, 0),
        Fullness(1, 0, 1), Fullness(34 * 512 - 6001, 1, 511), False,
    )  # fmt: skip
    lazy = Tree("VM 2 lazy", Regime.of(arm, 0x9000_0000), (
        TreeLevel(2, 1024, GIB, (group(1, 0x9000_0000, Range(0, 1 << 40), 1, 1, entries=1024),)),
        TreeLevel(1, 512, 2 * MIB, (group(1, 0x9000_2000, Range.sized(GIB, GIB), 12, 40, 1),)),
        TreeLevel(0, 512, 4 * KIB, (*ends[:3], mixed, *ends[3:])),
    ), None)  # fmt: skip
    return [large, lazy]


def test_the_picture_is_as_it_was() -> None:
    drawn, file = tree_svg(deep()), GOLDEN / "tree.svg"
    if os.environ.get("STAGE2_GOLDEN") == "write":
        file.write_text(drawn, encoding="utf-8", newline="")
    assert drawn == file.read_text(encoding="utf-8")


def test_the_documentation_shows_this_picture() -> None:
    page = Path(__file__).parents[2] / "docs" / "images" / "table-tree.svg"
    assert page.read_text(encoding="utf-8") == (GOLDEN / "tree.svg").read_text(encoding="utf-8")


def test_it_says_how_full_tables_are_and_what_is_alike_once() -> None:
    shown = texts(tree_svg(deep()))
    assert "8,209 tables: 32.1 MiB, in frames of 34 MiB; leaves: 4,194,304 of 4 KiB; 16 GiB mapped" in shown
    assert "8,192 tables from HPA 0x80100000" in shown
    assert "each 512 leaves" in shown
    assert "34 tables from HPA 0x91000000" in shown
    assert "each 1-511 leaves, 0-1 wrong, 1-511 empty" in shown
    assert "level 2 (Arm's 1), leaves of 1 GiB" in shown
    assert "1 leaf, 1 table, 1,022 empty" in shown
    assert any(text.startswith("wrong: ") for text in shown)


def test_it_can_be_read_without_eyes_and_loads_nothing() -> None:
    svg = tree_svg(deep())
    root = ET.fromstring(svg)
    assert root[0].text == "Page tables of 2 address spaces"
    assert (root[1].text or "").startswith("VM 1 large, sv39x4: 8,209 tables")
    assert {one.tag.removeprefix(SVG) for one in root.iter()}.isdisjoint({"script", "image", "style", "a"})
    assert set(re.findall(r"url\(#([^)]*)\)", svg)) <= {one.get("id") for one in root.iter(f"{SVG}pattern")}


def test_hostile_names_are_text() -> None:
    large, _ = deep()
    svg = tree_svg([Tree("</text><script>\x1b\u202e", large.regime, large.levels, None)])
    svg.encode()
    assert "<script" not in svg
    assert not {"\x1b", "\u202e"} & set(svg)


class Endless:
    """16 GiB in leaves of 4 KiB as tables that are made when they are asked for."""

    def __init__(self) -> None:
        self.format = by_name("sv39x4")
        self.leaf = self.format.encode_leaf(0, RWX, RWX.memory_type, self.format.default_controls)

    def contains(self, address: int, size: int = 1) -> bool:
        return True

    def holds(self, addresses: U64Array, size: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.ones(len(addresses), bool)

    def word_at(self, hpa: int) -> int | None:
        raise AssertionError("tables are read whole")

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        raise AssertionError("tables are read as arrays")

    def tables(self, addresses: U64Array, entries: int) -> U64Array:
        pack = np.vectorize(self.format.pack_address, otypes=[np.uint64])
        found = np.zeros((len(addresses), entries), np.uint64)
        slots = np.arange(entries, dtype=np.uint64)
        for row, at in zip(found, addresses.tolist(), strict=True):
            if at == 1 << 32:  # the root: 16 tables of level 1
                row[:16] = pack((1 << 33) + 4096 * slots[:16]) | np.uint64(self.format.table_bits)
            elif at < 1 << 34:
                number = (at - (1 << 33)) >> 12
                row[:] = pack((1 << 34) + 4096 * (512 * number + slots)) | np.uint64(self.format.table_bits)
            else:
                row[:] = np.uint64(self.leaf) + slots * np.uint64(self.format.pack_address(4096))
        return found


def test_thousands_of_tables_stay_readable_and_small() -> None:
    source = Endless()
    found = tree(Space("large", Regime.of(source.format, 1 << 32)), source, "VM large")
    assert [(level.tables, level.leaves, len(level.groups)) for level in found.levels] == [
        (1, 0, 1), (16, 0, 1), (8192, 8192 * 512, 1)
    ]  # fmt: skip
    assert len(tree_svg([found] * 20)) < 80_000


def made(sizes: list[int]) -> tuple[AddressSpace, Subject]:
    """A VM with so many pages populated in stretches of 2 MiB."""
    frames = FrameAllocator(PhysicalMemory([Range.sized(2 * GIB, 64 * MIB)]))
    space = AddressSpace("sv39x4", frames, name="guest")
    space.map(MemoryRegion(Gpa(GIB), 64 * MIB, RWX, MapType.MAP_ALLOC, name="ram"))
    for number, pages in enumerate(sizes):
        for page in range(pages):
            space.populate_range(Range.sized(GIB + number * 2 * MIB + page * 8 * KIB, 4 * KIB))
    mine = Space("guest", space.regime, space.memory_regions, tuple(space.page_table.table_ranges))
    return space, Subject(HostTables(frames.memory), (mine,))


def test_counts_are_those_of_the_tables() -> None:
    space, subject = made([3, 3, 0, 5, 1])
    (found,) = trees(subject, {"guest": "VM 7 guest"})
    statistics = space.page_table.statistics()
    assert found.title == "VM 7 guest"
    assert sum(level.tables for level in found.levels) == statistics.tables
    assert {level.leaf_size: level.leaves for level in found.levels if level.leaves} == statistics.leaves
    assert [(one.count, one.leaves.range, one.empty.range) for one in found.levels[-1].groups] == [
        (2, "3", "509"), (1, "5", "507"), (1, "1", "511"),
    ]  # fmt: skip
    assert found.levels[-1].groups[1].span == Range.sized(GIB + 6 * MIB, 2 * MIB)
    assert found.held == statistics.table_bytes


def test_many_tables_that_are_not_alike_are_one_box_in_the_middle() -> None:
    _, subject = made([number % 2 + 1 for number in range(20)])
    (found,) = trees(subject)
    groups = found.levels[-1].groups
    assert len(groups) < MOST_GROUPS
    assert [one.count for one in groups] == [1, 1, 1, 14, 1, 1, 1]
    assert (groups[3].leaves, groups[3].alike) == (Fullness(21, 1, 2), False)


def test_an_entry_that_is_wrong_is_counted() -> None:
    space, subject = made([3])
    table = int(space.page_table.explain(GIB).steps[-1].slot)
    memory = space.frames.memory
    memory.words[(table - memory.base) // 8] |= np.uint64(1 << 60)
    (found,) = trees(subject)
    assert [level.wrong for level in found.levels] == [0, 0, 1]
    assert "2 leaves, 1 wrong, 509 empty" in texts(tree_svg([found]))


def test_build_and_prove_draw_the_same_tables(vm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call(["build", vm, "-o", str(out), "--tree", str(tmp_path / "a.svg")]) == 0
    assert call(["prove", str(out), "--tree", str(tmp_path / "b.svg")]) == 0
    assert call(["prove", vm, "--tree", str(tmp_path / "c.svg")]) == 0
    drawn = [(tmp_path / name).read_text() for name in ("a.svg", "b.svg", "c.svg")]
    assert drawn[1] == drawn[2]
    assert [text.replace("VM 1 one", "VM one") for text in texts(drawn[0])] == texts(drawn[1])
    assert "8 leaves, 504 empty" in texts(drawn[0])
    capsys.readouterr()
    assert call(["prove", vm, "--tree", "tree.txt"]) == 2
    assert "tree.txt: the picture is SVG: give --tree a name that ends in .svg" in capsys.readouterr().err
