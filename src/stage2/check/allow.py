"""`# stage2: allow S2301 reason` in a file: what its author knows and wants to keep."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from .finding import Finding, Location

_ALLOW = re.compile(r"#\s*stage2:\s*allow\s+(S\d{4})\s+(?P<reason>\S.*)")
"""A reason is wanted: whoever reads the file next should know it."""
_MOST_BYTES = 4 << 20
_Allowed = Callable[[str], frozenset[tuple[int, str]]]


def without_allowed(findings: Iterable[Finding]) -> list[Finding]:
    """Findings but for those that a comment allows, on a line that they are about or on the line above it."""
    allowed = cache(_allowed)
    return [finding for finding in findings if not any(_meant(finding, place, allowed) for place in finding.locations)]


def _meant(finding: Finding, place: Location, allowed: _Allowed) -> bool:
    if place.line is None:
        return False
    codes = allowed(place.file)
    return any((line, finding.code) in codes for line in (place.line, place.line - 1))


def _allowed(file: str) -> frozenset[tuple[int, str]]:
    """(line, code) of every such comment of a file."""
    return frozenset(
        (number, match[1]) for number, line in enumerate(_lines(file), 1) for match in [_ALLOW.search(line)] if match
    )


def _lines(file: str) -> Sequence[str]:
    try:
        with Path(file).open("rb") as stream:
            return stream.read(_MOST_BYTES).decode(errors="replace").split("\n")
    except OSError:
        return ()
