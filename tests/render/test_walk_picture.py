"""The picture of one walk: what is in it, that nothing lies on anything else, and that names cannot break it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import stage2
from stage2.cli.main import call
from stage2.render.picture.walk import walk_svg
from stage2.render.walk import WalkView
from stage2.tables.explain import Walk

GVA, NO_STAGE_1, NO_STAGE_2 = 0x80_1123, 0xF0_0000, 0xA0_0123
PAIRS = [("sv39", "sv39x4"), ("sv57", "sv57x4"), ("arm-s1-4k-48", "arm-s2-4k-48"), ("x86-4level", "ept4")]
_LETTER = 7.3


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def walked(request: pytest.FixtureRequest) -> Iterator[Callable[[int], Walk]]:
    first, second = request.param
    ram = 0x4000_0000
    flags = stage2.MappingFlags
    with stage2.PhysicalMemory([stage2.Range.sized(ram, 64 << 20)]) as memory:
        space = stage2.AddressSpace(second, stage2.FrameAllocator(memory))
        kind = stage2.MapType.MAP_ALLOC
        space.map(stage2.MemoryRegion(stage2.Gpa(ram), 8 << 20, flags(7), kind, populate=stage2.Populate.EAGER))
        guest = stage2.GuestTables(space, first, ram + 0x10_0000)
        guest.map(0x80_0000, ram + 0x1000, 0x2000, flags.READ | flags.EXECUTE)
        guest.map(0xA0_0000, 0x1000_0000, 0x1000, flags.READ)
        yield lambda gva: space.walk(gva, guest.regime)


def view_of(walk: Walk, name: str = "") -> WalkView:
    assert walk.stage_2 is not None
    return WalkView(walk, walk.stage_2, walk.stage_1, declared=False, vm=name)


def attributes(svg: str, name: str) -> list[dict[str, str]]:
    return [one.attrib for one in ElementTree.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{name}")]


@pytest.mark.parametrize("gva", [GVA, NO_STAGE_1, NO_STAGE_2])
def test_every_entry_that_was_read_is_in_the_picture_in_order_with_its_place_and_value(
    walked: Callable[[int], Walk], gva: int
) -> None:
    walk = walked(gva)
    view = view_of(walk)
    drawn = [one for one in attributes(walk_svg(view), "g") if "data-slot" in one]
    read = [one for step in walk.steps for one in (*step.under, step)]
    assert [(one["data-slot"], one["data-entry"]) for one in drawn] == [
        (f"{step.slot_hpa:#x}", f"{step.entry:#x}") for step in read
    ]
    assert len(drawn) == view.references


@pytest.mark.parametrize("gva", [GVA, NO_STAGE_1, NO_STAGE_2])
def test_nothing_leaves_the_frame_and_no_two_entries_overlap(walked: Callable[[int], Walk], gva: int) -> None:
    svg = walk_svg(view_of(walked(gva)))
    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    ns = "{http://www.w3.org/2000/svg}"
    boxes = []
    for group in root.iter(f"{ns}g"):
        if "data-slot" in group.attrib:
            box = next(group.iter(f"{ns}rect")).attrib
            boxes.append(tuple(float(box[name]) for name in ("x", "y", "width", "height")))
            left, top, wide, high = boxes[-1]
            for line in group.iter(f"{ns}text"):
                x, y = float(line.attrib["x"]), float(line.attrib["y"])
                assert left <= x
                assert x + _LETTER * len(line.text or "") <= left + wide
                assert top < y <= top + high
    for number, (x, y, wide, high) in enumerate(boxes):
        assert 0 <= x < x + wide <= width
        assert 0 <= y < y + high <= height
        for other_x, other_y, other_wide, other_high in boxes[number + 1 :]:
            assert x + wide <= other_x or other_x + other_wide <= x or y + high <= other_y or other_y + other_high <= y
    for line in root.iter(f"{ns}text"):
        assert "…" not in (line.text or ""), "a text is cut"
    assert all(float(size) >= 11 for size in re.findall(r'font-size="([0-9.]+)"', svg))


def test_the_result_and_the_cost_are_told(walked: Callable[[int], Walk]) -> None:
    walk = walked(GVA)
    view = view_of(walk)
    assert isinstance(walk.result, stage2.Mapped)
    texts = " ".join(walk_svg(view).split())
    assert f"HPA {walk.result.hpa:#x}" in texts
    assert f"{view.references} memory references" in texts
    assert "fault" not in texts
    lost = walk_svg(view_of(walked(NO_STAGE_2)))
    assert "translation fault" in lost
    assert "at stage 2, " in lost


def test_a_hostile_name_is_text_and_the_same_walk_gives_the_same_picture(walked: Callable[[int], Walk]) -> None:
    name = "</text><script>alert(1)</script>\x1b\"'&"
    view = view_of(walked(GVA), name)
    svg = walk_svg(view)
    assert "<script" not in svg
    assert "\x1b" not in svg
    assert "alert(1)" in " ".join(ElementTree.fromstring(svg).itertext())
    assert svg == walk_svg(replace(view))


def test_the_picture_in_the_documentation_is_the_one_that_is_drawn(walked: Callable[[int], Walk]) -> None:
    view = view_of(walked(GVA))
    if (view.regime(1).format.name, view.stage_2.format.name) == PAIRS[0]:
        page = Path(__file__).parents[2] / "docs" / "images" / "walk.svg"
        assert page.read_text() == walk_svg(view)


VM = """\
[base]
id = 1
name = "vm"
vm_type = 1
cpu_num = 1
arch = "riscv64"
[kernel]
entry_point = 0x8000_0000
kernel_load_addr = 0x8000_0000
memory_regions = [[0x8000_0000, 0x40_0000, 0x7, 0]]
[devices]
"""


@pytest.mark.parametrize("gpa", ["0x80001000", "0x1000"])
def test_the_command_writes_the_walk_of_a_vms_gpa_with_the_fields_beside_each_entry(
    gpa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vm.toml").write_text(VM)
    assert call(["walk", "vm.toml", "--gpa", gpa]) == 0
    without = capsys.readouterr().out
    assert call(["walk", "vm.toml", "--gpa", gpa, "--svg", "walk.svg"]) == 0
    assert capsys.readouterr().out == without
    svg = Path("walk.svg").read_text()
    told = " ".join(ElementTree.fromstring(svg).itertext())
    assert f"Walk of GPA {gpa} of VM vm" in told
    assert "[0] V = " in told
    assert "memory reference" in told
