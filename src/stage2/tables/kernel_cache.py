"""Where compiled kernels are kept between processes.

A kernel has a folder of its own, named after a hash of all sources that can end up in it, so an edited `decode` never
runs from old machine code. numba's own files there would get mixed up by two processes that compile at once, so whoever
compiles or loads holds the folder's lock.

Commands that compile nothing import this module too, so what only compiling needs is imported late.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

from ..formats.record import Format
from ..user_cache import user_cache

_ROOMS = ("formats", "tables")
"""Rooms that every kernel is made of; one defined in another room is made of that room too."""
_PACKAGE = Path(__file__).resolve().parent.parent
_KEPT_CACHES = 4
_LOCK = "lock"
_INDEX = ".nbi"
"""How the name of the file ends in which numba lists what it keeps of a function."""


def cache_root() -> Path:
    """Where compiled kernels are kept."""
    return user_cache("kernels")


@cache
def _digest_of(rooms: tuple[str, ...]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for room in rooms:
        for path in sorted((_PACKAGE / room).rglob("*.py")):
            digest.update(str(path.relative_to(_PACKAGE)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def cache_folder(function: Callable[..., Any], formats: tuple[Format, ...]) -> Path:
    """Where a kernel is kept: named after a hash of everything that can change what it does.

    Two levels, so that editing an engine does not make the kernels of the tables anew: the sources of the formats
    and the tables, then the kernel's name and formats and what it was made from, the sources of its own room, and those
    of formats from outside this package.
    """
    import hashlib

    own = Path(function.__code__.co_filename).resolve()
    rooms: tuple[str, ...] = ()
    if own.is_relative_to(_PACKAGE) and own.relative_to(_PACKAGE).parts[0] not in _ROOMS:
        rooms = (own.relative_to(_PACKAGE).parts[0],)
    names = [*_names(function), *(fmt.name for fmt in formats)]
    digest = hashlib.sha256((_digest_of(rooms) + "\0".join(names)).encode())
    for fmt in formats:
        for rule in fmt.rules.functions:
            file = Path(rule.__code__.co_filename).resolve()
            if not file.is_relative_to(_PACKAGE):
                # A format from elsewhere: its file if there is one, and its code in any case.
                digest.update(file.read_bytes() if file.is_file() else b"")
                digest.update(rule.__code__.co_code)
                digest.update(repr(rule.__code__.co_consts).encode())
    return cache_root() / _digest_of(_ROOMS)[:20] / digest.hexdigest()[:20]


def _names(function: Callable[..., Any]) -> Iterator[str]:
    """The names of a function and of all that its factory closed over, and the numbers."""
    yield f"{function.__module__}.{function.__qualname__}"
    for cell in function.__closure__ or ():
        value = cell.cell_contents
        if isinstance(value, FunctionType):
            yield from _names(value)
        else:
            yield repr(value)


def is_kept(folder: Path) -> bool:
    """Whether a kernel was compiled into its folder before."""
    return next(folder.rglob("*" + _INDEX), None) is not None


def prepare(folder: Path) -> bool:
    """Make a kernel's folder; False, and said once, where nothing can be written to it."""
    import tempfile

    if not folder.parent.exists():
        _forget_old_caches(folder.parent.parent)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        cannot_keep(str(error.strerror or error))
        return False
    return True


@cache
def cannot_keep(why: str) -> None:
    """Say on standard error, once, that what was compiled is lost with this process."""
    print(
        f"stage2: compiled kernels cannot be kept in {cache_root()} ({why}) and are compiled anew in every run; "
        "set $STAGE2_CACHE to a folder that can be written",
        file=sys.stderr,
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes away from a kernel's folder; they wait, and find what was compiled here."""
    import fcntl

    try:
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # read-only, or forgotten a moment ago: then nothing is written that could get mixed up
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _forget_old_caches(root: Path) -> None:
    """Keep the newest few folders; a folder in use by another process is recreated by it when needed."""
    import shutil

    try:
        folders = sorted(root.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    except OSError:
        return
    for folder in folders[_KEPT_CACHES:]:
        shutil.rmtree(folder, ignore_errors=True)
