"""Sizes in comments beside the values they speak of: the rule S2921."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..address import GIB, KIB, MIB, format_size
from ..config.document import MAX_FILE_SIZE, read_regular, shown
from ..config.extensions import RegionDeclaration
from ..errors import ConfigError
from .finding import Finding, Location, Party, Rule, Severity
from .setup import Setup

SIZE = Rule(
    "S2921", Severity.WARNING, "a size and the comment beside it differ",
    "One of them is left from before a change. AxVisor goes by the number: a guest whose kernel or device tree counts "
    "on the comment's size has too little.",
)  # fmt: skip
RULES = (SIZE,)

_UNITS = {"K": KIB, "M": MIB, "G": GIB}
_SIZE = re.compile(r"(?<![\w.])(\d{1,6})\s?([KMG])(?:i?B)?(?!\w)", re.IGNORECASE)


def check_comments(setup: Setup) -> Iterator[Finding]:
    """Memory regions whose line ends in a comment that names one size, and another one than they have."""
    for vm in setup.files:
        lines: list[str] | None = None
        for region in vm.memory:
            if lines is None or region.place.file != vm.file:
                lines = _lines(region.place.file)
            yield from _beside(vm.label, region, lines)


def _lines(file: str) -> list[str]:
    try:
        return read_regular(file, MAX_FILE_SIZE, "configuration file").decode("utf-8", "replace").split("\n")
    except ConfigError:
        return []


def _beside(vm: str, region: RegionDeclaration, lines: list[str]) -> Iterator[Finding]:
    place = region.place
    if place.column is None or place.line > len(lines):
        return
    line = lines[place.line - 1]
    behind = place.column - 1 + place.width
    rest, mark, comment = line[behind:].partition("#")
    if not mark or "[" in rest:  # another entry of the line
        return
    sizes = [(found[0], int(found[1]) * _UNITS[found[2].upper()]) for found in _SIZE.finditer(comment)]
    if len(sizes) != 1 or sizes[0][1] == region.size:
        return
    written = sizes[0][0]
    column = line.index(written, behind) + 1
    who = Party(f"{region.name} of {vm}")
    yield Finding(
        SIZE,
        f"{who} has {format_size(region.size)} ({region.size:#x}), and the comment beside it says {shown(written)}",
        (who,),
        locations=(Location.of(place, who.name), Location(place.file, place.line, column, len(written), "the comment")),
        fix="correct whichever is wrong",
    )
