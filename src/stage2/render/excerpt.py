"""Findings as good compilers tell them: the line that is meant, with a mark under the value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from ..check.finding import Finding, Location, Severity
from .plain import plain
from .tables import facts, indented, stack, text, unbroken

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}
_MOST_PLACES = 4
"""Limit: places of one finding that are shown with their lines."""
_MOST_BYTES = 4 << 20
_TAB = "    "
_BESIDE = 8
"""Columns beside a line of a file: its number and a rule."""


def render_excerpts(findings: Sequence[Finding], width: int) -> RenderableType:
    """Each finding with the lines it is about, what it means on the board and what to do; then how many there are.

    Args:
        findings: what was found.
        width: columns; longer lines are shown around the value.
    """
    lines = cache(_lines)
    parts: list[RenderableType] = []
    for finding in findings:
        style = _STYLES[finding.level]
        head = Text(overflow="fold")
        head.append(f"{finding.level} {finding.code}", style=style)
        parts.append(head + text(f": {finding.message}"))
        for place in finding.locations[:_MOST_PLACES]:
            parts += _place(place, lines(place.file), style, width)
        parts += [indented(facts(_facts(finding))), Text()]
    return stack([*parts, text(_summary(findings), "bold")])


def _facts(finding: Finding) -> list[tuple[str, str]]:
    rows = []
    if finding.overlap is not None:
        space = next((party.space for party in finding.parties if party.span is not None), "")
        rows.append(("overlap", f"{space} {finding.overlap}".strip()))
    rows.append(("on the board" if finding.level is not Severity.NOTE else "it means", finding.rule.why))
    if finding.fix:
        rows.append(("to mend it", finding.fix))
    return rows


def _place(place: Location, lines: Sequence[str], style: str, width: int) -> list[RenderableType]:
    """Where it is, and the line there, if it can be read."""
    says = f": {place.says}" if place.says else ""
    parts: list[RenderableType] = [indented(text(f"--> {place}{says}", "dim"))]
    if place.line is None or place.line > len(lines):
        return parts
    line = lines[place.line - 1]
    start = (place.column or 1) - 1
    before, value, after = (plain(part.replace("\t", _TAB)) for part in _cut(line, start, place.width))
    room = max(width - _BESIDE, 20)
    lead, before = _tail(before, room // 2)
    value = _head(value, max(room - cell_len(lead + before), 10))
    after = _head(after, max(room - cell_len(lead + before + value), 0))
    parts.append(unbroken(f"{place.line:>5} | {lead}{before}{value}{after}".rstrip()))
    if place.column is not None and place.width:
        mark = unbroken(f"{'':>5} | {' ' * cell_len(lead + before)}")
        parts.append(mark.append("^" * max(cell_len(value), 1), style=style))
    return parts


def _cut(line: str, start: int, width: int) -> tuple[str, str, str]:
    return line[:start], line[start : start + width], line[start + width :]


def _tail(part: str, room: int) -> tuple[str, str]:
    """The end of what stands before a value, and dots for the rest."""
    return ("", part) if cell_len(part) <= room else ("... ", part[-max(room - 4, 0) :])


def _head(part: str, room: int) -> str:
    return part if cell_len(part) <= room else part[: max(room - 4, 0)] + " ..."


def _lines(file: str) -> list[str]:
    """The lines of a text file; none where it is gone, or no text."""
    try:
        with Path(file).open("rb") as stream:
            return stream.read(_MOST_BYTES).decode().split("\n")
    except (OSError, UnicodeDecodeError):
        return []


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.level for finding in findings)
    told = [f"{counts[level]} {level}{'s' if counts[level] > 1 else ''}" for level in Severity if counts[level]]
    return ", ".join(told) + "."
