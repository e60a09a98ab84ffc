"""The JSON Schemas (2020-12) of what commands print with --json, as files beside this one."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

COMMON = "common"
"""The file of shapes that the others share."""


def schema_names() -> tuple[str, ...]:
    """Every kind of answer that has a schema, in alphabetical order."""
    names = (item.name for item in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in names if name.endswith(".json")))


def load_schema(name: str) -> dict[str, Any]:
    """The schema of a kind of answer.

    Args:
        name: one of `schema_names`.

    Raises:
        FileNotFoundError: there is none.
    """
    found: dict[str, Any] = json.loads((files(__name__) / f"{name}.json").read_text(encoding="utf-8"))
    return found
