"""Crashes as people paste them. The texts are made up, in the shapes that the programs in their names print."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stage2.cli.main import call
from stage2.crash.names import BY_KEY, NAMES, named
from stage2.crash.reading import read_text
from stage2.crash.report import report_all
from stage2.errors import ConfigError, Stage2Error
from waiting import HANG_S

FOLDER = Path(__file__).parent / "crashes"
TEXTS = sorted(path.stem for path in FOLDER.glob("*.txt"))
EXPECTED: dict[str, list[dict[str, Any]]] = tomllib.loads((FOLDER / "expected.toml").read_text())


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_bytes().decode()


def test_there_are_enough_texts_and_each_says_what_is_expected_of_it() -> None:
    assert len(TEXTS) >= 85
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


def manual_of(text: str) -> str:
    ((_, report),) = report_all(read_text(text))
    return report.manual


def test_the_manual_is_named_by_the_esr_of_the_level_that_took_it() -> None:
    section = "Arm ARM DDI 0487, D24.2 "
    assert manual_of("ESR_EL1=0x96000046 FAR_EL1=0x1000") == section + "ESR_EL1"
    assert manual_of("ESR_EL2=0x96000046") == section + "ESR_EL2"
    assert manual_of("ESR_EL3=0xbe000000") == section + "ESR_EL3"
    assert manual_of("esr=0x93c08047 hpfar=0x90000") == section + "ESR_EL2"
    assert manual_of("esr=0x96000046") == section + "ESR_EL1 (the same at EL2 and EL3)"


@pytest.mark.parametrize(
    ("esr", "state", "level"),
    [
        (0x9600_0046, 0x6040_0005, 1),
        (0x9600_0046, 0x6040_0009, 2),
        # From a program: the level that took it is not told.
        (0x9200_0046, 0x6000_0000, None),
        (0x9200_0046, 0x6040_0005, None),
        (0x9600_0046, 0x6040_001F, None),
    ],
)
def test_pstate_tells_the_level_at_which_a_kernel_runs(esr: int, state: int, level: int | None) -> None:
    reading = read_text(f"Internal error: Oops: {esr:016x} [#1] SMP\npstate: {state:08x} (nZCv daif)\n")
    assert reading.events[0].values.get("el") == level
    assert reading.ignored == ([] if level else ["pstate"])


def test_fields_of_an_error_code_are_told_apart_from_letters_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["explain", "fault", text_of("edk2-x64-page-fault") + "R: 5\n"]) == 0
    text = capsys.readouterr().out
    assert "Not needed beside the error code: I, R, U, W, P, PK, SS, SGX." in text
    assert "Ignored, it says nothing of a fault: R." in text


def test_fields_without_their_register_are_no_repetition() -> None:
    reading = read_text("EC = 0x25: DABT (current EL)\nscause=0xd")
    assert (reading.repeated, reading.ignored) == ({}, ["EC"])


def test_a_double_faults_error_code_is_none_of_a_page_fault() -> None:
    with pytest.raises(ConfigError, match="no register of a memory fault"):
        read_text("traps: PANIC: double fault, error_code: 0x0")


def test_numbers_of_32_bit_arm_are_no_esr() -> None:
    with pytest.raises(ConfigError, match="no register of a memory fault"):
        read_text("Unhandled fault: external abort on non-linefetch (0x1008) at 0xb6f5c000")


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


@pytest.mark.parametrize("words", [(), ("-",), ("--file", "-")])
def test_a_pipe_is_read_where_nothing_else_is_given(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stage2", "explain", "fault", *words],
        input=text_of("linux-riscv-oops"), capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "load page fault" in done.stdout


def test_neither_registers_nor_a_pipe_names_all_ways() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stage2", "explain", "fault"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "stage2: error: give the registers, such as esr=0x92000047 far=0x1000, or a text by --file FILE "
        "(--file - is standard input)\n"
    )


def test_a_files_name_in_place_of_a_text_says_how_to_give_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("riscv.txt", "my oops.txt"):
        Path(name).write_text(text_of("linux-riscv-oops"))
    assert call(["explain", "fault", "riscv.txt"]) == 2
    assert capsys.readouterr().err == "stage2: error: 'riscv.txt' is a file: --file riscv.txt\n"
    assert call(["explain", "fault", "my oops.txt"]) == 2
    assert capsys.readouterr().err == "stage2: error: 'my oops.txt' is a file: --file 'my oops.txt'\n"
    assert call(["explain", "fault", "other.txt"]) == 2
    assert "or give a text by --file FILE" in capsys.readouterr().err


def test_two_sources_of_a_text_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("-", "esr=1"), ("--file", "x", "esr=1"), ("-", "--file", "x")):
        assert call(["explain", "fault", *words]) == 2
        assert "give the registers, such as" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["Unhandled ", "Unhandled fault: ", "Internal error: ", "Unable to handle kernel ", "Oops - ", "unhandled ",
     "unhandled exception: ", "EPT violation 0x1 (", "PGD 0 ", "[0000000000001000] pgd=1, ", "pgtable: 4k pages, "],
)  # fmt: skip
def test_a_long_line_of_beginnings_is_read_in_linear_time(words: str) -> None:
    """Half a second, and minutes where every beginning looks through the rest of the line."""
    began = time.process_time()
    with suppress(Stage2Error):
        read_text(words * (500_000 // len(words)))
    assert time.process_time() - began < 60
