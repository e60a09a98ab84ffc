"""Maps, translations and differences of a memory as text and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import RenderableType
from rich.text import Text

from ..address import format_size
from ..inspect.difference import Difference
from ..inspect.mapping import MapRange
from ..inspect.reach import Reach
from ..inspect.translate import Translation
from .adaptive import Adaptive, Field
from .memory_json import fault_text
from .tables import rows_under, stack, text

_ROWS = 4096
"""Ranges that are set as one table: more of them are told in pieces, as they come."""
CSV_COLUMNS = ("gva", "gpa", "hpa", "size", "permissions", "leaf", "memory_type")


def map_lines(ranges: Iterable[MapRange]) -> Iterator[str]:
    """A line a range: addresses in columns, which stay the same from the first line to the last."""
    for index, one in enumerate(ranges):
        if index == 0:
            yield _map_heading(one)
        yield _map_line(one)


def _shown(one: MapRange) -> list[tuple[str, int | None]]:
    """The kinds of addresses that a map has, and a range's."""
    found = [("GVA", one.gva), ("GPA", one.gpa)]
    kinds = [(name, address) for name, address in found if address is not None]
    return [*kinds, ("HPA", one.hpa)]


def _map_heading(one: MapRange) -> str:
    names = [name for name, _ in _shown(one)]
    first = [f"{names[0]:<37}", *(f"{name:<18}" for name in names[1:])]
    return "  ".join([*first, f"{'size':>9}", f"{'allows':<7}", f"{'leaf':>7}", "memory type"]).rstrip()


def _map_line(one: MapRange) -> str:
    (_, start), *rest = _shown(one)
    assert start is not None, "a range has an input address"
    cells = [f"{start:#018x}-{start + one.size - 1:#018x}"]
    cells += [f"{address:#018x}" if address is not None else f"{'nothing':<18}" for _, address in rest]
    cells += [f"{format_size(one.size):>9}", f"{one.allows:<7}", f"{format_size(one.leaf):>7}", one.memory_type or ""]
    return "  ".join(cells).rstrip()


def csv_lines(ranges: Iterable[MapRange]) -> Iterator[str]:
    """Comma-separated values with a heading; addresses in hexadecimal, empty where there is none."""
    yield ",".join(CSV_COLUMNS)
    for one in ranges:
        addresses = ["" if address is None else f"{address:#x}" for address in (one.gva, one.gpa, one.hpa)]
        memory_type = one.memory_type or ""
        if "," in memory_type:
            memory_type = f'"{memory_type}"'
        yield ",".join([*addresses, f"{one.size:#x}", one.allows, f"{one.leaf:#x}", memory_type])


def translation_lines(found: Iterable[Translation], *, nested: bool) -> Iterator[str]:
    """A line an address.

    Args:
        found: where each leads.
        nested: both stages take part, so that GPAs are told.
    """
    for one in found:
        steps = [f"{one.input:#x}"]
        if nested and one.gpa is not None:
            steps.append(f"GPA {one.gpa:#x}")
        if one.fault is not None:
            steps.append(fault_text(one.fault))
        elif one.hpa is not None:
            steps.append(f"HPA {one.hpa:#x} {one.allows}")
        yield " -> ".join(steps)


def reach_lines(found: Iterable[Reach]) -> Iterator[str]:
    """A line a range, under a heading for each root."""
    heading = None
    for one in found:
        if one.root is not heading:
            heading = one.root
            yield f"through {one.root}"
        yield "  " + _map_line(one.range)


def render_difference(found: Difference) -> RenderableType:
    """What was added, removed and changed, in that order."""
    parts: list[RenderableType] = []
    for title, ranges in (("added", found.added), ("removed", found.removed)):
        if ranges:
            parts += [text(f"{title}: {len(ranges)} range{'s' * (len(ranges) != 1)}", "bold"), _ranges(ranges), Text()]
    if found.changed:
        count = len(found.changed)
        parts.append(text(f"changed: {count} range{'s' * (count != 1)}", "bold"))
        parts.append(_ranges([one.before for one in found.changed], [_became(*one[1:]) for one in found.changed]))
        parts.append(Text())
    same = format_size(found.same)
    parts.append(text(f"{same} are mapped alike in both." if found else f"No difference: {same} are mapped alike."))
    return stack(parts)


def _became(after: MapRange, what: tuple[str, ...]) -> str:
    told = {
        "target": f"leads to {_place(after)}",
        "permissions": after.allows,
        "size": f"leaves of {format_size(after.leaf)}",
        "memory type": after.memory_type or "no memory type of its own",
    }
    return ", ".join(told[name] for name in what)


def _place(one: MapRange) -> str:
    return "nothing" if one.hpa is None else f"HPA {one.hpa:#x}"


def _ranges(ranges: Iterable[MapRange], notes: Iterable[str] | None = None) -> Adaptive:
    fields = [Field("from"), Field("to"), Field("size", right=True), Field("allows"), Field("memory type")]
    rows = []
    given = list(ranges)
    for one, note in zip(given, notes or [""] * len(given), strict=True):
        start = one.start
        row = [f"{start:#x}", _place(one), format_size(one.size), one.allows, one.memory_type or ""]
        rows.append([*row, note] if notes is not None else row)
    if notes is not None:
        fields.append(Field("now", wraps=True))
    return rows_under(fields, rows)
