"""What a known deviation of an emulator is, and a difference that one may explain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..address import Hpa, Range
from ..tables.explain import Walk
from .probe import Answers, Probes


@dataclass(frozen=True, slots=True)
class Difference:
    """One probe whose answer is not the expected one.

    Args:
        probe, expected, answer: one element each of their arrays.
        walk: our walk of it, on the tables as they were before the batch.
    """

    probe: Probes
    expected: Answers
    answer: Answers
    walk: Walk


@dataclass(frozen=True, slots=True)
class Deviation:
    """A known one.

    Args:
        name: a short name, for counting.
        oracle: which judge.
        versions: regular expression of the emulator's versions that have it.
        reason: what it does, and how that is known.
        manual: the section that says otherwise.
        explains: whether a difference is an instance of it.
        explains_all: the same of all probes at once, from (probes, expected, answers); of a deviation that is met often
            and that the answers alone tell. It is asked first, and no walk is made for what it explains.
        reads_as: of a walk, an entry that the emulator takes for another: its HPA and the other word. The difference
            is explained if our walk with that word comes to the emulator's answer.
        leaves: whether it makes an entry be left like that: (ours, the machine's, where the tables are).
        marks: bits that the emulator sets in entries which only walks that were refused went through.
    """

    name: str
    oracle: str
    versions: str
    reason: str
    manual: str
    explains: Callable[[Difference], bool] = lambda _: False
    explains_all: Callable[[Probes, Answers, Answers], npt.NDArray[np.bool_]] | None = None
    reads_as: Callable[[Walk], tuple[Hpa, int] | None] | None = None
    leaves: Callable[[int, int, Range], bool] = lambda *_: False
    marks: int = 0
