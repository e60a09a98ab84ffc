"""An interrupt ends the command, wherever it meets the main thread."""

from __future__ import annotations

import subprocess
import sys

import pytest

from waiting import HANG_S

PROGRAM = """
import ctypes, gc, signal
from stage2.cli.interrupts import kept_interrupts

signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupted():
    signal.raise_signal(signal.SIGINT)

class Finalized:
    def __del__(self):
        interrupted()

def in_a_callback_from_c():
    ctypes.CFUNCTYPE(None)(interrupted)()

def in_a_finalizer():
    Finalized()
    gc.collect()

try:
    with kept_interrupts():
        {where}()
        while True:
            pass
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("where", ["in_a_callback_from_c", "in_a_finalizer"])
def test_an_interrupt_that_a_library_swallows_comes_again(where: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(where=where)], capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\n", "", 0)


def test_other_errors_of_callbacks_are_still_told() -> None:
    program = PROGRAM.replace("signal.raise_signal(signal.SIGINT)", "raise ValueError('told')")
    program = program.replace("while True", "if 1")
    done = subprocess.run(
        [sys.executable, "-c", program.format(where="in_a_callback_from_c")],
        capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert "ValueError: told" in done.stderr
    assert done.stdout == ""
