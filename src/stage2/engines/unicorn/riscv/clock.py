"""The C function through which the `time` CSR reads a machine's clock.

The function takes no argument, so it has the address of its word compiled in. The words of the first clocks lie at the
same addresses in every process, so that what one has compiled the next one loads. Clocks are kept for the life of the
process and handed from one machine to the next.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from functools import cache
from itertools import count
from typing import Any

from ....formats.u64 import u64
from ....tables.compiled import callback, numba
from ....tables.raw import peek
from ..clock import EngineClock
from ..state import TICK_SHIFT

_PAGE_AT = 0x5A2E_0000_0000
"""Between where Linux puts a program with its heap and where it puts libraries and mappings, in 47 bits."""
_PAGE_SIZE = 4096
_WORD_BYTES = 64
"""Apart, so that two machines' clocks are not in one line of a CPU's cache."""
_FIXED_NOREPLACE = 0x10_0000
_FAILED = ctypes.c_void_p(-1).value


@cache
def _page() -> int | None:
    """The page of the words; None where the host does not give it."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED_NOREPLACE
    got: int | None = libc.mmap(
        ctypes.c_void_p(_PAGE_AT), ctypes.c_size_t(_PAGE_SIZE), mmap.PROT_READ | mmap.PROT_WRITE, flags, -1,
        ctypes.c_long(0),
    )  # fmt: skip
    if got == _PAGE_AT:
        return got
    if got != _FAILED:
        # A kernel that does not know the flag takes the address for a wish.
        libc.munmap(ctypes.c_void_p(got), ctypes.c_size_t(_PAGE_SIZE))
    return None


class RiscvClock(EngineClock):
    """A clock that the `time` CSR shows, in ticks of `vm.boot.TIMER_HZ`.

    Args:
        number: how many clocks this process made before; the first 64 are at addresses of their own.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        page = _page() if number < _PAGE_SIZE // _WORD_BYTES else None
        if page is not None:
            self._word = ctypes.c_uint64.from_address(page + number * _WORD_BYTES)
        address, shift = self.address, TICK_SHIFT

        def ticks() -> int:
            return peek(u64(address), u64(0)) >> u64(shift)

        signature = numba().types.uint64()
        self._compiled: Any = (
            numba().cfunc(signature, nopython=True)(ticks) if page is None else callback(signature, ticks)
        )

    @property
    def function(self) -> int:
        """Address of the C function that returns the ticks."""
        address: int = self._compiled.address
        return address


_free: list[RiscvClock] = []
_made = count()
_lock = threading.Lock()


def take_clock() -> RiscvClock:
    """A clock at zero that no other machine uses."""
    with _lock:
        clock = _free.pop() if _free else RiscvClock(next(_made))
    clock.restart()
    return clock


def give_clock(clock: RiscvClock) -> None:
    """Let another machine have the clock; nothing may run on it any more."""
    with _lock:
        _free.append(clock)
