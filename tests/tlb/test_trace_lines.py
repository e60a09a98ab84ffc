"""What is no trace, or no whole one, is one clear error with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import effort
from stage2.address import Hpa
from stage2.errors import ConfigError
from stage2.flags import RWX
from stage2.tlb.trace import EditTrace
from stage2.tlb.trace_check import check_trace
from table_edits import checked


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as found:
        check_trace(path)
    return str(found.value)


def small(path: Path) -> list[str]:
    """A trace of two edits."""
    with checked("arm-s2-4k-40") as (table, _), EditTrace(path) as trace:
        trace.watch(table, "linux")
        table.map_range(0, Hpa(0), 0x1000, RWX)
        table.unmap_range(0, 0x1000)
    return path.read_text().splitlines(keepends=True)


def line_with(lines: list[str], kind: str) -> int:
    return next(at for at, line in enumerate(lines) if json.loads(line)["event"] == kind)


def test_a_trace_that_was_cut_off_anywhere_is_refused_with_its_last_line(tmp_path: Path) -> None:
    lines = small(tmp_path / "t")
    path = tmp_path / "cut"
    for count in range(len(lines)):
        path.write_text("".join(lines[:count]))
        assert refused(path) == (
            f"{path}:{max(count, 1)}: the trace ends without its last line: the run was killed, or the file was cut off"
        )
        path.write_text("".join(lines[:count]) + lines[count][:-1])
        assert refused(path) == (
            f"{path}:{count + 1}: the trace ends within a line: the run was killed, or the file was cut off"
        )


def changed(kind: str, **keys: Any) -> Callable[[list[str]], int]:
    """Gives the first line of a kind other keys."""

    def change(lines: list[str]) -> int:
        at = line_with(lines, kind)
        lines[at] = json.dumps(json.loads(lines[at]) | keys) + "\n"
        return at

    return change


def inserted(kind: str, text: str) -> Callable[[list[str]], int]:
    """Puts a line before the first of a kind."""

    def insert(lines: list[str]) -> int:
        at = line_with(lines, kind)
        lines.insert(at, text + "\n")
        return at

    return insert


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (changed("open", schema="stage2/walk/1"), "its first line is not an open of schema stage2/edits/1"),
        (changed("table", format="arm-s9"), "no format is called 'arm-s9'"),
        (changed("table", root="0x1000"), "the root table 0x1000 is outside the memory that the line names"),
        (changed("table", memory=[]), "physical memory needs at least one range"),
        (changed("table", memory=[["0x2000", "0x1000"]]), "memory: range [0x2000, 0x1000) has no byte in it"),
        (changed("table", memory=[["0x0", "0x1_0000"]]), "memory '0x1_0000' is no 64-bit number that begins with 0x"),
        (changed("table", identifier=-1), "identifier -1 is no number from 0 to 2^64"),
        (changed("begin", vm="windows"), "no line before this one says what the table of 'windows' is"),
        (changed("begin", vm=7), "vm 7 is no text"),
        (changed("take", start="0x0", end="0x1000"), "[0x0, 0x1000) is not in memory"),
        (changed("store", old="0x7"), "was 0x0 before, not 0x7: a line is missing or damaged"),
        (changed("store", index=512), "index 512 is beyond the table's 512 entries"),
        (changed("store", new="7"), "new '7' is no 64-bit number that begins with 0x"),
        (changed("store", by="magic"), "by 'magic' is neither walker nor, before the first edit, found"),
        (changed("store", by="found"), "by 'found' is neither walker nor, before the first edit, found"),
        (changed("store", table="0x80fff000"), "no line says that 0x80fff000 was taken for a table"),
        (changed("store", colour="red"), "store has 'colour', which is not among its keys"),
        (changed("invalidate", operation="TLBI MAGIC"), "there is no invalidation 'TLBI MAGIC'"),
        (changed("invalidate", operation="TLBI VMALLE1IS"), "TLBI VMALLE1IS has other operands"),
        (changed("invalidate", vmid=6, operands=[]), "operands are not those of TLBI IPAS2E1IS (VMID 6, GPA"),
        (changed("invalidate", step=1), "step 1 is no page size"),
        (changed("barrier", barrier="DMB"), "barrier 'DMB' is not DSB ISH"),
        (changed("end", changes=[["moved", "0x0", "0x1"]]), "changes 'moved' is no kind of change"),
        (changed("end", changes=7), "changes 7 is no list"),
        (inserted("end", '{"event": "begin", "vm": "linux"}'), "an edit begins before the last one ended"),
        (inserted("begin", '{"event": "end", "vm": "linux", "changes": []}'), "an edit ends that did not begin"),
        (inserted("begin", "[]"), "event None is none of open, table"),
        (inserted("begin", "x"), "the line is no JSON"),
        (inserted("begin", "[" * 5000), "the line is no JSON"),
        (inserted("begin", '"' + "x" * 70_000 + '"'), "the line has more than 65536 bytes"),
        (inserted("begin", '{"event": "begin"}'), "begin has no vm"),
        (inserted("close", '{"event": "close", "lines": 3}'), "the trace was written with 3 lines, and has"),
    ],
)
def test_a_line_that_cannot_be_is_refused_with_its_number(
    damage: Callable[[list[str]], int], says: str, tmp_path: Path
) -> None:
    lines = small(tmp_path / "t")
    at = damage(lines)
    (tmp_path / "t").write_text("".join(lines))
    told = refused(tmp_path / "t")
    assert told.startswith(f"{tmp_path / 't'}:{at + 1}: ")
    assert says in told


def test_a_trace_in_which_any_line_is_missing_is_never_taken_for_whole(tmp_path: Path) -> None:
    lines = small(tmp_path / "t")
    for at in range(len(lines)):
        (tmp_path / "t").write_text("".join(lines[:at] + lines[at + 1 :]))
        try:
            assert check_trace(tmp_path / "t").refuted is not None, lines[at]
        except ConfigError as error:
            assert str(error).startswith(f"{tmp_path / 't'}:")  # noqa: PT017  # either is right


def test_bytes_that_were_changed_at_random_are_an_error_or_a_verdict_and_nothing_else(tmp_path: Path) -> None:
    whole = "".join(small(tmp_path / "t")).encode()
    rng = np.random.default_rng(effort.seeded(15))
    for _ in range(300 * effort.FACTOR):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), int(rng.integers(1, 4))).tolist():
            data[at] = int(rng.integers(32, 127))
        (tmp_path / "t").write_bytes(data)
        try:
            check_trace(tmp_path / "t")
        except ConfigError as error:
            assert str(error).startswith(f"{tmp_path / 't'}:")  # noqa: PT017  # either is right


def test_a_file_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == f"{tmp_path / 'none'}: cannot be read: No such file or directory"
