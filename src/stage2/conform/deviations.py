"""What emulators are known to do otherwise than the manuals, each with its reason. Anything else is our bug."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

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
    """

    name: str
    oracle: str
    versions: str
    reason: str
    manual: str
    explains: Callable[[Difference], bool]


DEVIATIONS: tuple[Deviation, ...] = ()


def known(oracle: str, version: str, difference: Difference) -> Deviation | None:
    """The deviation that explains a difference, None if there is none."""
    for deviation in DEVIATIONS:
        if deviation.oracle == oracle and re.fullmatch(deviation.versions, version) and deviation.explains(difference):
            return deviation
    return None
