"""How findings are put: the ranges that are told, the count of those that are not, and where to look at them."""

from __future__ import annotations

from collections.abc import Sequence

from ...address import Range
from ...check.finding import Finding, Location, Party, Rule, Severity
from ...prove.packing import U64Array
from ..root import Root
from ..source import MemorySource
from .reach import Reach, Rows
from .spans import size_of, told

MOST_TOLD = 8
"""Limit: ranges of one finding that are told; its message has the number of all."""
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
MEANS = "it means"


def rule(code: str, severity: Severity, title: str, why: str) -> Rule:
    """A rule of this room; what it means is not said of a board."""
    return Rule(code, severity, title, why, MEANS)


def size_text(size: int) -> str:
    """A size in the largest unit in which it is a whole number."""
    unit = 0
    while size and size % 1024 == 0 and unit + 1 < len(_UNITS):
        size, unit = size >> 10, unit + 1
    return f"{size:,} {_UNITS[unit]}"


def amount(spans: U64Array) -> str:
    """How much a set of host memory is: "3 ranges (20 KiB)"."""
    return f"{counted(len(spans), 'range')} ({size_text(size_of(spans))})"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def places(source: MemorySource, roots: Sequence[Root]) -> tuple[Location, ...]:
    """The roots to look from, each once."""
    return tuple(Location(source.name, says=str(root)) for root in dict.fromkeys(roots))


def tell(
    rule: Rule,
    source: MemorySource,
    spans: U64Array,
    ways: Sequence[tuple[Reach, Rows, str]],
    message: str,
    *,
    severity: Severity | None = None,
    fix: str = "",
) -> Finding:
    """A finding about host memory, with the first addresses that lead there.

    Args:
        rule: whose instance it is.
        source: the memory.
        spans: the host memory, as a set that is not empty.
        ways: whose mappings of it are told, with what they may do in a few words.
        message: what is so; `{amount}` is replaced by how much, and the first place is put behind it.
        severity, fix: as of `Finding`.
    """
    parties: list[Party] = []
    roots: list[Root] = []
    first = ""
    for number, span in enumerate(told(spans, MOST_TOLD)):
        words: list[str] = []
        for reach, rows, what in ways:
            for at, root in reach.ways_to(span, rows, 1):
                space = reach.party.layer.space
                parties.append(Party(f"{reach.party.name}{what and ', '}{what}", at, space))
                roots.append(root)
                words.append(f"{space} {at.start:#x}" + (f" of {reach.party.name}" if len(ways) > 1 else ""))
        parties.append(Party("host memory", span, "HPA"))
        if not number:
            first = f"the first is {span_text(span)}, by {' and by '.join(words)}" if words else span_text(span)
    more = len(spans) - MOST_TOLD
    rest = f"; {counted(more, 'more range', 'more ranges')} not listed" if more > 0 else ""
    text = f"{message.format(amount=amount(spans))}: {first}{rest}"
    return Finding(rule, text, tuple(parties), locations=places(source, roots), fix=fix, severity=severity)


def span_text(span: Range) -> str:
    """A range of host memory."""
    return f"HPA [{span.start:#x}, {span.end:#x})"
