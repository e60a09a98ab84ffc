"""When a machine is at rest: work that others want to do on it is done between two turns of its CPUs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class _Asked:
    """Work that somebody waits for."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work, self._done = work, threading.Event()
        self._result: object = None
        self._failure: BaseException | None = None

    def do(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001  # it is raised again where it is waited for
            self._failure = error
        self._done.set()

    def result(self) -> object:
        self._done.wait()
        if self._failure is not None:
            raise self._failure
        return self._result


class Resting:
    """Lets others work on a machine whose CPUs one thread runs.

    Args:
        wake: makes that thread call `serve` soon; called from any thread.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.RLock()
        self._thread: int | None = None
        self.asked: deque[_Asked] = deque()
        """What is to be done; the machine's thread looks at it between turns."""

    def at_rest(self, work: Callable[[], T]) -> T:
        """Do `work` while no CPU of the machine runs; its result. Callable from any thread.

        The machine's own thread, and anybody as long as it does not run, does it at once.
        """
        with self._lock:
            if self._thread is None or self._thread == threading.get_ident():
                return work()
            asked = _Asked(work)
            self.asked.append(asked)
        self._wake()
        return asked.result()  # type: ignore[return-value]

    def serve(self) -> None:
        """The machine is at rest: do what was asked for."""
        with self._lock:
            while self.asked:
                self.asked.popleft().do()

    def begin(self) -> None:
        """This thread runs the machine from now on."""
        with self._lock:
            self._thread = threading.get_ident()

    def end(self) -> None:
        """Nobody runs it any more."""
        with self._lock:
            self._thread = None
            self.serve()
