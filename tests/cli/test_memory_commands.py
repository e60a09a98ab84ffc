"""`stage2 walk`, `translate`, `map`, `rmap` and `diff` on memories: what they print, and what they refuse."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from json_schemas import require_schema
from stage2.address import GIB, Hpa, Range
from stage2.cli.main import call
from stage2.flags import RWX, MappingFlags
from stage2.formats import by_name
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tables.pagetable import PageTable

START = 0x4000_0000
DATA = 0x8800_0000
PAGE = 0x1000
RW = MappingFlags.READ | MappingFlags.WRITE
MEMORY = Range(0x8000_0000, 0x8080_0000)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, str]]:
    """The memory of a machine at two moments, as raw images, and the root of its stage 2."""
    folder = tmp_path_factory.mktemp("images")
    with PhysicalMemory([MEMORY]) as memory:
        table = PageTable(by_name("sv39x4"), FrameAllocator(memory), owner=Owner(OwnerKind.TABLES, "a"))
        table.map_range(START, Hpa(DATA), 0x40_0000, RWX)
        table.map_range(START + 0x40_0000, Hpa(0x8070_0000), 3 * PAGE, RW)
        files = []
        for moment in range(2):
            files.append(folder / f"{moment}.raw")
            files[-1].write_bytes(memory.read(Hpa(MEMORY.start), MEMORY.size))
            if not moment:
                table.unmap_range(START + 0x40_0000, PAGE)
                table.map_range(START + GIB, Hpa(DATA), PAGE, RW)
        yield files[0], files[1], f"sv39x4@{table.root:#x}"


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert call([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def lines(capsys: pytest.CaptureFixture[str], kind: str, *arguments: object) -> list[dict[str, Any]]:
    printed = answer(capsys, *arguments, "--json").splitlines()
    for line in printed:
        require_schema(kind, line)
    return [json.loads(line) for line in printed]


def given(image: Path, root: str) -> list[object]:
    return [image, "--base", hex(MEMORY.start), "--root", root]


def test_a_map_has_a_line_for_each_range(images: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    image, _, root = images
    found = lines(capsys, "map", "map", *given(image, root))
    assert [(one["gva"], one["gpa"], one["hpa"], one["size"], one["permissions"], one["leaf"]) for one in found] == [
        (None, START, DATA, 0x40_0000, "rwx", 0x20_0000),
        (None, START + 0x40_0000, 0x8070_0000, 3 * PAGE, "rw-", PAGE),
    ]
    text = answer(capsys, "map", *given(image, root)).splitlines()
    assert text[0].split() == ["GPA", "HPA", "size", "allows", "leaf", "memory", "type"]
    assert "0x0000000040000000-0x00000000403fffff  0x0000000088000000" in text[1]
    csv = answer(capsys, "map", *given(image, root), "--csv").splitlines()
    assert csv[0] == "gva,gpa,hpa,size,permissions,leaf,memory_type"
    assert csv[1] == ",0x40000000,0x88000000,0x400000,rwx,0x200000,"


def test_filters_leave_what_they_name(images: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    image, _, root = images
    asked = ["map", *given(image, root)]
    assert [one["gpa"] for one in lines(capsys, "map", *asked, "--wx")] == [START]
    # What is not in the memory is a device's.
    assert [one["gpa"] for one in lines(capsys, "map", *asked, "--device")] == [START]
    cut = lines(capsys, "map", *asked, "--range", f"{START + PAGE:#x}:0x2000")
    assert [(one["gpa"], one["hpa"], one["size"]) for one in cut] == [(START + PAGE, DATA + PAGE, 0x2000)]


def test_addresses_are_translated_wherever_they_come_from(
    images: tuple[Path, Path, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    image, _, root = images
    asked = ["translate", *given(image, root)]
    wanted = [(START + 5, START + 5, DATA + 5, "rwx"), (0x10, 0x10, None, None)]
    told = lines(capsys, "translate", *asked[:2], hex(START + 5), "0x10", *asked[2:])
    assert [(one["input"], one["gpa"], one["hpa"], one["permissions"]) for one in told] == wanted
    assert told[0]["fault"] is None
    assert told[1]["fault"].startswith("translation fault at stage 2, level 2")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{START + 5:#x} # a comment\n\n0x10\n"))
    assert lines(capsys, "translate", *asked) == told
    listed = tmp_path / "addresses.txt"
    listed.write_text(f"{START + 5:#x}\n0x10\n")
    assert lines(capsys, "translate", *asked, "--file", listed) == told
    array, out = tmp_path / "addresses.npy", tmp_path / "hpas.npy"
    np.save(array, np.array([START + 5, 0x10], np.uint64))
    assert lines(capsys, "translate", *asked, "--file", array) == told
    answer(capsys, *asked, "--file", array, "--output", out)
    assert np.load(out).tolist() == [DATA + 5, (1 << 64) - 1]


def test_a_range_of_memory_is_traced_back_to_all_that_reach_it(
    images: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, image, root = images
    found = lines(capsys, "rmap", "rmap", *given(image, root), "--hpa", f"{DATA:#x}:0x800")
    assert [(one["gva"], one["gpa"], one["hpa"], one["size"], one["format"]) for one in found] == [
        (None, START, DATA, 0x800, "sv39x4"),
        (None, START + GIB, DATA, 0x800, "sv39x4"),
    ]
    assert {one["name"] for one in found} == {root}
    assert "Nothing reaches" in answer(capsys, "rmap", *given(image, root), "--hpa", "0x1000")


def test_a_difference_tells_what_came_and_what_went(
    images: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before, after, root = images
    options = ["--base", hex(MEMORY.start), "--root", root]
    found = json.loads(answer(capsys, "diff", before, after, *options, "--json"))
    assert [(one["gpa"], one["size"]) for one in found["added"]] == [(START + GIB, PAGE)]
    assert [(one["gpa"], one["size"]) for one in found["removed"]] == [(START + 0x40_0000, PAGE)]
    assert found["changed"] == []
    assert found["same_bytes"] == 0x40_2000
    assert "No difference" in answer(capsys, "diff", before, before, *options)


def test_a_walk_in_a_memory_is_told_step_by_step(
    images: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    image, _, root = images
    found = json.loads(answer(capsys, "walk", *given(image, root), "--gpa", hex(START + 0x1234), "--json"))
    assert found["result"]["hpa"] == DATA + 0x1234
    assert [step["level"] for step in found["steps"]] == [2, 1]
    assert found["references"] == 2
    text = answer(capsys, "walk", *given(image, root), "--gpa", hex(START))
    assert "The walk takes 2 memory references." in text
    assert "region" not in text


def test_where_nothing_names_a_root_the_likeliest_is_taken_and_told(
    images: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    image, _, root = images
    assert call(["translate", str(image), hex(START + 5), "--base", hex(MEMORY.start), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["hpa"] == DATA + 5
    assert f"{root},pbmt,napot" in told.err
    assert "the likeliest that was found" in told.err


BASE = "--base 0x80000000"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("translate {image} 0x10", "give --base ADDRESS"),
        (f"translate {{image}} zz {BASE} --root {{root}}", "is no address"),
        (f"map {{image}} {BASE} --root sv39x4@0x80000001", "not a multiple of 0x4000"),
        (f"map {{image}} {BASE} --root {{root}} --json --csv", "say one of them"),
        (f"map {{image}} {BASE} --root {{root}} --range 5:0", "the range is empty"),
        (f"map {{image}} {BASE} --root {{root}} --of gva", "no root of a stage 1 is known"),
        (f"map {{image}} {BASE} --register satp", "write NAME=VALUE"),
        ("map nothing.elf", "nothing.elf"),
        (f"rmap {{image}} {BASE} --root {{root}}", "one of --hpa and --gpa"),
        (f"walk {{image}} {BASE} --root {{root}} --gpa 0x10 --vm a", "--vm means nothing"),
    ],
)
def test_a_wrong_question_ends_in_one_line_that_says_what_to_do(
    images: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    image, _, root = images
    assert call(command.format(image=image, root=root).split()) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert said in told[0]
