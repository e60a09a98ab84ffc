"""Files that may be of the seed or of head: what the other reading gives is told where it is something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stage2.cli.main import call

VM = """\
[base]
id = 1
name = "guest"
arch = "riscv64"
vm_type = 1
cpu_num = 1

[kernel]
entry_point = {entry}
kernel_load_addr = 0x8000_0000
memory_regions = [{regions}]

[devices]
"""
RWX = "[0x8000_0000, 0x20_0000, 0x7, 0]"
START = "nothing says whether VM 1 'guest' is of the seed, as which it is read, or of head: "


def told(
    folder: Path, capsys: pytest.CaptureFixture[str], regions: str, *options: str, entry: str = "0x8000_0000"
) -> list[tuple[str, str]]:
    file = folder / "vm.toml"
    file.write_text(VM.format(regions=regions, entry=entry))
    call(["check", "--json", str(file), *options])
    streams = capsys.readouterr()
    assert streams.err == ""
    return [(found["code"], found["message"]) for found in json.loads(streams.out)["findings"]]


def test_a_file_that_means_the_same_to_both_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(tmp_path, capsys, RWX) == []


def test_rights_that_differ_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(tmp_path, capsys, f"{RWX}, [0x9000_0000, 0x1000, 0x3, 0]")
    assert found == [
        (
            "S2909",
            START + "ram1 is RAM rw- GPA [0x90000000, 0x90001000) by the seed and RAM rwx GPA [0x90000000, 0x90001000) "
            "by head",
        )
    ]


def test_what_only_one_of_them_finds_is_told_by_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = dict(told(tmp_path, capsys, "[0x8000_0000, 0x20_0000, 0x3, 0]"))
    assert found.keys() == {"S2305", "S2909"}
    assert found["S2909"] == START + "S2305 is found by the seed only"


@pytest.mark.parametrize("generation", ["seed", "head"])
def test_a_file_whose_generation_is_said_is_read_as_that_alone(
    generation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(tmp_path, capsys, f"{RWX}, [0x9000_0000, 0x1000, 0x3, 0]", "--generation", generation)
    assert "S2909" not in dict(found)


def test_a_region_that_is_a_device_to_one_of_them_alone_is_compared_by_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = dict(told(tmp_path, capsys, "[0x1000_0000, 0x20_0000, 0x13, 1], [0x9000_0000, 0x20_0000, 0x3, 0]," + RWX))
    assert found["S2909"] == (
        START + "device0 is passed-through device rw- GPA [0x10000000, 0x10200000) at HPA 0x10000000 by the seed and "
        "RAM rwx wherever there is room for 0x200000 bytes (assumed: HPA and GPA [0x10000000, 0x10200000)) by head "
        "(1 more region differs), and the guest begins at 0x80000000 by the seed and at 0x10000000 by head, and S2903 "
        "is found by the seed only"
    )
