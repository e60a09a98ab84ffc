"""One batch from start to end: tables, probes, our answers, the machine's answers, and what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..address import Gva, Hpa, Range
from ..flags import Access
from ..formats import by_name
from ..formats.outcome import FaultKind
from ..formats.record import Format
from ..memory.physical import PhysicalMemory
from ..tables.batch import translate_two_stage_batch
from ..tables.compiled import host_memory
from ..tables.explain import Step, Walk, explain_two_stage
from ..tables.regime import Regime
from ..tables.result import Fault
from .deviations import Deviation, Difference, known, known_at_once, known_to_leave, of
from .oracle import Case, Machine, Oracle, Pair, Places, Predictions
from .probe import ANSWER, Answers, Means, Probes
from .world import Builder, flat, probes_for

FLAWS = (0.0, 0.1, 0.3, 1.0)
"""How broken the tables of a batch are, one after the other."""
_LOOKED_AT = 400
"""So many differences of a batch are walked and explained; if there are more, the rest is of the same kinds."""
_TAGS = 1 << 16
_READ_OTHERWISE = 8
"""So many entries of one walk a machine may take for others."""
Replace = Callable[[Format], Format]
"""Puts another format in the place of one: how an error is planted."""


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
        cases: probes that were judged.
        unjudged: probes that this judge could not be asked, or whose walk leaves the tables.
        deviations: how many differences each known deviation explains.
        formats: pair -> cases.
        mismatches: unexplained ones; `more` counts those that were not kept.
    """

    cases: int = 0
    unjudged: int = 0
    deviations: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    mismatches: list[Mismatch] = field(default_factory=list)
    more: int = 0

    def add(self, other: Verdict) -> None:
        """Add another's counts; the first mismatches are kept."""
        self.cases += other.cases
        self.unjudged += other.unjudged
        self.deviations += other.deviations
        self.formats += other.formats
        self.outcomes += other.outcomes
        room = max(8 - len(self.mismatches), 0)
        self.mismatches += other.mismatches[:room]
        self.more += other.more + len(other.mismatches[room:])


class Judge:
    """Makes batches and judges them.

    Args:
        oracle: who judges.
        version: its version.
        planted: puts a wrong format in the place of each that our walker uses; the machine and the tables keep the
            right one.
    """

    def __init__(self, oracle: Oracle, version: str, planted: Replace = lambda fmt: fmt) -> None:
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
            probes = probes_for(world, rng, count, translates=self.oracle.translates)
            return self.judge(machine, Case(pair, world.stage_1, world.stage_2, probes), places, world.used)
        finally:
            machine.memory.zero(world.used)

    def judge(self, machine: Machine, case: Case, places: Places, used: Range) -> Verdict:
        """Ask the machine what a case comes to, and compare; the tables are in its memory."""
        before = _words(machine.memory, used).copy()
        shadow = self._shadow_of(machine)
        try:
            _words(shadow, used)[:] = before
            wanted = len(case.probes)
            case, predictions = self._askable(machine, case, places, shadow)
            if not len(case.probes):
                return Verdict(unjudged=wanted)
            tags = self._tag(machine, case, predictions)
            answers = self.oracle.answers(machine, case)
            expected = self.oracle.expected(case, predictions)
            for hpa in tags.tolist():
                machine.memory.store_u64(Hpa(hpa), 0)
            after, ours = _words(machine.memory, used).copy(), _words(shadow, used).copy()
            verdict = Verdict(len(case.probes), wanted - len(case.probes))
            verdict.formats[case.pair.name] = verdict.cases
            _count_outcomes(verdict, expected)
            _words(shadow, used)[:] = before
            excused = self._compare(verdict, case, expected, answers, before, used, shadow)
            self._compare_memory(verdict, case, before, ours, after, used, shadow, excused)
            return verdict
        finally:
            shadow.zero(used)

    # --- our side ----------------------------------------------------------------------------------------

    def _controls(self, pair: Pair, stage: int, fmt: Format, rng: np.random.Generator) -> int:
        """The judge's base controls, or the format's, with some of the pair's switches."""
        controls = self.oracle.controls(pair, stage)
        for name in pair.switches_1 if stage == 1 else pair.switches_2:
            if rng.random() < 0.4:
                switch = fmt.switches[name]
                controls = controls & ~switch.clears | switch.sets
        return controls

    def _regimes(self, case: Case) -> tuple[Regime, Regime]:
        """The regimes as our walker takes them, with what is planted."""
        second = replace(case.stage_2, format=self._format(case.stage_2.format))
        if case.stage_1 is None:
            return Regime(self._format(case.stage_2.format, off=True), 0, 0), second
        return replace(case.stage_1, format=self._format(case.stage_1.format)), second

    def _format(self, fmt: Format, *, off: bool = False) -> Format:
        key = fmt.name + (" off" if off else "")
        if key not in self._formats:
            self._formats[key] = flat(fmt) if off else self._planted(fmt)
        return self._formats[key]

    def _predict(self, memory: PhysicalMemory, case: Case, *, marks: bool) -> Predictions:
        """What our walker says of each probe, in their order."""
        stage_1, stage_2 = self._regimes(case)
        count = len(case.probes)
        found = Predictions(
            np.empty(count, np.uint32), np.empty(count, np.uint64), np.empty(count, np.uint64),
            np.empty(count, np.uint8), np.zeros(count, np.uint64),
        )  # fmt: skip
        host = host_memory(memory)
        for start, end in _groups(case.probes):
            probe = case.probes[start]
            part = translate_two_stage_batch(
                host, stage_1, stage_2, case.probes["address"][start:end], Access(int(probe["access"])),
                user=bool(probe["user"]), marks=marks and self._marks(probe),
            )  # fmt: skip
            found.status[start:end], found.hpa[start:end] = part.status, part.hpa
            found.gpa[start:end], found.permissions[start:end] = part.gpa, part.permissions
        return found

    def _marks(self, probe: Probes) -> bool:
        """Whether hardware sets accessed and dirty bits for it."""
        return int(probe["means"]) == Means.ACCESS or self.oracle.translate_marks

    def _askable(
        self, machine: Machine, case: Case, places: Places, shadow: PhysicalMemory
    ) -> tuple[Case, Predictions]:
        """The case without the probes that this judge cannot be asked, and our answers to the others."""
        predictions = self._predict(shadow, case, marks=False)
        made = predictions.status == 0
        data = (predictions.hpa >= np.uint64(places.data.start)) & (predictions.hpa < np.uint64(places.data.end))
        real = case.probes["means"] == Means.ACCESS
        asked = ~(made & real & ~data) & self.oracle.allows(case, predictions)
        case = replace(case, probes=case.probes[asked])
        return case, self._predict(shadow, case, marks=True)

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

    # --- comparing ---------------------------------------------------------------------------------------

    def _compare(
        self,
        verdict: Verdict,
        case: Case,
        expected: Answers,
        answers: Answers,
        before: npt.NDArray[np.uint64],
        used: Range,
        shadow: PhysicalMemory,
    ) -> set[int]:
        """Sort the probes whose answers differ: unjudged, explained, or not.

        Returns:
            The entries that they went through: what the machine leaves there may differ too.
        """
        excused: set[int] = set()
        differs = np.zeros(len(expected), np.bool_)
        for name in ANSWER.names or ():
            differs |= expected[name] != answers[name]
        for found, explained in known_at_once(self.oracle.name, self.version, case.probes, expected, answers):
            explained &= differs
            differs &= ~explained
            if explained.any():
                verdict.deviations[found.name] += int(explained.sum())
        wrong = np.flatnonzero(differs).tolist()
        for index in wrong[:_LOOKED_AT]:
            walk = self.walk(shadow, case, index)
            excused |= {step.slot_hpa for step in _all_steps(walk)}
            difference = Difference(case.probes[index], expected[index], answers[index], walk)
            deviation = known(self.oracle.name, self.version, difference)
            inside = _stays_inside(walk, used)
            if deviation is None and inside:
                deviation, inside = self._read_otherwise(case, index, difference, shadow, used, excused)
            if not inside:
                verdict.unjudged += 1
                verdict.cases -= 1
                continue
            if deviation is not None:
                verdict.deviations[deviation.name] += 1
                continue
            alone = replace(case, probes=case.probes[index : index + 1])
            verdict.mismatches.append(Mismatch(alone, difference, (), before, used))
        if len(wrong) > _LOOKED_AT:
            if verdict.mismatches:
                verdict.more += len(wrong) - _LOOKED_AT
            else:
                verdict.deviations["more of these"] += len(wrong) - _LOOKED_AT
        return excused

    def _read_otherwise(
        self, case: Case, index: int, difference: Difference, shadow: PhysicalMemory, used: Range, excused: set[int]
    ) -> tuple[Deviation | None, bool]:
        """Walk again with the entries that the machine takes for others.

        Args:
            excused: what the walks go through is added.

        Returns:
            The deviation, if our walk then comes to the machine's answer; and whether it stays inside the tables.
        """
        walk, changed, deviation = difference.walk, list[tuple[Hpa, int]](), None
        readers = [found for found in of(self.oracle.name, self.version) if found.reads_as is not None]
        try:
            for found in readers * _READ_OTHERWISE:
                other = found.reads_as(walk) if found.reads_as is not None else None
                if other is None:
                    continue
                changed.append((other[0], shadow.load_u64(other[0])))
                shadow.store_u64(*other)
                deviation, walk = found, self.walk(shadow, case, index)
                excused |= {step.slot_hpa for step in _all_steps(walk)}
                if not _stays_inside(walk, used):
                    return None, False
            if deviation is None:
                return None, True
            alone = replace(case, probes=case.probes[index : index + 1])
            expected = self.oracle.expected(alone, self._predict(shadow, alone, marks=False))
            answer = difference.answer.reshape(1)
            if expected["ok"][0]:
                # What it finds there is not ours to say: no tag was put there.
                expected["value"] = answer["value"]
            same = expected == answer
            for _, explained in known_at_once(self.oracle.name, self.version, alone.probes, expected, answer):
                same |= explained
            return (deviation if same[0] else None), True
        finally:
            for slot, entry in reversed(changed):
                shadow.store_u64(slot, entry)

    def _marked_by_refused(
        self,
        verdict: Verdict,
        case: Case,
        slots: list[tuple[int, int, int]],
        before: npt.NDArray[np.uint64],
        used: Range,
        shadow: PhysicalMemory,
    ) -> list[tuple[int, int, int]]:
        """The slots without those that a known deviation explains: marks where no probe went that was made."""
        for found in of(self.oracle.name, self.version):
            marked = [(hpa, ours, theirs) for hpa, ours, theirs in slots if ours | found.marks & theirs == theirs]
            if not found.marks or not marked:
                continue
            # Without these entries, probes that are made must be made all the same.
            made = self._predict(shadow, case, marks=False).status == 0
            for hpa, _, _ in marked:
                shadow.store_u64(Hpa(hpa), 0)
            still = self._predict(shadow, case, marks=False).status == 0
            _words(shadow, used)[:] = before
            if (made == still).all():
                verdict.deviations[found.name] += len(marked)
                slots = [slot for slot in slots if slot not in marked]
        return slots

    def _compare_memory(
        self,
        verdict: Verdict,
        case: Case,
        before: npt.NDArray[np.uint64],
        ours: npt.NDArray[np.uint64],
        after: npt.NDArray[np.uint64],
        used: Range,
        shadow: PhysicalMemory,
        excused: set[int],
    ) -> None:
        """Compare the tables as the machine left them with those that our walks marked."""
        at = np.flatnonzero(ours != after)
        found = [(used.start + 8 * i, int(ours[i]), int(after[i])) for i in at[:1024].tolist()]
        found = [slot for slot in found if slot[0] not in excused and not self._left_so(verdict, slot, used)]
        slots = tuple(self._marked_by_refused(verdict, case, found, before, used, shadow)[:16])
        if slots:
            touching = self._who_touched(shadow, case, {slot for slot, _, _ in slots})
            alone = replace(case, probes=case.probes[touching : touching + 1]) if touching is not None else case
            verdict.mismatches.append(Mismatch(alone, None, slots, before, used))

    def _left_so(self, verdict: Verdict, slot: tuple[int, int, int], used: Range) -> bool:
        """Whether a known deviation leaves an entry like this; it is counted."""
        deviation = known_to_leave(self.oracle.name, self.version, slot[1], slot[2], used)
        if deviation is not None:
            verdict.deviations[deviation.name] += 1
        return deviation is not None

    def _who_touched(self, shadow: PhysicalMemory, case: Case, slots: set[int]) -> int | None:
        for index in range(min(len(case.probes), 2 * _LOOKED_AT)):
            if slots & {step.slot_hpa for step in _all_steps(self.walk(shadow, case, index))}:
                return index
        return None

    def walk(self, memory: PhysicalMemory, case: Case, index: int) -> Walk:
        """Our walk of one probe."""
        probe = case.probes[index]
        stage_1, stage_2 = self._regimes(case)
        return explain_two_stage(
            memory, stage_1, stage_2, Gva(int(probe["address"])), Access(int(probe["access"])), user=bool(probe["user"])
        )

    # --- the copy ----------------------------------------------------------------------------------------

    def _shadow_of(self, machine: Machine) -> PhysicalMemory:
        """Memory of the same shape, empty but for the tables of a case."""
        if self._shadow is None or self._shadow.ranges != machine.memory.ranges:
            self.close()
            self._shadow = PhysicalMemory(machine.memory.ranges)
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


def _words(memory: PhysicalMemory, span: Range) -> npt.NDArray[np.uint64]:
    """The words of a part of memory, themselves."""
    first = span.start - memory.base >> 3
    return memory.words[first : first + (span.size >> 3)]


def _words_at(memory: PhysicalMemory, hpas: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Indices of words in `memory.words`."""
    found: npt.NDArray[np.int64] = ((hpas - np.uint64(memory.base)) >> np.uint64(3)).astype(np.int64)
    return found


def _all_steps(walk: Walk) -> list[Step]:
    return [found for step in walk.steps for found in (step, *step.under)]


def _stays_inside(walk: Walk, used: Range) -> bool:
    """Whether a walk reads tables only; elsewhere in RAM there is what the machine itself put there."""
    if isinstance(walk.result, Fault) and walk.result.kind is FaultKind.TABLE_OUTSIDE_MEMORY:
        return False
    return all(used.start <= step.slot_hpa < used.end for step in _all_steps(walk))


def _count_outcomes(verdict: Verdict, expected: Answers) -> None:
    """Count what the probes come to: made, or refused by which stage."""
    made = int((expected["ok"] == 1).sum())
    verdict.outcomes["made"] += made
    for stage in (1, 2):
        verdict.outcomes[f"refused by stage {stage}"] += int(
            ((expected["ok"] == 0) & (expected["stage"] == stage)).sum()
        )
