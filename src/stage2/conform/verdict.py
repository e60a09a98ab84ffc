"""What a batch, or a whole run, came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..address import Range
from .deviation import Difference
from .oracle import Case
from .probe import Answers


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A difference that no known deviation explains.

    Args:
        case: where it came up, with this probe alone.
        difference: what differs; of a mismatch of memory, the probe that wrote there last.
        slots: entries of tables that hold something else than our walk leaves there: address, ours, the machine's.
        words: the tables of the case before the batch, from `used.start` on.
        used: where they are.
    """

    case: Case
    difference: Difference | None
    slots: tuple[tuple[int, int, int], ...]
    words: npt.NDArray[np.uint64]
    used: Range


@dataclass(slots=True)
class Verdict:
    """What a batch, or many of them, came to.

    Args:
        cases: probes that were compared.
        unjudged: probes that this oracle could not be asked, or whose walk leaves the tables.
        deviations: how many differences each known deviation explains.
        formats: pair -> cases.
        mismatches: unexplained ones of a batch; `more` counts those that were not kept.
    """

    cases: int = 0
    unjudged: int = 0
    deviations: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    mismatches: list[Mismatch] = field(default_factory=list)
    more: int = 0

    def add(self, other: Verdict) -> None:
        """Add another's counts. Its mismatches are whoever's that reports them, but for those in `more`."""
        self.cases += other.cases
        self.unjudged += other.unjudged
        self.deviations += other.deviations
        self.formats += other.formats
        self.outcomes += other.outcomes
        self.more += other.more

    def count_outcomes(self, expected: Answers) -> None:
        """Count what the probes come to: made, or refused by which stage."""
        self.outcomes["made"] += int((expected["ok"] == 1).sum())
        for stage in (1, 2):
            refused = (expected["ok"] == 0) & (expected["stage"] == stage)
            self.outcomes[f"refused by stage {stage}"] += int(refused.sum())
