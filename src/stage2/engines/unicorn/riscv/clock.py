"""Virtual time: one clock word per machine, and the C function through which the `time` CSR reads it.

The function takes no argument, so it has the address of its word compiled in. Slots are therefore kept for the
life of the process and handed from one machine to the next.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from ....formats.u64 import u64
from ....tables.compiled import numba
from ....tables.raw import peek
from ..state import TICK_SHIFT


class Clock:
    """Virtual time in bytes of executed code; a tick of the `time` CSR is 128 of them."""

    def __init__(self) -> None:
        self._word = ctypes.c_uint64(0)
        address, shift = ctypes.addressof(self._word), TICK_SHIFT
        module = numba()

        def ticks() -> int:
            return peek(u64(address), u64(0)) >> u64(shift)

        self._compiled: Any = module.cfunc(module.types.uint64(), nopython=True)(ticks)

    @property
    def address(self) -> int:
        """Address of the word."""
        return ctypes.addressof(self._word)

    @property
    def function(self) -> int:
        """Address of the C function that returns the ticks."""
        address: int = self._compiled.address
        return address

    @property
    def now(self) -> int:
        """Bytes of code executed so far."""
        return self._word.value

    @now.setter
    def now(self, value: int) -> None:
        self._word.value = value


_free: list[Clock] = []
_lock = threading.Lock()


def take_clock() -> Clock:
    """A clock at zero that no other machine uses."""
    with _lock:
        clock = _free.pop() if _free else Clock()
    clock.now = 0
    return clock


def give_clock(clock: Clock) -> None:
    """Let another machine have the clock; nothing may run on it any more."""
    with _lock:
        _free.append(clock)
