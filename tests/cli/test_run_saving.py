"""`stage2 run` with --snapshot, --restore and --precopy, on the bundled demo guest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from json_schemas import require_schema
from stage2.cli.main import call
from stage2.vm.snapshots.snapshot import Snapshot

DEMO = Path(__file__).parents[2] / "src/stage2/vm/guests/demo-riscv64.toml"
"""It runs for 9 us of its time."""


def run(folder: Path, *options: str | Path) -> tuple[int, dict[str, Any]]:
    """The exit code and the report of a run of the demo guest."""
    report = folder / "report.json"
    code = call(["run", str(DEMO), *map(str, options), "--quiet", "--json", str(report)])
    require_schema("run", report.read_text())
    found: dict[str, Any] = json.loads(report.read_text())
    return code, found


def test_a_snapshot_at_a_time_does_not_disturb_the_run_and_another_run_goes_on_from_it(tmp_path: Path) -> None:
    file = tmp_path / "demo.snapshot"
    code, plain = run(tmp_path)
    assert (code, plain["saved"]) == (0, None)
    code, whole = run(tmp_path, "--snapshot", file, "--save-at", "0.004")
    assert (code, whole["vms"][0]["exit"]) == (0, "off")
    assert whole["vms"][0]["console"] == plain["vms"][0]["console"]
    taken = whole["saved"]["snapshot"]
    assert (taken["file"], taken["pages"]) == (str(file), len(Snapshot.open(file).pages))
    assert 4_000 <= taken["guest_ns"] < 4_100
    code, rest = run(tmp_path, "--restore", file)
    assert (code, rest["vms"][0]["exit"]) == (0, "off")
    assert rest["vms"][0]["console"] == plain["vms"][0]["console"]
    assert rest["saved"] == {"restored": taken, "snapshot": None, "precopy": None, "problem": None}


def test_a_guest_is_copied_and_stopped_and_goes_on_where_it_is_restored(tmp_path: Path) -> None:
    file = tmp_path / "demo.snapshot"
    _, plain = run(tmp_path)
    code, source = run(tmp_path, "--precopy", file, "--save-at", "0", "--precopy-rounds", "2", "--precopy-until", "0")
    vm, copy = source["vms"][0], source["saved"]["precopy"]
    assert (code, vm["exit"] in ("copied", "off")) == (0, True)
    assert copy["file"] == str(file)
    assert 2 <= len(copy["rounds"]) <= 3
    assert copy["downtime_s"] == copy["rounds"][-1]["seconds"]
    assert len(Snapshot.open(file).pages) == copy["pages"]
    if Snapshot.open(file).state.machine.off is not None:
        return  # On a busy machine the guest is done before the copy is.
    code, rest = run(tmp_path, "--restore", file)
    assert (code, rest["vms"][0]["console"]) == (0, plain["vms"][0]["console"])


def test_a_snapshot_at_the_end_is_what_the_guest_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "demo.snapshot"
    assert call(["run", str(DEMO), "--snapshot", str(file)]) == 0
    snapshot = Snapshot.open(file)
    assert snapshot.state.machine.off == "shutdown"
    assert snapshot.read(0x9000_0000, 8) == (0x600D_600D).to_bytes(8, "little")
    pages, seconds = len(snapshot.pages), snapshot.state.machine.nanos / 1e9
    said = capsys.readouterr().out
    assert f"snapshot in {file}: {pages:,} pages, at {seconds:.6f} s of the guest's time\n" in said


def test_a_time_that_never_comes_is_an_error_in_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, what in (("--snapshot", "a snapshot was to be taken"), ("--precopy", "pre-copy was to begin")):
        file = tmp_path / "demo.snapshot"
        code, report = run(tmp_path, option, file, "--save-at", "1000")
        problem = f"VM demo ended before its time was 1 s, when {what}"
        assert (code, report["saved"]["problem"]) == (1, problem)
        assert capsys.readouterr().err.endswith(f"error: {problem}\n")
        assert not file.exists()


def test_a_file_that_cannot_be_written_is_an_error_and_the_guest_runs_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "missing" / "demo.snapshot"
    code, report = run(tmp_path, "--snapshot", file, "--save-at", "0.004")
    assert (code, report["vms"][0]["exit"]) == (1, "off")
    problem = f"no snapshot of VM demo: {file}: cannot be written: No such file or directory"
    assert report["saved"]["problem"] == problem
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--snapshot", "a", "--precopy", "b"], "--snapshot and --precopy both save the VM: give one of them"),
        (["--save-at", "5"], "--save-at says when --snapshot is taken or --precopy begins: give one of them"),
        (["--snapshot", "a", "--save-at", "-1"], "--save-at -1 must be from 0 to 1e+12 ms"),
        (["--snapshot", "a", "--save-at", "nan"], "--save-at nan must be from 0 to 1e+12 ms"),
        (["--precopy-until", "3"], "--precopy-until is about --precopy, which is not given"),
        (["--precopy", "a", "--precopy-rounds", "0"], "--precopy-rounds 0 must be 1 or more"),
        ([str(DEMO), "--restore", "a"], "--restore with several VMs: a file holds one, which must run alone"),
        (["--restore", "missing"], "missing: No such file or directory"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_runs(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["run", str(DEMO), *options, "--quiet"]) == 2
    assert problem in capsys.readouterr().err


def test_a_snapshot_of_another_vm_or_of_one_that_is_off_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "demo.snapshot"
    run(tmp_path, "--snapshot", file, "--save-at", "0.004")
    config = tmp_path / "other.toml"
    config.write_text(DEMO.read_text().replace('name = "demo"', 'name = "other"'))
    for name in ("demo-riscv64.bin", "demo-rom.bin"):
        (tmp_path / name).write_bytes((DEMO.parent / name).read_bytes())
    assert call(["run", str(config), "--restore", str(file), "--quiet"]) == 2
    wrong = "the snapshot is of a VM whose name is demo; that of this one is other"
    assert f"{file}: {wrong}" in capsys.readouterr().err
    run(tmp_path, "--snapshot", file)
    assert call(["run", str(DEMO), "--restore", str(file), "--quiet"]) == 2
    assert f"{file}: VM demo had powered off: there is nothing to go on from" in capsys.readouterr().err
