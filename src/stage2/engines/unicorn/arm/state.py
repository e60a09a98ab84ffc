"""The words that an AArch64 vCPU's callbacks share with Python: those of `..state`, and a few more."""

from __future__ import annotations

import ctypes
from enum import IntEnum, auto

from ..state import State, Word


class ArmWord(IntEnum):
    """Indices after the common words."""

    TABLE_LEVEL = len(Word)
    """Stage-1 level at which a refused walk was, counted from the smallest page."""
    UNPRIVILEGED = auto()
    """1 when the refused access was made with EL0's rights, at EL0 or by LDTR and STTR at EL1."""
    NUMBER = auto()
    """The exception number that ended a run."""


class ArmReason(IntEnum):
    """Why a run ended, or a fill was refused."""

    NOTHING = 0
    """The guest waits for an interrupt, or the run was not ended by us."""
    FAULT = 1
    """STATUS says which stage refused."""
    HYPERCALL = 2
    STOP = 4
    GRANULE = 6
    """The guest's tables have another granule than the compiled walker."""
    AARCH32 = 7
    """The guest left AArch64 state."""
    TRAP = 8
    """An exception to EL2 or EL3 that is no call."""
    DEVICE = 9
    """Stage 2 leads to an HPA where there is no memory: a passed-through device, which is not here."""


class ArmState(State):
    """The block itself."""

    def __init__(self) -> None:
        self._words = (ctypes.c_uint64 * (len(Word) + len(ArmWord)))()

    def __getitem__(self, word: Word | ArmWord) -> int:
        return self._words[word]

    def __setitem__(self, word: Word | ArmWord, value: int) -> None:
        self._words[word] = value
