"""What notebooks show, as tests read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def outputs(path: Path) -> list[list[dict[str, Any]]]:
    """What each cell of code shows."""
    return [cell["outputs"] for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def shown(path: Path) -> list[tuple[str, str]]:
    """(kind, text) of all that the notebook shows, richest form only."""
    found = []
    for output in (output for cell in outputs(path) for output in cell):
        assert output["output_type"] != "error", output
        data = output.get("data", {"text/plain": output.get("text", "")})
        kind = next(kind for kind in ("image/svg+xml", "text/html", "text/plain") if kind in data)
        found.append((kind, "".join(data[kind])))
    return found
