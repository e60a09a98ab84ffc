"""`stage2 run` on QEMU when something is killed, stands still or finds no memory: it ends, says why, leaves nothing."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from interruptible import obey_interrupts
from tiny_guests import FLOOD, HAMMER, RISCV_SPIN, SLEEP, SPIN, X86_SPIN, write_vm
from waiting import HANG_S, until

COMMAND = [sys.executable, "-c", "from stage2.cli.main import main; main()", "run", "--engine", "qemu", "--json"]
MIB = 1 << 20
LATE_S = "2"
ARCHS = {"aarch64": SPIN, "riscv64": RISCV_SPIN, "x86_64": X86_SPIN}
SIGKILLED = "was killed by signal 9 (SIGKILL), as the host does when its memory runs out"


@dataclass(frozen=True)
class Started:
    """A run.

    Args:
        process: the command.
        qemu: the board's process.
        folder: where the report is written, and where the run has its temporary files.
    """

    process: subprocess.Popen[str]
    qemu: int
    folder: Path

    def ended(self) -> tuple[int, str]:
        """Its exit code and what it told as errors, once it has ended and so has the board."""
        _, errors = self.process.communicate(timeout=HANG_S)
        until(lambda: gone(self.qemu), "QEMU is left behind")
        assert not list((self.folder / "temporary").iterdir())
        return self.process.returncode, errors

    def ends(self) -> list[tuple[str, str]]:
        """How each VM ended, by its report; without whether its core was loaded or ran already."""
        vms = json.loads((self.folder / "report.json").read_text())["vms"]
        return [(vm["exit"], vm["reason"].removesuffix(" (load)").removesuffix(" (run)")) for vm in vms]


Start = Callable[..., Started]


def arguments(pid: int) -> list[str]:
    """The command line of a process; none where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []


def gone(pid: int) -> bool:
    """Whether a process has ended, also where nobody has asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def environment(folder: Path) -> dict[str, str]:
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(temporary)}


def require(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a run and waits until its guests have been entered."""
    runs: list[subprocess.Popen[str]] = []

    def go(files: Sequence[Path], *, entered: bool = True) -> Started:
        trace = tmp_path / "trace.jsonl"
        command = [*COMMAND, str(tmp_path / "report.json"), "--quiet", "--trace", str(trace)]
        process = subprocess.Popen(
            [*command, *map(str, files)], env=environment(tmp_path), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, cwd=tmp_path, preexec_fn=obey_interrupts,
        )  # fmt: skip
        runs.append(process)
        found: list[int] = []

        def board_is_up() -> bool:
            found[:] = [
                child for child in children(process.pid) if any("id=door0" in word for word in arguments(child))
            ]
            # Signals are the run's, and no longer Python's, once its guests are entered.
            return process.poll() is not None or (bool(found) and (not entered or catches_interrupts(process.pid)))

        until(board_is_up, "the board does not start")
        assert process.poll() is None, process.communicate()[1]
        return Started(process, found[0], tmp_path)

    yield go
    for process in runs:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=HANG_S)


def catches_interrupts(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM, which Python itself has not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def spinning(folder: Path, arch: str) -> Path:
    require(f"qemu-system-{arch}")
    return write_vm(folder, "spin", ARCHS[arch], arch=arch)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_killed_qemu_ends_the_run_with_the_signal_in_the_report(arch: str, start: Start, tmp_path: Path) -> None:
    run = start([spinning(tmp_path, arch)])
    os.kill(run.qemu, signal.SIGKILL)
    assert run.ended() == (1, "")
    assert run.ends() == [("error", f"qemu-system-{arch} {SIGKILLED}")]


def test_a_killed_qemu_ends_every_vm_of_its_board(start: Start, tmp_path: Path) -> None:
    require("qemu-system-aarch64")
    words = {"spin": SPIN, "sleep": SLEEP, "hammer": HAMMER, "flood": FLOOD}
    run = start([write_vm(tmp_path, name, words[name], number=n) for n, name in enumerate(words, 1)])
    os.kill(run.qemu, signal.SIGKILL)
    assert run.ended() == (1, "")
    assert run.ends() == [("error", f"qemu-system-aarch64 {SIGKILLED}")] * 4


@pytest.mark.parametrize("arch", ARCHS)
def test_a_killed_python_takes_qemu_with_it(arch: str, start: Start, tmp_path: Path) -> None:
    run = start([spinning(tmp_path, arch)])
    run.process.kill()
    assert run.ended() == (-signal.SIGKILL, "")


def test_a_killed_python_takes_a_qemu_with_it_that_stands_still(start: Start, tmp_path: Path) -> None:
    run = start([spinning(tmp_path, "aarch64")])
    os.kill(run.qemu, signal.SIGSTOP)
    run.process.kill()
    assert run.ended() == (-signal.SIGKILL, "")


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_signal_ends_guests_in_a_tight_loop(
    number: signal.Signals, code: int, said: str, arch: str, start: Start, tmp_path: Path
) -> None:
    run = start([spinning(tmp_path, arch)])
    run.process.send_signal(number)
    assert run.ended() == (code, "")
    assert run.ends() == [("interrupted", said)]


def test_a_signal_ends_several_vms_whatever_they_do(start: Start, tmp_path: Path) -> None:
    require("qemu-system-aarch64")
    words = {"spin": SPIN, "sleep": SLEEP, "hammer": HAMMER, "flood": FLOOD}
    run = start([write_vm(tmp_path, name, words[name], number=n) for n, name in enumerate(words, 1)])
    run.process.send_signal(signal.SIGINT)
    assert run.ended() == (130, "")
    assert run.ends() == [("interrupted", "Ctrl-C")] * 4


@pytest.mark.parametrize("words", [SPIN, HAMMER], ids=["running", "in an exit"])
def test_ctrl_c_ends_a_run_whose_qemu_stands_still(words: list[int], start: Start, tmp_path: Path) -> None:
    require("qemu-system-aarch64")
    run = start([write_vm(tmp_path, "still", words)])
    os.kill(run.qemu, signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    assert run.ended() == (130, "")
    assert run.ends() == [("interrupted", "Ctrl-C")]


def test_ctrl_c_ends_a_run_whose_qemu_stands_still_before_it_is_up(start: Start, tmp_path: Path) -> None:
    run = start([spinning(tmp_path, "aarch64")], entered=False)
    os.kill(run.qemu, signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    assert run.ended() == (130, "")


def test_the_second_ctrl_c_ends_even_the_wait_for_a_qemu_that_stands_still(start: Start, tmp_path: Path) -> None:
    require("qemu-system-aarch64")
    run = start([write_vm(tmp_path, "still", HAMMER)])
    os.kill(run.qemu, signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    # Its handlers are put back when the guests have stopped; what is left is the wait for QEMU.
    until(lambda: run.process.poll() is not None or not catches_interrupts(run.process.pid), "the run goes on")
    run.process.send_signal(signal.SIGINT)
    assert run.ended() == (130, "")


def finished(files: Sequence[Path], folder: Path, *options: str, limit: tuple[int, int] | None = None, path: str = "",
             ) -> tuple[int, str]:  # fmt: skip
    """Run to the end: the exit code, and the errors.

    Args:
        limit: a resource and how much of it there is.
        path: searched before PATH for programs.
    """

    def lower() -> None:
        if limit is not None:
            resource.setrlimit(limit[0], (limit[1], limit[1]))

    done = subprocess.run(
        [*COMMAND, str(folder / "report.json"), "--quiet", *options, *map(str, files)],
        env={**environment(folder), **({"PATH": path} if path else {})},
        capture_output=True, text=True, timeout=HANG_S, check=False, preexec_fn=lower, cwd=folder,
    )  # fmt: skip
    assert done.stdout == ""
    assert not list((folder / "temporary").iterdir())
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [SPIN, SLEEP, FLOOD, HAMMER], ids=["spins", "sleeps", "floods", "hammers"])
def test_the_time_limit_ends_a_guest_whatever_it_does(words: list[int], tmp_path: Path) -> None:
    require("qemu-system-aarch64")
    file = write_vm(tmp_path, "guest", words)
    assert finished([file], tmp_path, "--max-seconds", LATE_S) == (3, "")
    (vm,) = json.loads((tmp_path / "report.json").read_text())["vms"]
    assert (vm["exit"], vm["reason"]) == ("time limit", f"still running after {LATE_S} s")


@pytest.mark.parametrize("mib", [600, 1500, 3000])
def test_a_host_without_memory_for_a_board_is_told_in_one_line(mib: int, tmp_path: Path) -> None:
    # Which of the two finds it first, and for what, depends on what libraries reserve.
    file = spinning(tmp_path, "aarch64")
    code, errors = finished([file], tmp_path, "--max-seconds", LATE_S, limit=(resource.RLIMIT_AS, mib * MIB))
    assert code == 2, errors
    assert errors.startswith("stage2: error: ")
    assert errors.count("\n") == 1
    assert re.search("memory|allocate", errors)


def test_a_host_without_room_for_a_memory_file_is_told_in_one_line(tmp_path: Path) -> None:
    file = spinning(tmp_path, "aarch64")
    code, errors = finished([file], tmp_path, limit=(resource.RLIMIT_FSIZE, 1000 * MIB))
    assert (code, errors) == (2, "stage2: error: the host cannot make a memory file of 2 GiB: File too large\n")


def fake(folder: Path, text: str) -> str:
    """A PATH with a program for QEMU's AArch64 boards that is a script."""
    programs = folder / "programs"
    programs.mkdir()
    program = programs / "qemu-system-aarch64"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "QEMU emulator version 2.5.0" && exit 0\n{text}\n')
    program.chmod(0o755)
    return f"{programs}:{os.environ['PATH']}"


def test_a_fake_qemu_that_refuses_an_argument_is_quoted(tmp_path: Path) -> None:
    path = fake(tmp_path, 'echo "qemu-system-aarch64: -object: invalid option" >&2; exit 1')
    assert finished([write_vm(tmp_path, "spin", SPIN)], tmp_path, path=path) == (
        2,
        "stage2: error: qemu-system-aarch64 ended with code 1 (device tree): "
        "qemu-system-aarch64: -object: invalid option\n",
    )


def test_a_fake_qemu_that_dies_at_once_is_told_with_its_signal(tmp_path: Path) -> None:
    path = fake(tmp_path, "kill -SEGV $$")
    assert finished([write_vm(tmp_path, "spin", SPIN)], tmp_path, path=path) == (
        2,
        "stage2: error: qemu-system-aarch64 was killed by signal 11 (SIGSEGV) (device tree)\n",
    )


def test_without_qemu_the_package_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert finished([write_vm(tmp_path, "spin", SPIN)], tmp_path, path=str(empty)) == (
        2,
        "stage2: error: qemu-system-aarch64 is not installed: install Debian's package qemu-system-arm "
        "(apt-get install qemu-system-arm)\n",
    )


def test_runs_beside_each_other_do_not_meet(start: Start, tmp_path: Path) -> None:
    file = spinning(tmp_path, "aarch64")
    others = tmp_path / "other"
    others.mkdir()
    run = start([file])
    assert finished([file], others, "--max-seconds", LATE_S) == (3, "")
    assert not gone(run.qemu)
    run.process.send_signal(signal.SIGINT)
    assert run.ended() == (130, "")
