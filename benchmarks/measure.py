"""Measuring in pairs: our work and another's in turns, in this thread's CPU time, so that what else the machine does
meets both."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Row:
    """Something to measure.

    Args:
        name: what is done.
        unit: of the figures.
        per: seconds in one unit, times the things done in one call: 1e-9 * 10**7 gives ns of each of ten million.
        ours: one call of the work.
        twin: the same by the plain C twin; None where that has no such work.
        before, twin_before: what makes the work possible again, unmeasured.
        differs: what the twin does not do.
        calls: how many calls one measurement makes, for short work.
    """

    name: str
    unit: str
    per: float
    ours: Work
    twin: Work | None = None
    before: Work | None = None
    twin_before: Work | None = None
    differs: str = ""
    calls: int = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured.

    Args:
        name, format, unit, differs: of the row.
        ours, twin: medians, in the unit; the twin's is None where there is none.
        best: our fastest.
        ratio: ours over the twin's, median of the pairs.
        spread: the smallest and the largest ratio of a pair.
        runs: how many pairs.
    """

    name: str
    format: str
    unit: str
    ours: float
    best: float
    twin: float | None
    ratio: float | None
    spread: tuple[float, float] | None
    runs: int
    differs: str = ""


def timed(work: Work, before: Work | None, calls: int) -> float:
    """Seconds of this thread's CPU time for one call, mean of `calls`; what comes before each is not measured."""
    if before is None:
        began = time.thread_time_ns()
        for _ in range(calls):
            work()
        return (time.thread_time_ns() - began) / calls / 1e9
    spent = 0
    for _ in range(calls):
        before()
        began = time.thread_time_ns()
        work()
        spent += time.thread_time_ns() - began
    return spent / calls / 1e9


def warm(row: Row) -> None:
    """Do both works once, which compiles or loads kernels."""
    for work, before in ((row.ours, row.before), (row.twin, row.twin_before)):
        if work is not None:
            timed(work, before, 1)


def measure(row: Row, fmt: str, runs: int) -> Figure:
    """Measure a row: once unmeasured, which compiles or loads kernels, then `runs` pairs in turns."""
    warm(row)
    ours: list[float] = []
    twins: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(runs):
            ours.append(timed(row.ours, row.before, row.calls))
            if row.twin is not None:
                twins.append(timed(row.twin, row.twin_before, row.calls))
    finally:
        if collecting:
            gc.enable()
    ratios = [own / other for own, other in zip(ours, twins, strict=False)]
    return Figure(
        row.name,
        fmt,
        row.unit,
        statistics.median(ours) / row.per,
        min(ours) / row.per,
        statistics.median(twins) / row.per if twins else None,
        statistics.median(ratios) if ratios else None,
        (min(ratios), max(ratios)) if ratios else None,
        runs,
        row.differs,
    )
