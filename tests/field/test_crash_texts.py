"""Crashes as people paste them. The texts are made up, in the shapes that the programs in their names print."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from stage2.cli.main import call
from stage2.crash.names import BY_KEY, NAMES, named
from stage2.crash.reading import read_text
from stage2.crash.report import report_all

FOLDER = Path(__file__).parent / "crashes"
TEXTS = sorted(path.stem for path in FOLDER.glob("*.txt"))
EXPECTED: dict[str, list[dict[str, Any]]] = tomllib.loads((FOLDER / "expected.toml").read_text())


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_bytes().decode()


def test_there_are_enough_texts_and_each_says_what_is_expected_of_it() -> None:
    assert len(TEXTS) >= 60
    assert set(EXPECTED) == set(TEXTS)


@pytest.mark.parametrize("name", TEXTS)
def test_every_fault_of_a_crash_is_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["explain", "fault", "--json", "--file", str(FOLDER / f"{name}.txt")]) == 0
    found = json.loads(capsys.readouterr().out)
    told = [
        {
            key: hex(event[key]) if key in ("gva", "gpa") else event[key]
            for key in ("arch", "title", "kind", "stage", "level", "access", "gva", "gpa")
            if event[key] is not None
        }
        for event in found["events"]
    ]
    assert told == EXPECTED[name]


@pytest.mark.parametrize("name", TEXTS)
def test_a_crash_is_the_same_as_an_argument_quoted_and_with_a_clock_before_each_line(name: str) -> None:
    text = text_of(name)
    wanted = [report for _, report in report_all(read_text(text))]
    for before in ("> ", "[  123.456789] ", "Nov  3 10:11:12 box kernel: "):
        dressed = "\n".join(before + line for line in text.splitlines())
        assert [report for _, report in report_all(read_text(dressed))] == wanted


def test_the_text_begins_with_the_registers_as_understood(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["explain", "fault", "ESR:86000006"]) == 0
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert (first, second) == ("esr=0x86000006", "aarch64: instruction abort from the same exception level")
    assert "translation fault, level 2" in third


def test_several_faults_are_numbered_and_what_says_nothing_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["explain", "fault", text_of("linux-arm64-two-oopses")]) == 0
    text = capsys.readouterr().out
    assert "fault 1 of 2, line 1: address=0xdead000000000100, esr=0x96000044" in text
    assert "fault 2 of 2, line 4: address=0x8, esr=0x96000006" in text
    assert call(["explain", "fault", text_of("kvm-arm64-hyp-panic")]) == 0
    assert "Ignored, it says nothing of a fault: PS, PC, PAR, VCPU." in capsys.readouterr().out


def test_a_fault_of_the_hypervisors_own_is_no_stage_2_fault_whatever_hpfar_still_holds() -> None:
    """DDI 0487, "HPFAR_EL2": valid for aborts that stage 2 made, and those come from a lower exception level."""
    ((_, report),) = report_all(read_text(text_of("kvm-arm64-hyp-panic-one-line")))
    assert (report.stage, report.gpa) == (1, None)


def test_a_register_that_cannot_be_told_is_left_aside_where_others_can() -> None:
    reading = read_text("FAR_EL3: 10\nESR_EL2: 96000004\nFAR_EL2: 1000\n")
    assert [report.gva for _, report in report_all(reading)] == [0x1000]
    assert "far" in reading.ignored


def test_a_cause_that_is_one_only_in_decimal_is_read_so_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["explain", "fault", "scause=21"]) == 0
    assert "is read as decimal, because 0x21 is no cause" in capsys.readouterr().out
    assert [report.title for _, report in report_all(read_text("scause=13"))] == ["hardware error"]


def test_every_name_is_an_alias_of_one_key_in_lower_case() -> None:
    for name, key in NAMES.items():
        assert name == name.lower()
        assert key in BY_KEY or key == "address"
    assert named("ESR_EL2") == ("esr", 2)
    assert named("HSR") == ("esr", None)
    assert named("HCR_EL2") == ("hcr_el2", None)


def test_a_text_of_standard_input_and_a_missing_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (FOLDER / "linux-riscv-oops.txt").open() as text:
        monkeypatch.setattr("sys.stdin", text)
        assert call(["explain", "fault", "--file", "-"]) == 0
    assert "load page fault" in capsys.readouterr().out
    assert call(["explain", "fault", "--file", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err
