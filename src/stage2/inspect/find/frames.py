"""Tables that are looked at, with their entries that are not zero, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ...prove.packing import U64Array

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Frames:
    """Tables with their entries that are not zero.

    Args:
        at: addresses, in order.
        owner: of each entry, the number of the table.
        slot: its index in it.
        word: its value.
    """

    at: U64Array
    owner: Places
    slot: Places
    word: U64Array

    @cached_property
    def filler(self) -> Bools:
        """Entries that repeat the one before, or are repeated by the one after."""
        found = np.zeros(len(self.word), bool)
        if len(found) > 1:
            same = (self.word[1:] == self.word[:-1]) & (self.owner[1:] == self.owner[:-1])
            same &= self.slot[1:] == self.slot[:-1] + 1
            found[1:] |= same
            found[:-1] |= same
        return found

    def only(self, which: Bools) -> Frames:
        """Some of the tables."""
        number = np.cumsum(which) - 1
        kept = which[self.owner]
        return Frames(self.at[which], number[self.owner[kept]], self.slot[kept], self.word[kept])


def frames_of(at: U64Array, rows: U64Array) -> Frames:
    """Tables at addresses, each with a row of entries."""
    owner, slot = np.nonzero(rows)
    return Frames(at, owner, slot, rows[owner, slot])


def together(parts: Sequence[Frames]) -> Frames:
    """Frames together, in order of their addresses."""
    if not parts:
        none = np.zeros(0, np.intp)
        return Frames(np.zeros(0, np.uint64), none, none, np.zeros(0, np.uint64))
    at = np.concatenate([part.at for part in parts])
    firsts = np.cumsum([0, *(len(part.at) for part in parts)])
    owner = np.concatenate([part.owner + first for part, first in zip(parts, firsts.tolist(), strict=False)])
    slot, word = (np.concatenate([getattr(part, name) for part in parts]) for name in ("slot", "word"))
    order = np.argsort(at, kind="stable")
    if np.all(order[1:] > order[:-1]):
        return Frames(at, owner, slot, word)
    number = np.empty(len(at), np.intp)
    number[order] = np.arange(len(at))
    owner = number[owner]
    by_owner = np.argsort(owner, kind="stable")
    return Frames(at[order], owner[by_owner], slot[by_owner], word[by_owner])
