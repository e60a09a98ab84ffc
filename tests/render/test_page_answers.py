"""What a page answers, in a browser: the walks of Python, entry by entry and word by word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from urllib.parse import urlencode

import numpy as np
import pytest
from rich.text import Text

from chromium import rendered
from html_page import Element, Page
from stage2 import AddressSpace, FrameAllocator, MappingFlags, MapType, MemoryRegion, PhysicalMemory, Populate
from stage2.address import GIB, MIB, Gpa, Hpa, Range
from stage2.cli.main import call
from stage2.formats.describe import describe_entry
from stage2.prove.source import HostTables
from stage2.prove.subject import Space as Tables
from stage2.prove.subject import Subject
from stage2.prove.world import World
from stage2.render.picture import page_data
from stage2.render.picture.made import mapped_spaces
from stage2.render.picture.page import Map, map_page
from stage2.render.picture.svg import picture_svg
from stage2.render.walk import WalkView, entry_text, result_lines
from stage2.tables.explain import explain_stage
from stage2.tables.regime import Regime
from stage2.tables.result import Mapped, permission_text

FORMATS = (
    "sv39x4", "sv48x4", "sv57x4", "ept4", "ept5", "npt4", "arm-s2-4k-40", "arm-s2-4k-48", "arm-s2-16k-40",
    "arm-s2-64k-48", "arm-s2-4k-48-lpa2", "arm-s2-64k-48-lpa", "npt5",
)  # fmt: skip
R, W, X, U = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE, MappingFlags.USER


@dataclass(frozen=True)
class Made:
    """A space with its tables and owners."""

    space: AddressSpace
    world: World

    @property
    def source(self) -> HostTables:
        return HostTables(self.space.frames.memory)

    @property
    def regime(self) -> Regime:
        return self.world.vms[0].space.regime

    def page(self) -> str:
        spaces, host = mapped_spaces(self.world)
        regions = [vm.space.regions for vm in self.world.vms]
        return map_page(Map("build", picture_svg(spaces, host), spaces, host, regions, self.world, [None]))

    def view(self, gpa: int) -> WalkView:
        walk = explain_stage(self.source, self.regime, gpa)
        owner = None
        if isinstance(walk.result, Mapped):
            holder = self.space.frames.owners.at(walk.result.hpa)
            owner = "nobody" if holder is None else str(holder)
        return WalkView(walk, self.regime, region=self.space.region_at(Gpa(gpa)), owner=owner)


def made(name: str, memory: PhysicalMemory) -> Made:
    """RAM in leaves of every size, a device, a damaged entry, and leaves without a present one between them."""
    space = AddressSpace(name, FrameAllocator(memory), populate=Populate.EAGER, name="guest")
    page = space.format.page_size
    device = R | W | MappingFlags.DEVICE
    space.map(MemoryRegion(Gpa(16 * page), page, device, MapType.MMIO, hpa=Hpa(16 * page), name="uart"))
    space.map(MemoryRegion(Gpa(32 * page), page, device, MapType.MMIO, hpa=Hpa(0), name="first"))
    space.map(MemoryRegion(Gpa(GIB), 700 * page, R | W | X | U, MapType.MAP_ALLOC, name="ram"))
    space.map(MemoryRegion(Gpa(2 * GIB), 64 * MIB, R | X | U, MapType.MAP_ALLOC, name="rest"))
    damaged = explain_stage(memory, space.regime, GIB + 650 * page).steps[-1].slot
    memory.words[(damaged - memory.base) // 8] = np.uint64((1 << 64) - 1)
    return read(space)


def read(space: AddressSpace, regime: Regime | None = None) -> Made:
    """A space with its tables read, by its own regime or another."""
    tables = Tables("guest", regime or space.regime, tuple(space.memory_regions), tuple(space.page_table.table_ranges))
    source, owners = HostTables(space.frames.memory), tuple(space.frames.owners)
    return Made(space, World.of(Subject(source, (tables,), owners=owners)))


@pytest.fixture
def memory() -> Iterator[PhysicalMemory]:
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as found:
        yield found


def asked(page: str, space: str, addresses: Sequence[int], folder: Path) -> Page:
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    fragment = urlencode({"space": space, "address": " ".join(f"{one:#x}" for one in addresses)})
    return Page(rendered(file, fragment, folder / "profile"))


def of(page: Page, article: Element, tag: str) -> list[Element]:
    """The elements of a name in an article; none of an article lies in another of GPAs."""
    first = page.elements.index(article)
    behind = [place for place, one in enumerate(page.elements) if one.tag == "article" and place > first]
    mine = page.elements[first : min(behind, default=None)]
    return [one for one in mine if one.tag == tag and "article" in one.within]


def agrees(found: Made, page: Page, article: Element) -> None:
    """An answer says what the explained walk says."""
    gpa = int(article.attributes["data-gpa"], 16)
    view, fmt = found.view(gpa), found.space.format
    walk = view.walk
    rows = [one for one in of(page, article, "tr") if "data-slot" in one.attributes]
    assert [(int(one.attributes["data-slot"], 16), int(one.attributes["data-entry"], 16)) for one in rows] == [
        (step.slot, step.entry) for step in walk.steps
    ]
    told = [one.text for one in of(page, article, "td")]
    items = [one.text for one in of(page, article, "li")]
    fields: list[str] = []
    for number, step in enumerate(walk.steps):
        table, index, word, means, allows = told[5 * number : 5 * number + 5]
        assert (table, index, word) == (f"{step.table:#x}", str(step.index), f"{step.entry:#018x}")
        assert means.startswith(entry_text(view, step) + "Fields")
        assert allows == (permission_text(step.permissions) if step.kind.name in ("TABLE", "LEAF") else "")
        fields += [
            f"{one.name} [{one.bits}] = {one.value:#x}: {one.meaning}{' (reserved)' if one.reserved else ''}"
            for one in describe_entry(fmt, step.entry, step.level, step.kind, view.stage_2.controls)
        ]
    assert items == fields
    lines = [one.text for one in of(page, article, "p")][1:]
    assert all(isinstance(one, Text) for one in result_lines(view))
    assert sorted(lines) == sorted(one.plain for one in result_lines(view) if isinstance(one, Text))
    assert article.attributes.get("data-hpa") == (f"{walk.result.hpa:#x}" if isinstance(walk.result, Mapped) else None)


@pytest.mark.parametrize("name", FORMATS)
def test_a_page_answers_what_the_explained_walk_says(name: str, memory: PhysicalMemory, tmp_path: Path) -> None:
    found = made(name, memory)
    page, top = found.space.format.page_size, 1 << found.space.format.input_bits
    random = Random(name)
    gpas = [0, 32 * page + 1, 16 * page, 17 * page - 1, 17 * page, GIB, GIB + 650 * page + 3, GIB + 700 * page]
    gpas += [top - 1, top, (1 << 64) - 1]
    gpas += [GIB + random.randrange(700 * page) for _ in range(16)]
    gpas += [2 * GIB + random.randrange(64 * MIB) for _ in range(8)] + [random.randrange(top) for _ in range(8)]
    answered = asked(found.page(), "0", gpas, tmp_path)
    articles = answered.all("article")
    assert [int(one.attributes["data-gpa"], 16) for one in articles] == gpas
    for article in articles:
        agrees(found, answered, article)


@pytest.mark.parametrize(
    ("name", "edge"), [("arm-s2-4k-48-lpa2", 1 << 50), ("arm-s2-64k-48-lpa", 1 << 50), ("ept4", 1 << 39)]
)
def test_addresses_are_told_on_both_sides_of_where_a_field_ends_or_a_processor(
    name: str, edge: int, tmp_path: Path
) -> None:
    with PhysicalMemory([Range(edge - 256 * MIB, edge + 256 * MIB)]) as memory:
        space = AddressSpace(name, FrameAllocator(memory), populate=Populate.EAGER, name="guest")
        space.map(MemoryRegion(Gpa(GIB), 400 * MIB, R | W | X | U, MapType.MAP_ALLOC, name="ram"))
        found = read(space)
        answered = asked(found.page(), "0", [GIB + part * 25 * MIB + 7 for part in range(16)], tmp_path)
        for article in answered.all("article"):
            agrees(found, answered, article)


@pytest.mark.parametrize("name", ["sv39x4", "ept4"])
def test_an_hpa_is_answered_with_every_gpa_that_leads_to_it(name: str, memory: PhysicalMemory, tmp_path: Path) -> None:
    found = made(name, memory)
    page = found.space.format.page_size
    slots = [explain_stage(memory, found.space.regime, GIB + at * page).steps[-1].slot for at in (600, 620)]
    first, other = ((slot - memory.base) // 8 for slot in slots)
    memory.words[other] = memory.words[first]
    found = Made(found.space, World.of(found.world.subject))
    hpa = found.space.page_table.translate(GIB + 600 * page + 5)
    assert isinstance(hpa, Mapped)
    answered = asked(found.page(), "host", [hpa.hpa, found.space.regime.root, 0x5000], tmp_path)
    ways = [one for one in answered.all("article") if "data-gpa" in one.attributes]
    assert [int(one.attributes["data-gpa"], 16) for one in ways] == [GIB + 600 * page + 5, GIB + 620 * page + 5]
    beside = [hpa.hpa - 5 + page, hpa.hpa - 6]
    walks = {
        gpa: found.view(gpa).walk.result for at in range(700) for gpa in (GIB + at * page, GIB + at * page + page - 1)
    }
    expected = [gpa for one in beside for gpa, its in walks.items() if isinstance(its, Mapped) and its.hpa == one]
    neighbours = asked(found.page(), "host", beside, tmp_path).all("article")
    assert [int(one.attributes["data-gpa"], 16) for one in neighbours if "data-gpa" in one.attributes] == expected
    for article in ways:
        agrees(found, answered, article)
    lines = [one.text for one in answered.all("p")]
    assert f"2 GPAs lead to HPA {hpa.hpa:#x}." in lines
    assert f"No GPAs lead to HPA {found.space.regime.root:#x}." in lines
    assert "The memory belongs to page tables of VM guest." in lines
    assert "The memory belongs to nobody." in lines


def test_groups_of_leaves_are_answered_as_they_are_walked(memory: PhysicalMemory, tmp_path: Path) -> None:
    space = AddressSpace("sv39x4", FrameAllocator(memory), populate=Populate.EAGER, name="guest")
    space.map(MemoryRegion(Gpa(GIB), 64 << 12, R | W | X | U, MapType.MAP_ALLOC, name="ram"))
    regime = Regime.of(space.format, space.regime.root, controls=space.format.controls_with("napot"))
    for page in range(64):
        place = (explain_stage(memory, regime, GIB + (page << 12)).steps[-1].slot - memory.base) // 8
        memory.words[place] = np.uint64(space.format.group(int(memory.words[place]), 0))
    found = read(space, regime)
    gpas = [GIB + (page << 12) + 9 for page in (0, 1, 15, 16, 17, 40, 63)]
    answered = asked(found.page(), "0", gpas, tmp_path)
    for article in answered.all("article"):
        agrees(found, answered, article)
    where = [found.view(gpa).walk.result for gpa in gpas]
    hpas = [one.hpa for one in where if isinstance(one, Mapped)]
    back = asked(found.page(), "host", hpas, tmp_path)
    assert [int(one.attributes["data-gpa"], 16) for one in back.all("article") if "data-gpa" in one.attributes] == gpas


def test_what_is_no_address_is_one_sentence_and_no_markup(memory: PhysicalMemory, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(made("sv39x4", memory).page(), encoding="utf-8")
    fragment = urlencode({"space": "0", "address": "<img/src=x>"})
    answered = Page(rendered(file, fragment, tmp_path / "profile"))
    (said,) = [one for one in answered.elements if one.attributes.get("role") == "status"]
    assert said.text == '"<img/src=x>" is no address: write 0x80000000 or 2147483648.'
    assert answered.all("img") == []


def test_scripts_show_the_controls_and_make_addresses_questions(memory: PhysicalMemory, tmp_path: Path) -> None:
    answered = asked(made("sv39x4", memory).page(), "0", [GIB], tmp_path)
    hidden = [one.attributes.get("id") for one in answered.elements if "hidden" in one.attributes]
    assert hidden == []
    names = [one.attributes["aria-label"] for one in answered.all("button") if one.attributes.get("class") == "ask"]
    assert f"Look up GPA of VM guest {GIB:#x}" in names
    assert [one.attributes["class"] for one in answered.all("circle")].count("pin end") == 4


def driven(page: str, script: str, folder: Path) -> Page:
    """The page after somebody used it; the rule that keeps other scripts out is taken off for that."""
    file = folder / "page.html"
    open_page = re.sub(r"<meta http-equiv.*?>", "", page)
    file.write_text(open_page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return Page(rendered(file, "", folder / "profile"))


def test_filters_put_away_what_is_not_wanted_and_give_it_back(memory: PhysicalMemory, tmp_path: Path) -> None:
    page = made("sv39x4", memory).page()
    untick = 'document.querySelector("[name={}][value={}]").click();'

    def away(script: str) -> tuple[list[tuple[str, str]], set[str]]:
        """Spaces and kinds of boxes that are put away, and names in the rows that are."""
        answered = driven(page, script, tmp_path)
        boxes = [one.attributes for one in answered.elements if one.tag == "g" and "data-space" in one.attributes]
        rows = [one for one in answered.all("tr") if "hidden" in one.attributes]
        return (
            sorted({(one["data-space"], one["data-kind"]) for one in boxes if one.get("class") == "away"}),
            {row.attributes["data-kind"] for row in rows},
        )

    assert away(untick.format("kind", "ram")) == ([("0", "ram"), ("host", "ram")], {"ram"})
    assert away(untick.format("vm", "'0'")) == (
        [("0", "passthrough"), ("0", "ram"), ("host", "passthrough"), ("host", "ram")], {"ram", "passthrough"},
    )  # fmt: skip
    again = untick.format("kind", "ram") + 'document.querySelector("#filter [type=reset]").click();'
    assert away(again) == ([], set())


def test_the_picture_grows_and_shrinks_by_button_key_and_wheel(memory: PhysicalMemory, tmp_path: Path) -> None:
    page = made("sv39x4", memory).page()

    def shown(script: str) -> str:
        (found,) = [one for one in driven(page, script, tmp_path).all("output") if one.attributes["id"] == "zoom"]
        return found.text

    press = 'document.getElementById("picture").dispatchEvent(new KeyboardEvent("keydown", {{key: "{}"}}));'
    turn = 'document.getElementById("picture").dispatchEvent(new WheelEvent("wheel", {{ctrlKey: {}, deltaY: -400}}));'
    assert shown("") == "100 %"
    assert shown('document.querySelector("[data-zoom=in]").click();') == "125 %"
    assert shown('document.querySelector("[data-zoom=out]").click();') == "80 %"
    assert shown(press.format("+")) == "125 %"
    assert shown(press.format("-")) == "80 %"
    assert shown(press.format("+") + press.format("1")) == "100 %"
    assert shown(turn.format("true")) == "272 %"
    assert shown(turn.format("false")) == "100 %"


def test_a_click_on_an_address_asks_for_it(memory: PhysicalMemory, tmp_path: Path) -> None:
    click = f'document.querySelector("[data-space=\\"0\\"][data-ask=\\"{GIB:#x}\\"] button").click();'
    answered = driven(made("sv39x4", memory).page(), click, tmp_path)
    (article,) = answered.all("article")
    assert article.attributes["data-gpa"] == f"{GIB:#x}"


def test_what_is_left_out_is_answered_by_its_joined_range_and_said(
    memory: PhysicalMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_data, "MOST_RUNS", 24)
    monkeypatch.setattr(page_data, "LEAST_RUNS", 24)
    space = AddressSpace("sv39x4", FrameAllocator(memory), name="guest")
    space.map(MemoryRegion(Gpa(GIB), 600 << 12, R | W | X | U, MapType.MAP_ALLOC, name="ram"))
    for page in (*range(0, 600, 2), *range(599, 0, -2)):
        space.populate_range(Range.sized(GIB + (page << 12), 4096))
    found = read(space)
    gpa = GIB + (500 << 12) + 5
    answered = asked(found.page(), "0", [GIB + 5, gpa], tmp_path)
    first, later = answered.all("article")
    agrees(found, answered, first)
    where = found.space.page_table.translate(gpa)
    assert isinstance(where, Mapped)
    assert later.attributes["data-hpa"] == f"{where.hpa:#x}"
    lines = [one.text for one in of(answered, later, "p")]
    assert f"GPA {gpa:#x} is HPA {where.hpa:#x} rwx, in leaves of level 0." in lines
    left = next(line for line in lines if line.startswith("This page does not have the entries of level 0 from GPA "))
    assert any(one.text.startswith("VM guest: Left out, so that this page stays small") for one in answered.all("p"))
    until = int(left.split()[-2], 16)
    assert GIB < until <= gpa
    back = asked(found.page(), "host", [where.hpa], tmp_path)
    assert [one.attributes["data-gpa"] for one in back.all("article") if "data-gpa" in one.attributes] == [f"{gpa:#x}"]


VM = """\
[base]
id = 1
name = "guest"
vm_type = 1
cpu_num = 1
arch = "riscv64"
[kernel]
entry_point = 0x8000_0000
kernel_load_addr = 0x8000_0000
memory_regions = [[0x8000_0000, 0x41_0000, 0x7, 0]]
[devices]
passthrough_devices = [["uart", 0x1000_0000, 0x1000_1000, 0x1000, 10]]
"""


@pytest.mark.parametrize("gpa", [0x8000_1234, 0x8040_0000, 0x1000_0008, 0x9000_0000])
def test_the_page_of_build_says_what_the_command_walk_prints(
    gpa: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("vm.toml").write_text(VM)
    assert call(["build", "vm.toml", "-o", "out", "--html", "page.html"]) == 0
    capsys.readouterr()
    assert call(["walk", "vm.toml", "--gpa", f"{gpa:#x}"]) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    fragment = urlencode({"space": "0", "address": f"{gpa:#x}"})
    answered = Page(rendered(tmp_path / "page.html", fragment, tmp_path / "profile"))
    (article,) = answered.all("article")
    said = [one.text for one in of(answered, article, "p")]
    assert said[1:]
    assert set(said[1:]) <= set(printed)
    for row in (one.attributes for one in of(answered, article, "tr") if "data-slot" in one.attributes):
        assert any(row["data-slot"] in line for line in printed)
        assert any(f"{int(row['data-entry'], 16):#018x}" in line for line in printed)


def test_a_page_of_declarations_says_what_is_declared_and_where_it_would_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vm.toml").write_text(VM)
    assert call(["show", "vm.toml", "--html", "page.html"]) == 0
    capsys.readouterr()

    def lines(space: str, address: int) -> list[str]:
        fragment = urlencode({"space": space, "address": f"{address:#x}"})
        answered = Page(rendered(tmp_path / "page.html", fragment, tmp_path / "profile"))
        return [one.text for one in answered.all("p") if "article" in one.within]

    device = (
        "Region uart: GPA [0x10000000, 0x10001000), rw--d-, MMIO (a device's registers, passed through to the guest)"
    )
    device += ", declared in vm.toml:12."
    assert lines("0", 0x1000_0010) == [device, "uart: it would lie at HPA 0x10001010."]
    region, where = lines("0", 0x8000_0000)
    assert region.startswith("Region ram0: GPA [0x80000000, 0x80410000)")
    assert where == "ram0: frames not chosen yet."
    assert lines("0", 0) == ["No region is declared at this GPA.", "No host memory is behind it."]
    assert lines("host", 0x1000_1010) == [
        "1 GPA leads to HPA 0x10001010.", "Memory that has no one address yet may come to lie there too.",
        device, "uart: it would lie at HPA 0x10001010.",
    ]  # fmt: skip
