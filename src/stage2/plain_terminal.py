"""Whether a terminal takes colours and cursor movements, as its user or its kind says."""

from __future__ import annotations

import os


def is_dumb() -> bool:
    """True for a terminal that cannot take a line back."""
    return os.environ.get("TERM") in ("dumb", "unknown")


def wants_plain() -> bool:
    """True for text without colours and styles: NO_COLOR is set (https://no-color.org), or the terminal has none."""
    return bool(os.environ.get("NO_COLOR")) or is_dumb()
