"""A certificate held against tables, as text and JSON."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from ..prove.verify import Verification
from .tables import stack, text

_WORDS = {True: "holds", False: "does not hold", None: "was not proved anew"}
_STYLES = {True: "bold green", False: "bold red", None: "dim"}


def render_verification(found: Verification) -> RenderableType:
    """What became of each theorem, and the verdict."""
    parts: list[RenderableType] = []
    for one in found.theorems:
        line = Text(overflow="fold")
        line.append(f"{one.name} {_WORDS[one.holds]}", style=_STYLES[one.holds])
        said = one.why_not or one.problem
        parts.append(line.append(f": {said}" if said else ""))
    if parts:
        parts.append(Text())
    if found.problem is None:
        count = sum(one.holds is True for one in found.theorems)
        said = f"the tables are those of the certificate, and {count} theorems hold, on {found.leaves:,} leaves"
        return stack([*parts, text(f"verified: {said}.", "bold green")])
    return stack([*parts, text(f"not verified: {found.problem}", "bold red")])


def verification_json(found: Verification) -> dict[str, Any]:
    """The same for programs."""
    theorems = [
        {
            "name": one.name,
            "claimed": one.claimed,
            "holds": one.holds,
            "problem": one.problem,
            "why_not": one.why_not or None,
        }
        for one in found.theorems
    ]
    return {
        "verified": found.problem is None, "leaves": found.leaves, "problem": found.problem, "theorems": theorems,
    }  # fmt: skip
