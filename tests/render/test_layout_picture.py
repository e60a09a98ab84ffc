"""The picture of a kernel's layout: well-formed, readable, and what the documentation shows."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from linked_kernel import SMP, link
from real_images import real_image
from stage2.address import Range
from stage2.cli.main import call
from stage2.render.bands import Band, Column, bands_svg

SVG = "{http://www.w3.org/2000/svg}"
DOCS = Path(__file__).parents[2] / "docs" / "images"
LETTER, ASCENT, DESCENT = 7.2, 9, 3
"""Of the monospaced font at 12 pixels."""


def boxes(root: ET.Element) -> list[tuple[float, float, float, float, str]]:
    """(left, top, right, bottom, text) of each text."""
    found = []
    for text in root.iter(f"{SVG}text"):
        size = float(text.get("font-size", "12")) / 12
        words = text.text or ""
        width, x, y = len(words) * LETTER * size, float(text.get("x", "0")), float(text.get("y", "0"))
        left = x - {"end": width, "middle": width / 2}.get(text.get("text-anchor", ""), 0)
        found.append((left, y - ASCENT * size, left + width, y + DESCENT * size, words))
    return found


def require_readable(svg: str) -> ET.Element:
    """No text overlaps another one or leaves the picture."""
    root = ET.fromstring(svg)
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    texts = boxes(root)
    for left, top, right, bottom, words in texts:
        assert min(left, top, width - right, height - bottom) >= 0, words
    for one, other in combinations(texts, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)
    return root


def heights(root: ET.Element) -> dict[str, float]:
    """Name of a band -> its height."""
    found = {}
    for group in root.iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert rect is not None
        found[str(title.text).split(",")[0]] = float(rect.get("height", "0"))
    return found


def test_the_picture_in_the_documentation_is_what_the_command_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(tmp_path, "riscv64")
    monkeypatch.chdir(tmp_path)
    assert call(["layout", "kernel.elf", "--smp", str(SMP), "--svg", "layout.svg"]) == 0
    drawn = Path("layout.svg").read_text()
    require_readable(drawn)
    assert drawn == (DOCS / "kernel-layout.svg").read_text()


def test_the_picture_of_opensbi_in_the_documentation_is_what_the_command_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = real_image("hypervisors-12", "fw_dynamic.elf")
    monkeypatch.chdir(file.parent)
    assert call(["layout", file.name, "--svg", str(tmp_path / "layout.svg")]) == 1
    drawn = (tmp_path / "layout.svg").read_text()
    require_readable(drawn)
    assert drawn == (DOCS / "opensbi-layout.svg").read_text()


def test_larger_parts_are_taller_and_the_smallest_can_be_read(tmp_path: Path) -> None:
    file, picture = link(tmp_path), tmp_path / "layout.svg"
    assert call(["layout", str(file), "--smp", str(SMP), "--svg", str(picture)]) == 0
    found = heights(require_readable(picture.read_text()))
    order = [".tbss", ".rodata", ".text", "boot stack"]
    assert all(found[small] <= found[large] for small, large in pairwise(order))
    assert found["boot stack"] > 2 * found[".text"]
    assert min(found.values()) >= 22


def test_a_part_with_a_finding_has_a_red_frame_and_the_picture_says_what_that_means(tmp_path: Path) -> None:
    file, picture = link(tmp_path, options=("-N",)), tmp_path / "layout.svg"
    assert call(["layout", str(file), "--smp", str(SMP), "--svg", str(picture)]) == 1
    root = require_readable(picture.read_text())
    (framed,) = [group for group in root.iter(f"{SVG}g") if group[1].get("stroke") == "#b00020"]
    assert str(framed[0].text).startswith(".text, ")
    assert "A red frame: there is a finding about it." in [box[4] for box in boxes(root)]


def test_a_gap_is_folded_and_says_how_long_it_is_and_names_are_escaped() -> None:
    bands = (
        Band(Range(0x1000, 0x2000), "code", "<a & b>", "first"),
        Band(Range(0x1_0000_0000, 0x1_0000_1000), "data", "second"),
    )
    root = require_readable(bands_svg("A gap", (Column("addresses", bands),)))
    words = [box[4] for box in boxes(root)]
    assert "<a & b>" in words
    assert "⋮ 4 GiB ⋮" in words
    assert float(root.get("height", "0")) < 500
