"""Roots that were found in a memory, as text and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from ..address import format_size
from ..inspect.find.finder import Found, FoundRoot
from .tables import stack, text

_ALIVE = {True: "alive", False: "not alive", None: "nothing tells whether alive"}


def found_json(found: Found) -> dict[str, Any]:
    """All roots, best first."""
    return {"roots": [_root_json(one) for one in found.roots], "searched": found.searched}


def _root_json(one: FoundRoot) -> dict[str, Any]:
    root = one.root
    return {
        "root": root.regime.root,
        "format": root.regime.format.name,
        "stage": root.stage,
        "score": one.score,
        "reasons": list(one.reasons),
        "mapped_bytes": one.mapped_bytes,
        "name": root.name,
        "role": root.role,
        "alive": one.alive,
        "register": one.register or None,
        "under": None if root.under is None else root.under.name,
        "others": list(one.others),
    }


def render_found(found: Found, source: str) -> RenderableType:
    """A block of lines for each root, as `--root` takes it."""
    if not found.roots:
        return text(f"No root of tables was found in {format_size(found.searched)} of {source}.")
    parts: list[RenderableType] = []
    for one in found.roots:
        root = one.root
        parts.append(text(f"{one.score:.2f}  {root.name}", "bold"))
        told = [f"stage {root.stage}", *([root.role] if root.role else []), _ALIVE[one.alive]]
        if root.under is not None:
            told.append(f"under {root.under.name}")
        parts.append(text("      " + "; ".join(told)))
        parts += [text(f"      - {reason}") for reason in one.reasons]
        if one.others:
            parts.append(text(f"      - it could as well be {', '.join(one.others)}"))
        parts.append(Text())
    count = len(found.roots)
    parts.append(text(f"{count} root{'s' * (count != 1)} in {format_size(found.searched)}."))
    return stack(parts)
