"""Arm's numbers beside our levels, and what is said of a host that nobody described."""

from __future__ import annotations

from pathlib import Path

import pytest

from platforms import make_platform, platform_text
from stage2.cli.main import call
from stage2.config.platform import default_platform
from stage2.formats import by_name
from stage2.render.levels import LEGEND, level_text, reported_level
from stage2.render.report import render_report
from stage2.render.tables import render_text

GUESTS = Path(__file__).resolve().parents[2] / "src/stage2/vm/guests"


@pytest.mark.parametrize(
    ("name", "level", "text"),
    [
        ("arm-s2-4k-40", 0, "level 0 (Arm's 3)"),
        ("arm-s2-4k-48", 3, "level 3 (Arm's 0)"),
        ("arm-s1-4k-52-lpa2", 4, "level 4 (Arm's -1)"),
        ("sv39x4", 2, "level 2"),
        ("ept4", 3, "level 3"),
    ],
)
def test_a_level_has_the_manuals_own_number_beside_it_where_that_differs(name: str, level: int, text: str) -> None:
    assert level_text(by_name(name), level) == text


@pytest.mark.parametrize("gpa", ["0x8000_0000", "0x4000_0000"])
def test_an_arm_walk_shows_both_numbers_and_the_legend_once(gpa: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["walk", str(GUESTS / "demo-aarch64.toml"), "--gpa", gpa]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "level 2 (Arm's 1): entry" in text
    assert text.count(LEGEND) == 1


def test_a_riscv_walk_needs_no_legend(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["walk", str(GUESTS / "demo-riscv64.toml"), "--gpa", "0x8000_0000"]) == 0
    text = capsys.readouterr().out
    assert "Arm" not in text


def test_an_arm_entry_shows_both_numbers_and_the_legend_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["explain", "entry", "--format", "arm-s2-4k-40", "--level", "1", "0x80000003"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "at level 1 (Arm's 2), which covers 2 MiB" in text
    assert "the table of level 0 (Arm's 3)" in text
    assert text.count(LEGEND) == 1


def test_a_fault_that_arms_registers_report_has_both_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["explain", "fault", "ESR_EL2=0x92000046", "HPFAR_EL2=0x400000"]) == 0
    assert "level   1 (Arm's 2; 0 is the smallest page)" in capsys.readouterr().out
    assert reported_level("riscv64", 1) == "1 (0 is the smallest page)"


@pytest.mark.parametrize("command", ["walk", "build"])
def test_the_host_that_was_assumed_is_told(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = ["--gpa", "0x8000_0000"] if command == "walk" else ["-o", str(tmp_path / "built")]
    words = [command, str(GUESTS / "demo-riscv64.toml"), *rest]
    assert call(words) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "No host was given: RAM at HPA [0x90000000, 0x90200000) (2 MiB), [0x100000000, 0x140000000) (1 GiB)" in text
    board = tmp_path / "board.toml"
    board.write_text(platform_text("riscv64", size=0x4000_0000))
    assert call([*words, "--platform", str(board)]) == 0
    assert "No host was given" not in capsys.readouterr().out


def test_the_table_of_a_run_says_which_host_was_assumed_unless_one_was_given(tmp_path: Path) -> None:
    assumed = default_platform([], "riscv64")
    assert "No host was given: RAM at HPA [0x100000000, 0x140000000)" in render_text(render_report([], None, assumed))
    given = make_platform(tmp_path, platform_text("riscv64"))
    assert "No host was given" not in render_text(render_report([], None, given))
