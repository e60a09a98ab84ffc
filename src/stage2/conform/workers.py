"""A crew of processes of this machine: each has its own emulator, and all of them end with us.

The processes are started like any other program (`machines.process.Child`), not forked: nothing of our threads, locks
and compiled kernels is carried over. They inherit one end of a socket pair and nobody listens anywhere.
"""

from __future__ import annotations

import pickle
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait

from ..errors import MachineError, Stage2Error
from ..machines.process import Child
from .batch import Batch, BatchRunner, Done, Judge, Outcome, unpack
from .once import first_of_a_pair
from .trial import Trial

_AHEAD = 2
"""Batches that a worker has at hand: the one at work, and the next."""
_KEPT = 4
"""So many batches for each worker may be out, or done before their turn."""
_LOST = 3
"""After so many workers were lost over one batch, it is given up."""
_CODE = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve({descriptor})"
_STDERR = 2


class LocalCrew:
    """See `conform.batch.Crew`.

    Args:
        jobs: how many processes.
        notice: is told in a sentence when a worker was lost.
    """

    def __init__(self, jobs: int, notice: Callable[[str], None] = lambda _: None) -> None:
        self._jobs, self._notice = jobs, notice
        self._workers: list[_Worker] = []

    @property
    def pids(self) -> list[int]:
        """Of the processes that are at work."""
        return [worker.pid for worker in self._workers]

    def __call__(self, judge: Judge, plan: Iterator[Batch]) -> Done:
        """Do the batches of a plan."""
        with ExitStack() as stack:
            stack.callback(self._end)
            sent = pickle.dumps(judge)
            for _ in range(self._jobs):
                self._workers.append(_Worker(sent))
            yield from self._work(sent, judge.trial(), plan)

    def _work(self, judge: bytes, trial: Trial, plan: Iterator[Batch]) -> Done:
        numbered = enumerate(plan)
        out: dict[int, Batch] = {}
        done: dict[int, Outcome] = {}
        losses: dict[int, int] = {}
        again = deque[int]()
        turn = 0

        def next_number() -> int | None:
            if again:
                return again.popleft()
            if len(out) >= _KEPT * self._jobs:
                return None
            number, batch = next(numbered, (None, None))
            if number is not None and batch is not None:
                out[number] = batch
            return number

        while True:
            # Everybody gets one before anybody gets a second one.
            for ahead in range(_AHEAD):
                for worker in self._workers:
                    if len(worker.numbers) <= ahead and (number := next_number()) is not None:
                        worker.give(number, out[number])
            if not out:
                return
            for worker in _who_answers(self._workers):
                answer = worker.answer()
                if answer is not None:
                    done[worker.numbers.popleft()] = unpack(answer, trial)
                    continue
                # It is the first of its batches that it was lost over, or none.
                for number in reversed(worker.numbers):
                    again.appendleft(number)
                self._replace(worker, judge, out, losses)
            while turn in done:
                yield out.pop(turn), done.pop(turn)
                turn += 1

    def _replace(self, lost: _Worker, judge: bytes, out: dict[int, Batch], losses: dict[int, int]) -> None:
        """Start another worker in the place of one that was lost.

        Raises:
            MachineError: a batch has lost too many.
        """
        lost.end()
        what = "while it was idle"
        if lost.numbers:
            number = lost.numbers[0]
            batch, losses[number] = out[number], losses.get(number, 0) + 1
            what = f"on {batch.pair.name}, seed {batch.seed}, {batch.count} cases"
            if losses[number] >= _LOST:
                raise MachineError(f"{_LOST} workers ended one after the other {what}")
        self._workers[self._workers.index(lost)] = _Worker(judge)
        self._notice(f"worker {lost.pid} ended {what}: its batches are repeated")

    def _end(self) -> None:
        for worker in self._workers:
            worker.ask_to_end()
        for worker in self._workers:
            worker.end()
        self._workers = []


class _Worker:
    """A process that does batches.

    Args:
        judge: what they are compared with, pickled.
    """

    def __init__(self, judge: bytes) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            code = _CODE.format(path=sys.path, module=__name__, descriptor=theirs.fileno())
            self._child = Child([sys.executable, "-c", code], keep=[theirs.fileno()], log=_STDERR)
        self.connection: Connection[object, bytes] = Connection(ours.detach())
        self.numbers = deque[int]()
        """Of the batches that it has at hand, in their order."""
        self._send(judge)

    @property
    def pid(self) -> int:
        return self._child.pid

    def give(self, number: int, batch: Batch) -> None:
        self.numbers.append(number)
        self._send(pickle.dumps(batch))

    def _send(self, message: bytes) -> None:
        # One that has ended says so when it is asked for its answer.
        try:
            self.connection.send_bytes(message)
        except OSError:
            return

    def answer(self) -> bytes | None:
        """What its first batch came to; None if it has ended.

        Raises:
            Stage2Error: what it raised.
        """
        try:
            kind, answer = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return None
        if kind is Stage2Error:
            raise answer
        found: bytes = answer
        return found

    def ask_to_end(self) -> None:
        self._child.ask_to_end()

    def end(self) -> None:
        self.connection.close()
        self._child.end()


def _who_answers(workers: list[_Worker]) -> list[_Worker]:
    """Wait until at least one has something to say, or has ended."""
    ready = wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in ready]


def serve(descriptor: int) -> None:
    """Do batches until nobody is there to ask: what a worker runs.

    SIGTERM ends it at once, as it ends any program, and the kernel then ends its emulator, of which nothing has a name.
    An exception in its place could come where Python swallows it.

    Args:
        descriptor: its end of the socket pair.
    """
    connection: Connection[bytes, object] = Connection(descriptor)
    try:
        judge: Judge = pickle.loads(connection.recv_bytes())
        with BatchRunner(judge) as runner:
            while True:
                batch: Batch = pickle.loads(connection.recv_bytes())
                try:
                    with first_of_a_pair(batch.pair):
                        answer: tuple[type, object] = bytes, runner.pack(runner.run(batch))
                except Stage2Error as error:
                    answer = Stage2Error, error
                connection.send_bytes(pickle.dumps(answer))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
