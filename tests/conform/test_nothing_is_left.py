"""Processes, shared memory and temporary files are the same before and after, however the command ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from test_short_form import ASKED

import effort
from interruptible import obey_interrupts
from opening import oracle_or_skip
from waiting import HANG_S, cpu_s, until

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-c", "from stage2.cli.main import main; main()", "conform"]
EMULATORS = ("qemu-system", "bochs")
LONG_ENOUGH = "100000000"
MARK = "STAGE2_TEST_RUN"
_WORDS = 5
"""So many words of a command at most come before its own arguments."""
MAKERS = ("qemu-aarch64", "bochs-ept")
"""One of each maker: commands with other machines differ in nothing that is left."""
NAMES = ASKED if effort.FACTOR > 1 else MAKERS
one_of_each_maker = pytest.mark.parametrize("name", NAMES)


class Run:
    """A run of the command, whose processes are known by a mark in their environment.

    Args:
        folder: an empty folder for its temporary files.
    """

    def __init__(self, folder: Path, name: str, cases: str, *more: str) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        self.shared_before = set(os.listdir("/dev/shm"))
        self.process = subprocess.Popen(
            [*COMMAND, "--oracle", name, "--cases", cases, "--json", *more],
            env=os.environ | {MARK: self.mark, "TMPDIR": str(folder)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=obey_interrupts,
        )  # fmt: skip

    def processes(self) -> dict[int, list[str]]:
        """Pids of all processes that it has started and that live, with the first words of their commands."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.process.pid:
                continue
            try:
                # A fetched program is the argument of its loader.
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:_WORDS]
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = words
            except OSError:
                continue
        return found

    def emulators(self) -> set[int]:
        """Pids of those that are emulators."""
        return {
            pid
            for pid, words in self.processes().items()
            if any(os.path.basename(word).startswith(EMULATORS) for word in words)
        }

    def wait_until_at_work(self) -> None:
        """Wait until an emulator of it has worked for a while, and so is past its start."""

        def at_work() -> bool:
            assert self.process.poll() is None, self.process.communicate()[1].decode()
            # One that only told its version may be gone by now.
            with contextlib.suppress(OSError):
                return any(cpu_s(pid) >= 0.5 for pid in self.emulators())
            return False

        until(at_work, "no emulator works")

    def require_nothing_left(self) -> None:
        """Wait until no process and no temporary file is left, and refuse shared memory that is."""
        until(lambda: not self.processes(), "a process outlived the command")
        until(lambda: not any(self.folder.iterdir()), "temporary files outlived the command")
        ours = {name for name in set(os.listdir("/dev/shm")) - self.shared_before if "stage2" in name or "qemu" in name}
        assert not ours


def by_interrupt(run: Run) -> None:
    run.process.send_signal(signal.SIGINT)


def by_killing_python(run: Run) -> None:
    run.process.kill()


def by_killing_the_emulator(run: Run) -> None:
    """A machine that is lost is started anew a few times, and then given up."""

    def gave_up() -> bool:
        for pid in run.emulators():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return run.process.poll() is not None

    until(gave_up, "the command goes on without its emulator")


@one_of_each_maker
def test_a_run_that_succeeds_leaves_nothing(name: str, tmp_path: Path) -> None:
    oracle_or_skip(name)
    run = Run(tmp_path, name, "300")
    _out, error = run.process.communicate(timeout=HANG_S)
    assert run.process.returncode == 0, error.decode()
    run.require_nothing_left()


@one_of_each_maker
def test_a_run_that_finds_something_leaves_nothing(name: str, tmp_path: Path) -> None:
    pair = oracle_or_skip(name).pairs[0]
    run = Run(tmp_path, name, "1500", "--format", pair.name, "--plant", "writable")
    out, error = run.process.communicate(timeout=HANG_S)
    assert run.process.returncode == 1, error.decode()
    assert json.loads(out)["oracles"][0]["mismatches"] > 0
    run.require_nothing_left()


@pytest.mark.parametrize("name", NAMES if effort.FACTOR > 1 else MAKERS[1:])
@pytest.mark.parametrize("end", [by_interrupt, by_killing_python, by_killing_the_emulator])
def test_a_run_that_is_ended_leaves_nothing(name: str, end: Callable[[Run], None], tmp_path: Path) -> None:
    ended(name, end, tmp_path)


@pytest.mark.parametrize("name", MAKERS if effort.FACTOR > 1 else MAKERS[:1])
@pytest.mark.parametrize("end", [by_interrupt, by_killing_python, by_killing_the_emulator])
def test_a_run_on_several_processes_that_is_ended_leaves_nothing(
    name: str, end: Callable[[Run], None], tmp_path: Path
) -> None:
    ended(name, end, tmp_path, "--jobs", "2")


def ended(name: str, end: Callable[[Run], None], tmp_path: Path, *more: str) -> None:
    """End a run that is at work, and see what it leaves.

    It stays with one pair of formats: for every other it would start no emulator, but compile.
    """
    pair = oracle_or_skip(name).pairs[0]
    run = Run(tmp_path, name, LONG_ENOUGH, "--format", pair.name, *more)
    try:
        run.wait_until_at_work()
        end(run)
        _out, error = run.process.communicate(timeout=HANG_S)
    finally:
        run.process.kill()
    assert b"Traceback" not in error
    assert run.process.returncode != 0
    run.require_nothing_left()


def test_without_the_emulators_one_line_says_what_to_install() -> None:
    done = subprocess.run(
        [*COMMAND, "--oracle", "qemu-aarch64", "--cases", "10"],
        env=os.environ | {"PATH": "/nonexistent"}, capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "qemu-system-aarch64 is not installed: install Debian's package qemu-system-arm" in done.stderr
