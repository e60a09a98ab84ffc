"""`--cpu` and `[stage2] cpu`: the processor that tables are for."""

from __future__ import annotations

import json
from pathlib import Path

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
