"""Sizes and map types in comments beside the values they speak of: the rules S2921 and S2923."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..address import GIB, KIB, MIB, format_size
from ..config.extensions import RegionDeclaration
from ..config.locator import comments
from ..config.wording import shown
from .file_lines import lines_of
from .finding import Finding, FixIt, Location, Party, Rule, Severity
from .setup import Setup

SIZE = Rule(
    "S2921", Severity.WARNING, "a size and the comment beside it differ",
    "One of them is left from before a change. AxVisor goes by the number: a guest whose kernel or device tree counts "
    "on the comment's size has too little.",
)  # fmt: skip
MAP_TYPE = Rule(
    "S2923", Severity.WARNING, "a map type and the comment beside it differ",
    "One of them is left from before a change. AxVisor goes by the number: a guest that counts on memory one to one, "
    "for DMA or for its device tree, gets other host memory, or the other way round.",
)  # fmt: skip
RULES = (SIZE, MAP_TYPE)

_MAP_TYPE = re.compile(r"\bMAP_(?:ALLOC|IDENTICAL|RESERVED)\b")
_UNITS = {"K": KIB, "M": MIB, "G": GIB}
_SIZE = re.compile(r"(?<![\w.])(\d{1,6})\s?([KMG])(?:i?B)?(?!\w)", re.IGNORECASE)


def check_comments(setup: Setup) -> Iterator[Finding]:
    """Memory regions that are the last of their line, beside a comment that names one size, and another than theirs."""
    for vm in setup.files:
        beside: dict[int, tuple[int, str]] = {}
        read: str | None = None
        last = {region.place.line: region for region in vm.memory}
        for region in last.values():
            if read != region.place.file:
                read = region.place.file
                beside = {line: (column, text) for line, column, text in comments("\n".join(lines_of(read)))}
            yield from _beside(vm.label, region, beside)


def _beside(vm: str, region: RegionDeclaration, beside: Mapping[int, tuple[int, str]]) -> Iterator[Finding]:
    place = region.place
    if place.column is None or place.line not in beside:
        return
    column, comment = beside[place.line]
    yield from _map_type(vm, region, column, comment)
    sizes = [(found, int(found[1]) * _UNITS[found[2].upper()]) for found in _SIZE.finditer(comment)]
    if len(sizes) != 1 or sizes[0][1] == region.size:
        return
    found, _ = sizes[0]
    is_now = f"{format_size(region.size)} ({region.size:#x})"
    yield _differs(SIZE, vm, region, is_now, (column, found), shown(found[0]), format_size(region.size))


def _map_type(vm: str, region: RegionDeclaration, column: int, comment: str) -> Iterator[Finding]:
    named, kind = list(_MAP_TYPE.finditer(comment)), region.map_type
    if len(named) == 1 and named[0][0] != kind.name and kind.number is not None:
        is_now = f"map_type {kind.number} ({kind.name})"
        yield _differs(MAP_TYPE, vm, region, is_now, (column, named[0]), named[0][0], kind.name)


def _differs(
    rule: Rule,
    vm: str,
    region: RegionDeclaration,
    is_now: str,
    beside: tuple[int, re.Match[str]],
    says: str,
    right: str,
) -> Finding:
    """A region that has something else than the comment beside it says; the edit writes what it has."""
    place, who, (column, found) = region.place, Party(f"{region.name} of {vm}"), beside
    told = Location(place.file, place.line, column + 1 + found.start(), len(found[0]), "the comment")
    return Finding(
        rule,
        f"{who} has {is_now}, and the comment beside it says {says}",
        (who,),
        locations=(Location.of(place, who.name), told),
        fix="correct whichever is wrong",
        edit=FixIt(told, right),
    )
