"""One batch from start to end: tables, probes, our answers, the machine's answers, and what differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..address import Gva, Range
from ..flags import Access
from ..formats import by_name
from ..formats.record import Format
from ..memory.physical import PhysicalMemory
from ..tables.batch import translate_two_stage_batch
from ..tables.compiled import host_memory
from ..tables.explain import Walk, explain_two_stage
from ..tables.regime import Regime
from .compare import Comparison, words_of
from .oracle import Case, Machine, Oracle, Pair, Places, Predictions
from .probe import Answers, Means, Probes
from .verdict import Verdict
from .world import Builder, flat, probes_for

FLAWS = (0.0, 0.1, 0.3, 1.0)
"""How broken the tables of a batch are, one after the other."""
_TAGS = 1 << 16
Replace = Callable[[Format], Format]
"""Puts another format in the place of one: how an error is planted."""
_OFF = " off"


def as_it_is(fmt: Format) -> Format:
    """Plants nothing."""
    return fmt


class Trial:
    """Makes batches for an oracle, and compares what it answers with what our walker says.

    Args:
        oracle: who answers.
        version: its version.
        planted: puts a wrong format in the place of each that our walker uses; the machine and the tables keep the
            right one.
    """

    def __init__(self, oracle: Oracle, version: str, planted: Replace = as_it_is) -> None:
        self.oracle, self.version, self._planted = oracle, version, planted
        self._formats: dict[str, Format] = {}
        self._shadow: PhysicalMemory | None = None

    def batch(self, machine: Machine, pair: Pair, seed: int, count: int) -> Verdict:
        """One batch of random tables.

        Args:
            machine: a running one.
            pair: the formats.
            seed: makes the same batch every time.
            count: probes to make, before those that cannot be asked are dropped.
        """
        rng = np.random.default_rng(seed)
        places = self.oracle.places(machine, pair)
        first = None if pair.first is None else by_name(pair.first)
        second = by_name(pair.second)
        builder = Builder(machine.memory, places, rng, FLAWS[seed % len(FLAWS)])
        world = builder.build(
            first, second, self._controls(pair, 1, first, rng) if first is not None else 0,
            self._controls(pair, 2, second, rng),
        )  # fmt: skip
        try:
            probes = probes_for(world, rng, count, translates=self.oracle.translates, users=pair.users)
            return self.case(machine, Case(pair, world.stage_1, world.stage_2, probes), places, world.used)
        finally:
            machine.memory.zero(world.used)

    def case(self, machine: Machine, case: Case, places: Places, used: Range) -> Verdict:
        """Ask the machine what a case comes to, and compare; the tables are in its memory."""
        before = words_of(machine.memory, used).copy()
        shadow = self._shadow_of(places)
        try:
            words_of(shadow, used)[:] = before
            wanted = len(case.probes)
            case, predictions = self._askable(machine, case, places, shadow)
            if not len(case.probes):
                return Verdict(unjudged=wanted)
            tags = self._tag(machine, case, predictions)
            answers = self.oracle.answers(machine, case)
            expected = self.oracle.expected(case, predictions)
            tags = np.concatenate((tags, self._note_writes(machine, case, predictions, expected, answers)))
            machine.memory.words[_words_at(machine.memory, tags)] = 0
            after, ours = words_of(machine.memory, used).copy(), words_of(shadow, used).copy()
            verdict = Verdict(len(case.probes), wanted - len(case.probes))
            verdict.formats[case.pair.name] = verdict.cases
            verdict.count_outcomes(expected)
            words_of(shadow, used)[:] = before
            comparison = Comparison(self, verdict, case, before, used, shadow)
            comparison.answers(expected, answers)
            comparison.memory(ours, after)
            return verdict
        finally:
            shadow.zero(used)

    # --- our side ----------------------------------------------------------------------------------------

    def _controls(self, pair: Pair, stage: int, fmt: Format, rng: np.random.Generator) -> int:
        """The oracle's base controls, or the format's, with some of the pair's switches."""
        controls = self.oracle.controls(pair, stage)
        for name in pair.switches_1 if stage == 1 else pair.switches_2:
            if rng.random() < 0.4:
                controls = fmt.switches[name].turn_on(controls)
        return controls

    def _regimes(self, case: Case) -> tuple[Regime, Regime]:
        """The regimes as our walker takes them, with what is planted."""
        second = replace(case.stage_2, format=self._format(case.stage_2.format))
        if case.stage_1 is None:
            return Regime(self._format(case.stage_2.format, off=True), 0, 0), second
        return replace(case.stage_1, format=self._format(case.stage_1.format)), second

    def _format(self, fmt: Format, *, off: bool = False) -> Format:
        return self.format_of(fmt.name + (_OFF if off else ""))

    def format_of(self, key: str) -> Format:
        """The format that our walker uses under a key of `key_of`."""
        if key not in self._formats:
            right = by_name(key.removesuffix(_OFF))
            self._formats[key] = flat(right) if key.endswith(_OFF) else self._planted(right)
        return self._formats[key]

    def key_of(self, fmt: Format) -> str | None:
        """The key of a format that our walker uses; None for one that it does not."""
        return next((key for key, found in self._formats.items() if found is fmt), None)

    def predict(self, memory: PhysicalMemory, case: Case, *, marks: bool) -> Predictions:
        """What our walker says of each probe, in their order."""
        stage_1, stage_2 = self._regimes(case)
        count = len(case.probes)
        found = Predictions(
            np.empty(count, np.uint32), np.empty(count, np.uint64), np.empty(count, np.uint64),
            np.empty(count, np.uint8), np.zeros(count, np.uint64), memory,
        )  # fmt: skip
        host = host_memory(memory)
        for start, end in _groups(case.probes):
            probe = case.probes[start]
            asked = host, stage_1, stage_2, case.probes["address"][start:end], Access(int(probe["access"]))
            user = bool(probe["user"])
            stored = marks and self._marks(probe)
            part = translate_two_stage_batch(*asked, user=user, marks=stored, ahead=False)
            found.status[start:end], found.hpa[start:end] = part.status, part.hpa
            found.gpa[start:end], found.permissions[start:end] = part.gpa, part.permissions
        return found

    def _marks(self, probe: Probes) -> bool:
        """Whether hardware sets accessed and dirty bits for it."""
        return int(probe["means"]) == Means.ACCESS or self.oracle.translate_marks

    def _askable(
        self, machine: Machine, case: Case, places: Places, shadow: PhysicalMemory
    ) -> tuple[Case, Predictions]:
        """The case without the probes that this oracle cannot be asked, and our answers to the others."""
        predictions = self.predict(shadow, case, marks=False)
        made = predictions.status == 0
        data = (predictions.hpa >= np.uint64(places.data.start)) & (predictions.hpa < np.uint64(places.data.end))
        real = case.probes["means"] == Means.ACCESS
        asked = ~(made & real & ~data) & self.oracle.allows(case, predictions)
        case = replace(case, probes=case.probes[asked])
        return case, self.predict(shadow, case, marks=True)

    def _tag(self, machine: Machine, case: Case, predictions: Predictions) -> npt.NDArray[np.uint64]:
        """Put a word of its own wherever a read or a fetch is to arrive; where that is."""
        arrives = (predictions.status == 0) & (case.probes["access"] != Access.WRITE)
        arrives &= np.array([machine.memory.contains(hpa, 8) for hpa in predictions.hpa.tolist()])
        hpas, which = np.unique(predictions.hpa[arrives], return_inverse=True)
        words = np.array([self.oracle.tag(1 + index % (_TAGS - 1)) for index in range(len(hpas))], np.uint64)
        inside = _words_at(machine.memory, hpas)
        machine.memory.words[inside] = words
        if len(hpas):
            predictions.memory[arrives] = words[which]
        return hpas

    def _note_writes(
        self, machine: Machine, case: Case, predictions: Predictions, expected: Answers, answers: Answers
    ) -> npt.NDArray[np.uint64]:
        """Add to the answers what is in memory where writes were to arrive; of several at one place, the last one's.

        Returns:
            Where they were to arrive.
        """
        made = (expected["ok"] == 1) & (answers["ok"] == 1) & (case.probes["access"] == Access.WRITE)
        if not self.oracle.translates_by_access:
            made &= case.probes["means"] == Means.ACCESS
        index = np.flatnonzero(made)
        # np.unique finds the first of equal ones, and we want the last.
        places, first = np.unique(predictions.hpa[index][::-1], return_index=True)
        last = index[::-1][first]
        expected["value"][last] = case.probes["value"][last]
        answers["value"][last] = machine.memory.words[_words_at(machine.memory, places)]
        return places

    # --- walking -----------------------------------------------------------------------------------------

    def walk(self, memory: PhysicalMemory, case: Case, index: int) -> Walk:
        """Our walk of one probe."""
        probe = case.probes[index]
        stage_1, stage_2 = self._regimes(case)
        return explain_two_stage(
            memory, stage_1, stage_2, Gva(int(probe["address"])), Access(int(probe["access"])), user=bool(probe["user"])
        )

    # --- the copy ----------------------------------------------------------------------------------------

    def _shadow_of(self, places: Places) -> PhysicalMemory:
        """Memory that has the tables only: elsewhere the machine has tags, and what was written before."""
        if self._shadow is None or self._shadow.ranges != (places.tables,):
            self.close()
            self._shadow = PhysicalMemory([places.tables])
        return self._shadow

    def close(self) -> None:
        """Give the copy back. Harmless when repeated."""
        if self._shadow is not None:
            self._shadow.close()
            self._shadow = None


def _groups(probes: Probes) -> list[tuple[int, int]]:
    """Runs of probes of one kind, as index ranges."""
    kind = (
        probes["access"].astype(np.int64) | probes["user"].astype(np.int64) << 2 | probes["means"].astype(np.int64) << 3
    )
    edges = [0, *(np.flatnonzero(np.diff(kind)) + 1).tolist(), len(probes)]
    return [(start, end) for start, end in pairwise(edges) if start < end]


def _words_at(memory: PhysicalMemory, hpas: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Indices of words in `memory.words`."""
    found: npt.NDArray[np.int64] = ((hpas - np.uint64(memory.base)) >> np.uint64(3)).astype(np.int64)
    return found
