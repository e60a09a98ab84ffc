"""Memory by host virtual address, and C functions, for kernels.

The functions here do in compiled code what `define` says. In a plain run of a kernel, memory is what the run was given
to reach, aligned words of it.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ..formats.u64 import MASK_64

Stretch = tuple[int, int, memoryview]
"""(first host virtual address, number of 64-bit words, the words)."""
_LAST_WORD = MASK_64 >> 3
"""Where addresses wrap around, counted in words."""

_reach: tuple[Stretch, ...] = ()
"""What the plain runs of this moment may reach, all threads' together; replaced as a whole."""
_lock = threading.Lock()
_run = threading.local()
"""What the plain run of a thread may reach: `parts`."""
_FUNCTIONS = tuple(ctypes.CFUNCTYPE(None, *[ctypes.c_uint64] * count) for count in (1, 3))


def stretch(address: int, size: int) -> Stretch:
    """Memory that is nobody's array, whole words of it.

    It must stay where it is as long as the stretch is held.
    """
    count = size >> 3
    words = (ctypes.c_uint64 * count).from_address(address)
    return address, count, memoryview(words).cast("B").cast("Q")


@contextmanager
def reaching(stretches: Sequence[Stretch]) -> Iterator[None]:
    """Let plain code reach memory for a while."""
    global _reach
    outer, mine = getattr(_run, "parts", None), list(stretches)
    _run.parts = mine
    with _lock:
        _reach += tuple(mine)
    try:
        yield
    finally:
        _run.parts = outer
        with _lock:
            gone = {id(part) for part in mine}
            _reach = tuple(part for part in _reach if id(part) not in gone)


def room(words: int) -> Any:
    """An array of zeros for a kernel's own use, until it ends; what it holds is reached by address."""
    global _reach
    import numpy as np

    array = np.zeros(words, np.uint64)
    part = array.ctypes.data, array.size, array.data
    with _lock:
        _reach += (part,)
    _run.parts.append(part)
    return array


def _unreachable(hva: int) -> IndexError:
    return IndexError(f"a kernel that runs as plain Python reached for host virtual address {hva & MASK_64:#x}")


def peek(hva: int, index: int) -> int:
    """The word `index` words after a host virtual address."""
    for start, count, words in _reach:
        distance = hva - start
        position = (distance >> 3) + index & _LAST_WORD
        if position < count and not distance & 7:
            word: int = words[position]
            return word
    raise _unreachable(hva)


def poke(hva: int, index: int, word: int) -> None:
    """Store a word `index` words after a host virtual address."""
    for start, count, words in _reach:
        distance = hva - start
        position = (distance >> 3) + index & _LAST_WORD
        if position < count and not distance & 7:
            words[position] = word & MASK_64
            return
    raise _unreachable(hva)


def peek_byte(hva: int, index: int) -> int:
    """The byte `index` bytes after a host virtual address."""
    at = hva + index
    return (peek(at & ~7, 0) >> 8 * (at & 7)) & 0xFF


def poke_byte(hva: int, index: int, value: int) -> None:
    """Store a byte `index` bytes after a host virtual address."""
    at = hva + index
    shift = 8 * (at & 7)
    poke(at & ~7, 0, (peek(at & ~7, 0) & ~(0xFF << shift)) | (value & 0xFF) << shift)


def prefetch(hva: int) -> None:
    """Ask the cache for the word at a host virtual address."""


def call_1(function: int, a: int) -> None:
    """Call a C function by its address, with one word."""
    _FUNCTIONS[0](function)(a)


def call_3(function: int, a: int, b: int, c: int) -> None:
    """Call a C function by its address, with three words."""
    _FUNCTIONS[1](function)(a, b, c)


def define(module: Any) -> None:
    """Give the functions above their meaning in code that `module`, which is numba, compiles."""
    extending: Any = import_module("numba.extending")
    overload = extending.overload
    word, byte = _Memory(module, 64), _Memory(module, 8)
    get_word, put_word, get_byte, put_byte = word.load(), word.store(), byte.load(), byte.store()
    prefetches, one, three = _prefetch(module), _caller(module, 1), _caller(module, 3)
    # Lambdas, because numba compares the two signatures to the letter, annotations included.
    overload(peek, inline="always")(lambda hva, index: lambda hva, index: get_word(hva, index))
    overload(poke, inline="always")(lambda hva, index, word: lambda hva, index, word: put_word(hva, index, word))
    overload(peek_byte, inline="always")(lambda hva, index: lambda hva, index: get_byte(hva, index))
    overload(poke_byte, inline="always")(
        lambda hva, index, value: lambda hva, index, value: put_byte(hva, index, value)
    )
    zeros, kind = import_module("numpy").zeros, module.uint64
    overload(room, inline="always")(lambda words: lambda words: zeros(words, kind))
    overload(prefetch, inline="always")(lambda hva: lambda hva: prefetches(hva))
    overload(call_1, inline="always")(lambda function, a: lambda function, a: one(function, (a,)))
    overload(call_3, inline="always")(lambda function, a, b, c: lambda function, a, b, c: three(function, (a, b, c)))


class _Memory:
    """Loads and stores of unsigned numbers of so many bits.

    They take a base and an index, so that LLVM sees the rows of a table as arrays and vectorises loops over them.
    """

    def __init__(self, module: Any, bits: int) -> None:
        self._module, self._bits = module, bits

    def load(self) -> Any:
        from llvmlite import ir

        unsigned, kind = self._module.types.uint64, ir.IntType(self._bits)

        def load(typing_context: Any, hva: Any, index: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                pointer = builder.inttoptr(given[0], kind.as_pointer())
                return builder.zext(builder.load(builder.gep(pointer, [given[1]])), ir.IntType(64))

            return unsigned(unsigned, unsigned), generate

        return import_module("numba.extending").intrinsic(load)

    def store(self) -> Any:
        from llvmlite import ir

        types, kind = self._module.types, ir.IntType(self._bits)

        def store(typing_context: Any, hva: Any, index: Any, value: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                pointer = builder.inttoptr(given[0], kind.as_pointer())
                builder.store(builder.trunc(given[2], kind), builder.gep(pointer, [given[1]]))
                return context.get_dummy_value()

            return types.void(types.uint64, types.uint64, types.uint64), generate

        return import_module("numba.extending").intrinsic(store)


def _prefetch(module: Any) -> Any:
    from llvmlite import ir

    cgutils: Any = import_module("numba.core.cgutils")
    i32 = ir.IntType(32)

    def prefetch_word(typing_context: Any, hva: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            pointer = builder.inttoptr(given[0], ir.IntType(8).as_pointer())
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32]), "llvm.prefetch.p0"
            )
            builder.call(function, [pointer, i32(0), i32(3), i32(1)])
            return context.get_dummy_value()

        return module.types.void(module.types.uint64), generate

    return import_module("numba.extending").intrinsic(prefetch_word)


def _caller(module: Any, arguments: int) -> Any:
    from llvmlite import ir

    types = module.types

    def call(typing_context: Any, function: Any, values: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * arguments).as_pointer()
            values = [builder.extract_value(given[1], i) for i in range(arguments)]
            builder.call(builder.inttoptr(given[0], kind), values)
            return context.get_dummy_value()

        return types.void(types.uint64, types.UniTuple(types.uint64, arguments)), generate

    return import_module("numba.extending").intrinsic(call)
