"""Records of one size in the hypervisor's own frames, given out and taken back by number."""

from __future__ import annotations

from dataclasses import dataclass

from ..address import SIZE_4K, Hpa, Range, align_up
from ..errors import OutOfMemoryError, OutOfRangeError
from ..memory.frames import FrameAllocator
from ..memory.owners import Owner

WORD = 8
NOTHING = (1 << 64) - 1
"""Instead of the number of a record: there is none."""


@dataclass(frozen=True, slots=True)
class SlabUse:
    """How full a slab is.

    Args:
        capacity: records that it has room for.
        used: records that are given out.
        frames: bytes of host memory behind it.
    """

    capacity: int
    used: int
    frames: int


class Slab:
    """A fixed number of records, each a few 64-bit words in host memory.

    Free records are linked through their first word, so that giving one out, or taking one back, touches one record.

    Args:
        frames: the host's memory.
        owner: whose frames they are.
        words: of one record.
        capacity: how many records there are.
        what: a record's name in errors: "timer".

    Raises:
        OutOfRangeError: no record, or records of no word.
        OutOfMemoryError: the host has no such run of frames.
    """

    def __init__(self, frames: FrameAllocator, *, owner: Owner, words: int, capacity: int, what: str) -> None:
        if words < 1 or capacity < 1:
            raise OutOfRangeError(f"a slab of {capacity} records of {words} words holds nothing")
        self._frames, self.owner, self._words, self._what = frames, owner, words, what
        self.capacity = capacity
        size = align_up(capacity * words * WORD, SIZE_4K)
        self.span = Range.sized(frames.allocate(size, align=SIZE_4K, owner=owner), size)
        self._view = frames.memory.view(Hpa(self.span.start), size).cast("Q")
        self._used = 0
        self._free = NOTHING
        self._untouched = 0

    @property
    def use(self) -> SlabUse:
        """How full it is."""
        return SlabUse(self.capacity, self._used, self.span.size)

    def take(self, *values: int) -> int:
        """Give a record out.

        Args:
            values: its first words.

        Returns:
            Its number.

        Raises:
            OutOfMemoryError: all are given out; nothing changed.
        """
        number = self._free
        if number != NOTHING:
            self._free = self._view[number * self._words]
        elif self._untouched < self.capacity:
            # Records that were never given out are in no list, so that making a slab touches no memory.
            number = self._untouched
            self._untouched += 1
        else:
            raise OutOfMemoryError(f"no {self._what} is left: all {self.capacity} are in use")
        self._used += 1
        at = number * self._words
        for offset, value in enumerate(values):
            self._view[at + offset] = value
        return number

    def give(self, number: int) -> None:
        """Take a record back; its words are cleared."""
        at = number * self._words
        for offset in range(1, self._words):
            self._view[at + offset] = 0
        self._view[at] = self._free
        self._free = number
        self._used -= 1

    def word(self, number: int, offset: int) -> int:
        """A word of a record."""
        return self._view[number * self._words + offset]

    def put(self, number: int, offset: int, value: int) -> None:
        """Set a word of a record."""
        self._view[number * self._words + offset] = value

    def close(self) -> None:
        """Give the frames back."""
        self._view.release()
        self._frames.free(self.span, owner=self.owner)
