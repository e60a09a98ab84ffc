"""Page tables that Linux dumps beside an oops: the entry that is absent, and the command that explains the last one."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.cli.main import call
from stage2.crash.page_tables import Dump, understand
from stage2.crash.reading import read_text
from stage2.errors import Stage2Error

FOLDER = Path(__file__).parent / "crashes"
ESR = "Internal error: Oops: 0000000096000046 [#1] SMP"


def tables_of(text: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert call(["explain", "fault", "--json", text]) == 0
    return json.loads(capsys.readouterr().out)["page_tables"]


@pytest.mark.parametrize("columns", ["60", "100"])
def test_an_absent_entry_is_named_and_the_one_above_it_is_explained_by_the_command_told(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert call(["explain", "fault", "--file", str(FOLDER / "linux-arm64-page-tables.txt")]) == 0
    text = capsys.readouterr().out
    assert (
        "page tables of 0xffff800012345678 (arm-s1-4k-48-high)\n"
        "The entry pmd at level 1 (Arm's 2) is absent: it is 0.\n"
        "The last entry that is there is pud at level 2 (Arm's 1).\n"
        "What it says:\n"
        "stage2 explain entry --format arm-s1-4k-48-high --level 2 0x10000000bfff6003\n"
        "  pgd  0x10000000bfff7003  level 3 (Arm's 0)\n"
        "  pud  0x10000000bfff6003  level 2 (Arm's 1)\n"
        "  pmd  0x0000000000000000  level 1 (Arm's 2)\n"
    ) in text
    assert "manual Arm ARM DDI 0487, D24.2 ESR_EL1" in " ".join(text.split())
    assert " ".join(text.split()).endswith(
        "Not needed beside the ESR: EC, IL, SET, FnV, EA, S1PTW, FSC, ISV, ISS, ISS2, CM, WnR, TnD, TagAccess, GCS, "
        "Overlay, DirtyBit, Xs."
    )


@pytest.mark.parametrize(
    ("lines", "fmt", "entries", "absent", "level"),
    [
        # arch/arm64: four levels of 4 KiB pages have p4d folded into pgd, three also pud.
        (
            "user pgtable: 4k pages, 39-bit VAs, pgdp=0000000045a3c000\n"
            "[0000000000001000] pgd=0800000045a3d003, p4d=0800000045a3d003, pud=0800000045a3d003, "
            "pmd=0800000045a3e003, pte=0000000000000000",
            "arm-s1-4k-39", ["pgd", "pmd", "pte"], "pte", 1,
        ),
        (
            "user pgtable: 4k pages, 52-bit VAs, pgdp=0000000045a3c000\n"
            "[0000000000001000] pgd=0800000045a3d003, p4d=0800000045a3f003, pud=0800000045a40003, "
            "pmd=0800000045a3e003, pte=0000000000000000",
            "arm-s1-4k-52-lpa2", ["pgd", "p4d", "pud", "pmd", "pte"], "pte", 1,
        ),
        (
            "swapper pgtable: 64k pages, 42-bit VAs, pgdp=0000000045a30000\n"
            "[fffffe0000010000] pgd=0000000045a30003, p4d=0000000045a30003, pud=0000000045a30003, "
            "pmd=0000000045a30003, pte=0000000000000000",
            "arm-s1-64k-42-high", ["pgd", "pte"], "pte", 1,
        ),
        (
            "swapper pgtable: 16k pages, 47-bit VAs, pgd = 00000000deadbeef\n"
            "[ffff800012345678] pgd=10000000bfff4003, pud=10000000bfff4003, pmd=0000000000000000",
            "arm-s1-16k-47-high", ["pgd", "pmd"], "pmd", 2,
        ),
        # The continuation of a line that another CPU's output cut.
        (
            "user pgtable: 4k pages, 48-bit VAs, pgdp=0000000045a3c000\n"
            "[0000000000001000] pgd=0800000045a3d003\n, p4d=0800000045a3d003, pud=0800000045a3f003\n"
            ", pmd=0000000000000000",
            "arm-s1-4k-48", ["pgd", "pud", "pmd"], "pmd", 2,
        ),
    ],
)  # fmt: skip
def test_names_above_the_root_are_left_out_on_arm(
    capsys: pytest.CaptureFixture[str], lines: str, fmt: str, entries: list[str], absent: str, level: int
) -> None:
    found = tables_of(f"{lines}\n{ESR}", capsys)
    assert found["format"] == fmt
    assert [entry["name"] for entry in found["entries"]] == entries
    assert found["absent"] == absent
    assert f"--level {level} " in found["command"]
    assert call(shlex.split(found["command"])[1:]) == 0
    assert "a table" in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("lines", "fmt", "command"),
    [
        ("PGD 0 P4D 0", "x86-4level", None),
        ("PGD 1067 P4D 1067 PUD 2067 PMD 0", "x86-4level", "--level 2 0x2067"),
        ("PGD 1067 PUD 2067 PMD 3067 PTE 0", "x86-4level", "--level 1 0x3067"),
        ("PGD 1067 P4D 2067 PUD 0", "x86-5level", "--level 3 0x2067"),
        ("PGD 1067 P4D 1067 PUD 80000000000000e3", "x86-4level", "--level 2 0x80000000000000e3"),
        ("PGD 1067 P4D 1067 PUD 2067 PMD 3067\nPTE 8000000104a2b061", "x86-4level", "--level 0 0x8000000104a2b061"),
    ],
)
def test_four_levels_repeat_pgd_as_p4d_on_x86(
    capsys: pytest.CaptureFixture[str], lines: str, fmt: str, command: str | None
) -> None:
    found = tables_of(f"{lines}\nOops: 0002 [#1] SMP", capsys)
    assert found["format"] == fmt
    assert found["command"] == (command and f"stage2 explain entry --format {fmt} {command}")
    if command:
        assert call(shlex.split(found["command"])[1:]) == 0


def test_risc_v_dumps_have_the_width_of_addresses_as_the_format(capsys: pytest.CaptureFixture[str]) -> None:
    found = tables_of((FOLDER / "linux-riscv-page-tables.txt").read_text(), capsys)
    assert (found["format"], found["absent"]) == ("sv39", "pmd")
    assert found["command"] == "stage2 explain entry --format sv39 --level 2 0x3fffec01"
    assert call(shlex.split(found["command"])[1:]) == 0


@pytest.mark.parametrize(
    ("lines", "sentences"),
    [
        (
            f"[ffff000012345678] *pgd=00000000bfffe003, *pud=00000000bfffd003, *pmd=0000000000000000\n{ESR}",
            [
                "The entry pmd is absent: it is 0.",
                "The last entry that is there is pud.",
                "Format and levels of these entries are not known: the text does not tell the size of pages and the "
                "width of addresses (Linux prints them as `4k pages, 48-bit VAs`); with them: stage2 explain entry "
                "--format FORMAT --level LEVEL 0xbfffd003.",
            ],
        ),
        (
            f"user pgtable: 8k pages, 40-bit VAs, pgdp=0000000045a3c000\n[0000000000001000] pgd=0\n{ESR}",
            [
                "The entry pgd is absent: it is 0.",
                "It stands in the root table: no entry is left to explain.",
                "Format and levels of these entries are not known: there is no format here of 8 KiB pages and 40-bit "
                "addresses.",
            ],
        ),
        (
            f"user pgtable: 4k pages, 48-bit VAs, pgdp=0000000045a3c000\n[0000000000001000] pgd=1003, p4d=2003\n{ESR}",
            [
                "The dump ends with p4d, which is there: a block, or no table that Linux follows.",
                "Format and levels of these entries are not known: p4d does not repeat pgd, as it does in arm-s1-4k-48"
                "; with them: stage2 explain entry --format FORMAT --level LEVEL 0x2003.",
            ],
        ),
        (
            "PGD 1067\nBAD\nOops: 0002 [#1] SMP",
            [
                "The dump ends with pgd, which is there: a block, or no table that Linux follows.",
                "Format and levels of these entries are not known: the dump ends before it tells whether there are "
                "four levels or five; with them: stage2 explain entry --format FORMAT --level LEVEL 0x1067.",
            ],
        ),
        (
            "*pdpt = 0000000031a3c001 *pde = 0000000000000000\nOops: 0002 [#1] SMP",
            [
                "The entry pde is absent: it is 0.",
                "The last entry that is there is pdpt.",
                "Format and levels of these entries are not known: these are tables of 32-bit paging, of which there "
                "is no format here; with them: stage2 explain entry --format FORMAT --level LEVEL 0x31a3c001.",
            ],
        ),
    ],
)
def test_a_format_that_the_text_does_not_tell_is_not_guessed(
    capsys: pytest.CaptureFixture[str], lines: str, sentences: list[str]
) -> None:
    found = tables_of(lines, capsys)
    assert (found["format"], found["command"]) == (None, None)
    assert {entry["level"] for entry in found["entries"]} == {None}
    assert found["sentences"] == sentences


def test_an_entry_that_is_not_zero_is_absent_where_bit_0_is_clear() -> None:
    tables = understand(Dump({"pgd": 0x1067, "p4d": 0x1067, "pud": 0x2067, "pmd": 0x8000_0000}), "x86_64", 0x1000)
    assert tables.absent is not None
    assert tables.last is not None
    assert (tables.address, tables.absent.name, tables.last.name) == (0x1000, "pmd", "pud")


def test_a_text_without_a_dump_has_no_tables_and_a_dump_alone_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables_of(ESR, capsys) is None
    assert call(["explain", "fault", "[0000000000001000] pgd=0000000000000000, p4d=0000000000000000"]) == 2
    assert "(it has pgd, p4d)" in capsys.readouterr().err


def test_each_fault_has_the_tables_that_stand_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = (FOLDER / "linux-x86-page-fault.txt").read_text() + (FOLDER / "linux-x86-bad-page-table-old.txt").read_text()
    assert call(["explain", "fault", "--json", text]) == 0
    events = json.loads(capsys.readouterr().out)["events"]
    assert [event["page_tables"]["address_hex"] for event in events] == ["0xffffb0e2c0a00000", "0x7f62d5b48e68"]
    assert [event["page_tables"]["absent"] for event in events] == [None, "pmd"]


@given(line=st.text(alphabet=st.sampled_from("pgdte4=PGDTE*[], 0x1f\n"), max_size=60))
def test_no_dump_makes_the_reader_fail_otherwise(line: str) -> None:
    with suppress(Stage2Error):
        for event in read_text(f"esr=0x96000046\n{line}").events:
            if event.dump is not None:
                understand(event.dump, "aarch64", None)
