"""Findings as SARIF 2.1.0 (OASIS, Static Analysis Results Interchange Format), which code hosts and editors show.

Section numbers are those of the standard with Errata 01.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

from .. import __version__
from ..check.file_lines import lines_of
from ..check.finding import Finding, FixIt, Location, Rule
from ..check.fixes import span_of
from .findings import finding_json
from .identity import fingerprints, near_name
from .json_text import with_hex
from .plain import plain

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "%SRCROOT%"
"""What code hosts call the folder that relative paths start in."""
_FINGERPRINT = "stage2/1"


def sarif_text(findings: Sequence[Finding]) -> str:
    """The log of one check, as ASCII."""
    return json.dumps(sarif_log(findings), indent=2)


def sarif_log(findings: Sequence[Finding]) -> dict[str, Any]:
    """The log of one check, for a JSON writer."""
    lines = cache(lines_of)
    rules = list({finding.code: finding.rule for finding in findings}.values())
    index = {rule.code: number for number, rule in enumerate(rules)}
    driver = {"name": "stage2", "version": __version__, "rules": [_rule(rule) for rule in rules]}
    marks = fingerprints(findings, lines)
    run = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": True}],
        "originalUriBaseIds": {_ROOT: {"uri": f"file://{_quoted(os.getcwd()).rstrip('/')}/"}},
        "columnKind": "unicodeCodePoints",  # as Python and TOML count, not as the default does (3.14.17)
        "results": [
            _result(finding, index[finding.code], mark, lines) for finding, mark in zip(findings, marks, strict=True)
        ],
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "shortDescription": _message(rule.title),
        "fullDescription": _message(rule.why),
        "help": _message(f"{rule.why} More: stage2 check --explain {rule.code}"),
        "defaultConfiguration": {"level": rule.severity.value},
    }


def _result(
    finding: Finding, rule_index: int, fingerprint: str, lines: Callable[[str], Sequence[str]]
) -> dict[str, Any]:
    told = with_hex(finding_json(finding))
    return {
        "ruleId": finding.code,
        "ruleIndex": rule_index,
        "level": finding.level.value,
        "message": _message(finding.message + (f"; {finding.fix}" if finding.fix else "")),
        "locations": [_location(place) for place in finding.locations[:1]],
        "relatedLocations": [
            {"id": number, **_location(place, place.says or f"see also {place}")}
            for number, place in enumerate(finding.locations[1:], 1)
        ],
        "partialFingerprints": {_FINGERPRINT: fingerprint},
        "fixes": list(_fixes(finding.edit, lines)),
        "properties": {
            "parties": [plain(name) for name in told["parties"]],
            "ranges": told["ranges"],
            "overlap": told["overlap"],
        },
    }


def _location(place: Location, says: str = "") -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": _artifact(place.file)}
    if place.line is not None:
        physical["region"] = _region(place)
    says = says or place.says
    return {"physicalLocation": physical, **({"message": _message(says)} if says else {})}


def _region(place: Location) -> dict[str, Any]:
    """The value's characters; `endColumn` is the one behind the last (3.30.8), and left out where it is not known."""
    region = {"startLine": place.line}
    if place.column is not None:
        region["startColumn"] = place.column
        if place.width:
            region["endColumn"] = place.column + place.width
    return region


def _fixes(edit: FixIt | None, lines: Callable[[str], Sequence[str]]) -> Iterable[dict[str, Any]]:
    """What one edit replaces (3.55 to 3.57); none where its place is not known, or the file has changed since."""
    if edit is None or edit.location.line is None or edit.location.column is None:
        return
    known = lines(edit.location.file)
    span = span_of(edit, known[edit.location.line - 1]) if edit.location.line <= len(known) else None
    if span is None:
        return
    start, end = span
    change = {
        "artifactLocation": _artifact(edit.location.file),
        "replacements": [
            {
                "deletedRegion": {"startLine": edit.location.line, "startColumn": start + 1, "endColumn": end + 1},
                "insertedContent": {"text": edit.text},
            }
        ],
    }
    yield {"description": _message(edit.told), "artifactChanges": [change]}


def _artifact(file: str) -> dict[str, Any]:
    name = near_name(file)
    if os.path.isabs(name):
        return {"uri": f"file://{_quoted(name)}"}
    return {"uri": _quoted(name), "uriBaseId": _ROOT}


def _quoted(path: str) -> str:
    """A path as part of a URI, from the very bytes of the name."""
    return quote(path.replace(os.sep, "/").encode(errors="surrogateescape"))


def _message(says: str) -> dict[str, str]:
    """A plain text message. Braces would be placeholders (3.11.5), and `[a](b)` a link (3.11.6), if left alone."""
    return {"text": plain(says).replace("{", "{{").replace("}", "}}").replace("](", "] (")}
