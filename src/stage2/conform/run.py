"""A whole run of one oracle: batch after batch, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from ..errors import ConfigError
from .batch import Batch, Crew, Judge, Outcome, in_this_process
from .deviation import Deviation
from .deviations import of_oracle
from .oracle import Oracle, Pair
from .trial import Replace, as_it_is
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
"""So many mismatches are made small."""
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
        lost: how often the machine was lost.
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
    lost: int = 0

    @property
    def shrunk(self) -> int:
        """How many of `found` were made small, or would have been."""
        return sum(found.mismatch is not None for found in self.found)

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
    planted: Replace = as_it_is,
    progress: Callable[[OracleReport], None] = lambda _: None,
    crew: Crew = in_this_process,
) -> OracleReport:
    """Ask an oracle at least so many cases. Whoever does the batches, the report is the same but for the time.

    Args:
        cases: probes to compare.
        seed: of the first batch; the next has the next number.
        pairs: which of its pairs; None for all.
        planted: puts a wrong format in the place of each that our walker uses.
        progress: called after each batch.
        crew: who does the batches.

    Raises:
        HostToolError: the emulator is not installed.
        MachineError: it does not come up.
    """
    report = OracleReport(oracle.name, oracle.title, oracle.version(), oracle.kind, unjudged=oracle.unjudged)
    began = time.perf_counter()
    plan = _plan(report, oracle, cases, seed, oracle.pairs if pairs is None else pairs)
    with closing(crew(Judge(oracle, report.version, planted), plan)) as outcomes:
        for batch, outcome in outcomes:
            _add(report, batch, outcome)
            report.batches += 1
            report.seconds = time.perf_counter() - began
            progress(report)
            if report.verdict.cases >= cases or len(report.found) >= _MISMATCHES or report.lost > _LOST:
                break
    return report


def _plan(report: OracleReport, oracle: Oracle, cases: int, seed: int, pairs: Sequence[Pair]) -> Iterator[Batch]:
    """The batches of a run. It ends, so that batches which ask nothing at all do not go on for ever."""
    # Every pair gets its share, also of a short run.
    share = min(oracle.batch, max(-(-cases // len(pairs)), _SMALLEST))
    numbers = range(4 * (cases // share + len(pairs)))
    for number, pair in zip(numbers, _schedule(pairs), strict=False):
        yield Batch(pair, seed + number, share, max(_SHRUNK - report.shrunk, 0))


def _add(report: OracleReport, batch: Batch, outcome: Outcome) -> None:
    """Add what a batch came to."""
    pair, seed, count, verdict = batch.pair, batch.seed, batch.count, outcome.verdict
    if verdict is None:
        report.found.append(Found(pair, seed, count, None, outcome.lost))
        report.lost += 1
        return
    before = len(report.found)
    for index, mismatch in enumerate(verdict.mismatches):
        # When the batch was given out, no more were shrunk than now: it made enough of its own small.
        if report.shrunk < _SHRUNK:
            mismatch = outcome.shrunk[index].mismatch
            report.lost += outcome.shrunk[index].lost
        report.found.append(Found(pair, seed, count, mismatch))
        if len(report.found) >= _MISMATCHES or report.lost > _LOST:
            break
    report.verdict.add(verdict)
    report.verdict.more += len(verdict.mismatches) - (len(report.found) - before)


def _schedule(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """The pairs in turn, each as often as its weight says."""
    served = dict.fromkeys(range(len(pairs)), 0.0)
    while True:
        index = min(served, key=lambda index: (served[index], index))
        served[index] += 1.0 / pairs[index].weight
        yield pairs[index]
