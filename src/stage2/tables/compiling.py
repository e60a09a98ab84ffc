"""What is told while kernels are compiled: on standard error, when that is a terminal, since it may take seconds."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from ..plain_terminal import is_dumb
from .kernel_cache import cache_root

_CLEAR = "\r\x1b[K"


class Progress:
    """Counts the functions that go into a kernel, on one line that is taken away in the end.

    It listens to numba's events, which there are of every function that is compiled and of none that is loaded.
    """

    def __init__(self) -> None:
        self._said = False
        self._kernel = ""
        self._done = 0

    def begin(self, kernel: str) -> None:
        """What is compiled from now on, if anything is, goes into a kernel."""
        self._kernel, self._done = kernel, 0

    def end(self) -> None:
        """The kernel is there."""
        if self._done and (terminal := _terminal()) is not None:
            print(_CLEAR, end="", file=terminal, flush=True)
        self._kernel, self._done = "", 0

    def notify(self, event: Any) -> None:
        """numba begins or ends to compile a function."""
        terminal = _terminal()
        if terminal is None or not self._kernel:
            return
        if not self._said:
            self._said = True
            print(f"stage2: compiling kernels (once; kept in {_short(str(cache_root()))})", file=terminal, flush=True)
        self._done += event.is_end
        print(f"{_CLEAR}  {self._kernel}: {self._done} functions", end="", file=terminal, flush=True)


def _terminal() -> TextIO | None:
    """Standard error, if a line can be taken away there again."""
    return sys.stderr if sys.stderr is not None and sys.stderr.isatty() and not is_dumb() else None


def _short(path: str) -> str:
    """A path as people write it."""
    from os.path import expanduser

    home = expanduser("~")
    return "~" + path[len(home) :] if path.startswith(home + "/") else path
