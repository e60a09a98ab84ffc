"""The documentation as tests read it: its pages, and the blocks of code in them.

A block whose first line is `# NAME` is the file NAME. What a `console` block shows after `$` is run, and what stands
below must come out of it; `pycon` blocks of a page are one session. `...` stands for anything.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w.-]+\.\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One block of code.

    Args:
        language: as the page says.
        text: between the fences.
        line: of the page, where the text begins, counted from 1.
    """

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the reader saves it as."""
        found = _FILE.match(self.text)
        return None if found is None or self.language in ("console", "pycon") else found[1]


def pages() -> list[Path]:
    """Every page that people read."""
    return [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]


def name(page: Path) -> str:
    """Its place in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text()
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 2) for found in _FENCE.finditer(text)]


def commands(block: Block) -> Iterator[tuple[list[str], str]]:
    """The words of every command of a `console` block, and what it prints."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield shlex.split(command), printed
