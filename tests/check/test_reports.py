"""`stage2 check --sarif` and `--html`."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from colours import contrast
from faults import FAULTS, stand_in
from html_page import Page
from sarif_schema import require_sarif
from stage2.address import Range
from stage2.check.every import rule_of
from stage2.check.finding import Finding, FixIt, Location, Party
from stage2.cli.main import call
from stage2.render.findings_page import findings_page
from stage2.render.sarif import sarif_log

FAULT = next(fault for fault in FAULTS if fault.name.startswith("S2403"))
"""Two files, two ranges, an overlap."""
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"' {0} [x](https://evil.example) \x1b[31m\u202e\udcff&amp;"
)
"""With a byte that is no UTF-8, as the names of files have them."""


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code of `stage2 check`, and what it prints."""
    code = call(["check", *arguments])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def results(log: Any) -> list[Any]:
    """The results of a log's only run."""
    (run,) = log["runs"]
    found: list[Any] = run["results"]
    return found


def hostile() -> Finding:
    """A finding whose every text comes from somebody who means harm."""
    name = HOSTILE
    return Finding(
        rule_of("S2301"),
        f"RAM {name} overlaps",
        (Party(name, Range(0, 0x1000), "GPA"), Party(name, Range(0x800, 1 << 64), "GPA")),
        Range(0x800, 0x1000),
        (Location(f"{name}.toml", 1, 1, 3, name), Location(f"{name}.dtb", says=name)),
        fix=f"move {name}",
    )


@pytest.mark.parametrize("fault", FAULTS, ids=lambda folder: folder.name)
def test_what_is_found_is_the_same_in_sarif_and_fits_its_schema(
    fault: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = stand_in(fault, tmp_path, monkeypatch)
    expected_code, text, _ = told(capsys, "--json", *arguments)
    code, out, err = told(capsys, "--sarif", *arguments)
    assert (code, err) == (expected_code, "")
    assert out.isascii()
    log = json.loads(out)
    rules = log["runs"][0]["tool"]["driver"]["rules"]
    for found, finding in zip(results(log), json.loads(text)["findings"], strict=True):
        assert (found["ruleId"], found["level"]) == (finding["code"], finding["severity"])
        assert rules[found["ruleIndex"]]["id"] == finding["code"]
        assert found["properties"]["ranges"] == finding["ranges"]
        places = [place["physicalLocation"] for place in found["locations"] + found["relatedLocations"]]
        assert [(place["artifactLocation"]["uri"], place.get("region", {}).get("startLine")) for place in places] == [
            (place["file"], place["line"]) for place in finding["locations"]
        ]
        assert all(place["message"]["text"] for place in found["relatedLocations"])
    assert [rule["id"] for rule in rules] == list(dict.fromkeys(found["ruleId"] for found in results(log)))
    require_sarif(log)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda folder: folder.name)
def test_the_fixes_of_sarif_mend_the_file(
    fault: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = stand_in(fault, tmp_path, monkeypatch)
    _, text, _ = told(capsys, "--json", *arguments)
    edits = [finding["edit"] for finding in json.loads(text)["findings"]]
    found = results(json.loads(told(capsys, "--sarif", *arguments)[1]))
    assert [len(result["fixes"]) for result in found] == [0 if edit is None else 1 for edit in edits]
    fixes = [fix for result in found for fix in result["fixes"]]
    for fix in fixes[:1]:
        (change,) = fix["artifactChanges"]
        (replacement,) = change["replacements"]
        region = replacement["deletedRegion"]
        file = Path(change["artifactLocation"]["uri"])
        lines = file.read_text().split("\n")
        line = lines[region["startLine"] - 1]
        lines[region["startLine"] - 1] = (
            line[: region["startColumn"] - 1] + replacement["insertedContent"]["text"] + line[region["endColumn"] - 1 :]
        )
        file.write_text("\n".join(lines))
        assert told(capsys, *arguments)[:1] == (0,)
        assert len(results(json.loads(told(capsys, "--sarif", *arguments)[1]))) < len(found)


def test_a_region_is_the_value_in_characters_with_the_end_behind_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = json.loads(told(capsys, "--sarif", *stand_in(FAULT, tmp_path, monkeypatch))[1])
    (found,) = results(log)
    region = found["locations"][0]["physicalLocation"]["region"]
    line = Path("b.toml").read_text().split("\n")[region["startLine"] - 1]
    assert line[region["startColumn"] - 1 : region["endColumn"] - 1] == "[0x8000_0000, 0x20_0000, 0x7, 1]"
    assert log["runs"][0]["columnKind"] == "unicodeCodePoints"


def test_a_fingerprint_stays_when_lines_come_before_and_is_nobody_elses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def marks() -> list[str]:
        log = json.loads(told(capsys, "--sarif", "--generation", "seed", "vm.toml")[1])
        return [mark for found in results(log) for mark in found["partialFingerprints"].values()]

    stand_in(next(fault for fault in FAULTS if fault.name.startswith("S2301")), tmp_path, monkeypatch)
    text = (
        Path("vm.toml")
        .read_text()
        .replace("    [0x8010_0000, 0x20_0000, 0x7, 0],\n", "    [0x8010_0000, 0x20_0000, 0x7, 0],\n" * 3)
    )
    Path("vm.toml").write_text(text)
    before = marks()
    assert len(set(before)) == len(before) > 1
    Path("vm.toml").write_text("# one\n\n" + text)
    assert marks() == before


def test_a_finding_without_a_place_has_no_location() -> None:
    log = sarif_log([Finding(rule_of("S2301"), "it is nowhere")])
    (found,) = results(log)
    assert (found["locations"], found["relatedLocations"], found["fixes"]) == ([], [], [])
    require_sarif(log)


def test_names_of_files_are_percent_encoded_byte_by_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "a #?%é"
    here.mkdir()
    monkeypatch.chdir(here)
    name = os.fsdecode(b"a b:c%20\xff[#]?.toml")
    near, outside = f"sub/{name}", str(tmp_path / name)
    files = (near, str(here / near), "../other.toml", outside)
    log = sarif_log([Finding(rule_of("S2301"), "x", locations=(Location(file, 1),)) for file in files])
    require_sarif(log)
    uris = [found["locations"][0]["physicalLocation"]["artifactLocation"] for found in results(log)]
    assert [uri.get("uriBaseId") for uri in uris] == ["%SRCROOT%", "%SRCROOT%", None, None]
    root = log["runs"][0]["originalUriBaseIds"]["%SRCROOT%"]["uri"]
    assert root.endswith("/")
    for uri, file in zip(uris, files, strict=True):
        assert re.fullmatch(r"[A-Za-z0-9_.~/%-]+", uri["uri"].removeprefix("file:"))
        whole = root + uri["uri"] if "uriBaseId" in uri else uri["uri"]
        assert unquote_to_bytes(whole.removeprefix("file://")) == os.fsencode(os.path.abspath(file))


def test_hostile_names_are_no_links_placeholders_or_controls_in_sarif() -> None:
    finding = hostile()
    log = sarif_log([finding])
    require_sarif(log)
    whole = json.dumps(log, ensure_ascii=False)
    assert whole.isprintable()
    message = results(log)[0]["message"]["text"]
    assert "{{0}}" in message
    assert "](" not in message


def test_json_and_sarif_exclude_one_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FAULT)
    assert told(capsys, "a.toml", "--json", "--sarif") == (
        2, "", "stage2: error: --json and --sarif exclude one another: standard output has room for one of them\n",
    )  # fmt: skip


@pytest.mark.parametrize("form", ["--json", "--sarif", None])
def test_a_page_goes_with_every_form_and_one_line_says_where(
    form: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = stand_in(FAULT, tmp_path, monkeypatch)
    code, without, _ = told(capsys, *arguments, *([form] if form else []))
    assert code == 1
    told_so = told(capsys, *arguments, "--html", "page.html", *([form] if form else []))
    said = "The page is page.html\n"
    assert told_so == (1, without, said) if form else (1, without + said, "")
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(Path().glob(".page*")) == []


def test_a_page_is_written_over_no_vm_file_and_nowhere_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(FAULT, tmp_path, monkeypatch)
    before = Path("a.toml").read_text()
    code, out, err = told(capsys, "--html", "a.toml", "b.toml")
    assert (code, out) == (2, "")
    assert err == "stage2: error: a.toml: --html wants the name of a page to write, NAME.html\n"
    assert Path("a.toml").read_text() == before
    code, out, err = told(capsys, "--html", "none/page.html", "b.toml")
    assert (code, out) == (2, "")
    assert err == "stage2: error: none/page.html: cannot be written: No such file or directory\n"


@pytest.fixture(scope="module")
def source() -> str:
    """A page about one hostile finding and two plain ones."""
    plain = Finding(rule_of("S2902"), "a note", locations=(Location("vm.toml", 1),))
    return findings_page([hostile(), plain, Finding(rule_of("S2902"), "nowhere")], ["vm.toml", "clean.toml"])


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    """The same, parsed."""
    return Page(source)


def test_a_page_loads_nothing_and_runs_only_its_own_script(source: str, page: Page) -> None:
    assert {element.tag for element in page.elements} & {"img", "link", "iframe", "object", "embed", "base"} == set()
    assert [element.attributes for element in page.elements if "src" in element.attributes] == []
    assert not [name for element in page.elements for name in element.attributes if name.startswith(("on", "style"))]
    (style,), (script,) = page.all("style"), page.all("script")
    for loads in ("url(", "@import", "http"):
        assert loads not in style.text + script.text
    (policy,) = [
        element.attributes["content"]
        for element in page.all("meta")
        if element.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(part.text.encode()).digest()).decode() for part in (style, script)
    )
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; base-uri 'none'; "
        "form-action 'none'"
    )
    # What is left of "http" is what a hostile name says, and no address of anything.
    assert source.count("http") - source.count("https://evil.example") == 1  # http-equiv
    assert "http" not in "".join(value for e in page.elements for name, value in e.attributes.items() if name == "href")


def test_hostile_names_are_shown_and_do_nothing(source: str, page: Page) -> None:
    assert "<script>alert" not in source
    assert "<img" not in source
    assert source.replace("\n", "").isprintable()
    source.encode("utf-8")
    shown = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e").replace("\udcff", "\\udcff")
    assert f"RAM {shown} overlaps" in [element.text for element in page.all("p")]


def test_a_page_has_language_title_landmarks_headings_and_a_skip_link(page: Page) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("title")[0].text == "1 error, 2 notes. stage2 check"
    assert [element.tag for element in page.all("header", "main", "footer")] == ["header", "main", "footer"]
    assert [element.tag for element in page.all("h1", "h2", "h3", "h4")] == ["h1", "h2", "h2", "h3", "h3", "h3"]
    skip = page.all("a")[0]
    assert (skip.text, skip.attributes["href"]) == ("Skip to the findings", "#findings")


def test_every_link_of_a_page_leads_to_one_place_in_it(page: Page) -> None:
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    links = [element.attributes["href"] for element in page.all("a")]
    assert {link[:1] for link in links} == {"#"}
    assert {link[1:] for link in links} <= set(ids)
    for article in page.all("article"):
        assert f"#{article.attributes['id']}" in links
        assert article.attributes["aria-labelledby"] in ids
    targets = [e.attributes["for"] for e in page.all("label") if "for" in e.attributes]
    assert set(targets) <= set(ids)


def test_every_control_of_a_page_has_a_label_and_what_scrolls_takes_the_focus(page: Page) -> None:
    labelled = {e.attributes["for"] for e in page.all("label") if "for" in e.attributes}
    for control in page.all("input", "select"):
        assert control.attributes.get("id") in labelled or control.within[-1] == "label"
    for button in page.all("button"):
        assert button.text
        assert button.attributes["type"] == "reset"
    for pre in page.all("pre"):
        assert (pre.attributes["tabindex"], pre.attributes["role"]) == ("0", "group")
        assert pre.attributes["aria-label"]
    for cell in page.all("th"):
        assert cell.attributes["scope"] in ("col", "row")
    assert len(page.all("caption")) == len(page.all("table"))
    (status,) = [element for element in page.elements if element.attributes.get("role") == "status"]
    assert status.attributes["aria-live"] == "polite"


def test_without_scripts_a_page_shows_all_and_offers_no_filter(page: Page) -> None:
    (form,) = page.all("form")
    assert "hidden" in form.attributes
    assert len(page.all("article")) == 3
    assert [e.tag for e in page.elements if "hidden" in e.attributes] == ["form"]


def test_a_page_shows_the_value_its_ranges_the_cause_and_the_edit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told(capsys, *stand_in(FAULT, tmp_path, monkeypatch), "--html", "page.html")
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    assert [mark.text for mark in page.all("mark")] == ["[0x8000_0000, 0x20_0000, 0x7, 1]"] * 2
    assert [caption.text for caption in page.all("figcaption")] == [
        "b.toml:11:19: RAM 'ram0' of VM 2 'b'", "a.toml:11:19: RAM 'ram0' of VM 1 'a'",
    ]  # fmt: skip
    (article,) = page.all("article")
    assert article.text.count("0x80200000") >= 3
    assert "overlap" in [cell.text for cell in page.all("th")]
    assert rule_of("S2403").why in [item.text for item in page.all("dd")]


def test_a_value_far_along_a_line_is_shown_with_what_is_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vm.toml").write_text("a = " + "x" * 5000 + "VALUE" + "y" * 5000 + "\r\nb = 1")
    page = Page(findings_page([Finding(rule_of("S2902"), "x", locations=(Location("vm.toml", 1, 5005, 5),))], []))
    assert [mark.text for mark in page.all("mark")] == ["VALUE"]
    (code,) = [element for element in page.all("code") if "VALUE" in element.text]
    lines = code.text.split("\n")
    assert lines == [f">    1 | ... {'x' * 120}VALUE{'y' * 275} ...", "     2 | b = 1"]


def test_columns_count_from_behind_a_byte_order_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vm.toml").write_text("\ufeffa = 1, 2", encoding="utf-8")
    place = Location("vm.toml", 1, 5, 1)
    finding = Finding(rule_of("S2902"), "x", locations=(place,), edit=FixIt(place, ""))
    assert [mark.text for mark in Page(findings_page([finding], [])).all("mark")] == ["1"]
    (fix,) = results(sarif_log([finding]))[0]["fixes"]
    region = fix["artifactChanges"][0]["replacements"][0]["deletedRegion"]
    assert region == {"startLine": 1, "startColumn": 5, "endColumn": 7}


def test_thousands_of_findings_on_one_long_line_take_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vm.toml").write_text("a = [" + "1, " * 500_000 + "]")
    found = [Finding(rule_of("S2902"), "x", locations=(Location("vm.toml", 1, 6 + 3 * at, 1),)) for at in range(3000)]
    before = time.process_time()
    page, log = findings_page(found, []), sarif_log(found)
    assert time.process_time() - before < 5
    assert len({mark for result in results(log) for mark in result["partialFingerprints"].values()}) == 3000
    assert len(page) < 6_000_000


def test_a_page_about_nothing_says_so() -> None:
    page = Page(findings_page([], ["vm.toml"]))
    assert page.all("title")[0].text == "Nothing is wrong. stage2 check"
    assert page.all("form", "article") == []


def test_colours_keep_the_contrast_of_wcag_aa_in_light_and_dark(page: Page) -> None:
    (style,) = page.all("style")
    light, dark = style.text.split("prefers-color-scheme: dark")[:2]
    for part in (light, dark):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part))
        for ground in ("ground", "raised"):
            for ink in ("text", "quiet", "link", "error", "warning", "note"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
            assert contrast(colours["line"], colours[ground]) >= 3, "borders of controls"
        assert contrast(colours["mark-text"], colours["mark"]) >= 4.5
