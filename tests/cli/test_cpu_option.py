"""`--cpu` and `[stage2] cpu`: the processor that tables are for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stage2.cli.main import call

GUESTS = Path(__file__).parents[2] / "src" / "stage2" / "vm" / "guests"
DEMO = GUESTS / "demo-riscv64.toml"


@pytest.mark.parametrize(
    "arguments", [["walk", "--cpu", "list"], ["explain", "entry", "--cpu=list"], ["run", "--cpu", "list"]]
)
def test_every_processor_is_listed_with_its_parts_by_any_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(arguments) == 0
    printed = capsys.readouterr().out
    assert all(f"Processors of {arch}" in printed for arch in ("aarch64", "riscv64", "x86_64"))
    assert "bits of a physical address" in printed


def test_the_list_is_there_for_programs_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["build", "--cpu", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name", "arch", "vendor", "features", "numbers", "source"} <= set(found[0])
    assert {entry["arch"] for entry in found if entry["name"] == "max"} == {"aarch64", "riscv64", "x86_64"}


@pytest.mark.parametrize("command", ["walk", "build", "run", "show"])
def test_a_processor_that_nobody_knows_is_told_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"walk": ["--gpa", "0x80200000"], "build": ["-o", str(tmp_path / "out")]}.get(command, [])
    assert call([command, str(DEMO), *more, "--cpu", "maxx"]) == 2
    assert capsys.readouterr().err.startswith("stage2: error: --cpu maxx: no such processor (did you mean max?)")
    assert not (tmp_path / "out").exists()


def test_a_processor_in_a_file_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = DEMO.read_text()
    path = tmp_path / "vm.toml"
    path.write_text(text + '\n[stage2]\ncpu = "max,pa=99"\n' if "[stage2]" not in text else
                    text.replace("[stage2]", '[stage2]\ncpu = "max,pa=99"'))  # fmt: skip
    line = next(n for n, found in enumerate(path.read_text().splitlines(), 1) if found.startswith("cpu ="))
    assert call(["walk", str(path), "--gpa", "0x80200000"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"stage2: error: {path}:{line}: stage2.cpu: max,pa=99: pa=99 is out of range")


BEYOND_39_BITS = 1 << 45 | 0x37
"""An EPT leaf for HPA 2^45."""


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert call(["explain", "entry", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_an_entry_says_what_of_the_processor_it_hangs_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["explain", "entry", hex(BEYOND_39_BITS), "--format", "ept4", "--level", "0"]) == 0
    assert "So on a CPU with 52-bit physical addresses; --cpu says otherwise." in capsys.readouterr().out


def test_an_entry_that_hangs_on_no_processor_says_nothing_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["explain", "entry", "0x80000037", "--format", "ept4", "--level", "0"]) == 0
    assert "--cpu" not in capsys.readouterr().out


def test_a_processor_with_fewer_address_bits_reserves_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    wide = explained(capsys, hex(BEYOND_39_BITS), "--format", "ept4", "--level", "0")
    narrow = explained(capsys, hex(BEYOND_39_BITS), "--format", "ept4", "--level", "0", "--cpu", "coffee-lake")
    other = explained(capsys, hex(BEYOND_39_BITS), "--format", "ept4", "--level", "0", "--cpu", "coffee-lake,pa=46")
    assert [found["kind"] for found in (wide, narrow, other)] == ["leaf", "misconfigured", "leaf"]
    assert (wide["processor"], narrow["processor"]) == (None, "coffee-lake")
    assert wide["depends_on"] == ["52-bit physical addresses"]
    assert "39-bit physical addresses" in narrow["depends_on"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["--format", "ept4", "--cpu", "zen4"],
            "zen4 is an AMD processor: it has nested paging (npt4, npt5) and no EPT",
        ),
        (["--format", "npt4", "--cpu", "coffee-lake"], "coffee-lake is an Intel processor"),
        (["--format", "ept5", "--cpu", "coffee-lake"], "coffee-lake lacks ept-5level, which ept5 needs"),
        (["--format", "ept4", "--cpu", "max,-mbec", "--mbec"], "max,-mbec lacks mbec"),
        (["--format", "ept4", "--cpu", "cortex-a72"], "no such processor|cortex-a72 is a processor of aarch64"),
    ],
)
def test_what_a_processor_lacks_is_told_in_one_line(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["explain", "entry", "0x37", "--level", "0", *arguments]) == 2
    error = capsys.readouterr().err
    assert any(part in error for part in problem.split("|"))
    assert error.count("\n") == 1


def test_run_refuses_what_the_engine_cannot_show_a_guest(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", str(DEMO), "--quiet", "--cpu", "max"]) == 2
    error = capsys.readouterr().err
    begins = "stage2: error: VM demo: the unicorn engine cannot show a guest svade, svnapot, svpbmt of max:"
    assert error.startswith(begins)
    assert error.count("\n") == 1


def test_a_guest_runs_on_a_processor_that_the_engine_can_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["demo", "--arch", "riscv64", "--json", "-"]) == 0
    capsys.readouterr()
    cpu = "max,-svade,-svnapot,-svpbmt"
    assert call(["run", str(DEMO), "--json", "-", "--cpu", cpu]) == 0
    (vm,) = json.loads(capsys.readouterr().out)["vms"]
    assert vm["exit"] == "off"


def test_a_walk_names_the_processor_and_what_hangs_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    demo = str(GUESTS / "demo-x86_64.toml")
    arguments = ["walk", demo, "--gpa", "0x200000", "--arch", "x86_64", "--json"]
    assert call([*arguments, "--cpu", "meteor-lake"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["processor"], found["depends_on"]) == ("meteor-lake", [])
    assert call(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["processor"], found["depends_on"]) == (None, [])
