"""The picture of guests' memory beside the host's: where things stand, and the file."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2.address import GIB, KIB, MIB, Gpa, Range
from stage2.cli.main import call
from stage2.config.load import load_vm
from stage2.flags import MappingFlags, MapType
from stage2.forecast.map_ranges import MapRange, RangeKind, Stage2Map
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.prove.scan import Scan
from stage2.prove.source import HostTables
from stage2.prove.subject import Space as ProvedSpace
from stage2.prove.subject import Subject
from stage2.prove.world import Scanned, World
from stage2.render.picture.filling import STEPS, Fill, fills
from stage2.render.picture.layout import COLUMN, LINE, Picture, fitted, lay_out, text_width
from stage2.render.picture.made import MAX_CELLS, MAX_RUNS, mapped_spaces
from stage2.render.picture.parties import CHOSEN, Actual, Kind, Party, Space, declared_spaces
from stage2.render.picture.svg import picture_svg
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion

GOLDEN = Path(__file__).parent / "pictures"
SVG = "{http://www.w3.org/2000/svg}"
R, W, X, D = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE, MappingFlags.DEVICE
PAGES = st.integers(0, 1 << 28)
SIZES = st.one_of(st.integers(1, 4), st.integers(1, 1 << 20))
NAMES = st.text(max_size=60)
FLAGS = st.none() | st.builds(MappingFlags.from_bits, st.integers(0, 63))


def pages(first: int, count: int) -> Range:
    return Range.sized(first * 4 * KIB, count * 4 * KIB)


@st.composite
def parties(draw: st.DrawFn) -> Party:
    size = draw(SIZES)
    behind = draw(st.sampled_from(("hpa", "chosen", "none")))
    return Party(
        draw(NAMES),
        pages(draw(PAGES), size),
        draw(st.sampled_from(list(Kind))),
        draw(FLAGS),
        pages(draw(PAGES), size) if behind == "hpa" else None,
        draw(st.sampled_from((CHOSEN, "share a", "share b"))) if behind == "chosen" else "",
    )


def spaces(most: int = 5) -> st.SearchStrategy[list[Space]]:
    one = st.builds(Space, NAMES, st.lists(parties(), max_size=8).map(tuple))
    return st.lists(one, min_size=1, max_size=most)


HOSTS = st.lists(
    st.builds(lambda name, first, size: Party(name, pages(first, size), Kind.RESERVED), NAMES, PAGES, SIZES), max_size=4
)


def stacked(picture: Picture) -> list[tuple[float, float, float]]:
    """Boxes and gaps, each as x, top and bottom."""
    boxes = [(box.x, box.y, box.y + box.height) for box in picture.boxes]
    return boxes + [(gap.x, gap.y, gap.y + gap.height) for gap in picture.gaps]


@settings(max_examples=60, deadline=None)
@given(spaces(), HOSTS)
def test_boxes_and_gaps_of_a_column_follow_each_other(vms: list[Space], host: list[Party]) -> None:
    picture = lay_out(vms, host)
    for (x, _, bottom), (next_x, top, _) in pairwise(sorted(stacked(picture))):
        assert x != next_x or bottom <= top + 1e-6


@settings(max_examples=60, deadline=None)
@given(spaces(), HOSTS)
def test_no_two_labels_overlap_and_all_lie_inside(vms: list[Space], host: list[Party]) -> None:
    picture = lay_out(vms, host)
    boxes = [(label.x, label.x + label.width, label.y - 11, label.y + 3) for label in picture.labels]
    for (left, right, top, bottom), (other_left, other_right, other_top, other_bottom) in combinations(boxes, 2):
        apart = right <= other_left or other_right <= left or bottom <= other_top + 1e-6 or other_bottom <= top + 1e-6
        assert apart
    assert all(left >= 0 and right <= picture.width and bottom <= picture.height for left, right, _, bottom in boxes)


@settings(max_examples=60, deadline=None)
@given(spaces(), HOSTS)
def test_a_label_lies_in_one_box_or_gap_or_in_none(vms: list[Space], host: list[Party]) -> None:
    picture = lay_out(vms, host)
    for label in picture.labels:
        touched = [
            (top, bottom) for x, top, bottom in stacked(picture)
            if x <= label.x < x + COLUMN and top < label.y + 2 and label.y - 10 < bottom
        ]  # fmt: skip
        assert len(touched) <= 1
        assert all(top <= label.y - 9 and label.y + 2 <= bottom for top, bottom in touched)


@settings(max_examples=60, deadline=None)
@given(spaces(), HOSTS)
def test_every_range_is_there_and_in_order(vms: list[Space], host: list[Party]) -> None:
    picture = lay_out(vms, host)
    drawn = sorted((box.span.start, box.span.end) for box in picture.boxes if box.span is not None)
    spans = [one.span for vm in vms for one in vm.parties] + [one.span for one in host]
    spans += [one.hpa for vm in vms for one in vm.parties if one.hpa is not None]
    for span in spans:
        assert any(start == span.start for start, _ in drawn)
        assert any(end == span.end for _, end in drawn)
    if len(vms) == 1:
        columns: dict[float, list[Range]] = {}
        for box in sorted(picture.boxes, key=lambda box: box.y):
            if box.span is not None:
                columns.setdefault(box.x, []).append(box.span)
        assert all(spans == sorted(spans) for spans in columns.values())


@settings(max_examples=60, deadline=None)
@given(spaces(), HOSTS)
def test_bands_end_where_their_boxes_are(vms: list[Space], host: list[Party]) -> None:
    picture = lay_out(vms, host)
    assert len(picture.bands) == sum(bool(one.hpa or one.chosen) for vm in vms for one in vm.parties)
    edges = [(box.x, box.y) for box in picture.boxes] + [(box.x + COLUMN, box.y) for box in picture.boxes]
    lower = [(x, y + box.height) for (x, y), box in zip(edges, [*picture.boxes, *picture.boxes], strict=True)]
    for band in picture.bands:
        assert {(band.x, band.top), (band.host_x, band.host_top)} <= set(edges)
        assert {(band.x, band.bottom), (band.host_x, band.host_bottom)} <= set(lower)
        assert band.top < band.bottom
        assert band.host_top < band.host_bottom


@settings(max_examples=60, deadline=None)
@given(spaces(), HOSTS)
def test_what_is_called_to_scale_is(vms: list[Space], host: list[Party]) -> None:
    picture = lay_out(vms, host)
    for box in picture.boxes:
        assert box.height >= LINE
        if box.span is not None:
            assert box.to_scale == (abs(box.height - box.span.size / picture.scale) < 0.5)
    for gap in picture.gaps:
        true = gap.span.size / picture.scale
        assert gap.to_scale == (not gap.folded and gap.height - true < 0.5)
        assert gap.folded == (gap.height < true - 1e-6)


@settings(max_examples=60, deadline=None)
@given(spaces(3), HOSTS)
def test_the_file_is_well_formed_whatever_the_names(vms: list[Space], host: list[Party]) -> None:
    root = ET.fromstring(picture_svg(vms, host))
    assert root.tag == f"{SVG}svg"
    assert picture_svg(vms, host) == picture_svg(vms, host)


def ram(name: str, gpa: int, size: int, hpa: int | None = None) -> Party:
    behind = None if hpa is None else Range.sized(hpa, size)
    return Party(name, Range.sized(gpa, size), Kind.RAM, R | W | X, behind, "" if behind else CHOSEN)


def device(name: str, at: int) -> Party:
    return Party(name, Range.sized(at, 4 * KIB), Kind.PASSTHROUGH, R | W | D, Range.sized(at, 4 * KIB))


def share(flags: MappingFlags) -> Party:
    return Party("mailbox", Range.sized(GIB, 64 * KIB), Kind.SHARE, flags, None, f"share mailbox: {CHOSEN}")


def every_kind() -> tuple[list[Space], list[Party]]:
    first = Space("VM 1 first", (
        Party("plic", Range.sized(0xC00_0000, 2 * MIB), Kind.EMULATED),
        device("uart", 0x1000_0000),
        Party("boot", Range.sized(0x2000_0000, 16 * MIB), Kind.ROM, R | X, None, CHOSEN),
        share(R | W),
        ram("ram", 2 * GIB, 256 * MIB, 2 * GIB),
    ))  # fmt: skip
    second = Space("VM 2 second", (device("uart", 0x1000_0000), share(R), ram("ram", 2 * GIB, 128 * MIB)))
    host = [
        Party("page tables of VM first", Range.sized(3 * GIB + 4 * MIB, 32 * KIB), Kind.TABLES),
        Party("hypervisor", Range.sized(3 * GIB, 4 * MIB), Kind.HYPERVISOR),
        Party("firmware", Range.sized(3 * GIB - 2 * MIB, 2 * MIB), Kind.RESERVED),
        Party("nobody knows", Range.sized(4 * GIB, 64 * KIB), Kind.UNDECLARED),
    ]
    return [first, second], host


def one_vm() -> tuple[list[Space], list[Party]]:
    return [Space("VM 1 alone", (device("uart", 0x900_0000), ram("ram", GIB, 64 * MIB, 0x1_4000_0000)))], []


def many() -> tuple[list[Space], list[Party]]:
    return [
        Space(
            f"VM {n} guest{n}", (device(f"uart{n}", 0x1000_0000 + n * 4 * KIB), ram("ram", GIB, MIB << n % 10, n << 40))
        )
        for n in range(1, 21)
    ], []


@pytest.mark.parametrize("make", [one_vm, every_kind, many])
def test_the_picture_is_as_it_was(make: Callable[[], tuple[list[Space], list[Party]]]) -> None:
    drawn, file = picture_svg(*make()), GOLDEN / f"{make.__name__}.svg"
    if os.environ.get("STAGE2_GOLDEN") == "write":
        file.write_text(drawn, encoding="utf-8", newline="")
    assert drawn == file.read_text(encoding="utf-8")


def texts(svg: str) -> list[str]:
    return [one.text or "" for one in ET.fromstring(svg).iter(f"{SVG}text")]


def test_it_can_be_read_without_eyes_and_loads_nothing() -> None:
    svg = picture_svg(*every_kind())
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    names = (root.get("aria-labelledby") or "").split()
    assert [root[0].get("id"), root[1].get("id")] == names
    assert root[0].text == "Memory of 2 VMs beside the host's"
    assert root[1].text == "VM 1 first: 5 ranges; VM 2 second: 3 ranges; 1 overlap on the whole."
    assert {one.tag.removeprefix(SVG) for one in root.iter()}.isdisjoint(
        {"script", "image", "use", "foreignObject", "style", "a"}
    )
    assert re.findall(r"https?://[^\"]*", svg) == ["http://www.w3.org/2000/svg"]
    assert "href" not in svg
    used = set(re.findall(r"url\(#([^)]*)\)", svg))
    assert used == {one.get("id") for one in root.iter(f"{SVG}pattern")}


def test_every_kind_has_its_own_letter_and_pattern_in_the_legend() -> None:
    svg = picture_svg(*every_kind())
    assert {kind.value for kind in Kind} <= set(texts(svg))
    assert {"M", "R", "S", "D", "E", "T", "H", "X", "U"} <= set(texts(svg))
    patterns = [ET.tostring(one).partition(b">")[2] for one in ET.fromstring(svg).iter(f"{SVG}pattern")]
    assert len(patterns) == len(set(patterns)) == len(Kind)


def test_an_overlap_of_host_memory_is_marked_and_names_both() -> None:
    svg = picture_svg(*every_kind())
    shown = texts(svg)
    at = shown.index("4 KiB* rw--d- OVERLAP of 2")
    assert shown[at - 1 : at + 3] == ["0x10000000 - 0x10001000", shown[at], "VM 1 first uart", "VM 2 second uart"]
    assert svg.count('stroke="#b00020"') == 1


def test_a_declared_share_is_no_overlap() -> None:
    at = Range.sized(GIB, 64 * KIB)
    vms = [Space(f"VM {n}", (Party("mailbox", at, Kind.SHARE, R, at),)) for n in (1, 2)]
    svg = picture_svg(vms, [])
    assert "64 KiB r----- shared by 2" in texts(svg)
    assert "#b00020" not in svg
    assert "nothing overlaps but shares" in svg


def test_sizes_that_are_not_to_scale_have_a_star_and_folded_gaps_say_so() -> None:
    shown = texts(picture_svg(*one_vm()))
    assert "4 KiB* rw--d- uart" in shown
    assert "64 MiB rwx--- ram" in shown
    assert "880 MiB with nothing, folded" in shown


def test_a_gap_that_is_too_short_to_be_read_has_a_star_too() -> None:
    rams = (ram("low", GIB, MIB, GIB), ram("high", GIB + 4 * KIB + MIB, MIB, 2 * GIB))
    assert "4 KiB* with nothing" in texts(picture_svg([Space("VM 1", rams)], []))


def test_hostile_names_are_text() -> None:
    name = "</text><script>alert(1)</script>&\"'\x1b[31m\u202e\x00\ud800"
    svg = picture_svg([Space(name, (ram(name, GIB, MIB, GIB),))], [Party(name, Range.sized(0, MIB), Kind.RESERVED)])
    svg.encode()
    assert "<script" not in svg
    assert not {"\x1b", "\u202e", "\x00"} & set(svg)
    assert any(text.startswith("</text><script>alert(1)</script>") for text in texts(svg))


@given(st.text(max_size=80), st.floats(8, 400))
def test_a_cut_line_has_room(text: str, width: float) -> None:
    assert text_width(fitted(text, width)) <= width


VM = """\
[base]
id = 1
name = "one"
vm_type = 2
cpu_num = 1
arch = "riscv64"
[kernel]
entry_point = 0x8020_0000
image_location = "fs"
kernel_path = "none"
kernel_load_addr = 0x8020_0000
memory_regions = [[0x8000_0000, 0x100_0000, 0x7, 0]]
[devices]
emu_devices = []
passthrough_devices = [["uart", 0x1000_0000, 0x1000_0000, 0x1000, 1]]
"""


@pytest.fixture
def vm(tmp_path: Path) -> str:
    (tmp_path / "vm.toml").write_text(VM)
    return str(tmp_path / "vm.toml")


def test_show_writes_what_the_file_declares(vm: str, tmp_path: Path) -> None:
    assert call(["show", vm, "--svg", str(tmp_path / "p.svg")]) == 0
    shown = texts((tmp_path / "p.svg").read_text())
    assert {"VM 1 one: guest physical addresses", "16 MiB rwx--- ram0", "4 KiB* rw--d- uart", CHOSEN} <= set(shown)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("p.png", "the picture is SVG: give --svg a name that ends in .svg"),
        ("no/p.svg", "cannot be written: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(
    vm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, problem: str
) -> None:
    assert call(["show", vm, "--svg", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert " ".join(err.split()) == f"stage2: error: {tmp_path / name}: {problem}"
    assert not (tmp_path / name).exists()


def test_a_picture_of_no_vm_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d.toml").write_text("smp = 4\nticks-per-sec = 1000\n")
    assert call(["show", str(tmp_path / "d.toml"), "--svg", str(tmp_path / "p.svg")]) == 2
    assert "there is no VM to draw: name a VM file beside --svg" in " ".join(capsys.readouterr().err.split())


def test_what_a_board_maps_besides_is_drawn_around_what_is_declared(vm: str) -> None:
    planned = load_vm(Path(vm))
    bus = MapRange(
        Range(0x0FFF_F000, 0x1000_2000), RangeKind.PASSTHROUGH, 0x0FFF_F000, R | W | D, "/soc", "it is a bus"
    )
    (space,), host = declared_spaces([planned], None, [Stage2Map(Range(0, GIB), "", (bus,))])
    assert host == []
    besides = [party for party in space.parties if party.name == "/soc (by the host's tree)"]
    assert [(one.span, one.hpa, one.kind) for one in besides] == [
        (span, span, Kind.PASSTHROUGH) for span in (Range(0x0FFF_F000, 0x1000_0000), Range(0x1000_1000, 0x1000_2000))
    ]


def test_build_draws_what_the_tables_have(vm: str, tmp_path: Path) -> None:
    assert call(["build", vm, "-o", str(tmp_path / "out"), "--svg", str(tmp_path / "p.svg")]) == 0
    shown = texts((tmp_path / "p.svg").read_text())
    assert any(text.endswith("page tables of VM one") for text in shown)
    assert "16 MiB rwx--- VM 1 one ram0" in shown
    assert not any(CHOSEN in text for text in shown)


def test_build_draws_what_is_not_populated(vm: str, tmp_path: Path) -> None:
    assert call(["build", vm, "-o", str(tmp_path / "o"), "--populate", "lazy", "--svg", str(tmp_path / "p.svg")]) == 0
    shown = texts((tmp_path / "p.svg").read_text())
    assert "populated: nothing" in shown[shown.index("16 MiB rwx--- ram0") :]


def test_build_refuses_another_kind_of_picture_before_it_writes(vm: str, tmp_path: Path) -> None:
    assert call(["build", vm, "-o", str(tmp_path / "out"), "--svg", str(tmp_path / "p.png")]) == 2
    assert not (tmp_path / "out").exists()


def scattered(pages: int) -> tuple[AddressSpace, World]:
    """A VM with every second page of 64 KiB populated, upwards and then downwards."""
    frames = FrameAllocator(PhysicalMemory([Range.sized(2 * GIB, 64 * MIB)]))
    space = AddressSpace("sv39x4", frames, name="guest")
    space.map(MemoryRegion(Gpa(GIB), 64 * KIB, R | W | X, MapType.MAP_ALLOC, name="ram"))
    order = [*range(0, 16, 2), *range(15, 0, -2)][:pages]
    for page in order:
        space.populate_range(Range.sized(GIB + page * 4 * KIB, 4 * KIB))
    mine = ProvedSpace("guest", space.regime, space.memory_regions, tuple(space.page_table.table_ranges))
    return space, World.of(Subject(HostTables(frames.memory), (mine,), owners=tuple(frames.owners)))


def test_many_runs_are_one_piece_of_host_memory_where_they_lie_together() -> None:
    _, world = scattered(16)
    (made,), host = mapped_spaces(world, {"guest": "VM 1 guest"})
    (party,) = made.parties
    assert (made.title, party.name, party.span, party.hpa) == ("VM 1 guest", "ram", Range.sized(GIB, 64 * KIB), None)
    assert len(party.links) == 2  # two tables lie between
    assert all(link.scattered for link in party.links)
    assert sum(link.hpa.size for link in party.links if link.hpa is not None) == 64 * KIB
    assert [one.kind for one in host] == [Kind.TABLES] * len(host) != []
    assert party.notes == ()


def with_rows(rows: list[tuple[int, int, int]]) -> World:
    """A VM whose tables map so many pages from a page to a page, with 1 GiB declared."""
    space, _ = scattered(1)
    found = [(GIB + gpa * 4 * KIB, hpa * 4 * KIB, count * 4 * KIB, 0) for gpa, hpa, count in rows]
    region = MemoryRegion(Gpa(GIB), GIB, R | W | X, MapType.MAP_ALLOC, name="ram")
    scanned = Scan(np.array(found, np.uint64), np.zeros((0, 2), np.uint64), np.zeros(0, np.uint64), len(rows), [])
    subject = Subject(HostTables(space.frames.memory), ())
    return World(subject, (Scanned(ProvedSpace("guest", space.regime, (region,)), scanned, subject.source),), (), None)


def test_many_pieces_of_host_memory_are_counted_and_the_largest_drawn() -> None:
    pieces = [(2 * number, 1000 + 10 * number, 1 if number < 12 else 2) for number in range(20)]
    (made,), _ = mapped_spaces(with_rows(pieces))
    (party,) = made.parties
    drawn, left = party.links[:-1], party.links[-1]
    assert len(drawn) == MAX_RUNS
    assert all(link.hpa is not None and link.hpa.size == 8 * KIB for link in drawn)
    assert (left.hpa, left.chosen) == (None, "12 more runs of VM guest ram")
    assert left.gpa == Range.sized(GIB, 23 * 4 * KIB)
    assert party.actual is not None
    assert party.actual.size == 28 * 4 * KIB


def test_how_much_is_mapped_is_told_of_few_stretches_and_is_exact() -> None:
    (made,), _ = mapped_spaces(with_rows([(2 * number, 7 * number, 1) for number in range(5000)]))
    actual = made.parties[0].actual
    assert actual is not None
    assert len(actual.cells) <= MAX_CELLS
    assert actual.size == 5000 * 4 * KIB
    assert all(size <= span.size for span, size in actual.cells)
    assert all(one.end <= two.start for (one, _), (two, _) in pairwise(actual.cells))


def test_what_is_populated_of_what_is_declared_is_told_and_filled() -> None:
    _, world = scattered(4)
    (made,), host = mapped_spaces(world)
    (party,) = made.parties
    assert party.notes == ("populated: 16 KiB of 64 KiB, 25 %",)
    assert [link.gpa.start for link in party.links] == [GIB + page * 4 * KIB for page in (0, 2, 4, 6)]
    shown = texts(picture_svg([made], host))
    assert "64 KiB rwx--- ram" in shown
    assert party.notes[0] in shown
    (box,) = (box for box in lay_out([made], host).boxes if box.kind is Kind.RAM and box.fills is not None)
    assert box.fills is not None
    assert box.fills[0].step == STEPS
    assert all(fill.y + fill.height <= box.height / 2 for fill in box.fills)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (0, ("populated: nothing",)),
        (4 * KIB, ("populated: 4 KiB of 1 GiB, 0.0004 %",)),
        (GIB - 4 * KIB, ("populated: all but 4 KiB",)),
        (GIB, ()),
    ],
)
def test_a_part_is_not_taken_for_all(size: int, told: tuple[str, ...]) -> None:
    cells = ((Range.sized(0, size), size),) if size else ()
    assert Party("ram", Range.sized(0, GIB), Kind.RAM, actual=Actual(cells)).notes == told


def test_permissions_that_are_not_the_declared_ones_are_told() -> None:
    space, _ = scattered(16)
    space.page_table.protect_range(GIB, 8 * KIB, R)
    owned = ProvedSpace("guest", space.regime, space.memory_regions)
    world = World.of(Subject(HostTables(space.frames.memory), (owned,)))
    ((made,), _) = mapped_spaces(world)
    assert made.parties[0].notes == ("tables allow r-- for 8 KiB",)


def test_what_is_mapped_and_not_declared_is_drawn() -> None:
    space, _ = scattered(16)
    bare = ProvedSpace("guest", space.regime)
    world = World.of(Subject(HostTables(space.frames.memory), (bare,)))
    (made,), _ = mapped_spaces(world)
    (party,) = made.parties
    assert (party.kind, party.span, party.name) == (Kind.UNDECLARED, Range.sized(GIB, 64 * KIB), "mapped, not declared")
    assert party.notes == ("tables allow rwx for 64 KiB",)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 3000), max_size=1500), st.floats(16, 400))
def test_what_is_filled_of_a_box_is_what_is_populated(numbers: set[int], height: float) -> None:
    span = pages(0, 3001)
    cells = [(pages(number, 1), 4 * KIB) for number in sorted(numbers)]
    found = fills(span, height, cells)
    assert bool(found) == bool(numbers)
    assert all(one.y + one.height <= two.y + 1e-6 for one, two in pairwise(found))
    assert all(one.y >= 0 and one.y + one.height <= height + 1e-6 and 1 <= one.step <= STEPS for one in found)
    if len(numbers) == 3001:
        assert found == (Fill(0, height, STEPS),)
    for number in numbers:
        middle = (number + 0.5) / 3001 * height
        assert any(one.y - 2 <= middle <= one.y + one.height + 2 for one in found)


def test_the_documentation_shows_this_picture() -> None:
    page = Path(__file__).parents[2] / "docs" / "images" / "memory-picture.svg"
    assert page.read_text(encoding="utf-8") == (GOLDEN / "every_kind.svg").read_text(encoding="utf-8")


def test_tables_of_several_vms_that_touch_are_one_box() -> None:
    space, _ = scattered(1)
    owners = [
        (pages(number, 1), Owner(OwnerKind.TABLES, name)) for number, name in enumerate(["a", "b", "a", "c", "", "d"])
    ]
    owners += [(pages(9, 1), Owner(OwnerKind.TABLES, "")), (pages(6, 1), Owner(OwnerKind.HYPERVISOR))]
    world = World.of(Subject(HostTables(space.frames.memory), (), owners=tuple(owners)))
    _, host = mapped_spaces(world)
    assert [(one.name, one.span) for one in host] == [
        ("hypervisor", pages(6, 1)),
        ("page tables of 4 VMs and the hypervisor", pages(0, 6)),
        ("page tables of the hypervisor", pages(9, 1)),
    ]
