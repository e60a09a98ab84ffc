"""The picture of a map: what is in it, that nothing overlaps or is cut, and that it stays small."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import stage2
from stage2.cli.main import call
from stage2.inspect.inspection import open_memory
from stage2.inspect.mapping import MapPart, gathered
from stage2.render.picture.memory_axes import MOST_BANDS, MOST_BOXES
from stage2.render.picture.memory_map import Drawing, memory_map_svg

BASE, SIZE, LETTER = 0x4000_0000, 16 << 20, 7.3
NS = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>\x1b\"'&" + "x" * 500


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """A raw image of a machine with tables of both stages, and its options."""
    flags, kind = stage2.MappingFlags, stage2.MapType.MAP_ALLOC
    file = tmp_path_factory.mktemp("map") / "machine.bin"
    with stage2.PhysicalMemory([stage2.Range.sized(BASE, SIZE)]) as memory:
        space = stage2.AddressSpace("sv39x4", stage2.FrameAllocator(memory))
        space.map(stage2.MemoryRegion(stage2.Gpa(BASE), 4 << 20, flags(7), kind, populate=stage2.Populate.EAGER))
        guest = stage2.GuestTables(space, "sv39", BASE + 0x10_0000)
        guest.map(0x80_0000, BASE + 0x1000, 0x2000, flags.READ | flags.EXECUTE)
        guest.map(0x80_2000, BASE + 0x3000, 0x4000, flags.READ | flags.WRITE | flags.EXECUTE)
        guest.map(0xA0_0000, 0x1000_0000, 0x1000, flags.READ)
        guest.map(0x4000_0000, BASE + 0x20_0000, 0x20_0000, flags.READ | flags.WRITE | flags.USER)
        file.write_bytes(memory.read(stage2.Hpa(BASE), SIZE))
        roots = [f"sv39@{guest.regime.root:#x}", f"sv39x4@{space.regime.root:#x}"]
    return str(file), roots


@pytest.fixture(scope="module")
def part(dump: tuple[str, list[str]]) -> Iterator[MapPart]:
    with open_memory(dump[0], dump[1], base=BASE) as found:
        held, left_out = gathered(found.map_parts("gva"), 1 << 20)
        assert held is not None
        assert left_out == 0
        yield held


def many(part: MapPart, count: int) -> MapPart:
    """A map of so many ranges, scattered, with the leaves of a small one."""
    random = np.random.default_rng(1)
    sizes = random.integers(1, 5, count).astype(np.uint64) << np.uint64(12)
    starts = np.cumsum(random.integers(5, 400, count)).astype(np.uint64) << np.uint64(12)
    which = random.integers(0, len(part), count)
    middle = random.permutation(starts)
    return MapPart(
        part.first, part.second, starts, middle, random.permutation(middle), sizes, part.key_1[which],
        part.key_2[which], part.types,
    )  # fmt: skip


def boxes_of(svg: str) -> dict[str, list[tuple[ElementTree.Element, tuple[float, ...]]]]:
    found = defaultdict(list)
    for group in ElementTree.fromstring(svg).iter(f"{NS}g"):
        if "data-axis" in group.attrib:
            rect = next(group.iter(f"{NS}rect")).attrib
            place = tuple(float(rect[name]) for name in ("x", "y", "width", "height"))
            found[group.attrib["data-axis"]].append((group, place))
    return found


def test_the_ranges_of_every_axis_are_all_in_its_boxes(part: MapPart) -> None:
    boxes = boxes_of(memory_map_svg(part, Drawing("machine.bin")))
    counts = {name: sum(int(group.attrib["data-ranges"]) for group, _ in found) for name, found in boxes.items()}
    nowhere = sum(one.hpa is None for one in part.told())
    assert counts == {"GVA": len(part), "GPA": len(part), "HPA": len(part) - nowhere}
    assert nowhere == 1
    for one in part.told():
        for name, at in (("GVA", one.gva), ("GPA", one.gpa), ("HPA", one.hpa)):
            spans = [(int(g.attrib["data-start"], 16), int(g.attrib["data-last"], 16)) for g, _ in boxes[name]]
            assert at is None or any(first <= at and at + one.size - 1 <= last for first, last in spans)
    allowed = [group.attrib["data-allows"] for group, _ in boxes["GVA"]]
    assert allowed == ["execute", "both", "none", "write"]


@pytest.mark.parametrize("count", [0, 1000, 1_000_000])
def test_nothing_overlaps_or_is_cut_and_a_million_ranges_are_no_larger_picture(part: MapPart, count: int) -> None:
    svg = memory_map_svg(many(part, count) if count else part, Drawing("machine.bin", ["GVAs go through sv39@0x0"], 3))
    assert len(svg) < 400_000
    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for name, found in boxes_of(svg).items():
        assert 0 < len(found) <= MOST_BOXES, name
        for (_, before), (_, after) in pairwise(found):
            assert before[1] + before[3] <= after[1] + 0.11
        for group, (left, top, wide, high) in found:
            assert 0 <= left < left + wide <= width
            assert 0 <= top < top + high <= height
            for line in group.iter(f"{NS}text"):
                assert left <= float(line.attrib["x"])
                assert float(line.attrib["x"]) + LETTER * len(line.text or "") <= left + wide
    for line in root.iter(f"{NS}text"):
        assert "…" not in (line.text or ""), "a text is cut"
        assert float(line.attrib["y"]) < height
    bands = [one for one in root.iter(f"{NS}path") if "data-ranges" in one.attrib]
    assert all(("stroke-dasharray" in one.attrib) == (one.attrib["data-ranges"] != "1") for one in bands)
    assert len(bands) <= 2 * MOST_BANDS
    assert "3 ranges at higher addresses are left out." in svg
    assert all(float(size) >= 11 for size in re.findall(r'font-size="([0-9.]+)"', svg))


def test_the_last_addresses_of_all_are_drawn(part: MapPart) -> None:
    last = part.only(slice(0, 1))
    top = np.array([(1 << 64) - int(last.size[0])], np.uint64)
    assert f"-{(1 << 64) - 1:#x}" in memory_map_svg(replace(last, start=top), Drawing("m"))


def test_hostile_names_are_text_and_the_same_map_gives_the_same_picture(part: MapPart) -> None:
    drawing = Drawing(HOSTILE, [HOSTILE])
    svg = memory_map_svg(part, drawing)
    assert "<script" not in svg
    assert "\x1b" not in svg
    assert "alert(1)" in " ".join(ElementTree.fromstring(svg).itertext())
    assert svg == memory_map_svg(part, drawing)
    assert float(ElementTree.fromstring(svg).attrib["width"]) < 2000


def test_the_picture_in_the_documentation_is_the_one_that_is_drawn(part: MapPart) -> None:
    page = Path(__file__).parents[2] / "docs" / "images" / "memory-map.svg"
    assert page.read_text() == memory_map_svg(part, Drawing("machine.bin"))


def test_the_command_draws_what_its_filters_leave(
    dump: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, roots = dump
    options = [f"--base={BASE:#x}", *(f"--root={root}" for root in roots)]
    svg, page = tmp_path / "map.svg", tmp_path / "map.html"
    assert call(["map", file, *options, "--wx", "--svg", str(svg), "--html", str(page)]) == 0
    assert [group.attrib["data-allows"] for group, _ in boxes_of(svg.read_text())["GVA"]] == ["both"]
    assert "1 range of GVAs mapped" in page.read_text()
    assert call(["map", file, *options, "--svg", str(tmp_path / "map.txt")]) == 2
    assert call(["map", file, *options, "--range", "0x1000:0x1000", "--svg", str(svg)]) == 2
    assert "nothing to draw" in capsys.readouterr().err
