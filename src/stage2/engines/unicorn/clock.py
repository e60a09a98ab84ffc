"""The virtual time of a machine: it goes on with executed code, and jumps when nothing is to be executed."""

from __future__ import annotations

import ctypes

from ...errors import OutOfRangeError
from ...hypervisor.time import NANOS_PER_SEC, TimeValue
from ...vm.boot import TIMER_HZ
from .state import NEVER, TICK_SHIFT

BYTES_PER_SEC = TIMER_HZ << TICK_SHIFT
"""Bytes of executed code that are a second."""


class EngineClock:
    """A machine's one clock (`hypervisor.clock.Clock`): a word that the compiled callbacks count up.

    They add the bytes of every block that is executed.
    """

    def __init__(self) -> None:
        self._word = ctypes.c_uint64(0)

    @property
    def address(self) -> int:
        """Address of the word."""
        return ctypes.addressof(self._word)

    @property
    def code(self) -> int:
        """Bytes of code executed so far; jumps count as the code that was not."""
        return self._word.value

    def now(self) -> TimeValue:
        """The time since the machine began."""
        return TimeValue(self._word.value * NANOS_PER_SEC // BYTES_PER_SEC)

    @staticmethod
    def code_at(nanos: int) -> int:
        """What `code` is at the first moment that is not before a time; `NEVER` where it cannot be counted so far."""
        return min(-(-nanos * BYTES_PER_SEC // NANOS_PER_SEC), NEVER)

    def advance_to(self, then: TimeValue) -> None:
        """Let the time be `then`, because nothing is to be executed until then.

        Raises:
            OutOfRangeError: that would be going back.
        """
        code = self.code_at(then.nanos)
        if code < self._word.value:
            raise OutOfRangeError(f"a clock does not go back: it is {self.now()}, and {then} was wanted")
        self._word.value = code

    def set(self, code: int) -> None:
        """Let `code` be what it was in another run of the machine, or before."""
        self._word.value = code

    def restart(self) -> None:
        """Begin at zero, for another machine."""
        self._word.value = 0
