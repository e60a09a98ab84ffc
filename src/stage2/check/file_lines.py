"""The lines of the files that findings are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_MOST_BYTES = 2 << 20
"""Limit: bytes of a file that are looked at."""


def lines_of(file: str) -> Sequence[str]:
    """The lines of a text file; none where it is gone, or no text."""
    try:
        with Path(file).open("rb") as stream:
            return stream.read(_MOST_BYTES).decode("utf-8-sig").split("\n")  # columns count from behind the mark
    except (OSError, UnicodeDecodeError):
        return ()
