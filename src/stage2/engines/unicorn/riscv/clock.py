"""The C function through which the `time` CSR reads a machine's clock.

The function takes no argument, so it has the address of its word compiled in. Clocks are therefore kept for the life of
the process and handed from one machine to the next.
"""

from __future__ import annotations

import threading
from typing import Any

from ....formats.u64 import u64
from ....tables.compiled import numba
from ....tables.raw import peek
from ..clock import EngineClock
from ..state import TICK_SHIFT


class RiscvClock(EngineClock):
    """A clock that the `time` CSR shows, in ticks of `vm.boot.TIMER_HZ`."""

    def __init__(self) -> None:
        super().__init__()
        address, shift = self.address, TICK_SHIFT
        module = numba()

        def ticks() -> int:
            return peek(u64(address), u64(0)) >> u64(shift)

        self._compiled: Any = module.cfunc(module.types.uint64(), nopython=True)(ticks)

    @property
    def function(self) -> int:
        """Address of the C function that returns the ticks."""
        address: int = self._compiled.address
        return address


_free: list[RiscvClock] = []
_lock = threading.Lock()


def take_clock() -> RiscvClock:
    """A clock at zero that no other machine uses."""
    with _lock:
        clock = _free.pop() if _free else RiscvClock()
    clock.restart()
    return clock


def give_clock(clock: RiscvClock) -> None:
    """Let another machine have the clock; nothing may run on it any more."""
    with _lock:
        _free.append(clock)
