"""Comparing what a machine answered, and left in its tables, with what our walker says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..address import Hpa, Range
from ..formats.outcome import LEAF, TABLE, FaultKind
from ..memory.physical import PhysicalMemory
from ..tables.explain import Step, Walk
from ..tables.result import Fault
from .deviation import Deviation, Difference
from .deviations import of_oracle
from .oracle import Case
from .probe import Answers, Means
from .verdict import Mismatch, Verdict

if TYPE_CHECKING:
    from .trial import Trial

Slot = tuple[int, int, int]
"""An entry that was left otherwise: its HPA, ours, the machine's."""
_LOOKED_AT = 400
"""So many differences of a batch are walked and explained; if there are more, the rest is of the same kinds."""
_READ_OTHERWISE = 8
"""So many entries of one walk a machine may take for others."""


class Comparison:
    """Compares one batch.

    Args:
        trial: whose; it has our walker.
        verdict: what is found is added to it.
        case: the batch.
        before: the words of the tables before it.
        used: where they are.
        shadow: memory with the tables as they were before.
    """

    def __init__(
        self,
        trial: Trial,
        verdict: Verdict,
        case: Case,
        before: npt.NDArray[np.uint64],
        used: Range,
        shadow: PhysicalMemory,
    ) -> None:
        self._trial, self._verdict, self._case = trial, verdict, case
        self._before, self._used, self._shadow = before, used, shadow
        self._deviations = of_oracle(trial.oracle.kind, trial.version)
        self._excused: set[int] = set()
        """Entries that differing probes went through: what the machine leaves there may differ too."""
        self._altered: set[int] = set()
        """Entries that the machine marks, by a known deviation, and we do not: later probes find others there."""

    def answers(self, expected: Answers, answers: Answers) -> None:
        """Sort the probes whose answers differ: unjudged, explained, or not."""
        verdict, case, excused = self._verdict, self._case, self._excused
        differs = expected != answers
        for found in self._deviations:
            if found.explains_all is not None and differs.any():
                explained = differs & found.explains_all(case.probes, expected, answers)
                if explained.any():
                    verdict.deviations[found.name] += int(explained.sum())
                    differs &= ~explained
        wrong = np.flatnonzero(differs).tolist()
        for index in wrong[:_LOOKED_AT]:
            walk = self._trial.walk(self._shadow, case, index)
            slots = {step.slot_hpa for step in all_steps(walk)}
            excused |= slots
            difference = Difference(case.probes[index], expected[index], answers[index], walk)
            deviation = next((found for found in self._deviations if found.explains(difference)), None)
            inside = deviation is not None or self._stays_inside(walk)
            if deviation is None and inside:
                deviation, inside = self._read_otherwise(index, difference)
                inside = inside and (deviation is not None or not self._altered & slots)
            if not inside:
                self._leave(1)
                continue
            if deviation is not None:
                verdict.deviations[deviation.name] += 1
                continue
            verdict.mismatches.append(Mismatch(self._alone(index), difference, (), self._before, self._used))
        if len(wrong) > _LOOKED_AT:
            rest = len(wrong) - _LOOKED_AT
            if verdict.mismatches:
                verdict.more += rest
            else:
                # Nobody has looked at them, so nothing is said of them.
                self._leave(rest)

    def _leave(self, count: int) -> None:
        """Count so many probes as not judged."""
        self._verdict.unjudged += count
        self._verdict.cases -= count
        self._verdict.formats[self._case.pair.name] -= count

    def _read_otherwise(self, index: int, difference: Difference) -> tuple[Deviation | None, bool]:
        """Walk again with the entries that the machine takes for others.

        Returns:
            The deviation, if our walk then comes to the machine's answer; and whether it stays inside the tables.
        """
        shadow = self._shadow
        walk, changed, deviation = difference.walk, list[tuple[Hpa, int]](), None
        readers = [found for found in self._deviations if found.reads_as is not None]
        try:
            for found in readers * _READ_OTHERWISE:
                other = found.reads_as(walk) if found.reads_as is not None else None
                if other is None:
                    continue
                changed.append((other[0], shadow.load_u64(other[0])))
                shadow.store_u64(*other)
                deviation, walk = found, self._trial.walk(self._shadow, self._case, index)
                self._excused.update(step.slot_hpa for step in all_steps(walk))
                if not self._stays_inside(walk):
                    return None, False
            if deviation is None:
                return None, True
            alone = self._alone(index)
            expected = self._trial.oracle.expected(alone, self._trial.predict(self._shadow, alone, marks=False))
            answer = difference.answer.reshape(1)
            if expected["ok"][0]:
                # What it finds there is not ours to say: no tag was put there. Nor was a write looked for there.
                expected["value"] = answer["value"]
                if int(alone.probes["means"][0]) == Means.ACCESS:
                    expected["hpa"] = answer["hpa"]
            same = expected == answer
            for found in self._deviations:
                if found.explains_all is not None:
                    same = same | found.explains_all(alone.probes, expected, answer)
            if not same[0]:
                return None, True
            self._altered.update(hpa for hpa, _ in (*changed, *walk.marks))
            return deviation, True
        finally:
            for slot, entry in reversed(changed):
                shadow.store_u64(slot, entry)

    def _marked_by_refused(self, slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
        """The slots without those that a known deviation explains: marks where no probe went that was made."""
        for found in self._deviations:
            marked = [(hpa, ours, theirs) for hpa, ours, theirs in slots if ours | found.marks & theirs == theirs]
            if not found.marks or not marked:
                continue
            # Without these entries, probes that are made must be made all the same.
            made = self._trial.predict(self._shadow, self._case, marks=False).status == 0
            for hpa, _, _ in marked:
                self._shadow.store_u64(Hpa(hpa), 0)
            still = self._trial.predict(self._shadow, self._case, marks=False).status == 0
            words_of(self._shadow, self._used)[:] = self._before
            if (made == still).all():
                self._verdict.deviations[found.name] += len(marked)
                slots = tuple(slot for slot in slots if slot not in marked)
        return slots

    def memory(self, ours: npt.NDArray[np.uint64], after: npt.NDArray[np.uint64]) -> None:
        """Compare the tables as the machine left them with those that our walks marked."""
        at = np.flatnonzero(ours != after)
        found = [(self._used.start + 8 * i, int(ours[i]), int(after[i])) for i in at[:1024].tolist()]
        found = [slot for slot in found if slot[0] not in self._excused and not self._left_so(slot)]
        slots = self._marked_by_refused(tuple(found))[:16]
        if slots:
            touching = self._who_touched({slot for slot, _, _ in slots})
            alone = self._case if touching is None else self._alone(touching)
            self._verdict.mismatches.append(Mismatch(alone, None, slots, self._before, self._used))

    def _left_so(self, slot: Slot) -> bool:
        """Whether a known deviation leaves an entry like this; it is counted."""
        _, ours, theirs = slot
        deviation = next((found for found in self._deviations if found.leaves(ours, theirs, self._used)), None)
        if deviation is not None:
            self._verdict.deviations[deviation.name] += 1
        return deviation is not None

    def _stays_inside(self, walk: Walk) -> bool:
        """Whether a walk reads tables only; elsewhere in RAM there is what the machine itself put there."""
        if isinstance(walk.result, Fault) and walk.result.kind is FaultKind.TABLE_OUTSIDE_MEMORY and walk.steps:
            last = walk.steps[-1]
            regime = self._case.stage_1 if last.stage == 1 and self._case.stage_1 is not None else self._case.stage_2
            # The right format says whether the entry leads anywhere: with an error planted, ours may say so of a hole.
            return regime.format.decode(last.entry, last.level, regime.controls)[0] not in (TABLE, LEAF)
        return all(self._used.start <= step.slot_hpa < self._used.end for step in all_steps(walk))

    def _alone(self, index: int) -> Case:
        """The case with one probe."""
        return replace(self._case, probes=self._case.probes[index : index + 1])

    def _who_touched(self, slots: set[int]) -> int | None:
        for index in range(min(len(self._case.probes), 2 * _LOOKED_AT)):
            if slots & {step.slot_hpa for step in all_steps(self._trial.walk(self._shadow, self._case, index))}:
                return index
        return None


def words_of(memory: PhysicalMemory, span: Range) -> npt.NDArray[np.uint64]:
    """The words of a part of memory, themselves."""
    first = span.start - memory.base >> 3
    return memory.words[first : first + (span.size >> 3)]


def all_steps(walk: Walk) -> list[Step]:
    return [found for step in walk.steps for found in (step, *step.under)]
