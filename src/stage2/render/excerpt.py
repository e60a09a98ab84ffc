"""Findings as good compilers tell them: the line that is meant, with a mark under the value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

from rich.cells import cell_len, set_cell_size
from rich.console import RenderableType
from rich.text import Text

from ..check.file_lines import lines_of
from ..check.finding import Finding, Location, Severity
from .findings import STYLES, headline
from .plain import plain
from .tables import facts, indented, stack, text, unbroken

_MOST_FINDINGS = 200
"""Limit: findings that are shown; nobody reads more, and JSON has all."""
_MOST_PLACES = 4
"""Limit: places of one finding that are shown with their lines."""
_TAB = "    "
_CHARACTERS = 4
"""Characters of a line that are looked at for each column: some are narrower than one."""
_BESIDE = 8
"""Columns beside a line of a file: its number and a rule."""


def render_excerpts(findings: Sequence[Finding], width: int) -> RenderableType:
    """The first findings with the lines they are about, what they mean on the board and what to do; then how many there
    are.

    Args:
        findings: what was found.
        width: columns; longer lines are shown around the value.
    """
    lines = cache(lines_of)
    parts: list[RenderableType] = []
    for finding in findings[:_MOST_FINDINGS]:
        parts.append(headline(finding))
        for place in finding.locations[:_MOST_PLACES]:
            parts += _place(place, lines(place.file), STYLES[finding.level], width)
        if len(finding.locations) > _MOST_PLACES:
            rest = ", ".join(str(place) for place in finding.locations[_MOST_PLACES:][:_MOST_PLACES])
            more = len(finding.locations) - 2 * _MOST_PLACES
            parts.append(indented(text(f"and {rest}" + (f" and {more} more places" if more > 0 else ""), "dim")))
        parts += [indented(facts(facts_of(finding))), Text()]
    unshown = findings[_MOST_FINDINGS:]
    if unshown:
        parts += [text(f"and {len(unshown):,} more, which --json lists: {summary(unshown)}"), Text()]
    return stack([*parts, text(summary(findings), "bold")])


def facts_of(finding: Finding) -> list[tuple[str, str]]:
    """What is said of a finding below its lines: a few words, and the sentence."""
    rows = []
    if finding.overlap is not None:
        space = next((party.space for party in finding.parties if party.span is not None), "")
        rows.append(("overlap", f"{space} {finding.overlap}".strip()))
    rows.append((finding.rule.where if finding.level is not Severity.NOTE else "it means", finding.rule.why))
    if finding.fix:
        rows.append(("to mend it", finding.fix))
    if finding.edit is not None:
        rows.append(("fix-it", f"{finding.edit.told} at {finding.edit.location} (--fix does)"))
    return rows


def _place(place: Location, lines: Sequence[str], style: str, width: int) -> list[RenderableType]:
    """Where it is, and the line there, if it can be read."""
    says = f": {place.says}" if place.says else ""
    parts: list[RenderableType] = [indented(text(f"--> {place}{says}", "dim"))]
    if place.line is None or place.line > len(lines):
        return parts
    line = lines[place.line - 1]
    start = (place.column or 1) - 1
    room = max(width - _BESIDE, 20)
    around = _cut(line, start, place.width, _CHARACTERS * room)
    before, value, after = (plain(part.replace("\t", _TAB)) for part in around)
    lead, before = _tail(before, room // 2)
    value = _head(value, max(room - cell_len(lead + before), 10))
    after = _head(after, max(room - cell_len(lead + before + value), 0))
    parts.append(unbroken(f"{place.line:>5} | {lead}{before}{value}{after}".rstrip()))
    if place.column is not None and place.width:
        mark = unbroken(f"{'':>5} | {' ' * cell_len(lead + before)}")
        parts.append(mark.append("^" * max(cell_len(value), 1), style=style))
    return parts


def _cut(line: str, start: int, width: int, most: int) -> tuple[str, str, str]:
    """What stands before a value, the value, and the rest; of each no more than `most` characters beside the value."""
    end = start + width
    return line[max(start - most, 0) : start], line[start : min(end, start + most)], line[end : end + most]


def _tail(part: str, room: int) -> tuple[str, str]:
    """The end of what stands before a value, and dots for the rest."""
    if cell_len(part) <= room:
        return "", part
    kept = set_cell_size(part[::-1], max(room - 4, 0))[::-1]  # wide characters count twice
    return "... ", kept


def _head(part: str, room: int) -> str:
    return part if cell_len(part) <= room else set_cell_size(part, max(room - 4, 0)) + " ..."


def summary(findings: Sequence[Finding]) -> str:
    """How many there are: "2 errors, 1 note."."""
    counts = Counter(finding.level for finding in findings)
    told = [f"{counts[level]} {level}{'s' if counts[level] > 1 else ''}" for level in Severity if counts[level]]
    return ", ".join(told) + "."
