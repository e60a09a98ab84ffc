"""The page of a map: what it holds without scripts, what its script makes of it, and that names cannot break it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from chromium import rendered
from html_page import Element, Page
from stage2.formats import by_name
from stage2.formats.outcome import ACCESSED, DIRTY, EXECUTE, READ, TABLES_ACCESSED, USER, WRITE
from stage2.inspect.kinds import NONE
from stage2.inspect.mapping import MapPart
from stage2.inspect.through import NOWHERE
from stage2.prove.packing import U64Array
from stage2.render.memory_map_page import MOST_ROWS, memory_map_page
from stage2.tables.mapping import LEVEL_FIELD
from stage2.tables.regime import Regime

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' <!-- \x1b[31m\u202e\udcff&amp;"
R, W, X, U = READ, WRITE, EXECUTE, USER


def a_map(count: int) -> MapPart:
    """So many ranges of 8 KiB every 64 KiB, GVA to GPA to HPA; the second leads nowhere."""
    first, second = _regime("sv39"), _regime("sv39x4")
    numbers = np.arange(count, dtype=np.uint64)
    output = numbers * np.uint64(0x2000) + np.uint64(0x8000_0000)
    output[1:2] = NOWHERE
    rights = np.array([R, R | W, R | X | U, R | W | X], np.uint64)[numbers % np.uint64(4)]
    key_1 = _keys(first, rights)
    key_2 = np.where(
        output == np.uint64(NOWHERE), np.uint64(NONE), _keys(second, np.full(count, R | W | X | U, np.uint64))
    )
    start = numbers * np.uint64(0x10000) + np.uint64(0x10000)
    return MapPart(
        first, second, start, start + np.uint64(0x1_0000_0000), output, np.full(count, 0x2000, np.uint64), key_1, key_2
    )


def _regime(name: str) -> Regime:
    fmt = by_name(name)
    return Regime(fmt, 0x8000_0000, fmt.default_controls)


def _keys(regime: Regime, rights: U64Array) -> U64Array:
    level = regime.format.leaf_sizes.index(0x1000)
    return rights | np.uint64(level << LEVEL_FIELD | ACCESSED | DIRTY | TABLES_ACCESSED)


def page_of(part: MapPart, name: str = "machine.bin", left_out: int = 0) -> str:
    devices = np.zeros(len(part), bool)
    devices[:1] = True
    return memory_map_page(part, devices, name, [f"GVAs go through {name}"], left_out)


def rows_of(page: Page) -> list[Element]:
    return [one for one in page.all("th") if one.attributes["scope"] == "row"]


@pytest.fixture(scope="module")
def hostile() -> str:
    return page_of(a_map(3), HOSTILE)


def test_a_page_loads_nothing_and_runs_only_its_own_script(hostile: str) -> None:
    page = Page(hostile)
    assert {one.tag for one in page.elements} & {"img", "link", "iframe", "object", "embed", "base", "use"} == set()
    assert not [name for one in page.elements for name in one.attributes if name.startswith(("on", "style", "src"))]
    (style,) = page.all("style")
    data, script = page.all("script")
    for loads in ("url(", "@import", "fetch", "XMLHttpRequest", "innerHTML", "eval", "import(", "http"):
        assert loads not in style.text + script.text
    hashes = [base64.b64encode(hashlib.sha256(one.text.encode()).digest()).decode() for one in (style, script)]
    (policy,) = [one.attributes["content"] for one in page.all("meta") if "http-equiv" in one.attributes]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}';")
    assert len(json.loads(data.text)["rows"]) == 3


def test_hostile_names_are_text(hostile: str) -> None:
    assert "<script>alert" not in hostile
    assert "<img" not in hostile
    assert "<!--" not in hostile
    assert hostile.replace("\n", "").isprintable()
    hostile.encode("utf-8")


def test_every_control_has_a_name_and_all_that_is_named_is_there(hostile: str) -> None:
    page = Page(hostile)
    ids = [one.attributes["id"] for one in page.elements if "id" in one.attributes]
    assert len(set(ids)) == len(ids)
    named = [one.attributes["for"] for one in page.all("label") if "for" in one.attributes]
    assert {*named, *(one.attributes["href"][1:] for one in page.all("a"))} <= set(ids)
    for control in page.all("input"):
        assert control.attributes.get("id") in named or control.within[-1] == "label"
    assert all(one.text and one.attributes["type"] in ("submit", "reset", "button") for one in page.all("button"))
    assert [one.attributes["id"] for one in page.elements if "hidden" in one.attributes] == [
        "ask", "answer", "filter", "pages",
    ]  # fmt: skip
    live = [one.attributes["aria-live"] for one in page.elements if one.attributes.get("role") == "status"]
    assert live == ["polite", "polite"]


def test_without_scripts_the_first_500_ranges_are_a_table_and_a_page_has_100_000_at_most() -> None:
    source = page_of(a_map(MOST_ROWS + 5), left_out=7)
    page = Page(source)
    assert len(rows_of(page)) == 500
    assert len(json.loads(page.all("script")[0].text)["rows"]) == MOST_ROWS
    (told,) = page.all("strong")
    assert told.text == (
        "100,012 ranges of GVAs mapped; the page holds the first 100,000 by address, and 12 are left out."
    )
    assert len(source) < 10_000_000


def test_the_script_shows_200_rows_a_page_and_says_how_they_are_sorted(tmp_path: Path) -> None:
    file = tmp_path / "map.html"
    file.write_text(page_of(a_map(450)), encoding="utf-8")
    page = Page(rendered(file, "", tmp_path / "profile"))
    assert len(rows_of(page)) == 200
    sorts = [one.attributes["aria-sort"] for one in page.all("th") if one.attributes["scope"] == "col"]
    assert sorts == ["ascending", *["none"] * 6]
    (said,) = [one.text for one in page.elements if one.attributes.get("id") == "shown"]
    assert said == "450 of 450 ranges, page 1 of 3"
    before = Page(file.read_text(encoding="utf-8"))
    assert [one.text for one in rows_of(page)] == [one.text for one in rows_of(before)][:200]
    assert [one.text for one in page.all("td")][:1200] == [one.text for one in before.all("td")][:1200]
    tabs = [one.attributes["tabindex"] for one in page.all("tr") if "tabindex" in one.attributes]
    assert tabs == ["0", *["-1"] * 199]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("0x11fff", "GVA 0x11fff → GPA 0x100011fff → HPA 0x80001fff, allows "),
        ("0x20010", "GVA 0x20010 → GPA 0x100020010 → HPA nothing, allows ---"),
        ("0x12000", "GVA 0x12000: no range of this page has it."),
        ("65536", "GVA 0x10000 → GPA 0x100010000 → HPA 0x80000000, allows "),
    ],
)
def test_an_address_is_looked_up_through_both_stages(asked: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "map.html"
    file.write_text(page_of(a_map(3)), encoding="utf-8")
    page = Page(rendered(file, asked, tmp_path / "profile"))
    (answer,) = [one for one in page.elements if one.attributes.get("id") == "answer"]
    assert answer.text.startswith(said)
    assert "hidden" not in answer.attributes


@pytest.mark.parametrize("chosen", ["wx", "user", "device", "text", "sort"])
def test_filters_and_sorting_leave_what_they_should(chosen: str, tmp_path: Path) -> None:
    """What somebody does with the page is done by a script behind its own, on a page without its policy."""
    part = a_map(8)
    acts = {
        "wx": "document.querySelector('[name=wx]').click();",
        "user": "document.querySelector('[name=user]').click();",
        "device": "document.querySelector('[name=device]').click();",
        "sort": "document.querySelector('thead button').click();",
    }
    text = (
        "const t = document.getElementById('text'); t.value = '0x80000000'; "
        "t.dispatchEvent(new Event('input', {bubbles: true}));"
    )
    source = re.sub(r"<meta http-equiv[^>]*>", "", page_of(part))
    file = tmp_path / "map.html"
    file.write_text(source.replace("</body>", f"<script>{acts.get(chosen, text)}</script></body>"), encoding="utf-8")
    page = Page(rendered(file, "", tmp_path / "profile"))
    wanted = {
        "wx": [0x40000, 0x80000], "user": [0x30000, 0x70000], "sort": [*range(0x80000, 0, -0x10000)],
    }  # fmt: skip
    found = [int(one.text.split("-")[0], 16) for one in rows_of(page)]
    assert found == wanted.get(chosen, [0x10000])
    if chosen == "sort":
        sorts = [one.attributes.get("aria-sort", "none") for one in page.all("th")]
        assert [one for one in sorts if one != "none"] == ["descending"]


def test_arrow_keys_go_from_row_to_row_and_buttons_from_page_to_page(tmp_path: Path) -> None:
    act = (
        "document.getElementById('last').click(); const row = document.querySelector('#rows tr'); row.focus(); "
        "row.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowDown', bubbles: true}));"
    )
    source = re.sub(r"<meta http-equiv[^>]*>", "", page_of(a_map(405)))
    file = tmp_path / "map.html"
    file.write_text(source.replace("</body>", f"<script>{act}</script></body>"), encoding="utf-8")
    page = Page(rendered(file, "", tmp_path / "profile"))
    assert rows_of(page)[0].text.startswith(f"{0x10000 * 401:#x}-")
    assert [one.attributes["tabindex"] for one in page.all("tr") if "tabindex" in one.attributes] == [
        "-1", "0", "-1", "-1", "-1",
    ]  # fmt: skip
    assert [one.text for one in page.all("button") if "disabled" in one.attributes] == ["Next", "Last"]
