"""QEMU's monitor by QMP: commands one after the other, each in bounded time.

The library is QEMU's own, and asynchronous; its loop runs on a thread here, so that callers need none and may have one
of their own, as notebooks do.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeVar

from ...errors import SourceError
from ...requirement import pip_install
from .endpoint import Endpoint, peer_pid

Result = TypeVar("Result")

COMMAND_S = 30.0
"""How long QEMU may take to answer a command, unless the command says otherwise."""
_LONGEST_ANSWER = 256 << 20
"""What an answer may be at most, in bytes: `info tlb` prints a line for every page."""
_LONGEST_REASON = 200
_NONSENSE = (AssertionError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)
_GOODBYE_S = 3.0


class Qmp:
    """A connection to QEMU's monitor.

    Args:
        endpoint: where it listens. A monitor serves one client at a time.
        seconds: how long an answer may take.

    Raises:
        SourceError: the library is not installed, or nobody answers there as a monitor does.
    """

    def __init__(self, endpoint: Endpoint, *, seconds: float = COMMAND_S) -> None:
        self.name, self.seconds = str(endpoint), seconds
        self._broken: str | None = None
        try:
            library: Any = import_module("qemu.qmp")
        except ImportError:
            raise SourceError(
                f"{endpoint} needs the package qemu.qmp, which is not installed: {pip_install('qemu.qmp')}"
            ) from None
        # It logs what we tell in a sentence.
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)
        self._error: type[Exception] = library.QMPError
        self._refused: type[Exception] = library.ExecuteError
        # What the library says of a connection that the other side has closed.
        self._closed = (EOFError, OSError, library.StateError, library.ExecInterruptedError)
        self._client: Any = library.QMPClient("stage2", _LONGEST_ANSWER)
        self._client.events.event_filter = lambda _: False  # it would keep what nobody asks for
        connection = endpoint.connect(seconds)
        self.pid = peer_pid(connection)
        """The process that listens, of a Unix socket."""
        connection.setblocking(False)
        self._loop = asyncio.new_event_loop()
        # Tasks of the library's own end with the error that its caller gets from us.
        self._loop.set_exception_handler(lambda *_: None)
        self._thread = threading.Thread(target=self._loop.run_forever, name=self.name, daemon=True)
        self._thread.start()
        try:
            self._wait(self._client.connect(connection), seconds, "connecting (a monitor serves one client at a time)")
        except SourceError:
            self.close()
            connection.close()
            raise

    def execute(self, command: str, *, seconds: float | None = None, **arguments: object) -> Any:
        """What a command returns.

        Args:
            seconds: how long it may take; None takes the connection's own limit.

        Raises:
            SourceError: QEMU refuses it (`RefusedError`), is gone, or does not answer in time. After the last two every
                further command fails at once.
        """
        if self._broken is not None:
            raise SourceError(self._broken)
        return self._wait(self._client.execute(command, arguments or None), seconds or self.seconds, command)

    def monitor(self, line: str, *, seconds: float | None = None) -> str:
        """What a line of the human monitor prints: `info mtree -f`.

        Raises:
            SourceError: as `execute`.
        """
        printed = self.execute("human-monitor-command", seconds=seconds, **{"command-line": line})
        if not isinstance(printed, str):
            raise SourceError(f"{self.name}: {line} printed no text")
        return printed

    @property
    def running(self) -> bool:
        """Whether the machine runs."""
        return bool(self._told("query-status", "running"))

    @property
    def arch(self) -> str:
        """The machine's architecture as QEMU names it."""
        return str(self._told("query-target", "arch"))

    def _told(self, command: str, key: str) -> object:
        told = self.execute(command)
        if not isinstance(told, dict) or key not in told:
            raise SourceError(f"{self.name}: {command} does not tell {key}: is that a QEMU?")
        return told[key]

    def close(self) -> None:
        """End the connection; the machine is not touched. Harmless when repeated."""
        if self._loop.is_closed():
            return
        with suppress(SourceError):
            self._wait(self._client.disconnect(), _GOODBYE_S, "disconnecting")
        self._broken = f"{self.name}: closed"
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_GOODBYE_S)
        if not self._thread.is_alive():
            self._loop.close()

    def _wait(self, what: Coroutine[Any, Any, Result], seconds: float, doing: str) -> Result:
        """Have the loop do something, and wait for it; a connection that fails in it is done for."""
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(what, seconds), self._loop)
        try:
            return future.result(seconds + _GOODBYE_S)
        except self._refused as error:
            raise RefusedError(f"{self.name}: {doing}: {' '.join(str(error).split())[:_LONGEST_REASON]}") from None
        except TimeoutError:
            future.cancel()
            self._broken = f"{self.name}: QEMU does not answer: {doing} took longer than {seconds:g} s"
        # The library asserts what a peer of another protocol does not keep to.
        except (self._error, OSError, EOFError, asyncio.CancelledError, *_NONSENSE) as error:
            cause = getattr(error, "exc", error)
            why = "QEMU has ended, or closed the connection" if isinstance(cause, self._closed) else str(cause)
            # The library shows the bytes that it does not understand on further lines.
            why = why.splitlines()[0][:_LONGEST_REASON] if why else type(cause).__name__
            self._broken = f"{self.name}: {doing}: {why}"
        raise SourceError(self._broken)


class RefusedError(SourceError):
    """QEMU answers that it does not do what it is asked for; the connection is in order."""
