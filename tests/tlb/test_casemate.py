"""A trace as Casemate reads it: by the grammar of its manual, and with all that its model asks for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stage2.address import Hpa
from stage2.cli.main import call
from stage2.errors import ConfigError
from stage2.tlb.casemate import casemate_records, write_casemate
from stage2.tlb.trace import EditTrace
from table_edits import RW, checked, prepare

WORD = r"0x[0-9a-f]+"
RECORD = re.compile(
    r"\((?P<kind>[a-z-]+) \(id (?P<id>\d+)\) \(tid (?P<tid>\d+)\) (?P<rest>.*) \(src \"[^\":]+:\d+\"\)\)"
)
RESTS = {
    "mem-init": rf"\(address {WORD}\) \(size 0x1000\)",
    "mem-write": rf"\(mem-order plain\) \(address {WORD}\) \(value {WORD}\)",
    "hint": rf"\(kind (set_root_lock|set_owner_root)\) \(location {WORD}\) \(value {WORD}\)",
    "sysreg-write": rf"\(sysreg vttbr_el2\) \(value {WORD}\)",
    "lock": rf"\(address {WORD}\)",
    "unlock": rf"\(address {WORD}\)",
    "barrier": r"dsb \(kind ish\)",
    "tlbi": rf"(vmalle1is|vmalls12e1is|ipas2e1is \(value {WORD}\))",
}


def traced(path: Path, name: str = "arm-s2-4k-48") -> Path:
    with checked(name) as (table, _), EditTrace(path) as trace:
        trace.watch(table, "linux")
        prepare(table)
        block = table.format.leaf_size(1)
        table.unmap_range(0, table.format.page_size)
        table.protect_range(block, 2 * table.format.page_size, RW)
        table.coalesce(2 * block, block)
    return path


def test_every_record_is_of_the_grammar(tmp_path: Path) -> None:
    kinds = set()
    for number, record in enumerate(casemate_records(traced(tmp_path / "t"))):
        found = RECORD.fullmatch(record)
        assert found is not None, record
        assert (int(found["id"]), found["tid"]) == (number, "0")
        assert re.fullmatch(RESTS[found["kind"]], found["rest"]), record
        kinds.add(found["kind"])
    assert kinds == set(RESTS)


def test_a_page_that_is_unmapped_is_casemates_break(tmp_path: Path) -> None:
    with checked("arm-s2-4k-48") as (table, _), EditTrace(tmp_path / "t") as trace:
        trace.watch(table, "linux")
        table.map_range(0x4000_0000, Hpa(0), 0x2000, RW)
        slot = table.explain(0x4000_1000).steps[-1].slot_hpa
        root = table.root
        table.unmap_range(0x4000_1000, 0x1000)
    said = [re.sub(r" \(id \d+\) \(tid 0\)| \(src .*\"\)", "", record) for record in casemate_records(tmp_path / "t")]
    assert said[:3] == [
        f"(mem-init (address {root:#x}) (size 0x1000))",
        f"(hint (kind set_root_lock) (location {root:#x}) (value 0x8000000000000000))",
        f"(sysreg-write (sysreg vttbr_el2) (value {5 << 48 | root:#x}))",
    ]
    assert said[-8:] == [
        "(lock (address 0x8000000000000000))",
        f"(mem-write (mem-order plain) (address {slot:#x}) (value 0x0))",
        "(barrier dsb (kind ish))",
        "(tlbi ipas2e1is (value 0x40001))",
        "(barrier dsb (kind ish))",
        "(tlbi vmalle1is)",
        "(barrier dsb (kind ish))",
        "(unlock (address 0x8000000000000000))",
    ]


def test_tables_are_initialised_and_owned_before_they_are_written(tmp_path: Path) -> None:
    ready: set[int] = set()
    for record in casemate_records(traced(tmp_path / "t")):
        numbers = [int(word, 16) for word in re.findall(WORD, record)]
        if record.startswith("(hint"):
            ready.add(numbers[0])
        elif record.startswith("(mem-write"):
            assert numbers[0] & ~0xFFF in ready, record


@pytest.mark.parametrize("name", ["arm-s2-4k-40", "arm-s2-16k-48", "arm-s1-4k-48", "sv48x4", "ept4"])
def test_a_table_that_casemate_would_misread_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as found:
        write_casemate(traced(tmp_path / "t", name), tmp_path / "log")
    assert str(found.value) == (
        f"{tmp_path / 't'}:2: Casemate judges Arm's stage-2 tables with pages of 4 KiB and four levels, not {name}: "
        "run the guest with --stage2-format arm-s2-4k-48"
    )
    assert not (tmp_path / "log").exists()


def test_a_trace_that_says_too_much_or_a_strange_format_is_one_error(tmp_path: Path) -> None:
    path = traced(tmp_path / "t")
    whole = path.read_text()
    path.write_text(whole.replace('"arm-s2-4k-48"', '"arm-s9"'))
    with pytest.raises(ConfigError, match="t:2: no format is called 'arm-s9'"):
        write_casemate(path, tmp_path / "log")
    path.write_text(re.sub(r'("take".*"end": )"[^"]*"', r'\1"0xffffffffffff0000"', whole))
    with pytest.raises(ConfigError, match=r"t:3: .* is more than tables take at once"):
        write_casemate(path, tmp_path / "log")


def test_the_command_writes_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, log, nowhere = traced(tmp_path / "t"), tmp_path / "log", tmp_path / "none" / "log"
    assert call(["check-trace", str(path), "--casemate", str(log)]) == 0
    assert log.read_text().splitlines() == list(casemate_records(path))
    assert call(["check-trace", str(path), "--casemate", str(nowhere)]) == 2
    assert capsys.readouterr().err == f"stage2: error: {nowhere}: cannot be written: No such file or directory\n"
