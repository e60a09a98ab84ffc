"""How tables hang together: shared and missing ones, unsound entries, tables that map themselves: S3014 to S3019."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import combinations
from operator import eq

from ...check.finding import Finding, Party, Severity
from ...prove.packing import U64Array
from .reach import Layer
from .scene import Looked, Scene
from .spans import common, told
from .telling import MOST_TOLD, amount, counted, places, rule, span_text

SHARED_TABLES = rule(
    "S3014", Severity.WARNING, "two parties use one table",
    "What is mapped or taken away for one is so for the other at once.",
)  # fmt: skip
MISSING_TABLES = rule(
    "S3015", Severity.WARNING, "tables are not in the memory",
    "What they map is not known, so nothing is said of it. The source lacks a part of the machine's memory, or the "
    "root is none.",
)  # fmt: skip
UNSOUND_ENTRIES = rule(
    "S3016", Severity.WARNING, "entries have reserved bits, or their addresses are too wide",
    "Hardware faults on them. Of a stage 2 of x86 it is a note: KVM marks devices that it emulates so.",
)  # fmt: skip
REUSED_TABLES = rule(
    "S3017", Severity.NOTE, "tables are used at several levels or from several entries",
    "A root that has an entry for itself makes all of its tables readable at fixed addresses, as Windows does. Tables "
    "that several entries lead to map the same memory at several addresses, as Linux's shadow of unused memory.",
)  # fmt: skip
NOT_WHOLE = rule(
    "S3019", Severity.WARNING, "not everything was looked at",
    "Nothing is said of the rest: no finding does not mean that nothing is wrong there.",
)  # fmt: skip
RULES = (SHARED_TABLES, MISSING_TABLES, UNSOUND_ENTRIES, REUSED_TABLES, NOT_WHOLE)


def check_structure(scene: Scene) -> Iterator[Finding]:
    """All of these rules."""
    yield from _shared(scene)
    for one in scene.looked:
        yield from _missing(scene, one)
        yield from _unsound(scene, one)
        yield from _reused(scene, one)
    for reason in dict.fromkeys(scene.unread):
        yield Finding(NOT_WHOLE, reason)


def _shared(scene: Scene) -> Iterator[Finding]:
    """Tables that a VM's stage 2 has in common with another party's, or that the roots of one party have."""
    parties = list(dict.fromkeys(one.party for one in scene.looked))
    whole = {party: scene.tables_of(partial(eq, party)) for party in parties}
    for first, second in combinations(parties, 2):
        both = common(whole[first], whole[second])
        if len(both) and Layer.VM in (first.layer, second.layer):
            roots = [one.root for one in scene.looked if one.party in (first, second)]
            at = span_text(next(told(both, 1)))
            text = f"{first.name} and {second.name} both have tables in {amount(both)}: the first is {at}"
            yield Finding(SHARED_TABLES, text, _parties(both), locations=places(scene.source, roots))


def _missing(scene: Scene, one: Looked) -> Iterator[Finding]:
    found = one.survey
    if found.absent_count:
        base, at = found.absent[0]
        text = (
            f"{one.party.name}, {one.root.name}: {counted(found.absent_count, 'table')} not in the memory of "
            f"{scene.source.name}: the first would be at {at:#x}, for addresses from {base:#x} on"
        )
        yield Finding(MISSING_TABLES, text, locations=places(scene.source, [one.root]))


def _unsound(scene: Scene, one: Looked) -> Iterator[Finding]:
    found = one.survey
    if found.wrong_count:
        base, slot, entry = found.wrong[0]
        many = counted(found.wrong_count, "entry", "entries")
        text = (
            f"{one.party.name}, {one.root.name}: {many} present and not sound: the first is {entry:#x}"
            f" at {slot:#x}, for addresses from {base:#x} on"
        )
        expected = one.party.layer is Layer.VM and one.root.regime.format.family == "x86"
        severity = Severity.NOTE if expected else None
        yield Finding(UNSOUND_ENTRIES, text, locations=places(scene.source, [one.root]), severity=severity)


def _reused(scene: Scene, one: Looked) -> Iterator[Finding]:
    parts = []
    if one.survey.own_tables_below:
        parts.append(f"{counted(one.survey.own_tables_below, 'table')} met at several levels")
    if one.survey.again:
        parts.append(f"{counted(one.survey.again, 'entry', 'entries')} for tables that other entries lead to as well")
    if parts:
        text = f"{one.party.name}, {one.root.name}: {' and '.join(parts)}"
        yield Finding(REUSED_TABLES, text, locations=places(scene.source, [one.root]))


def _parties(spans: U64Array) -> tuple[Party, ...]:
    return tuple(Party("tables", span) for span in told(spans, MOST_TOLD))
