"""The page of a memory map as it is without scripts: what it holds, what it does not let in, and who can read it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from colours import contrast, mixed
from html_page import Page
from stage2.address import GIB, MIB, Gpa, Range
from stage2.cli.main import call
from stage2.flags import MappingFlags, MapType
from stage2.render.picture.page import Map, map_page
from stage2.render.picture.parties import Kind, Party, Space
from stage2.render.picture.style import INK, LOOKS
from stage2.render.picture.svg import picture_svg
from stage2.space.region import MemoryRegion

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' <!-- {gpa} \x1b[31m\u202e\udcff&amp;"
SHOWN = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e").replace("\udcff", "\\udcff")
R, W, X = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE


def page_of(name: str) -> str:
    """A page of two VMs and a host in which everything has this name."""
    at = Range.sized(GIB, 16 * MIB)
    ram = Party(name, at, Kind.RAM, R | W | X, Range.sized(2 * GIB, 16 * MIB))
    later = Party(name, Range.sized(3 * GIB, MIB), Kind.ROM, R, None, f"frames of {name}")
    trapped = Party(name, Range.sized(0x1000, 0x1000), Kind.EMULATED)
    vms = [Space(f"VM 1 {name}", (ram, later)), Space(f"VM 2 {name}", (replace(ram, hpa=at), trapped))]
    host = [Party(name, Range.sized(0, MIB), Kind.RESERVED)]
    region = MemoryRegion(Gpa(GIB), 16 * MIB, R | W | X, MapType.MAP_ALLOC, name=name)
    return map_page(Map("show", picture_svg(vms, host), vms, host, [[region], [region]]))


@pytest.fixture(scope="module")
def source() -> str:
    return page_of(HOSTILE)


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def data_of(page: Page) -> Any:
    (found,) = [one for one in page.all("script") if one.attributes.get("type") == "application/json"]
    return json.loads(found.text)


def test_a_page_loads_nothing_and_runs_only_its_own_script(page: Page) -> None:
    assert {one.tag for one in page.elements} & {"img", "link", "iframe", "object", "embed", "base", "use"} == set()
    assert not [name for one in page.elements for name in one.attributes if name.startswith(("on", "style"))]
    assert not [one.tag for one in page.elements if {"src", "action", "formaction"} & set(one.attributes)]
    (style,) = page.all("style")
    data, script = page.all("script")
    assert data.attributes == {"type": "application/json", "id": "data"}
    assert script.attributes == {}
    for loads in ("url(", "@import", "fetch", "XMLHttpRequest", "innerHTML", "eval", "import("):
        assert loads not in style.text + script.text
    assert re.findall(r"https?://[^\"]*", style.text + script.text) == ["http://www.w3.org/2000/svg"]
    hashes = [base64.b64encode(hashlib.sha256(one.text.encode()).digest()).decode() for one in (style, script)]
    (policy,) = [one.attributes["content"] for one in page.all("meta") if "http-equiv" in one.attributes]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; base-uri 'none'; "
        "form-action 'none'"
    )
    assert {one.attributes["href"][:1] for one in page.all("a")} == {"#"}


def test_hostile_names_are_text_in_the_page_the_picture_and_the_data(source: str, page: Page) -> None:
    assert "<script>alert" not in source
    assert "<img" not in source
    assert "<!--" not in source
    assert source.replace("\n", "").isprintable()
    source.encode("utf-8")
    data = data_of(page)
    assert [vm["title"] for vm in data["vms"]] == [f"VM 1 {SHOWN}", f"VM 2 {SHOWN}"]
    assert data["vms"][0]["regions"][0][2].startswith(f"Region {SHOWN}: ")
    assert [party["name"] for vm in data["vms"] for party in vm["parties"]] == [SHOWN] * 4
    assert data["vms"][0]["parties"][1]["behind"][0]["said"] == f"frames of {SHOWN}"
    assert SHOWN in [one.text for one in page.all("th")]
    assert f"GPA of VM 1 {SHOWN}" in [one.text for one in page.all("option")]
    assert f"frames of {SHOWN}" in [one.text for one in page.all("td")]


def test_a_page_has_language_title_landmarks_headings_and_a_skip_link(page: Page) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("title")[0].text == "Memory of 2 VMs beside the host's. stage2 show"
    assert [one.tag for one in page.all("header", "main", "footer")] == ["header", "main", "footer"]
    assert [one.tag for one in page.all("h1", "h2", "h3", "h4")] == ["h1", "h2", "h3", "h3", "h3"]
    skip = page.all("a")[0]
    assert (skip.text, skip.attributes["href"]) == ("Skip the picture", "#ranges")


def test_ids_are_nobody_elses_and_all_that_is_named_is_there(page: Page) -> None:
    ids = [one.attributes["id"] for one in page.elements if "id" in one.attributes]
    assert len(set(ids)) == len(ids)
    named = [one.attributes["for"] for one in page.all("label") if "for" in one.attributes]
    named += [name for one in page.elements for name in one.attributes.get("aria-labelledby", "").split()]
    named += [one.attributes["href"][1:] for one in page.all("a")]
    assert set(named) <= set(ids)


def test_every_control_has_a_name_and_what_scrolls_takes_the_focus(page: Page) -> None:
    labelled = {one.attributes["for"] for one in page.all("label") if "for" in one.attributes}
    for control in page.all("input", "select"):
        assert control.attributes.get("id") in labelled or control.within[-1] == "label"
    for button in page.all("button"):
        assert button.text
        assert button.attributes["type"] in ("submit", "reset", "button")
    for one in page.elements:
        if "scroll" in one.attributes.get("class", "").split():
            assert (one.attributes["tabindex"], one.attributes["role"]) == ("0", "group")
            assert one.attributes["aria-label"]
    for cell in page.all("th"):
        assert cell.attributes["scope"] in ("col", "row")
    assert len(page.all("caption")) == len(page.all("table"))
    (status,) = [one for one in page.elements if one.attributes.get("role") == "status"]
    assert status.attributes["aria-live"] == "polite"


def test_without_scripts_it_is_the_picture_with_tables_of_its_ranges(page: Page) -> None:
    assert [one.attributes["id"] for one in page.elements if "hidden" in one.attributes] == [
        "ask", "answer", "filter", "view",
    ]  # fmt: skip
    assert len(page.all("svg")) == 1
    rows = [one.attributes for one in page.all("tr") if "data-kind" in one.attributes]
    assert [(row.get("data-vm"), row["data-kind"]) for row in rows] == [
        ("0", "ram"), ("0", "rom"), ("1", "emulated"), ("1", "ram"), (None, "reserved"),
    ]  # fmt: skip
    cells = [one.text for one in page.all("td")]
    assert {"0x40000000", "0x41000000", "16 MiB", "0x80000000", "No host memory is behind it."} <= set(cells)


def test_every_box_and_band_of_the_picture_says_whose_it_is(page: Page) -> None:
    boxes = [one.attributes for one in page.elements if "data-space" in one.attributes and one.tag == "g"]
    assert {(box["data-space"], box["data-kind"]) for box in boxes if "data-start" in box} == {
        ("0", "ram"), ("0", "rom"), ("1", "ram"), ("1", "emulated"), ("host", "ram"), ("host", "reserved"),
    }  # fmt: skip
    bands = [one.attributes for one in page.all("path") if "data-vm" in one.attributes]
    assert [(band["data-vm"], band["data-kind"]) for band in bands] == [("0", "ram"), ("0", "rom"), ("1", "ram")]


def test_colours_keep_the_contrast_of_wcag_aa_in_light_and_dark(page: Page) -> None:
    (style,) = page.all("style")
    light, dark = re.findall(r":root \{(.*?)\}", style.text, re.DOTALL)
    for part in (light, dark):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part))
        for ground in ("ground", "raised"):
            for ink in ("text", "quiet", "link", "error", "note"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
            assert contrast(colours["line"], colours[ground]) >= 3, "borders of controls"
    # The picture: its ink on white, and what takes their place in the dark, on every tint that a box may have.
    assert f'[fill="{INK}"]' in style.text
    assert f'[stroke="{INK}"]' in style.text
    (ground,) = re.findall(r'\.picture svg > g rect\[fill="#ffffff"\] \{ fill: (#[0-9a-f]{6})', style.text)
    (ink,) = set(re.findall(r"\.picture svg > g(?! rect).*\{ (?:fill|stroke): (#[0-9a-f]{6})", style.text))
    for look in LOOKS.values():
        for tint in (0.12, 0.2):
            assert contrast(INK, mixed(look.colour, "#ffffff", tint)) >= 4.5
            assert contrast(ink, mixed(look.colour, ground, tint)) >= 4.5
    pins = re.findall(r"\.picture \.pin \{ stroke: (#[0-9a-f]{6})", style.text)
    assert contrast(pins[0], "#ffffff") >= 3
    assert contrast(pins[1], ground) >= 3


def test_nothing_moves_for_whoever_wants_it_still(page: Page) -> None:
    style, script = page.all("style")[0].text, page.all("script")[-1].text
    before, _, after = style.partition("@media (prefers-reduced-motion: no-preference)")
    assert "transition" in after
    for moves in ("transition", "animation"):
        assert moves not in before
    assert script.count("smooth") == script.count('still.matches ? "instant" : "smooth"')


VM = """\
[base]
id = {number}
name = "vm{number}"
vm_type = 1
cpu_num = 1
arch = "riscv64"
[kernel]
entry_point = 0x8000_0000
kernel_load_addr = 0x8000_0000
memory_regions = [[0x8000_0000, 0x40_0000, 0x7, 0]]
[devices]
passthrough_devices = [["uart", 0x1000_0000, 0x1000_{number}000, 0x1000, 10]]
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        Path(f"vm{number}.toml").write_text(VM.format(number=number))
    return ["vm1.toml", "vm2.toml"]


@pytest.mark.parametrize("command", ["show", "build", "prove"])
def test_a_command_writes_a_page_of_its_vms_and_answers_from_tables_where_it_has_some(
    command: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["-o", "out"] if command == "build" else []
    assert call([command, *files, *output]) == 0
    without = capsys.readouterr().out
    output = ["-o", "out"] if command == "build" else []
    assert call([command, *files, *output, "--html", "map.html"]) == 0
    assert capsys.readouterr().out == without
    page = Page(Path("map.html").read_text(encoding="utf-8"))
    assert page.all("title")[0].text == f"Memory of 2 VMs beside the host's. stage2 {command}"
    data = data_of(page)
    assert [vm["tables"] is None for vm in data["vms"]] == [command == "show"] * 2
    assert (data["owners"] is None) == (command == "show")
    theorems = [one.text for one in page.all("h2")]
    assert theorems == (["Theorems", "Ranges"] if command == "prove" else ["Ranges"])


def test_a_folder_that_refutes_a_theorem_has_the_witness_on_its_page(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["build", *files, "-o", "out"]) == 0
    manifest = json.loads(Path("out/manifest.json").read_text())
    manifest["vms"][0]["regions"] = manifest["vms"][0]["regions"][1:]
    Path("out/manifest.json").write_text(json.dumps(manifest))
    assert call(["prove", "out", "--html", "map.html"]) == 1
    capsys.readouterr()
    page = Page(Path("map.html").read_text(encoding="utf-8"))
    (said,) = [one.text for one in page.all("strong") if one.text.startswith("refuted: ")]
    assert said.startswith("refuted: declared: ")
    (asked,) = [one for one in page.all("span") if one.attributes.get("data-space") == "0" and "p" in one.within]
    assert asked.attributes["data-ask"] == asked.text
    (details,) = page.all("details")
    assert "open" in details.attributes


@pytest.mark.parametrize("command", [["show"], ["build", "-o", "out"], ["prove"]])
def test_a_page_is_written_over_no_vm_file(
    command: list[str], files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("vm1.toml").read_text()
    assert call([*command, "vm2.toml", "--html", "vm1.toml"]) == 2
    assert capsys.readouterr() == ("", "stage2: error: vm1.toml: --html wants the name of a page to write, NAME.html\n")
    assert Path("vm1.toml").read_text() == before
    assert not Path("out").exists()


def test_a_page_of_no_vm_is_refused(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("d.toml").write_text("smp = 4\nticks-per-sec = 1000\n")
    assert call(["show", "d.toml", "--html", "map.html"]) == 2
    assert "there is no VM to draw: name a VM file beside --html" in " ".join(capsys.readouterr().err.split())


def test_the_same_files_give_the_same_page(files: list[str]) -> None:
    for name in ("one.html", "two.htm"):
        assert call(["build", *files, "-o", "out", "--html", name]) == 0
    assert Path("one.html").read_bytes() == Path("two.htm").read_bytes()
