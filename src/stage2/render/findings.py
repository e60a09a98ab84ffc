"""Findings as text and JSON; every command that finds something shows it so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from ..check.finding import Finding, FixIt, Severity
from ..space.json_shapes import range_json
from .tables import indented, stack, text

STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}


def render_findings(findings: Sequence[Finding]) -> RenderableType:
    """Each finding with where it is and what to do."""
    parts: list[RenderableType] = []
    for finding in findings:
        parts.append(headline(finding))
        if finding.locations:
            parts.append(indented(text("in " + ", ".join(str(place) for place in finding.locations), "dim")))
        if finding.level is finding.rule.severity:
            parts.append(indented(text(finding.rule.why)))
        if finding.fix:
            parts.append(indented(text(f"to mend it: {finding.fix}")))
    return stack(parts)


def headline(finding: Finding) -> Text:
    """How bad it is, its code and the sentence."""
    line = Text(overflow="fold")
    line.append(f"{finding.level} {finding.code}", style=STYLES[finding.level])
    return line.append(": ").append(text(finding.message))


def finding_json(finding: Finding) -> dict[str, Any]:
    """A finding for programs."""
    return {
        "code": finding.code,
        "severity": finding.level.value,
        "message": finding.message,
        "parties": [party.name for party in finding.parties],
        "ranges": [range_json(party.space, party.span) for party in finding.parties if party.span is not None],
        "overlap": _overlap(finding),
        "locations": [{"file": place.file, "line": place.line, "column": place.column} for place in finding.locations],
        "fix": finding.fix or None,
        "edit": _edit(finding.edit),
    }


def _edit(edit: FixIt | None) -> dict[str, Any] | None:
    """What --fix writes, and over how many characters of which line."""
    if edit is None:
        return None
    place = edit.location
    return {
        "file": place.file, "line": place.line, "column": place.column, "width": place.width, "text": edit.text,
    }  # fmt: skip


def _overlap(finding: Finding) -> dict[str, Any] | None:
    """What two parties share, in the address space of the first that has one."""
    spaces = [party.space for party in finding.parties if party.span is not None]
    return None if finding.overlap is None or not spaces else range_json(spaces[0], finding.overlap)
