"""Writing what findings would have written (`FixIt`): texts of files before and after."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass

from ..config.document import MAX_FILE_SIZE
from ..config.regular_file import read_regular
from ..errors import ConfigError
from .finding import Finding, FixIt

_MARK = "\ufeff"
"""A byte order mark; columns count from behind it."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A file with its mistakes mended.

    Args:
        file: as the user named it.
        text: all of it, as it is to be.
        edits: what was written anew, from the top.
    """

    file: str
    text: str
    edits: tuple[FixIt, ...]


def fixed(findings: Iterable[Finding]) -> list[Fixed]:
    """The files that findings would change. Of edits that meet, the first one is made; others wait for a second look.

    Raises:
        ConfigError: a file cannot be read, has changed since it was checked, or would be no TOML any more.
    """
    by_file: dict[str, dict[tuple[int, int], FixIt]] = {}
    for finding in findings:
        edit = finding.edit
        if edit is not None and edit.location.line is not None and edit.location.column is not None:
            place = edit.location.line, edit.location.column
            by_file.setdefault(edit.location.file, {}).setdefault(place, edit)
    return [_fixed(file, [edit for _, edit in sorted(edits.items())]) for file, edits in by_file.items()]


def _fixed(file: str, edits: list[FixIt]) -> Fixed:
    try:
        text = read_regular(file, MAX_FILE_SIZE, "configuration").decode()
    except UnicodeDecodeError:
        raise ConfigError("is no UTF-8 any more", file=file) from None
    mark = _MARK if text.startswith(_MARK) else ""
    lines = text.removeprefix(_MARK).split("\n")
    made: list[FixIt] = []
    for edit in edits:
        if not (made and _meet(made[-1], edit)):
            made.append(edit)
    for edit in reversed(made):  # so that columns stay true
        _write(lines, edit)
    text = "\n".join(lines)
    try:
        tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not changed, for the fix-its would make it no valid TOML: {error}", file=file) from None
    return Fixed(file, mark + text, tuple(made))


def _meet(one: FixIt, other: FixIt) -> bool:
    """Whether two edits, the second further on, are about the same characters."""
    first, second = one.location, other.location
    return first.line == second.line and (first.column or 0) + first.width > (second.column or 0)


def span_of(edit: FixIt, line: str) -> tuple[int, int] | None:
    """The characters of its line that an edit writes over, counted from 0, the end behind the last one.

    Returns:
        None where the line has no such characters (any more).
    """
    place = edit.location
    if place.column is None or place.column - 1 + place.width > len(line):
        return None
    start, end = place.column - 1, place.column - 1 + place.width
    if not edit.text:  # an entry of an array goes with the comma behind it
        rest = line[end:]
        end = len(line) - len(rest.lstrip(" \t").removeprefix(","))
    return start, end


def _write(lines: list[str], edit: FixIt) -> None:
    place = edit.location
    assert place.line is not None, "only edits with a place are made"
    span = span_of(edit, lines[place.line - 1]) if place.line <= len(lines) else None
    if span is None:
        raise ConfigError("has changed since it was checked", file=place.file, line=place.line)
    start, end = span
    line = lines[place.line - 1]
    line = line[:start] + edit.text + line[end:]
    if line.strip():
        lines[place.line - 1] = line
    else:
        del lines[place.line - 1]
