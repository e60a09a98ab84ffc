"""Kernels as the plain Python that they are written in, for work too small to load a compiler for.

A kernel's sources mean the same in both forms; what differs is handed to it here: numbers as Python's own, which wrap
around only where `u64` cuts them, arrays that give and take such numbers, and memory by address, bounded to the host
physical memory and the arrays that the kernel was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from . import raw

if TYPE_CHECKING:
    from ..memory.physical import PhysicalMemory

_memories: WeakValueDictionary[int, PhysicalMemory] = WeakValueDictionary()
"""Host physical memories by the address of their further ranges, which is in what kernels know of them."""
_HOST, _FURTHER = 5, 3
"""Numbers that kernels know of host memory, and which of them says whose they are."""


def remember(further: int, memory: PhysicalMemory) -> None:
    """Let plain runs find a memory that kernels know by numbers."""
    _memories[further] = memory


class _Array:
    """An array with Python's own numbers for elements."""

    def __init__(self, array: Any) -> None:
        self._array, self._items = array, memoryview(array)
        self.shape: tuple[int, ...] = array.shape
        self._mask = (1 << 8 * array.itemsize) - 1

    def __getitem__(self, at: Any) -> Any:
        return self._items[at]

    def __setitem__(self, at: Any, value: int) -> None:
        if isinstance(at, slice):
            self._array[at] = value & self._mask
        else:
            self._items[at] = value & self._mask

    @property
    def ctypes(self) -> Any:
        return self._array.ctypes


def run(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a kernel's function with a kernel's arguments; it answers with Python's own numbers."""
    reach: list[raw.Stretch] = []
    plain = [_plain(argument, reach) for argument in arguments]
    with raw.reaching(reach):
        return function(*plain)


def _plain(argument: Any, reach: list[raw.Stretch]) -> Any:
    """A kernel's argument for a plain run; what it makes reachable is added to `reach`."""
    if isinstance(argument, tuple):
        found = tuple(_plain(part, reach) for part in argument)
        if len(found) == _HOST:
            reach += host_stretches(found)
        return found
    if isinstance(argument, np.ndarray):
        if argument.dtype == np.uint64 and argument.flags.c_contiguous and argument.size:
            reach.append((argument.ctypes.data, argument.size, argument.reshape(-1).data))
        return _Array(argument)
    return int(argument)


def host_stretches(host: tuple[int, ...]) -> list[raw.Stretch]:
    """What kernels may reach of host physical memory: a stretch for each of its ranges, and the table of those."""
    memory = _memories[host[_FURTHER]]
    words, table = memory.words.data, memory.range_table
    found: list[raw.Stretch] = []
    for part in memory.ranges:
        first, count = (part.start - memory.base) >> 3, part.size >> 3
        found.append((memory.hva + (part.start - memory.base), count, words[first : first + count]))
    found.append((table.ctypes.data, table.size, table.reshape(-1).data))
    return found
