"""One tiny input for each rule of `stage2 check`, in a folder named after its code and its fault."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from stage2.check import (
    comments,
    conflicts,
    cpus,
    dma,
    every,
    file_notices,
    host_devices,
    host_memory,
    host_reservations,
    x86_holes,
)
from stage2.cli.main import call
from trees import need_dtc

FAULTS = sorted((Path(__file__).parent / "faults").iterdir())


def findings(capsys: pytest.CaptureFixture[str], arguments: list[str], files: list[str]) -> tuple[int, list[Any]]:
    """What the command says of files, and its exit code."""
    code = call(["check", "--json", *arguments, *files])
    streams = capsys.readouterr()
    assert streams.err == ""
    return code, json.loads(streams.out)["findings"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda folder: folder.name)
def test_a_fault_is_found_once_and_told_in_one_whole_message(
    fault: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fault)
    expected = tomllib.loads((fault / "expected.toml").read_text())
    if "host.dts" in expected["arguments"]:
        need_dtc()
    code, found = findings(capsys, expected["arguments"], expected["files"])
    (finding,) = found
    assert finding["code"] == fault.name.partition("-")[0]
    assert (finding["severity"], finding["message"]) == (expected["severity"], expected["message"])
    first = finding["locations"][0]
    assert ":".join(str(part) for part in (first["file"], first["line"], first["column"]) if part) == expected["at"]
    assert code == (1 if expected["severity"] == "error" else 0)


def test_every_rule_about_vm_files_has_a_fault_of_its_own() -> None:
    met = {fault.name.partition("-")[0] for fault in FAULTS}
    rooms = (conflicts, host_memory, host_reservations, host_devices, dma, x86_holes, comments, cpus, file_notices)
    judged = [rule for room in rooms for rule in room.RULES]
    # What no rule names is whatever a reader refuses; its own tests say what.
    assert {rule.code for rule in judged} - met == {conflicts.OTHER.code}


def test_a_rule_has_one_code_and_a_code_one_rule() -> None:
    codes = [rule.code for rule in every.RULES]
    assert len(set(codes)) == len(codes)


def test_a_clean_file_stays_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parent / "faults" / "S2301-ram-twice" / "vm.toml").read_text()
    monkeypatch.chdir(tmp_path)
    Path("vm.toml").write_text(text.replace("0x8010_0000", "0x8020_0000"))
    assert findings(capsys, [], ["vm.toml"]) == (0, [])


def test_what_cannot_be_read_is_an_error_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vm.toml").write_text("[base\n")
    assert call(["check", str(tmp_path / "vm.toml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert call(["check"]) == 2
    assert "no VM file is given" in capsys.readouterr().err


def test_a_rule_is_told_by_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", "--explain", "s2301"]) == 0
    assert capsys.readouterr().out.startswith("error S2301: two stretches of a VM's memory overlap")
    assert call(["check", "--explain", "list"]) == 0
    assert "S2404" in capsys.readouterr().out
    assert call(["check", "--explain", "S9999"]) == 2
    assert "--explain list" in capsys.readouterr().err
