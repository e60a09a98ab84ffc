"""Kernels: compiled with numba and kept, or run as the plain Python that they are while that is sooner done.

Only outermost functions (batch kernels, callbacks) are compiled and cached; everything below them is injected as
plain Python and inlined by numba. Importing numba and loading a kernel takes as long as plain Python takes for some
hundred thousand entries, and compiling one several times that; so whoever asks a kernel for work says how much it is.

Nothing else in the package imports numba, but for `raw`, which this module prepares.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property, partial
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

from ..formats.outcome import TABLE_OUTSIDE_MEMORY
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from . import kernel_cache, raw, uncompiled
from .compiling import Progress
from .raw import peek, poke

if TYPE_CHECKING:
    from ..memory.physical import PhysicalMemory

_FORMATS = f"{__package__.rpartition('.')[0]}.formats."
_lock = threading.RLock()
_Function = TypeVar("_Function", bound=Callable[..., Any])

CALL_WORK = 100
"""What calling a kernel as plain Python costs, in entries that it goes over."""
LOAD_WORK = 150_000
"""After so many entries as plain Python numba is imported, and a kernel loaded that was compiled before."""
COMPILE_WORK = 600_000
"""After so many entries as plain Python a kernel of one format is compiled that no process compiled before; one of two
takes twice as long."""


_never_plain: Callable[[Format], bool] | None = None


def compile_at_once(of: Callable[[Format], bool] = lambda _: True) -> None:
    """Run no kernel of this process as plain Python, however small its work: for tests and for measuring.

    Args:
        of: whether that is so for a format; a kernel of several is compiled at once if it is so for all of them.
    """
    global _never_plain
    _never_plain = of


HostMemory = tuple[Any, Any, Any, Any, Any]
"""(delta, start, end, further ranges, their number): what kernels know of host physical memory. All five are
unsigned 64-bit numbers, so passing them on costs no reference counting. `delta` added to an HPA gives the HVA."""


def host_memory(memory: PhysicalMemory) -> HostMemory:
    """The numbers through which kernels see host physical memory; valid as long as `memory` is open."""
    import numpy as np

    table = memory.range_table
    delta = (memory.hva - memory.base) & MASK_64
    further = table.ctypes.data + table.itemsize * 2
    uncompiled.remember(further, memory)
    return np.uint64(delta), table[0, 0], table[0, 1], np.uint64(further), np.uint64(len(table) - 1)


def load(host: Any, address: int) -> tuple[int, int]:
    """(0, word) at an HPA, or (TABLE_OUTSIDE_MEMORY, 0)."""
    delta, start, end, further, count = host
    # One comparison for both ends; the further ranges are rare and stay out of the inlined path.
    if u64(address - start) < u64(end - start) or in_further_range(further, count, address):
        return u64(0), peek(address + delta, u64(0))
    return u64(TABLE_OUTSIDE_MEMORY), u64(0)


def in_further_range(further: int, count: int, address: int) -> bool:
    """Whether an HPA lies in one of the ranges after the first."""
    while count != u64(0):
        if peek(further, u64(0)) <= address and address < peek(further, u64(1)):
            return True
        further += u64(16)
        count -= u64(1)
    return False


def store(host: Any, address: int, word: int) -> None:
    """Publish a word with one aligned 64-bit store; the address came out of a successful load."""
    poke(address + host[0], u64(0), word)


def keep_marks_back(host: Any, address: int, word: int) -> None:
    """The store of lookups and batches, which never touch: accessed and dirty bits stay as they are."""


_numba: Any = None
_waiting: list[Callable[..., Any]] = []
"""Functions that compiled code may call, for when there is a compiler."""
_progress = Progress()


def numba() -> Any:
    """The numba module, prepared for the compilable subset."""
    global _numba
    with _lock:
        if _numba is None:
            _numba = _prepared()
            for function in _waiting:
                _register(function)
            _waiting.clear()
    return _numba


def _prepared() -> Any:
    import numba as module
    from numba.extending import overload, register_jitable

    event: Any = import_module("numba.core.event")

    # Lambdas, because numba compares the two signatures to the letter, annotations included.
    overload(u64)(lambda value: lambda value: module.uint64(value))
    raw.define(module)
    register_jitable(in_further_range)
    event.Listener.register(Progress)
    event.register("numba:compile", _progress)
    return module


def inlined(function: _Function) -> _Function:
    """Let compiled code call a plain function of the compilable subset, and what a format's function calls itself."""
    with _lock:
        if _numba is None:
            _waiting.append(function)
        else:
            _register(function)
    return function


@cache
def _register(function: Callable[..., Any]) -> None:
    from numba.extending import register_jitable

    for name in function.__code__.co_names:
        helper = function.__globals__.get(name)
        if isinstance(helper, FunctionType) and helper is not u64 and helper.__module__.startswith(_FORMATS):
            _register(helper)
    # Nobody but compiled code calls it, so it needs no way in for others.
    register_jitable(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


class _TwoForms:
    """A function that runs as plain Python until its compiled form pays.

    Args:
        function: in the compilable subset.
        formats: the formats injected into it; a format defined outside this package is hashed too.
    """

    def __init__(self, function: Callable[..., Any], formats: tuple[Format, ...]) -> None:
        self.function = function
        self._formats = formats

    @cached_property
    def _kept(self) -> bool:
        """Whether some process has compiled it before."""
        return kernel_cache.is_kept(kernel_cache.cache_folder(self.function, self._formats))

    @cached_property
    def _at_once(self) -> bool:
        """Whether it is not to wait until that pays."""
        return _never_plain is not None and all(_never_plain(fmt) for fmt in self._formats)

    def _pays(self, work: int) -> bool:
        """Whether compiled code would have done so much work sooner, the making of it included."""
        if self._at_once:
            return True
        if work < LOAD_WORK and _numba is None:
            return False
        return self._kept or work >= COMPILE_WORK * max(len(self._formats), 1)


class Kernel(_TwoForms):
    """An outermost function that goes over entries of tables; see `kernel`."""

    def __init__(
        self, function: Callable[..., Any], formats: tuple[Format, ...] = (), plain: Callable[..., Any] | None = None
    ) -> None:
        super().__init__(function, formats)
        self.ready: Callable[..., Any] | None = None
        """The compiled form, once it is there."""
        self._plain = partial(uncompiled.run, plain or function)
        self._work = 0

    def __call__(self, *arguments: Any) -> Any:
        """The compiled form."""
        return (self.ready or self.compiled)(*arguments)

    def for_work(self, entries: Callable[[], int]) -> Callable[..., Any]:
        """The form that is sooner done, the work that the kernel did as plain Python taken into account.

        Args:
            entries: says how many entries of tables the kernel will go over, at most; asked only when it matters.
        """
        if self.ready is not None:
            return self.ready
        self._work += CALL_WORK + entries()
        return self.compiled if self._pays(self._work) else self._plain

    @property
    def compiled(self) -> Any:
        """The compiled form: numba's dispatcher, which compiles or loads at its first call, without the GIL."""
        with _lock:
            if self.ready is None:
                self.ready = _compiled(self.function, self._formats)
            return self.ready


class Fixed(Kernel):
    """A kernel whose arguments always have the same types, called without numba's dispatcher, which looks at each.

    Python's integers are taken for 64-bit words.
    """

    @cached_property
    def _dispatcher(self) -> Any:
        return _compiled(self.function, self._formats)

    @property
    def compiled(self) -> Any:
        """The compiled form; its first call compiles or loads it."""
        return self.ready or self._first

    def _first(self, *arguments: Any) -> Any:
        from numpy import uint64

        result = self._dispatcher(*[uint64(given) if isinstance(given, int) else given for given in arguments])
        (compiled,) = self._dispatcher.overloads.values()
        self.ready = compiled.entry_point
        return result


def kernel(function: Callable[..., Any], *formats: Format, plain: Callable[..., Any] | None = None) -> Kernel:
    """A kernel of an outermost function.

    Args:
        function: in the compilable subset.
        formats: the formats injected into it; a format defined outside this package is hashed too.
        plain: what answers the same, and is run as plain Python, where `function` does what pays only compiled.
    """
    return Kernel(function, formats, plain)


def fixed(function: Callable[..., Any], *formats: Format) -> Fixed:
    """A kernel whose arguments always have the same types; see `kernel`."""
    return Fixed(function, formats)


def _compiled(function: Callable[..., Any], formats: tuple[Format, ...]) -> Any:
    folder = kernel_cache.cache_folder(function, formats)
    with _keeping(folder) as kept:
        dispatcher = numba().njit(cache=kept, nogil=True)(function)
    compile_now = dispatcher.compile

    def compile_alone(signature: Any) -> Any:
        with _announced(function, formats), kernel_cache.locked(folder):
            return compile_now(signature)

    dispatcher.compile = compile_alone
    return dispatcher


def callback(signature: Any, function: Callable[..., Any], *formats: Format) -> Any:
    """Compile a C callback with a fixed signature, cached like a kernel."""
    module, folder = numba(), kernel_cache.cache_folder(function, formats)
    with _announced(function, formats), _keeping(folder) as kept, kernel_cache.locked(folder):
        return module.cfunc(signature, nopython=True, cache=kept)(function)


class _Called(_TwoForms):
    """A function that is called for one thing at a time."""

    def pays(self, calls: int) -> bool:
        """Whether its compiled form would have answered so many calls sooner, the making of it included."""
        return self._pays(calls * CALL_WORK)


class Direct(_Called):
    """A function of plain words that gives one, called without a dispatcher, and with the GIL held.

    That is for what is over sooner than the GIL changes hands. It is cached like a kernel.
    """

    def __init__(self, function: Callable[..., int], *formats: Format) -> None:
        super().__init__(function, formats)

    @cached_property
    def entry(self) -> Callable[..., int]:
        """The compiled form. A number that does not fit 64 bits raises OverflowError."""
        folder = kernel_cache.cache_folder(self.function, self._formats)
        word = numba().types.uint64
        signature = word(*[word] * self.function.__code__.co_argcount)
        with _announced(self.function, self._formats), _keeping(folder) as kept, kernel_cache.locked(folder):
            compiled = numba().njit(signature, cache=kept)(self.function)
        entry: Callable[..., int] = compiled.overloads[signature.args].entry_point
        return entry


class Callback(_Called):
    """A C callback that is compiled when its address is asked for.

    Args:
        signature: gives numba's signature.
        function: in the compilable subset.
        formats: as a kernel's.
    """

    def __init__(self, signature: Callable[[], Any], function: Callable[..., Any], *formats: Format) -> None:
        super().__init__(function, formats)
        self._signature = signature

    @cached_property
    def _compiled(self) -> Any:
        return callback(self._signature(), self.function, *self._formats)

    @property
    def address(self) -> int:
        """Of the C function."""
        address: int = self._compiled.address
        return address


@contextmanager
def _keeping(folder: Path) -> Iterator[bool]:
    """Point numba at a kernel's folder while a function is being decorated, and only then.

    Yields whether that can be written: if not, numba would keep its files beside the sources.
    """
    kept = kernel_cache.prepare(folder)
    config = numba().config
    users: tuple[Any, ...] = import_module("numba.core.dispatcher"), import_module("numba.core.ccallback")
    with _lock, ExitStack() as undo:
        undo.callback(setattr, config, "CACHE_DIR", config.CACHE_DIR)
        config.CACHE_DIR = str(folder)
        for user in users:
            undo.callback(setattr, user, "FunctionCache", user.FunctionCache)
            user.FunctionCache = _function_cache()
        yield kept


@cache
def _function_cache() -> Any:
    """numba's cache of a function, but for what a kernel's folder tells already.

    numba tells functions apart by a pickle of what they closed over, which is another where the sources were compiled
    than where they were loaded as bytecode: the second process would compile all again.
    """
    caching: Any = import_module("numba.core.caching")

    class OfOneFolder(caching.FunctionCache):  # type: ignore[misc]
        def _index_key(self, signature: Any, codegen: Any) -> Any:
            return signature, codegen.magic_tuple(), self._py_func.__code__.co_code

    return OfOneFolder


@contextmanager
def _announced(function: Callable[..., Any], formats: tuple[Format, ...]) -> Iterator[None]:
    name = " and ".join(fmt.name for fmt in formats)
    _progress.begin(f"{function.__name__} for {name}" if name else function.__name__)
    try:
        yield
    finally:
        _progress.end()
