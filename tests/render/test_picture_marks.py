"""What is marked in a picture of memory: witnesses, findings and overlaps, at every address that they are about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_picture import GOLDEN, HOSTS, SVG, device, every_kind, ram, spaces, texts, vm

from stage2.address import GIB, KIB, MIB, Range
from stage2.check.finding import Finding, Rule, Severity
from stage2.check.finding import Party as Claimant
from stage2.cli.main import call
from stage2.flags import MappingFlags
from stage2.prove.theorem import Proof, Seat, Theorem, Witness
from stage2.render.picture.layout import lay_out
from stage2.render.picture.marks import Mark, MarkKind, finding_marks, witness_marks
from stage2.render.picture.parties import Actual, Kind, Link, Party, Space
from stage2.render.picture.signs import MOST_CAPTIONS, Sign, Spot, Wire
from stage2.render.picture.svg import picture_svg
from waiting import HANG_S

__all__ = ["vm"]

RWX = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE
ALARM = "#b00020"


def refuted() -> Proof:
    """Theorems with witnesses of every shape."""
    a, b = "VM first", "VM second"
    return Proof((
        Theorem("apart", "", False, witness=Witness(
            f"{a} and {b} both reach {Range.sized(2 * GIB, 4 * KIB)}", Seat(a, GIB), 2 * GIB, Seat(b, 3 * GIB), a
        )),
        Theorem("declared", "", True),
        Theorem("wx", "", False, witness=Witness(
            "is writable and executable", Seat("the hypervisor", 0xFFFF_0000_0000_0000), 5 * GIB, owner="hypervisor"
        )),
        Theorem("wellformed", "", False, witness=Witness(
            f"{b}: the entry 0x1 has reserved bits", Seat(b, 0x4000_0000_0000), slot=4 * GIB + 8,
            owner="page tables of VM second",
        )),
        Theorem("tlb", "", False, witness=Witness("a stale entry")),
        Theorem("dma", "", False, witness=Witness("device dma reaches all of memory", Seat(a, 0))),
    ))  # fmt: skip


def marked() -> tuple[list[Space], list[Party], list[Mark]]:
    """Two VMs as their tables have them, with everything that can be marked."""
    populated = Actual(
        ((Range.sized(GIB, 8 * MIB), 8 * MIB), (Range.sized(GIB + 24 * MIB, 32 * MIB), 12 * MIB)),
        ((MappingFlags.READ | MappingFlags.EXECUTE, 2 * MIB),),
    )
    links = (
        Link(Range.sized(GIB, 8 * MIB), Range.sized(2 * GIB, 8 * MIB)),
        Link(Range.sized(GIB + 24 * MIB, 32 * MIB), Range.sized(2 * GIB + 16 * MIB, 12 * MIB), scattered=True),
    )
    lazy = Party("ram", Range.sized(GIB, 64 * MIB), Kind.RAM, RWX, links=links, actual=populated)
    stray = Party(
        "mapped, not declared", Range.sized(3 * GIB, 4 * KIB), Kind.UNDECLARED, None, Range.sized(2 * GIB, 4 * KIB),
        actual=Actual(((Range.sized(3 * GIB, 4 * KIB), 4 * KIB),), ((RWX, 4 * KIB),)),
    )  # fmt: skip
    trap = Party("plic", Range.sized(0xC00_0000, 2 * MIB), Kind.EMULATED)
    unused = Party("spare", Range.sized(2 * GIB, 16 * MIB), Kind.RAM, RWX, actual=Actual())
    host = [Party("page tables of VM second", Range.sized(4 * GIB, 32 * KIB), Kind.TABLES)]
    rule = Rule("S2101", Severity.ERROR, "", "")
    findings = [
        Finding(rule, "the device has no register", (Claimant("uart", Range.sized(0x1000_0000, 4 * KIB), "GPA"),))
    ]
    marks = [*witness_marks(refuted(), ["VM first", "VM second"]), *finding_marks(1, findings)]
    vms = [
        Space("VM first", (trap, lazy, device("uart", 0x1000_0000))),
        Space("VM second", (device("uart", 0x1000_0000), unused, stray)),
    ]
    return vms, host, marks


def test_the_picture_of_what_is_marked_is_as_it_was() -> None:
    vms, host, marks = marked()
    drawn, file = picture_svg(vms, host, marks=marks), GOLDEN / "marked.svg"
    if os.environ.get("STAGE2_GOLDEN") == "write":
        file.write_text(drawn, encoding="utf-8", newline="")
    assert drawn == file.read_text(encoding="utf-8")


def test_the_documentation_shows_this_picture() -> None:
    page = Path(__file__).parents[2] / "docs" / "images" / "memory-marked.svg"
    assert page.read_text(encoding="utf-8") == (GOLDEN / "marked.svg").read_text(encoding="utf-8")


def test_every_mark_has_a_number_at_its_addresses_and_a_caption_with_all_of_it() -> None:
    vms, host, marks = marked()
    picture = lay_out(vms, host, marks)
    places = [(sign.number, sign.kind) for sign in picture.marked.signs]
    # apart: both VMs and the host; wx and wellformed: host, and a VM; tlb: nowhere; dma: a VM's title.
    assert [places.count((number, MarkKind.WITNESS)) for number in range(1, 6)] == [3, 1, 2, 0, 1]
    assert places.count((6, MarkKind.FINDING)) == 1
    overlaps = [mark for mark in picture.marked.captions if mark.kind is MarkKind.OVERLAP]
    assert len(overlaps) == sum(box.overlap for box in picture.boxes) == 2
    words = " ".join(texts(picture_svg(vms, host, marks=marks)))
    for told in (
        "apart: VM first and VM second both reach [0x80000000, 0x80001000); VM first GPA 0x40000000; VM second GPA "
        "0xc0000000; HPA 0x80000000 of VM first",
        "wx: is writable and executable; the hypervisor HVA 0xffff000000000000; HPA 0x140000000 of hypervisor",
        "VM second GPA 0x400000000000; entry at HPA 0x100000008 of page tables of VM second",
        "tlb: a stale entry",
        "dma: device dma reaches all of memory",
        "error S2101: the device has no register",
    ):
        assert told in words


def test_addresses_that_nobody_has_get_a_place() -> None:
    vms, host, marks = marked()
    drawn = {box.span.start: box.kind for box in lay_out(vms, host, marks).boxes if box.span is not None}
    assert drawn[0x4000_0000_0000] is Kind.UNDECLARED
    assert drawn[5 * GIB] is Kind.UNDECLARED
    assert {"4 KiB* nothing declared", "4 KiB* belongs to nobody here"} <= set(
        texts(picture_svg(vms, host, marks=marks))
    )


def test_each_kind_of_mark_has_its_own_outline_and_one_entry_in_the_legend() -> None:
    vms, host, marks = marked()
    svg = picture_svg(vms, host, marks=marks)
    for kind in MarkKind:
        assert texts(svg).count(kind.value) == 1
    outlines = {
        path.get("d") for path in ET.fromstring(svg).iter(f"{SVG}path")
        if path.get("fill") == ALARM and path.get("stroke") == "#ffffff"
    }  # fmt: skip
    assert len(outlines) == len(MarkKind)


def test_a_picture_without_marks_says_nothing_of_them() -> None:
    svg = picture_svg([Space("VM 1", (ram("ram", GIB, MIB, GIB),))], [])
    assert ALARM not in svg
    assert not any(kind.value in svg for kind in MarkKind)


def test_many_marks_are_counted() -> None:
    vms, host = every_kind()
    svg = picture_svg(vms, host, marks=[Mark(MarkKind.WITNESS, f"number {n}", ((0, n * GIB),)) for n in range(50)])
    assert sum(text.startswith("number ") for text in texts(svg)) == MOST_CAPTIONS
    assert "and 11 more marks" in texts(svg)


ADDRESSES = st.integers(0, 1 << 41)


@settings(max_examples=60, deadline=None)
@given(spaces(3), HOSTS, st.data())
def test_marks_stand_inside_the_picture_wherever_their_addresses_are(
    vms: list[Space], host: list[Party], data: st.DataObject
) -> None:
    seat = st.tuples(st.integers(0, len(vms) - 1), ADDRESSES)
    one = st.builds(
        Mark, st.sampled_from(MarkKind), st.text(max_size=300), st.lists(seat, max_size=2).map(tuple),
        st.none() | ADDRESSES, st.lists(st.integers(0, len(vms) - 1), max_size=2).map(tuple),
    )  # fmt: skip
    marks = data.draw(st.lists(one, max_size=12))
    picture = lay_out(vms, host, marks)
    assert picture.marked.captions[: len(marks)] == marks
    for sign in picture.marked.signs:
        assert 0 < sign.x < picture.width - 9
        assert 0 < sign.y < picture.height
    for mark in marks:
        for number, gpa in mark.seats:
            assert any(box.span is not None and box.span.contains(gpa) for box in picture.boxes), (number, gpa)
    ET.fromstring(picture_svg(vms, host, marks=marks))


def test_prove_draws_the_witness_of_a_refuted_folder(vm: str, tmp_path: Path) -> None:
    folder, svg = tmp_path / "out", tmp_path / "p.svg"
    assert call(["build", vm, "-o", str(folder)]) == 0
    assert call(["prove", str(folder), "--svg", str(svg)]) == 0
    shown = texts(svg.read_text())
    assert ALARM not in svg.read_text()
    assert "VM one: guest physical addresses" in shown
    assert any(text.endswith("page tables of VM one") for text in shown)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["vms"][0]["regions"] = manifest["vms"][0]["regions"][1:]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    svg.unlink()
    assert call(["prove", str(folder), "--svg", str(svg)]) == 1
    words = " ".join(texts(svg.read_text()))
    assert "declared: VM one reaches GPA [0x10000000, 0x10001000), where it declares nothing" in words
    assert "mapped, not declared" in words
    assert ALARM in svg.read_text()


def test_prove_draws_vm_files_and_refuses_another_kind_of_picture(
    vm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["prove", vm, "--svg", str(tmp_path / "p.svg")]) == 0
    assert "16 MiB rwx--- VM one ram0" in texts((tmp_path / "p.svg").read_text())
    assert call(["prove", vm, "--svg", str(tmp_path / "p.png")]) == 2
    assert "the picture is SVG" in " ".join(capsys.readouterr().err.split())


def test_show_marks_why_vms_cannot_be_run_together(vm: str, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(Path(vm).read_text().replace("id = 1", "id = 2").replace('"one"', '"two"'))
    assert call(["show", vm, str(other), "--svg", str(tmp_path / "p.svg")]) == 0
    shown = texts((tmp_path / "p.svg").read_text())
    told = [text for text in shown if text.startswith("These VMs cannot be run together: ")]
    assert len(told) == 1
    assert [kind.value for kind in MarkKind if kind.value in shown] == [MarkKind.OVERLAP.value, MarkKind.FINDING.value]


def test_a_picture_of_declarations_loads_no_numpy(vm: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom stage2.cli.main import call\n"
        f"assert call(['show', {vm!r}, '--svg', {str(tmp_path / 'p.svg')!r}]) == 0\n"
        "assert not {'numpy', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=HANG_S, check=True)


def test_marks_at_a_vms_addresses_say_so_for_pages_that_put_vms_away() -> None:
    vms, host, marks = marked()
    picture = lay_out(vms, host, marks)
    assert [(sign.number, sign.vm) for sign in picture.marked.signs if sign.vm is not None] == [
        (1, 0), (1, 1), (3, 1), (5, 0), (6, 1)
    ]  # fmt: skip
    svg = picture_svg(vms, host, marks=marks)
    signs = picture.marked
    parts: list[Sign | Spot | Wire] = [*signs.signs, *signs.frames, *signs.ticks, *signs.wires]
    for number in (0, 1):
        assert svg.count(f'data-of="{number}"') == sum(part.vm == number for part in parts)
