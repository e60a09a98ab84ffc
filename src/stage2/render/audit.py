"""What an audit found, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from ..check.finding import Finding
from ..inspect.audit.every import Audit
from ..inspect.audit.scene import Looked
from ..space.json_shapes import range_json
from .excerpt import facts_of, summary
from .findings import finding_json, headline
from .plain import about, counted
from .tables import facts, indented, stack, table, text

_MOST_FINDINGS = 200
"""Limit: findings that are shown; JSON has all."""
NUMBERS = ("tables", "leaves", "reaches")
NOTHING = "Nothing is wrong in what was looked at."


def render_audit(audit: Audit) -> RenderableType:
    """What was looked at, what was inferred, and each finding with its addresses."""
    parts: list[RenderableType] = [text(sentence(audit), "bold"), _looked(audit.looked), Text()]
    if audit.assumed:
        parts += [facts([("inferred", one) for one in audit.assumed]), Text()]
    told: set[str] = set()
    for finding in audit.findings[:_MOST_FINDINGS]:
        parts += _finding(finding, told)
    unshown = audit.findings[_MOST_FINDINGS:]
    if unshown:
        parts += [text(f"and {len(unshown):,} more, which --json lists: {summary(unshown)}"), Text()]
    return stack([*parts, text(summary(audit.findings) if audit.findings else NOTHING, "bold")])


def sentence(audit: Audit) -> str:
    """How much was looked at."""
    tables = sum(len(one.survey.tables) for one in audit.looked)
    size = sum(span.size for span in audit.source.ranges())
    return (
        f"{audit.source.name}: {about(size)} of memory; {counted(len(audit.looked), 'root')}, "
        f"{counted(tables, 'table')} read"
    )


def looked_rows(looked: Sequence[Looked]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of the table of what was looked at."""
    rows: list[tuple[str, ...]] = []
    for one in looked:
        numbers = f"{len(one.survey.tables):,}", f"{one.survey.leaves:,}", about(one.mapped)
        under = "" if one.root.under is None else f"/{one.root.under.name}"
        rows.append((one.party.name, *numbers, one.root.where, one.root.name + under))
    return ("whose", *NUMBERS, "named by", "root"), rows


def _looked(looked: Sequence[Looked]) -> RenderableType:
    heads, rows = looked_rows(looked)
    return table(heads, rows, right=NUMBERS)


def _finding(finding: Finding, told: set[str]) -> list[RenderableType]:
    """A finding; what its rule means is said once."""
    parts: list[RenderableType] = [headline(finding)]
    parts += [indented(text(str(party), "dim")) for party in finding.parties]
    said = [(word, says) for word, says in facts_of(finding) if says != finding.rule.why or finding.code not in told]
    told.add(finding.code)
    if said:
        parts.append(indented(facts(said)))
    return [*parts, Text()]


def audit_json(audit: Audit) -> dict[str, Any]:
    """What an audit found, and of what, for programs."""
    return {
        "source": audit.source.name,
        "memory": [range_json("HPA", span) for span in audit.source.ranges()],
        "roots": [_root_json(one) for one in audit.looked],
        "assumed": list(audit.assumed),
        "notices": list(audit.notices),
        "findings": [finding_json(finding) for finding in audit.findings],
    }


def _root_json(one: Looked) -> dict[str, Any]:
    regime, under = one.root.regime, one.root.under
    return {
        "party": one.party.name,
        "name": one.root.name,
        "under": None if under is None else under.name,
        "format": regime.format.name,
        "stage": regime.format.stage,
        "root": regime.root,
        "where": one.root.where,
        "tables": len(one.survey.tables),
        "leaves": one.survey.leaves,
        "mapped_bytes": one.mapped,
        "whole": not one.survey.cut and not one.survey.absent_count,
    }
