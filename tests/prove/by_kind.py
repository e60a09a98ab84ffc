"""Lets every leaf be told by kind, as it is done where many of them lie scattered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stage2.prove import decoding
from stage2.prove import scan as scanning
from stage2.prove import scattered as scattering


@contextmanager
def all_by_kind(window: int = 1 << 28) -> Iterator[None]:
    """However few leaves there are, and however evenly they go on."""
    before = scanning._MANY, decoding._FEW, scattering._WINDOW
    try:
        scanning._MANY, decoding._FEW, scattering._WINDOW = 0, 1 << 40, window
        yield
    finally:
        scanning._MANY, decoding._FEW, scattering._WINDOW = before
