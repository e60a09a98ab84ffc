"""The record of a finding, and of a rule. Rules are added beside this; the shape stays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ..address import Range
from ..errors import ConfigError
from ..place import Place, Rewrite


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """It will not work, or is not safe."""
    WARNING = "warning"
    """It may not do what was meant."""
    NOTE = "note"
    """Worth knowing."""


@dataclass(frozen=True, slots=True)
class Party:
    """Somebody who has to do with a finding.

    Args:
        name: what it is called: `section .text`, `VM linux, RAM ram0`.
        span: its addresses; None where it has none.
        space: what they are addresses of: "HVA", "HPA", "GPA", "GVA".
    """

    name: str
    span: Range | None = None
    space: str = "HPA"

    def __str__(self) -> str:
        return self.name if self.span is None else f"{self.name} {self.space} {self.span}"


@dataclass(frozen=True, slots=True)
class Location:
    """Where in which file.

    Args:
        file: as the user named it.
        line, column: counted from 1; None in files that have none (ELF).
        width: characters that the value has on its line; 0 where that is not known.
        says: what stands there, in a few words, for a finding about several places.
    """

    file: str
    line: int | None = None
    column: int | None = None
    width: int = 0
    says: str = ""

    @classmethod
    def of(cls, place: Place, says: str = "") -> Location:
        """A place of a configuration file."""
        return cls(place.file, place.line, place.column, place.width, says)

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a finding is an instance of.

    Args:
        code: stable: `S2101`.
        severity: of its findings.
        title: what is wrong, in a few words.
        why: what happens on the machine, in plain sentences.
        where: what those sentences are headed by.
    """

    code: str
    severity: Severity
    title: str
    why: str
    where: str = "on the board"


@dataclass(frozen=True, slots=True)
class FixIt:
    """One value to be written anew.

    Args:
        location: of the old value, with its column and width.
        text: the new value; empty for an entry of an array that is to go.
    """

    location: Location
    text: str

    @classmethod
    def of(cls, rewrite: Rewrite | None) -> FixIt | None:
        """What a reader or planner would write; None where the place of the old value is not known exactly."""
        if rewrite is None or rewrite.place.column is None or not rewrite.place.width:
            return None
        return cls(Location.of(rewrite.place), rewrite.text)

    @property
    def told(self) -> str:
        """What is done, in a few words."""
        return f"write {self.text}" if self.text else "take it out"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong in one place.

    Args:
        rule: which rule says so.
        message: one sentence with names and numbers.
        parties: who has to do with it.
        overlap: addresses that two of them claim; None where that is not the matter.
        locations: where the values stand.
        fix: what to do, in one sentence.
        severity: where it differs from the rule's.
        edit: what to write where, when one value mends it.
    """

    rule: Rule
    message: str
    parties: tuple[Party, ...] = ()
    overlap: Range | None = None
    locations: tuple[Location, ...] = ()
    fix: str = ""
    severity: Severity | None = None
    edit: FixIt | None = None

    @property
    def code(self) -> str:
        return self.rule.code

    @property
    def level(self) -> Severity:
        """How bad it is."""
        return self.severity or self.rule.severity

    def __str__(self) -> str:
        """As a line of text: `error S2101: ...`."""
        return f"{self.level} {self.code}: {self.message}" + (f"; {self.fix}" if self.fix else "")


def found_at(
    rule: Rule, message: str, place: Place, parties: tuple[Party, ...] = (), fix: str = "", edit: FixIt | None = None
) -> Finding:
    """A finding about what stands at one place of a file; the other arguments are those of `Finding`."""
    return Finding(rule, message, parties, locations=(Location.of(place),), fix=fix, edit=edit)


def rule_named(rules: Iterable[Rule], code: str, otherwise: str) -> Rule:
    """The rule of a code, in whatever case.

    Raises:
        ConfigError: there is none; what the user is told.
    """
    found = next((rule for rule in rules if rule.code == code.upper()), None)
    if found is None:
        raise ConfigError(otherwise)
    return found


def has_errors(findings: Iterable[Finding]) -> bool:
    """Whether one of them is an error."""
    return any(finding.level is Severity.ERROR for finding in findings)
