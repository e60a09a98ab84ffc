"""Waiting for what must happen, however busy the machine is. No test asserts how long anything takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

HANG_S = 3600.0
"""After so many seconds a test says that something hangs. It is no measure of speed: nothing here takes a tenth of it
even where other programs keep all cores busy, but a process that compiles kernels may get little of a core for long."""
_WINDOW_S = 0.5


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait until something has happened.

    Args:
        what: for the error, what did not happen.

    Raises:
        AssertionError: it does not.
    """
    gives_up = time.monotonic() + HANG_S
    while not happened():
        assert time.monotonic() < gives_up, what
        time.sleep(0.02)


def comes_to_rest(pid: int, *, windows: int = 60) -> bool:
    """Whether a process ends up using no CPU time: at most a twentieth of some half second.

    What it still has to do before it rests may take long on a busy machine. One that spins never has such a window.
    """
    return any(_used_s(pid, _WINDOW_S) <= _WINDOW_S / 20 for _ in range(windows))


def _used_s(pid: int, seconds: float) -> float:
    """The CPU time that a process uses within so many seconds."""
    before = cpu_s(pid)
    time.sleep(seconds)
    return cpu_s(pid) - before


def cpu_s(pid: int) -> float:
    """The CPU time that a process has used, in seconds.

    Raises:
        OSError: it is gone.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def said_until_closed(terminal: int) -> bytes:
    """What is written to a pseudoterminal until nobody holds the other end any more."""
    said = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # how Linux says that nobody holds the other end any more
            return said
        if not part:
            return said
        said += part
