"""Compiling the walks with numba, and keeping what was compiled.

Only outermost functions (batch kernels, callbacks) are compiled and cached; everything below them is injected as
plain Python and inlined by numba. The cache folder's name is a hash of all sources that can end up in a kernel, so
an edited `decode` never runs from old machine code, and a second process starts from the cache.

Nothing else in the package imports numba, but for `raw`, which this module prepares.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

from ..formats.outcome import TABLE_OUTSIDE_MEMORY
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from . import raw
from .raw import peek, poke

if TYPE_CHECKING:
    from ..memory.physical import PhysicalMemory

_ROOMS = ("formats", "tables")
"""Rooms that every kernel is made of; one defined in another room is made of that room too."""
_PACKAGE = Path(__file__).resolve().parent.parent
_FORMATS = f"{__package__.rpartition('.')[0]}.formats."
_KEPT_CACHES = 4
_lock = threading.RLock()
_Function = TypeVar("_Function", bound=Callable[..., Any])

HostMemory = tuple[Any, Any, Any, Any, Any]
"""(delta, start, end, further ranges, their number): what kernels know of host physical memory. All five are
unsigned 64-bit numbers, so passing them on costs no reference counting. `delta` added to an HPA gives the HVA."""


def host_memory(memory: PhysicalMemory) -> HostMemory:
    """The numbers through which kernels see host physical memory; valid as long as `memory` is open."""
    import numpy as np

    table = memory.range_table
    delta = (memory.hva - memory.base) & MASK_64
    further = table.ctypes.data + table.itemsize * 2
    return np.uint64(delta), table[0, 0], table[0, 1], np.uint64(further), np.uint64(len(table) - 1)


def load(host: Any, address: int) -> tuple[int, int]:
    """(0, word) at an HPA, or (TABLE_OUTSIDE_MEMORY, 0)."""
    delta, start, end, further, count = host
    # One comparison for both ends; the further ranges are rare and stay out of the inlined path.
    if address - start < end - start or in_further_range(further, count, address):
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


@cache
def numba() -> Any:
    """The numba module, prepared for the compilable subset."""
    import numba as module
    from numba.extending import overload, register_jitable

    # Lambdas, because numba compares the two signatures to the letter, annotations included.
    overload(u64)(lambda value: lambda value: module.uint64(value))
    raw.define(module)
    register_jitable(in_further_range)
    return module


def inlined(function: _Function) -> _Function:
    """Let compiled code call a plain function of the compilable subset, and what a format's function calls itself."""
    _register(function)
    return function


@cache
def _register(function: Callable[..., Any]) -> None:
    from numba.extending import register_jitable

    numba()
    for name in function.__code__.co_names:
        helper = function.__globals__.get(name)
        if isinstance(helper, FunctionType) and helper is not u64 and helper.__module__.startswith(_FORMATS):
            inlined(helper)
    register_jitable(forceinline=True)(function)


def kernel(function: Callable[..., Any], *formats: Format) -> Callable[..., Any]:
    """Compile an outermost function at its first call, without the GIL, cached across processes.

    Args:
        function: in the compilable subset.
        formats: the formats injected into it; a format defined outside this package is hashed too.
    """
    module = numba()
    with _CacheFolder(function, formats):
        try:
            compiled: Callable[..., Any] = module.njit(cache=True, nogil=True)(function)
        except RuntimeError:  # no writable cache folder: compile in every process
            compiled = module.njit(nogil=True)(function)
    return compiled


def callback(signature: Any, function: Callable[..., Any], *formats: Format) -> Any:
    """Compile a C callback with a fixed signature, cached like a kernel."""
    module = numba()
    with _CacheFolder(function, formats):
        try:
            return module.cfunc(signature, nopython=True, cache=True)(function)
        except RuntimeError:
            return module.cfunc(signature, nopython=True)(function)


def direct(signature: Any, function: Callable[..., Any], *formats: Format) -> Callable[..., int]:
    """Compile a function of plain numbers, cached like a kernel; called without a dispatcher, and with the GIL held.

    That is for what is over sooner than the GIL changes hands. A number that does not fit raises OverflowError.
    """
    module = numba()
    with _CacheFolder(function, formats):
        try:
            compiled = module.njit(signature, cache=True)(function)
        except RuntimeError:
            compiled = module.njit(signature)(function)
    entry: Callable[..., int] = compiled.overloads[signature.args].entry_point
    return entry


def cache_root() -> Path:
    """Where compiled kernels are kept: $STAGE2_CACHE, or `stage2` in the user's cache folder."""
    own = os.environ.get("STAGE2_CACHE")
    if own:
        return Path(own) / "kernels"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stage2" / "kernels"


@cache
def _digest_of(rooms: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for room in rooms:
        for path in sorted((_PACKAGE / room).rglob("*.py")):
            digest.update(str(path.relative_to(_PACKAGE)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def cache_folder(function: Callable[..., Any], formats: tuple[Format, ...]) -> Path:
    """Where a kernel is kept: named after a hash of everything that can change what it does.

    Two levels, so that editing an engine does not make the kernels of the tables anew: the sources of the formats
    and the tables, then those of the kernel's own room and of formats from outside this package.
    """
    own = Path(function.__code__.co_filename).resolve()
    rooms: tuple[str, ...] = ()
    if own.is_relative_to(_PACKAGE) and own.relative_to(_PACKAGE).parts[0] not in _ROOMS:
        rooms = (own.relative_to(_PACKAGE).parts[0],)
    digest = hashlib.sha256(_digest_of(rooms).encode())
    for fmt in formats:
        for rule in fmt.rules.functions:
            file = Path(rule.__code__.co_filename).resolve()
            if not file.is_relative_to(_PACKAGE):
                # A format from elsewhere: its file if there is one, and its code in any case.
                digest.update(file.read_bytes() if file.is_file() else b"")
                digest.update(rule.__code__.co_code)
                digest.update(repr(rule.__code__.co_consts).encode())
    return cache_root() / _digest_of(_ROOMS)[:20] / digest.hexdigest()[:20]


class _CacheFolder:
    """Points numba at our cache folder while a function is being decorated, and only then."""

    def __init__(self, function: Callable[..., Any], formats: tuple[Format, ...]) -> None:
        self._folder = cache_folder(function, formats)

    def __enter__(self) -> None:
        _lock.acquire()
        config = numba().config
        self._before = config.CACHE_DIR
        config.CACHE_DIR = str(self._folder)
        if not self._folder.parent.exists():
            _forget_old_caches(self._folder.parent.parent)

    def __exit__(self, *_: object) -> None:
        numba().config.CACHE_DIR = self._before
        _lock.release()


def _forget_old_caches(root: Path) -> None:
    """Keep the newest few folders; a folder in use by another process is recreated by it when needed."""
    try:
        folders = sorted(root.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    except OSError:
        return
    for folder in folders[_KEPT_CACHES:]:
        shutil.rmtree(folder, ignore_errors=True)
