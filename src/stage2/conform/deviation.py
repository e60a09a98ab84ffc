"""What a known deviation of an emulator is, and a difference that one may explain."""

from __future__ import annotations

import re
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
class Versions:
    """Which versions of an emulator do something, by their first two numbers.

    Args:
        first: the first that is known to: "7.2".
        last: the last that does; None if the newest that was looked at still does.
    """

    first: str
    last: str | None = None

    def __contains__(self, version: str) -> bool:
        found = _numbers(version)
        return _numbers(self.first) <= found and (self.last is None or found <= _numbers(self.last))

    def __str__(self) -> str:
        if self.last is None:
            return f"{self.first} and later"
        return self.first if self.first == self.last else f"{self.first} to {self.last}"


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


@dataclass(frozen=True, slots=True)
class Deviation:
    """A known one.

    Args:
        name: a short name, for counting.
        oracle: the kind of oracle: `qemu-aarch64`, whatever its generation.
        versions: of the emulator, that have it.
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
    versions: Versions
    reason: str
    manual: str
    explains: Callable[[Difference], bool] = lambda _: False
    explains_all: Callable[[Probes, Answers, Answers], npt.NDArray[np.bool_]] | None = None
    reads_as: Callable[[Walk], tuple[Hpa, int] | None] | None = None
    leaves: Callable[[int, int, Range], bool] = lambda *_: False
    marks: int = 0
