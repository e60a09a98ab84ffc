"""The smallest case that still shows a mismatch: one probe, few entries, few bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..address import Gva, Hpa
from ..errors import MachineError
from ..flags import Access, MappingFlags
from ..tables.explain import explain_stage, explain_two_stage
from ..tables.result import Mapped
from .oracle import Case, Machine, Places
from .trial import Trial
from .verdict import Mismatch, Verdict

_TRIES = 400


class Shrinker:
    """Makes a mismatch smaller as long as the machine and our walker go on to differ.

    Args:
        trial: how cases are compared.
        machine: a running machine; if a case kills it, shrinking ends with what was found by then.
        places: those of the case's pair.
    """

    def __init__(self, trial: Trial, machine: Machine, places: Places) -> None:
        self._trial, self._machine, self._places, self._tries = trial, machine, places, 0
        self._smallest: Mismatch | None = None
        self.lost = False
        """A case killed the machine."""

    def shrink(self, mismatch: Mismatch) -> Mismatch:
        """The smaller mismatch; the same one if it does not show again by itself."""
        try:
            found = self._again(mismatch, mismatch.words)
            if found is not None:
                self._drop_bits(self._drop_words(found))
        except MachineError:
            self.lost = True
        return self._smallest or mismatch

    def _again(self, mismatch: Mismatch, words: npt.NDArray[np.uint64]) -> Mismatch | None:
        """Whether the same probe still differs on these tables."""
        if self._tries >= _TRIES:
            return None
        self._tries += 1
        used, memory = mismatch.used, self._machine.memory
        memory.write(Hpa(used.start), words)
        try:
            if not self._guest_can_run(mismatch.case):
                return None
            verdict: Verdict = self._trial.case(self._machine, mismatch.case, self._places, used)
        finally:
            memory.zero(used)
        found = next(iter(verdict.mismatches), None)
        if found is None or _signature(found) != _signature(mismatch):
            return None
        self._smallest = found
        return found

    def _guest_can_run(self, case: Case) -> bool:
        """Whether what the oracle's guest needs is mapped still: without it everything would differ."""
        memory = self._machine.memory
        for fixture in self._places.fixtures:
            user = bool(fixture.flags & MappingFlags.USER)
            for access in (found for found in Access if found.flag & fixture.flags):
                if fixture.stage == 2:
                    walk = explain_stage(memory, case.stage_2, fixture.address, access, user=user)
                elif case.stage_1 is not None:
                    walk = explain_two_stage(
                        memory, case.stage_1, case.stage_2, Gva(fixture.address), access, user=user
                    )
                else:
                    continue
                # What its guest's own accesses would mark is no mark of the probe's.
                if not isinstance(walk.result, Mapped) or walk.marks:
                    return False
                if fixture.stage == 2 and walk.result.hpa != fixture.target:
                    return False
        return True

    def _drop_words(self, found: Mismatch) -> Mismatch:
        """Clear entries, half of those that are left at a time, then quarters, and so on."""
        left = np.flatnonzero(found.words)
        chunk = max(len(left) // 2, 1)
        while chunk and len(left):
            at = 0
            while at < len(left):
                words = found.words.copy()
                words[left[at : at + chunk]] = 0
                smaller = self._again(found, words)
                if smaller is None:
                    at += chunk
                else:
                    found, left = smaller, np.delete(left, slice(at, at + chunk))
            chunk = 0 if chunk == 1 else chunk // 2
        return found

    def _drop_bits(self, found: Mismatch) -> Mismatch:
        """Clear single bits of the entries that are left, and of the address."""
        for index in np.flatnonzero(found.words).tolist():
            for bit in range(63, -1, -1):
                words = found.words.copy()
                if not int(words[index]) >> bit & 1:
                    continue
                words[index] ^= np.uint64(1 << bit)
                found = self._again(found, words) or found
        for bit in range(63, 2, -1):
            probes = found.case.probes.copy()
            if int(probes["address"][0]) >> bit & 1:
                probes["address"][0] ^= np.uint64(1 << bit)
                found = self._again(replace(found, case=replace(found.case, probes=probes)), found.words) or found
        return found


def _signature(found: Mismatch) -> tuple[object, ...]:
    """What kind of mismatch it is: a smaller case must show the same."""
    if found.difference is None:
        return ("memory",)
    sides = (found.difference.expected, found.difference.answer)
    return tuple((int(side["ok"]), int(side["stage"])) for side in sides)
