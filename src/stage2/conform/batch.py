"""One batch as work that can be done anywhere: what it comes to hangs on judge, pair, seed and count alone."""

from __future__ import annotations

import io
import pickle
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from ..errors import MachineError
from ..formats import by_name
from ..formats.record import Format
from .oracle import Machine, Oracle, Pair
from .shrink import Shrinker
from .trial import Replace, Trial, as_it_is
from .verdict import Mismatch, Verdict


@dataclass(frozen=True, slots=True)
class Judge:
    """Whose answers are compared with which walker; it can be sent to another process.

    Args:
        oracle: who answers.
        version: its version.
        planted: puts a wrong format in the place of each that our walker uses.
    """

    oracle: Oracle
    version: str
    planted: Replace = as_it_is

    def trial(self) -> Trial:
        return Trial(self.oracle, self.version, self.planted)


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be done.

    Args:
        pair, seed, count: as `Trial.batch` takes them.
        shrink: so many of its mismatches are made small, at most.
    """

    pair: Pair
    seed: int
    count: int
    shrink: int


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A mismatch that was made small.

    Args:
        mismatch: as small as it could be made.
        lost: the machine was lost on the way.
    """

    mismatch: Mismatch
    lost: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch came to.

    Args:
        verdict: the counts, and the mismatches as they were found; None when the machine was lost.
        shrunk: the first of the mismatches, in their order.
        lost: what the machine said when it was lost.
    """

    verdict: Verdict | None
    shrunk: tuple[Shrunk, ...] = ()
    lost: str = ""


Done = Generator[tuple[Batch, Outcome], None, None]
"""Batches that are done, in the order of their plan, with what they came to."""


class Crew(Protocol):
    """Who does the batches: this process, others of this machine, or a cluster."""

    def __call__(self, judge: Judge, plan: Iterator[Batch]) -> Done:
        """Do the batches of a plan. Closing the generator ends whatever is still at work.

        Args:
            plan: is asked for the next batch only when somebody is about to do it.

        Raises:
            HostToolError: the emulator, or what the crew needs, is not installed.
            MachineError: the emulator does not come up, or batches are lost again and again.
        """


def in_this_process(judge: Judge, plan: Iterator[Batch]) -> Done:
    """The crew that is nobody else."""
    with BatchRunner(judge) as runner:
        for batch in plan:
            yield batch, runner.run(batch)


class BatchRunner:
    """Does batches on a machine of its own, which is started for the first one, and anew when it is lost."""

    def __init__(self, judge: Judge) -> None:
        self._oracle, self._trial = judge.oracle, judge.trial()
        self._stack = ExitStack()
        self._machine: Machine | None = None

    def run(self, batch: Batch) -> Outcome:
        """Do one batch.

        Raises:
            HostToolError, MachineError: a machine cannot be had, or does not come up.
        """
        machine = self._running()
        try:
            verdict = self._trial.batch(machine, batch.pair, batch.seed, batch.count)
        except MachineError as error:
            self._end_machine()
            return Outcome(None, lost=str(error))
        return Outcome(verdict, tuple(self._shrink(batch.pair, found) for found in verdict.mismatches[: batch.shrink]))

    def _shrink(self, pair: Pair, mismatch: Mismatch) -> Shrunk:
        machine = self._running()
        shrinker = Shrinker(self._trial, machine, self._oracle.places(machine, pair))
        smaller = shrinker.shrink(mismatch)
        if shrinker.lost:
            self._end_machine()
        return Shrunk(smaller, shrinker.lost)

    def _running(self) -> Machine:
        if self._machine is None:
            self._machine = self._stack.enter_context(self._oracle.open())
        return self._machine

    def _end_machine(self) -> None:
        self._machine = None
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with closing(self._trial):
            self._end_machine()

    def pack(self, outcome: Outcome) -> bytes:
        """An outcome as bytes for `unpack` in another process.

        Formats have functions, which cannot be sent; they go by name.
        """
        packed = io.BytesIO()
        _Packer(packed, self._trial).dump(outcome)
        return packed.getvalue()


def unpack(packed: bytes, trial: Trial) -> Outcome:
    """What `BatchRunner.pack` packed.

    Args:
        trial: of the same judge; its walker's formats are those of the outcome.
    """
    found: Outcome = _Unpacker(io.BytesIO(packed), trial).load()
    return found


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, trial: Trial) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._trial = trial

    def persistent_id(self, value: object) -> tuple[str, str] | None:
        if not isinstance(value, Format):
            return None
        key = self._trial.key_of(value)
        if key is not None:
            return "the walker's", key
        if by_name(value.name) is not value:
            raise pickle.PicklingError(f"{value.name} is neither a format by name nor one of the walker's")
        return "the tables'", value.name


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, trial: Trial) -> None:
        super().__init__(file)
        self._trial = trial

    def persistent_load(self, key: tuple[str, str]) -> Format:
        whose, name = key
        return by_name(name) if whose == "the tables'" else self._trial.format_of(name)
