"""How values stand in messages, and what a word may have been meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def shown(value: object) -> str:
    """A value for an error text: short, printable, addresses in hexadecimal."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return _cut(f"{value:#x}") if abs(value) > 9 else str(value)
    if isinstance(value, str):
        return _cut(repr(value[:80]))
    if isinstance(value, list):
        return "an empty array" if not value else f"an array of {len(value)}"
    if isinstance(value, dict):
        return "a table"
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def hint(word: str, words: Sequence[str], cutoff: float = 0.6) -> str:
    """What `word` may have been meant to be, as a part of a sentence; empty when nothing looks like it."""
    found = near(word, words, cutoff)
    return "" if found is None else f" (did you mean {found}?)"


def near(word: str, words: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The one of `words` that looks most like `word`; None when none does."""
    found = difflib.get_close_matches(word[:80], words, 1, cutoff)
    return found[0] if found else None
