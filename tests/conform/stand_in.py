"""An oracle that is no machine: our explained walk, plain Python, in the place of hardware.

It shows that batches are made, compared, shrunk and reported as they should; whether the walker is right is for the
real oracles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from stage2.address import Gva, Hpa, Range
from stage2.conform.oracle import Case, Machine, Pair, Places, Predictions
from stage2.conform.probe import ANSWER, Answers
from stage2.conform.trial import Trial
from stage2.flags import Access
from stage2.formats import by_name
from stage2.memory.physical import PhysicalMemory
from stage2.tables.explain import explain_two_stage
from stage2.tables.regime import Regime
from stage2.tables.result import Mapped

RAM = Range.sized(0x4000_0000, 4 << 30)
PLACES = Places(Range.sized(0x5_5000_0000 - 0x4_8000_0000, 16 << 20), Range(0x1_0000_0000, 0x1_4000_0000), ())


@dataclass
class StandIn:
    """Args: pairs: what it answers for. forgets: it leaves the marks of writes out of memory."""

    pairs: tuple[Pair, ...]
    forgets: bool = False
    name: str = "stand-in"
    kind: str = "stand-in"
    title: str = "our own explained walk"
    translates: bool = False
    translates_by_access: bool = False
    translate_marks: bool = True
    batch: int = 256
    unjudged: tuple[str, ...] = ()

    def version(self) -> str:
        return "0"

    def is_own(self) -> bool:
        return True

    def tag(self, index: int) -> int:
        return index << 32 | 0xC0DE

    @contextmanager
    def open(self) -> Iterator[Machine]:
        with PhysicalMemory([RAM]) as memory:
            yield Ram(memory)

    def controls(self, pair: Pair, stage: int) -> int:
        name = pair.first if stage == 1 else pair.second
        assert name is not None
        return by_name(name).default_controls

    def places(self, machine: Machine, pair: Pair) -> Places:
        return PLACES

    def allows(self, case: Case, predictions: Predictions) -> np.ndarray:
        return np.ones(len(case.probes), np.bool_)

    def answers(self, machine: Machine, case: Case) -> Answers:
        found = np.zeros(len(case.probes), ANSWER)
        first, second = self._regimes(case)
        for index, probe in enumerate(case.probes):
            access = Access(int(probe["access"]))
            walk = explain_two_stage(
                machine.memory, first, second, Gva(int(probe["address"])), access, user=bool(probe["user"])
            )
            for slot, word in () if self.forgets and access is Access.WRITE else walk.marks:
                machine.memory.store_u64(slot, word)
            if isinstance(walk.result, Mapped):
                found[index]["ok"], found[index]["hpa"] = 1, walk.result.hpa
                if access is Access.WRITE and machine.memory.contains(walk.result.hpa, 8):
                    machine.memory.store_u64(Hpa(walk.result.hpa), int(probe["value"]))
                elif machine.memory.contains(walk.result.hpa, 8):
                    found[index]["value"] = machine.memory.load_u64(Hpa(walk.result.hpa))
            else:
                found[index]["stage"], found[index]["code"] = walk.result.stage, walk.result.kind
        return found

    def _regimes(self, case: Case) -> tuple[Regime, Regime]:
        return Trial(self, "0")._regimes(case)

    def expected(self, case: Case, predictions: Predictions) -> Answers:
        found = np.zeros(len(case.probes), ANSWER)
        made = predictions.status == 0
        found["ok"] = made
        found["hpa"] = np.where(made, predictions.hpa, 0)
        found["value"] = np.where(made & (case.probes["access"] != Access.WRITE), predictions.memory, 0)
        found["stage"] = np.where(made, 0, np.where(predictions.status & 0x100, 2, 1))
        found["code"] = np.where(made, 0, predictions.status & 0xFF)
        return found


@dataclass
class Ram:
    memory: PhysicalMemory
