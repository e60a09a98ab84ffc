"""What `stage2 conform` says of wrong input; what it finds is tested in tests/conform."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stage2.cli.conform import _Progress
from stage2.cli.main import call
from stage2.conform import oracles, run
from stage2.conform.oracle import Pair
from stage2.conform.verdict import Verdict
from stage2.errors import HostToolError
from waiting import HANG_S


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--oracle", "qemu-arm"], "no oracle is called 'qemu-arm' (did you mean qemu-aarch64?)"),
        (["--cases", "0"], "--cases 0: at least one case is needed"),
        (["--seed", "-1"], "--seed -1: a seed is not negative"),
        (["--format", "sv32"], "--format sv32: no oracle answers for that; they answer for "),
        (
            ["--oracle", "bochs-ept", "--format", "sv39"],
            "bochs-ept does not answer for sv39; it answers for x86-4level over ept4",
        ),
        (["--plant", "nothing"], "--plant nothing: there are writable, address, reserved, hole"),
        (["--cases", "many"], "--cases"),
        (["--jobs", "0"], "--jobs 0: at least one process is needed. Limit: 1,024"),
        (["--jobs", "1025"], "--jobs 1025: at least one process is needed. Limit: 1,024"),
        (["--jobs", "2", "--scheduler", "tcp://127.0.0.1:8786"], "--jobs and --scheduler: say one of them"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["conform", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error


class Absent:
    """An oracle whose emulator is not there."""

    pairs: tuple[Pair, ...] = ()
    kind = "qemu-aarch64"

    def __init__(self, name: str, reason: str) -> None:
        self.name, self._reason = name, reason

    def version(self) -> str:
        raise HostToolError(self._reason)


@pytest.mark.parametrize(("ci", "code"), [(None, 0), ("true", 2)])
def test_another_generation_that_is_not_there_is_one_line_and_a_failure_in_ci_only(
    ci: str | None, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "run", lambda oracle, **_: oracle.version())
    absent = [Absent(name, "qemu-10 is not there yet") for name in ("qemu-10-aarch64", "qemu-10-riscv64")]
    monkeypatch.setattr(oracles, "usual", lambda: absent)
    monkeypatch.setenv("CI", ci) if ci else monkeypatch.delenv("CI", raising=False)
    assert call(["conform", "--cases", "1"]) == code
    assert capsys.readouterr().err == "stage2: qemu-10-aarch64, qemu-10-riscv64: qemu-10 is not there yet\n"


@pytest.mark.parametrize(
    ("name", "named"), [("qemu-aarch64", False), ("qemu-10-aarch64", True)], ids=["the machine's own", "a named one"]
)
def test_the_machines_own_or_a_named_one_must_be_there(
    name: str, named: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(run, "run", lambda oracle, **_: oracle.version())
    monkeypatch.setattr(oracles, "by_name", lambda _: Absent(name, "it is not there"))
    monkeypatch.setattr(oracles, "usual", lambda: (Absent(name, "it is not there"),))
    assert call(["conform", "--cases", "1", *(["--oracle", name] if named else [])]) == 2
    assert capsys.readouterr().err == f"stage2: {name}: it is not there\n"


def test_neither_dask_nor_multiprocessing_is_loaded_by_a_run_of_one_process() -> None:
    code = (
        "import sys\n"
        "from stage2.cli.main import call\n"
        "from stage2.conform import run\n"
        "def used(oracle, *, crew, **_): raise run.ConfigError(crew.__name__)\n"
        "run.run = used\n"
        "assert call(['conform', '--oracle', 'qemu-aarch64', '--cases', '1']) == 2\n"
        "print([name for name in ('distributed', 'dask', 'multiprocessing') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "stage2: error: in_this_process\n")


def test_progress_is_told_on_a_terminal_and_once_a_minute_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run.OracleReport("qemu-aarch64", "", "7.2", "qemu-aarch64", Verdict(1200), seconds=59.0)
    log, silent = _Progress(10**9, lines=True), _Progress(10**9, lines=False)
    text = "qemu-aarch64: 1,200 of 1,000,000,000 cases, 0 mismatches"
    for seconds, told in ((59.0, ""), (60.0, f"{text}, 60 s\n"), (90.0, "")):
        report.seconds = seconds
        log(report)
        silent(report)
        assert capsys.readouterr().err == told
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    silent(report)
    assert capsys.readouterr().err.endswith(text)
