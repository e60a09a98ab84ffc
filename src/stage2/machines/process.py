"""Children that cannot be left behind: they die with us, end in bounded time, and are ended by pid."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence

from ..errors import HostToolError

_PR_SET_PDEATHSIG = 1
_LOG_KEPT = 4096
_END_S = 5.0
"""How long a child that was asked to end may take before it is killed."""


def printed(log: int) -> str:
    """What a child has printed to a file, for the end of a message: nothing, or it after a colon."""
    text = os.pread(log, _LOG_KEPT, 0).decode(errors="replace").strip()
    return f": {text}" if text else ""


class Child:
    """A program that was started.

    It gets SIGKILL when the thread that started it ends, so also when this process is killed.

    Args:
        command: the program and its arguments.
        keep: descriptors it inherits, under the same numbers.
        log: descriptor for what it prints; None throws it away.

    Raises:
        HostToolError: the program is not installed.
    """

    def __init__(self, command: Sequence[str], *, keep: Sequence[int] = (), log: int | None = None) -> None:
        parent = os.getpid()
        libc = ctypes.CDLL(None, use_errno=True)

        def die_with_parent() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)

        output = subprocess.DEVNULL if log is None else log
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=tuple(keep),
                preexec_fn=die_with_parent, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            raise HostToolError(f"{command[0]} is not installed") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """Its exit code once it has ended, None if it still runs after so long."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def how_it_ended(self, seconds: float = 0) -> str:
        """How it ended, for messages: "ended with code 1", "was killed by signal 9 (SIGKILL)"; "ended" while it runs.

        Args:
            seconds: how long to wait for its end, when it has let go of us already.
        """
        code = self.wait(seconds)
        if code is None:
            return "ended"
        if code >= 0:
            return f"ended with code {code}"
        # Whoever has no name for a signal still has its number.
        names = {one.value: one.name for one in signal.Signals}
        named = f" ({names[-code]})" if -code in names else ""
        hint = ", as the host does when its memory runs out" if -code == signal.SIGKILL else ""
        return f"was killed by signal {-code}{named}{hint}"

    def ask_to_end(self) -> None:
        """Ask it to end, and do not wait for that. Harmless when repeated."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill it, and do not wait for that. Harmless when repeated."""
        self._process.kill()

    def end(self) -> None:
        """End it: asked first, killed if it does not listen. Harmless when repeated."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            if self.wait(_END_S) is not None:
                return
