"""VMIDs, VPIDs and AMD's ASIDs for more VMs than there are numbers: generations, and roll-over when they run out.

A number that a VM gave up may still tag entries in some TLB, so it is not given to another until all TLBs were told to
forget it: either it was retired by itself, or all numbers start again in a new generation, before which every CPU
drops everything (`formats.invalidation.roll_over`). VMs that run at that moment keep theirs.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from ..errors import OutOfRangeError


@dataclass(frozen=True, slots=True)
class Assignment:
    """A number given to a holder.

    Args:
        number: the VMID.
        rolled_over: all numbers started again; every CPU must drop everything before this one is used.
    """

    number: int
    rolled_over: bool = False


class Identifiers:
    """Gives numbers from 1 on; 0 is the host's.

    Args:
        bits: width of the number: 8 or 16 for a VMID of Arm, up to 14 for RISC-V, 16 for a VPID.

    Raises:
        OutOfRangeError: fewer than 1 bit.
    """

    def __init__(self, bits: int) -> None:
        if bits < 1:
            raise OutOfRangeError(f"an identifier has at least 1 bit, not {bits}")
        self.bits = bits
        self.generation = 0
        self._next = 1
        """Every number below it is taken."""
        self._numbers: dict[Hashable, int] = {}
        self._taken: set[int] = set()
        self._running: dict[Hashable, int] = {}

    def acquire(self, holder: Hashable, wanted: int | None = None) -> Assignment:
        """The number of a holder that begins to run on a CPU; the same as before unless the numbers started again.

        Args:
            holder: who it is.
            wanted: the number that it gets if nobody has it.

        Raises:
            OutOfRangeError: every number is that of a VM that runs at this moment.
        """
        number, rolled_over = self._numbers.get(holder), False
        if number is None:
            if len(self._taken) == self._count:
                self._start_again()
                rolled_over = True
            number = self._free_number(wanted)
            self._numbers[holder] = number
            self._taken.add(number)
        self._running[holder] = self._running.get(holder, 0) + 1
        return Assignment(number, rolled_over)

    def leave(self, holder: Hashable) -> None:
        """The holder stops to run on one CPU. It keeps its number until the numbers start again."""
        self._running[holder] -= 1
        if not self._running[holder]:
            del self._running[holder]

    def retire(self, holder: Hashable) -> None:
        """The holder is gone, and all TLBs have forgotten its number: another may have it."""
        self._running.pop(holder, None)
        number = self._numbers.pop(holder, None)
        if number is not None:
            self._taken.remove(number)
            self._next = min(self._next, number)

    def number_of(self, holder: Hashable) -> int | None:
        """The holder's number in this generation."""
        return self._numbers.get(holder)

    @property
    def _count(self) -> int:
        return (1 << self.bits) - 1

    def _free_number(self, wanted: int | None) -> int:
        """A number that nobody has; there is one."""
        if wanted is not None and 0 < wanted <= self._count and wanted not in self._taken:
            return wanted
        while self._next in self._taken:
            self._next += 1
        return self._next

    def _start_again(self) -> None:
        kept = {holder: self._numbers[holder] for holder in self._running}
        if len(kept) == self._count:
            raise OutOfRangeError(f"all {self._count} identifiers of {self.bits} bits belong to running VMs")
        self._numbers, self._taken, self._next = kept, set(kept.values()), 1
        self.generation += 1
