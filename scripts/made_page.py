"""Pages of docs/ that are made by a script: written, or with --check compared with what they should be."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def write_or_check(name: str, text: str, script: str, source: str) -> int:
    """Write a page, or say whether it is up to date; the exit code is given back.

    Args:
        name: of the page in docs/.
        text: all of it, as it should be.
        script: its name in scripts/.
        source: what the page is made from, for the message.
    """
    page = DOCS / name
    if "--check" not in sys.argv[1:]:
        page.write_text(text)
    elif not page.is_file() or page.read_text() != text:
        print(f"docs/{name} is not what {source} say: run python scripts/{script}", file=sys.stderr)
        return 1
    return 0
