"""`# stage2: allow S2301 reason` in a file: what its author knows and wants to keep. The rule S2922."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ..config.locator import comments
from ..errors import ConfigError
from .file_lines import lines_of
from .finding import Finding, Location, Party, Rule, Severity

NO_EFFECT = Rule(
    "S2922", Severity.WARNING, "a comment that is to allow a finding does nothing",
    "What it was written for is told all the same, or is not there any more.",
)  # fmt: skip
RULES = (NO_EFFECT,)

_ALLOW = re.compile(r"\s*stage2:\s*allow\b\s*(?P<code>[^\s,:;]*)[\s,:;]*(?P<reason>.*)")
_MOST_COMMENTS = 1000
"""Limit: of one file."""
_LOCAL = ("S23", "S29")
"""Rules about one file alone: whether they find something does not depend on what else is checked with it."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A comment that allows a rule's findings on its own line and on the one below it.

    Args:
        code: the rule's, as it is written.
        reason: why; whoever reads the file next should know it, so that without one the comment does nothing.
        location: of the comment.
    """

    code: str
    reason: str
    location: Location

    @property
    def lines(self) -> tuple[int, int]:
        """The lines that it is for."""
        line = self.location.line or 0
        return line, line + 1


def without_allowed(findings: Iterable[Finding], files: Collection[str], codes: Collection[str]) -> list[Finding]:
    """Findings but for those that a comment allows, and with what is wrong with such comments.

    Args:
        findings: everything that was found.
        files: all files that are checked.
        codes: all rules'.

    Raises:
        ConfigError: a file has more such comments than anybody writes.
    """
    allowed = [one for file in dict.fromkeys(files) for one in _comments_of(file)]
    covers: dict[tuple[str, str, int | None], list[Allowed]] = {}
    for one in allowed:
        for line in one.lines if one.reason else ():
            covers.setdefault((one.code, one.location.file, line), []).append(one)
    used: set[Allowed] = set()
    kept = []
    for finding in findings:
        # A finding is allowed where one of its lines is, whatever else it is about.
        covering = [
            one for place in finding.locations for one in covers.get((finding.code, place.file, place.line), ())
        ]
        used.update(covering)
        if not covering:
            kept.append(finding)
    return kept + [found for one in allowed for found in _without_effect(one, one in used, codes)]


def _comments_of(file: str) -> Iterator[Allowed]:
    lines = lines_of(file)
    if not any("stage2:" in line for line in lines):
        return
    count = 0
    for line, column, text in comments("\n".join(lines)):
        if match := _ALLOW.match(text):
            count += 1
            if count > _MOST_COMMENTS:
                raise ConfigError(f"more than {_MOST_COMMENTS:,} comments allow a finding", file=file, line=line)
            place = Location(file, line, column, len(text) + 1)
            yield Allowed(match["code"], match["reason"].strip(), place)


def _without_effect(one: Allowed, used: bool, codes: Collection[str]) -> Iterator[Finding]:
    if not one.code:
        problem, fix = "names no rule", "write the rule's code and a reason: # stage2: allow S2301 reason"
    elif one.code not in codes:
        problem, fix = f"allows {one.code[:20]!r}, which is no rule", "`stage2 check --explain list` names all"
    elif not one.reason:
        problem, fix = f"allows {one.code} without a reason", f"say why: # stage2: allow {one.code} reason"
    elif not used and one.code.startswith(_LOCAL):
        problem = f"allows {one.code}, which finds nothing on this line or the one below"
        fix = "take it out, or put it on the line of the value"
    else:
        return
    yield Finding(NO_EFFECT, f"a comment {problem}", (Party("the comment"),), locations=(one.location,), fix=fix)
