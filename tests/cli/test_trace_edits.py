"""`stage2 run --trace-edits` and `stage2 check-trace`: what a run writes down, and what is said of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import effort
from stage2.cli.main import call
from stage2.tlb.trace_check import check_trace

pytest.importorskip("unicorn")

GUESTS = Path(__file__).parents[2] / "src" / "stage2" / "vm" / "guests"
FORMATS = {
    "riscv64": ("sv39x4", "sv48x4", "sv57x4"),
    "x86_64": ("ept4", "npt4", "ept5", "npt5"),
    "aarch64": ("arm-s2-4k-40", "arm-s2-64k-48", "arm-s2-4k-48", "arm-s2-16k-40"),
}


def guest(folder: Path, arch: str) -> Path:
    """The demo guest, its ROM as large as the largest page."""
    shutil.copytree(GUESTS, folder, dirs_exist_ok=True)
    path = folder / f"demo-{arch}.toml"
    path.write_text(path.read_text().replace("size = 0x1000", "size = 0x1_0000"))
    return path


MOST = None if effort.FACTOR > 1 else 2
"""Formats of an architecture that are run; each compiles an MMU of its own."""


@pytest.mark.parametrize(("arch", "name"), [(arch, name) for arch, found in FORMATS.items() for name in found[:MOST]])
def test_a_run_of_each_format_leaves_a_trace_that_holds_until_an_invalidation_is_taken_out(
    arch: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, trace = guest(tmp_path, arch), tmp_path / "trace"
    options = ("--stage2-format", name, "--dirty-log", "1", "--trace-edits", str(trace), "--json", "-")
    assert call(["run", str(path), *options]) == 0
    (vm,) = json.loads(capsys.readouterr().out)["vms"]
    assert (vm["exit"], vm["format"]) == ("off", name)
    assert call(["check-trace", str(trace), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["holds"]
    assert found["tables"] == [{"vm": "demo", "format": name}]

    lines = trace.read_text().splitlines()
    owed = [at for at, line in enumerate(lines) if '"event": "invalidate"' in line]
    assert len(owed) == found["operations"] > 0
    left = lines[: owed[0]] + lines[owed[0] + 1 : -1]
    trace.write_text("\n".join([*left, json.dumps({"event": "close", "lines": len(left) + 1})]) + "\n")
    assert call(["check-trace", str(trace)]) == 1
    said = capsys.readouterr().out
    place, _, rest = said.partition(": ")
    assert place.startswith(f"{trace}:")
    number = int(place.rpartition(":")[2])
    assert json.loads(left[number - 1])["event"] == "end"
    assert rest.startswith(f"demo: cached translations contradict {name} after ")


def test_the_sentence_says_what_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, trace = guest(tmp_path, "riscv64"), tmp_path / "trace"
    assert call(["run", str(path), "--trace-edits", str(trace), "--quiet"]) == 0
    verdict = check_trace(trace)
    assert call(["check-trace", str(trace)]) == 0
    assert capsys.readouterr().out == (
        f"{trace}: {verdict.stores} stores, 0 invalidations and 0 barriers in {verdict.edits} edits of 1 table: "
        "nothing that was owed was left out\n"
    )


def test_two_guests_are_written_to_one_file(tmp_path: Path) -> None:
    path, trace = guest(tmp_path, "riscv64"), tmp_path / "trace"
    other = path.with_name("hostile-riscv64.toml")
    assert call(["run", str(path), str(other), "--trace-edits", str(trace), "--quiet"]) == 0
    verdict = check_trace(trace)
    assert verdict.refuted is None
    assert verdict.tables == {"demo": "sv39x4", "hostile": "sv39x4"}


def test_a_file_that_cannot_be_written_is_one_error_before_the_guest_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "none" / "trace"
    assert call(["run", str(guest(tmp_path, "riscv64")), "--trace-edits", str(trace)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error == f"stage2: error: {trace}: the trace cannot be written: No such file or directory\n"


def test_a_disk_that_is_full_is_told_after_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", str(guest(tmp_path, "riscv64")), "--trace-edits", "/dev/full", "--json", "-"]) == 2
    out, error = capsys.readouterr()
    assert json.loads(out)["vms"][0]["exit"] == "off"
    assert error == "stage2: error: /dev/full: the trace cannot be written: No space left on device\n"


def caught(pid: int) -> int:
    """The signals that a process catches, a bit each."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_interrupted_closes_its_trace(number: int, code: int, tmp_path: Path) -> None:
    path, trace = guest(tmp_path, "riscv64"), tmp_path / "trace"
    # An endless loop: jal x0, 0.
    (tmp_path / "demo-riscv64.bin").write_bytes(b"\x6f\0\0\0" * 16)
    run = subprocess.Popen(
        [sys.executable, "-m", "stage2", "run", str(path), "--trace-edits", str(trace), "--quiet"], env=os.environ
    )
    try:
        deadline = time.monotonic() + 120
        # From when the guest runs on, SIGTERM is caught: a bit of what Linux tells of the process.
        while not caught(run.pid) >> (signal.SIGTERM - 1) & 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        run.send_signal(number)
        assert run.wait(60) == code
    finally:
        if run.poll() is None:
            run.kill()
            run.wait()
    assert '"close"' in trace.read_text().splitlines()[-1]
    assert check_trace(trace).refuted is None


def test_a_file_that_is_no_trace_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vm.toml"
    path.write_text("[base]\n")
    assert call(["check-trace", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"stage2: error: {path}:1: the line is no JSON: this is no trace of edits, or it is damaged\n"
    )
