"""A crew on a Dask cluster that others have started: batches are its tasks, and it does all scheduling.

A task does some batches one after the other on an emulator that it starts and ends, so nothing is left on a worker when
the campaign ends, in whatever way. Dask repeats the tasks of workers that are lost.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..errors import HostToolError, MachineError, Stage2Error
from ..requirement import pip_install
from .batch import Batch, BatchRunner, Done, Judge, unpack
from .once import first_of_a_pair

_TASK = 32
"""Batches of a task: some seconds of work, beside which the start of an emulator is little."""
_AHEAD = 2
"""Tasks for each thread of the cluster that may be out, or done before their turn."""
_ANSWER_S = 20
_WORKERS_S = 60


class ClusterCrew:
    """See `conform.batch.Crew`.

    Args:
        address: of the scheduler: `tcp://10.0.0.1:8786`.
        task: batches of a task.

    Raises:
        HostToolError: Dask is not installed, no scheduler answers there, or no worker comes.
    """

    def __init__(self, address: str, task: int = _TASK) -> None:
        self._address, self._task = address, task
        try:
            self._dask: Any = import_module("distributed")
        except ImportError:
            raise HostToolError(
                f"--scheduler needs Dask, which is not installed: {pip_install('distributed')}"
            ) from None
        # It logs, with traces, what we tell in a sentence.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            self._client = self._dask.Client(address, timeout=_ANSWER_S, set_as_default=False, name="stage2")
        except (OSError, ValueError, RuntimeError) as error:
            raise HostToolError(f"--scheduler {address}: no scheduler of Dask answers there ({error})") from None
        try:
            self._client.wait_for_workers(1, timeout=_WORKERS_S)
        except TimeoutError:
            self._client.close()
            raise HostToolError(
                f"--scheduler {address}: it has no workers: start some with dask worker {address}"
            ) from None

    def __call__(self, judge: Judge, plan: Iterator[Batch]) -> Done:
        """Do the batches of a plan."""
        trial, sent = judge.trial(), Sent(judge, _fingerprint())
        out: deque[tuple[list[Batch], Any]] = deque()
        try:
            while True:
                threads = sum(self._asked(self._client.nthreads).values())
                while len(out) < max(_AHEAD * threads, 1) and (batches := list(islice(plan, self._task))):
                    out.append((batches, self._client.submit(do, sent, batches, pure=False)))
                if not out:
                    return
                batches, future = out.popleft()
                for batch, packed in zip(batches, self._asked(future.result), strict=True):
                    yield batch, unpack(packed, trial)
        finally:
            # A scheduler that is lost has nothing to cancel.
            with suppress(MachineError):
                self._asked(lambda: self._client.cancel([future for _, future in out]))

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """What the cluster answers."""
        try:
            return ask()
        except Stage2Error:
            raise
        except Exception as error:
            # Dask raises what a worker raised, or exceptions of its own, of many kinds.
            raise MachineError(f"--scheduler {self._address}: {type(error).__name__}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


@dataclass(frozen=True, slots=True)
class Sent:
    """A judge on its way to another machine.

    Args:
        judge: the judge.
        fingerprint: of what else batches hang on.
    """

    judge: Judge
    fingerprint: str


def do(sent: Sent, batches: Sequence[Batch]) -> list[bytes]:
    """A task: do some batches.

    Returns:
        Their outcomes, packed.

    Raises:
        HostToolError: the emulator is not there, or this machine would come to other results.
        MachineError: the emulator does not come up.
    """
    judge = sent.judge
    if sent.fingerprint != _fingerprint():
        raise HostToolError("a worker has other sources of stage2, or another numpy, than whoever asks it")
    version = judge.oracle.version()
    if version != judge.version:
        raise HostToolError(f"a worker has {judge.oracle.name} {version}, and whoever asks it {judge.version}")
    with BatchRunner(judge) as runner:
        found = []
        for batch in batches:
            with first_of_a_pair(batch.pair):
                found.append(runner.pack(runner.run(batch)))
        return found


@cache
def _fingerprint() -> str:
    """Of our sources and numpy, whose random numbers make the tables."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256(np.__version__.encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
