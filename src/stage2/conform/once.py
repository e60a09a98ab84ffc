"""Kernels are compiled once, however many processes of a machine need them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..user_cache import user_cache
from .oracle import Pair

_met = set[Pair]()
"""The pairs that this process has done batches of."""


@contextmanager
def first_of_a_pair(pair: Pair) -> Iterator[None]:
    """Do this process's first batch of a pair while no other process does its own.

    Whoever comes first compiles the pair's kernels; the others wait, and find them in the cache.

    Args:
        pair: the batch's.
    """
    if pair in _met:
        yield
        return
    lock = _opened(f"{pair.first or 'off'}-{pair.second}")
    try:
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        _met.add(pair)
    finally:
        if lock is not None:
            os.close(lock)


def _opened(name: str) -> int | None:
    """A lock file beside the cache; None where none can be written, and then nothing is kept to wait for."""
    folder = user_cache("locks")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
