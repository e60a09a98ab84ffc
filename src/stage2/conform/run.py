"""A whole run of one oracle: batch after batch, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from ..errors import ConfigError, MachineError
from .deviation import Deviation
from .deviations import of_oracle
from .oracle import Machine, Oracle, Pair
from .shrink import Shrinker
from .trial import Replace, Trial
from .verdict import Mismatch, Verdict

SHORT = {"qemu-aarch64": 100_000, "qemu-riscv64": 100_000, "qemu-x86-svm": 60_000, "bochs-ept": 5_000}
"""Cases of the short form, which CI runs."""
LONG = {"qemu-aarch64": 2_000_000, "qemu-riscv64": 2_000_000, "qemu-x86-svm": 1_000_000, "bochs-ept": 100_000}
"""Cases of the long form."""
_MISMATCHES = 8
"""After so many a run ends: they will be of one kind."""
_LOST = 3
"""So often a machine that was lost is started again."""
_SHRUNK = 2
_SMALLEST = 64
"""Probes of a batch at the least."""


@dataclass(frozen=True, slots=True)
class Found:
    """A mismatch as it is reported.

    Args:
        pair, seed: of the batch; with `count` they make it again.
        mismatch: as small as it could be made; None when the machine was lost.
        lost: what the machine said when it was lost.
    """

    pair: Pair
    seed: int
    count: int
    mismatch: Mismatch | None
    lost: str = ""


@dataclass(slots=True)
class OracleReport:
    """What an oracle said.

    Args:
        oracle, title, version: who.
        kind: the oracle without a generation.
        verdict: the counts.
        found: unexplained mismatches.
        unjudged: what this oracle cannot be asked, in sentences.
        seconds: wall time.
        batches: how many.
    """

    oracle: str
    title: str
    version: str
    kind: str
    verdict: Verdict = field(default_factory=Verdict)
    found: list[Found] = field(default_factory=list)
    unjudged: tuple[str, ...] = ()
    seconds: float = 0.0
    batches: int = 0

    @property
    def mismatches(self) -> int:
        return len(self.found) + self.verdict.more

    @property
    def known_deviations(self) -> list[tuple[Deviation, int]]:
        """The known deviations that were met, with how often."""
        known = {deviation.name: deviation for deviation in of_oracle(self.kind, self.version)}
        return [(known[name], count) for name, count in sorted(self.verdict.deviations.items())]

    def as_dict(self) -> dict[str, object]:
        """The JSON object of this oracle."""
        return {
            "oracle": self.oracle,
            "version": self.version,
            "cases": self.verdict.cases,
            "mismatches": self.mismatches,
            "deviations": dict(sorted(self.verdict.deviations.items())),
            "formats": dict(sorted(self.verdict.formats.items())),
            "outcomes": dict(sorted(self.verdict.outcomes.items())),
            "unjudged_cases": self.verdict.unjudged,
            "unjudged": list(self.unjudged),
            "batches": self.batches,
            "seconds": round(self.seconds, 2),
        }


def chosen_pairs(oracle: Oracle, wanted: Sequence[str]) -> tuple[Pair, ...]:
    """The pairs that a name asks for: a pair's own, that of one of its formats or its regime; all if none is given.

    Raises:
        ConfigError: the oracle has no such pair.
    """
    if not wanted:
        return oracle.pairs
    found = tuple(pair for pair in oracle.pairs if {pair.name, pair.first, pair.second, pair.regime} & set(wanted))
    if not found:
        names = ", ".join(pair.name for pair in oracle.pairs)
        raise ConfigError(f"{oracle.name} does not answer for {', '.join(wanted)}; it answers for {names}")
    return found


def run(
    oracle: Oracle,
    *,
    cases: int,
    seed: int = 1,
    pairs: Sequence[Pair] | None = None,
    planted: Replace = lambda fmt: fmt,
    progress: Callable[[OracleReport], None] = lambda _: None,
) -> OracleReport:
    """Ask an oracle at least so many cases.

    Args:
        cases: probes to compare.
        seed: of the first batch; the next has the next number.
        pairs: which of its pairs; None for all.
        planted: puts a wrong format in the place of each that our walker uses.
        progress: called after each batch.

    Raises:
        HostToolError: the emulator is not installed.
        MachineError: it does not come up.
    """
    report = OracleReport(oracle.name, oracle.title, oracle.version(), oracle.kind, unjudged=oracle.unjudged)
    trial = Trial(oracle, report.version, planted)
    began = time.perf_counter()
    chosen = oracle.pairs if pairs is None else pairs
    schedule = _schedule(chosen)
    # Every pair gets its share, also of a short run.
    share = min(oracle.batch, max(-(-cases // len(chosen)), _SMALLEST))
    with ExitStack() as stack:
        stack.callback(trial.close)
        machines = _Machines(oracle, stack)
        # Batches that ask nothing at all must not go on for ever.
        for number in range(4 * (cases // share + len(chosen))):
            if report.verdict.cases >= cases or len(report.found) >= _MISMATCHES or machines.given_up:
                break
            pair = next(schedule)
            _one_batch(report, trial, machines, pair, seed + number, share)
            report.batches += 1
            report.seconds = time.perf_counter() - began
            progress(report)
    return report


class _Machines:
    """The machine that is running, and a new one when it is lost."""

    def __init__(self, oracle: Oracle, stack: ExitStack) -> None:
        self._oracle, self._stack = oracle, stack
        self._current = stack.enter_context(ExitStack())
        self._lost = 0
        self.machine: Machine = self._current.enter_context(oracle.open())

    @property
    def given_up(self) -> bool:
        """It was lost so often that it is not started any more."""
        return self._lost > _LOST

    def renew(self) -> None:
        """Start another one, unless too many were lost."""
        self._lost += 1
        self._current.close()
        if self.given_up:
            return
        self._current = self._stack.enter_context(ExitStack())
        self.machine = self._current.enter_context(self._oracle.open())


def _one_batch(report: OracleReport, trial: Trial, machines: _Machines, pair: Pair, seed: int, count: int) -> None:
    try:
        verdict = trial.batch(machines.machine, pair, seed, count)
    except MachineError as error:
        report.found.append(Found(pair, seed, count, None, str(error)))
        machines.renew()
        return
    before = len(report.found)
    for mismatch in verdict.mismatches:
        shrunk = sum(found.mismatch is not None for found in report.found)
        if shrunk < _SHRUNK:
            shrinker = Shrinker(trial, machines.machine, trial.oracle.places(machines.machine, pair))
            mismatch = shrinker.shrink(mismatch)
            if shrinker.lost:
                machines.renew()
        report.found.append(Found(pair, seed, count, mismatch))
        if len(report.found) >= _MISMATCHES or machines.given_up:
            break
    verdict.more += len(verdict.mismatches) - (len(report.found) - before)
    report.verdict.add(verdict)


def _schedule(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """The pairs in turn, each as often as its weight says."""
    served = dict.fromkeys(range(len(pairs)), 0.0)
    while True:
        index = min(served, key=lambda index: (served[index], index))
        served[index] += 1.0 / pairs[index].weight
        yield pairs[index]
