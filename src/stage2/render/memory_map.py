"""Maps, translations and differences of a memory as text and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import repeat

from rich.console import RenderableType
from rich.text import Text

from ..address import format_size
from ..inspect.difference import Difference
from ..inspect.kinds import Kind
from ..inspect.mapping import MapPart, MapRange
from ..inspect.reach import Reach
from ..inspect.through import NOWHERE
from ..inspect.translate import Translation
from ..tables.result import permission_text
from .adaptive import Adaptive, Field
from .memory_json import fault_text
from .tables import rows_under, stack, text

CSV_COLUMNS = ("gva", "gpa", "hpa", "size", "permissions", "leaf", "memory_type")


def map_lines(parts: Iterable[MapPart]) -> Iterator[str]:
    """A line a range under one heading: addresses in columns, which stay the same from the first line to the last."""
    headed = False
    for part in parts:
        if not headed and len(part):
            yield _heading(part.first is not None, part.second is not None)
            headed = True
        kinds, which = part.kinds()
        nested, tails = part.first is not None and part.second is not None, [_tail(kind) for kind in kinds]
        for start, middle, output, size, kind in part.told_numbers(which):
            cells = f"{start:#018x}-{start + size - 1:#018x}"
            if nested:
                cells += f"  {middle:#018x}"
            hpa = "nothing           " if output == NOWHERE else f"{output:#018x}"
            yield f"{cells}  {hpa}  {_size(size):>9}  {tails[kind]}"


@lru_cache(1024)
def _size(size: int) -> str:
    return format_size(size)


def _tail(one: Kind | MapRange) -> str:
    """What is said of the leaves of a range."""
    cells = [f"{permission_text(one.permissions):<7}", f"{format_size(one.leaf):>7}", one.memory_type or ""]
    return "  ".join(cells).rstrip()


def _heading(first: bool, second: bool) -> str:
    names = [*(["GVA"] if first else []), *(["GPA"] if second else []), "HPA"]
    columns = [f"{names[0]:<37}", *(f"{name:<18}" for name in names[1:])]
    return "  ".join([*columns, f"{'size':>9}", f"{'allows':<7}", f"{'leaf':>7}", "memory type"])


def _map_line(one: MapRange) -> str:
    """A range by itself."""
    start, *rest = [address for address in (one.gva, one.gpa) if address is not None]
    cells = [f"{start:#018x}-{start + one.size - 1:#018x}", *(f"{address:#018x}" for address in rest)]
    cells.append(f"{'nothing':<18}" if one.hpa is None else f"{one.hpa:#018x}")
    return "  ".join([*cells, f"{format_size(one.size):>9}", _tail(one)])


def csv_lines(parts: Iterable[MapPart]) -> Iterator[str]:
    """Comma-separated values with a heading; addresses in hexadecimal, empty where there is none."""
    yield ",".join(CSV_COLUMNS)
    for part in parts:
        kinds, which = part.kinds()
        tails = [f"{permission_text(kind.permissions)},{kind.leaf:#x},{_quoted(kind.memory_type)}" for kind in kinds]
        # Column by column and without a line of Python for each range: a gigabyte in pages has 262,144 of them.
        yield from map(
            ",".join,
            zip(
                repeat("") if part.first is None else map(hex, part.start.tolist()),
                repeat("") if part.second is None else map(hex, part.middle.tolist()),
                ("" if output == NOWHERE else hex(output) for output in part.output.tolist())
                if (part.output == NOWHERE).any()
                else map(hex, part.output.tolist()),
                map(hex, part.size.tolist()),
                map(tails.__getitem__, which.tolist()),
                strict=False,
            ),
        )


def _quoted(word: str | None) -> str:
    return f'"{word}"' if word and "," in word else word or ""


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
