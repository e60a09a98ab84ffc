"""How much Python keeps beside host memory for the hypervisor's own ends."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from ..memory.physical import PhysicalMemory

_OWN = "stage2."
_SHARED = ("stage2.formats.", "stage2.processor.")
"""Records that exist once, whoever uses them."""
_NOT_DATA = (
    type, ModuleType, FunctionType, MethodType, BuiltinFunctionType, Enum, memoryview, PhysicalMemory,
)  # fmt: skip


def python_bytes(roots: Iterable[object], *, without: Iterable[object] = ()) -> int:
    """Bytes of the Python objects that `roots` consist of: containers, numbers, arrays, objects of our own classes.

    Host memory, code, and what all VMs share (formats, processors) do not count. An object counts once.

    Args:
        roots: where to begin.
        without: objects that are accounted elsewhere, with all that is reached only through them.
    """
    seen = {id(item) for item in without}
    todo, total = list(roots), 0
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, _NOT_DATA) or type(item).__module__.startswith(_SHARED):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        todo += _parts(item)
    return total


def _parts(item: Any) -> Iterator[object]:
    """What an object consists of."""
    if isinstance(item, dict):
        yield from item.keys()
        yield from item.values()
    elif isinstance(item, list | tuple | set | frozenset | deque):
        yield from item
    elif type(item).__module__.startswith(_OWN):
        yield getattr(item, "__dict__", None)
        for kind in type(item).__mro__:
            slots = getattr(kind, "__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                yield getattr(item, slot, None)
