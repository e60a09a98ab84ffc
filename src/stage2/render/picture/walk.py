"""The picture of one walk: every entry that it read, in the grid in which manuals draw nested walks.

Stage 1 goes from top to bottom. Left of each of its entries stand the stage-2 entries that find it, root first; the
last row finds the byte itself. One stage alone is one column, with the fields of each entry beside it. Words
and sentences are those of `render.walk`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from rich.text import Text

from ...address import format_size
from ...formats.describe import FieldValue
from ...formats.outcome import EntryKind
from ...tables.explain import Step
from ...tables.result import Fault, Mapped, permission_text
from ..levels import level_legend, level_text
from ..plain import counted, plain
from ..walk import WalkView, cost_text, entry_text, result_lines, step_fields
from .address_bits import HEIGHT as BITS
from .address_bits import address_bits, bits_width, parts_of
from .layout import LINE, MARGIN, Label, fitted, text_width
from .parties import Kind
from .style import ALARM, INK, LOOKS, Look, badge, document, entries, notes, number, pattern, rect, swatch, text

CELL, BETWEEN, FIELDS = 248.0, 34.0, 600.0
"""Widths: of an entry, between two of them, and of the fields beside an entry of one stage alone."""
_STRIP, _PAD, _HEAD, _ROWS = 22.0, 6.0, 30.0, 26.0
_TALL = 7 * LINE + 10
_WIDE_TITLE = 1.45
"""Width of a letter of the heading, in letters of the text."""
LOOKS_OF = {
    EntryKind.TABLE: Look("T", LOOKS[Kind.TABLES].colour, LOOKS[Kind.TABLES].pattern),
    EntryKind.LEAF: Look("L", LOOKS[Kind.RAM].colour, ""),
    EntryKind.NONE: Look("-", "#ffffff", "M0 8L8 0"),
    EntryKind.MISCONFIGURED: Look("!", "#cc79a7", "M0 0L8 8M8 0L0 8"),
}
_WORDS = {
    EntryKind.TABLE: "points to a table",
    EntryKind.LEAF: "a leaf, which maps memory",
    EntryKind.NONE: "not present",
    EntryKind.MISCONFIGURED: "misconfigured",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """An entry and where it stands: its left edge and its top."""

    step: Step
    x: float
    y: float
    height: float = _TALL


@dataclass(slots=True)
class Row:
    """Entries beside each other.

    Args:
        title: what they find.
        y: where the title begins.
        cells: of stage 2, root first.
        found: of stage 1, which they find; None in the last row.
    """

    title: str
    y: float
    cells: list[Cell] = field(default_factory=list)
    found: Cell | None = None


def walk_svg(view: WalkView) -> str:
    """The picture of a walk; the same walk gives the same text."""
    nested = view.stage_1 is not None
    head, top = _address(view)
    rows, bottom = _grid(view, top) if nested else _column(view, top)
    columns = max((len(row.cells) for row in rows), default=0)
    result_x = MARGIN + columns * (CELL + BETWEEN) if nested else MARGIN
    title = f"Walk of {view.kind} {view.walk.address:#x}" + (f" of VM {plain(view.vm)}" if view.vm else "")
    width = max(
        result_x + CELL + MARGIN if nested else MARGIN + CELL + BETWEEN + FIELDS + MARGIN,
        2 * MARGIN + max(bits_width(regime.format) for regime in (view.stage_1 or view.stage_2, view.stage_2)),
        2 * MARGIN + text_width(title) * _WIDE_TITLE,
    )
    body = [*head, *(line for row in rows for line in _row(view, row, nested=nested))]
    if nested:
        lines, bottom = _result(view, rows, result_x, bottom)
        body += lines
    said = [plain(line.plain) for line in result_lines(view) if isinstance(line, Text)]
    if view.declared:
        said.insert(1, cost_text(view))
    told, y = notes([one for one in said if one != level_legend(view.stage_2.format)], bottom + 6, width)
    kinds = [kind for kind in EntryKind if any(step.kind is kind for step in _every(view))]
    legend, y = entries([(swatch(_paint(kind), LOOKS_OF[kind]), _WORDS[kind]) for kind in kinds], y + 8, width)
    more, y = notes(_notes(view, nested=nested), y, width)
    steps = counted(view.references, "table entry", "table entries")
    described = f"{steps} read. {said[0] if said else ''}"
    patterns = [pattern(_paint(kind), LOOKS_OF[kind]) for kind in kinds]
    return document(title, described, width, y + MARGIN / 2, patterns, [*body, *told, *legend, *more])


def _every(view: WalkView) -> list[Step]:
    return [one for step in view.walk.steps for one in (*step.under, step)]


def _paint(kind: EntryKind) -> str:
    return f"entry-{kind.name.lower()}"


def _address(view: WalkView) -> tuple[list[str], float]:
    """The formats, the address's bits, and those of the GPA that stage 1 answers; and where they end."""
    walk, y = view.walk, 52.0
    first, second = view.stage_1, view.stage_2
    lines = []
    if first is not None:
        lines.append(text(Label(MARGIN, y, f"stage 1: {first.format.name}, root at GPA {first.root:#x}")))
        y += LINE
    name = "stage 2: " if first is not None else ""
    lines.append(text(Label(MARGIN, y, f"{name}{second.format.name}, root at HPA {second.root:#x}")))
    y += LINE - 4
    outer = first or second
    own = [step for step in walk.steps if step.stage == (1 if first is not None else step.stage)]
    asked = f"{view.kind} {walk.address:#x}"
    lines += address_bits(asked, parts_of(outer.format, walk.address, own), MARGIN, y)
    y += LINE + BITS + 14
    last = [step for step in walk.steps if step.stage == 2]
    gpa = _last_gpa(view)
    if first is not None and gpa is not None and last:
        where = "GPA of the entry that stage 2 refuses" if _on_table(view) else "GPA that stage 1 answers"
        lines += address_bits(f"{where}, {gpa:#x}", parts_of(second.format, gpa, last), MARGIN, y)
        y += LINE + BITS + 14
    return lines, y + 4


def _last_gpa(view: WalkView) -> int | None:
    """What the last steps of stage 2 translate."""
    return view.walk.result.gpa


def _on_table(view: WalkView) -> bool:
    result = view.walk.result
    return isinstance(result, Fault) and result.on_table


def _grid(view: WalkView, y: float) -> tuple[list[Row], float]:
    """The rows of both stages, and where they end."""
    rows = []
    steps = view.walk.steps
    first = [step for step in steps if step.stage == 1]
    last = [step for step in steps if step.stage == 2]
    columns = max([len(step.under) for step in first] + [len(last)], default=0)
    right = MARGIN + columns * (CELL + BETWEEN)
    for step in first:
        level = level_text(view.regime(1).format, step.level)
        row = Row(f"GPA {step.slot:#x}, the entry of stage 1, {level}", y)
        row.cells = _cells(step.under, y + _HEAD)
        row.found = Cell(step, right, y + _HEAD)
        rows.append(row)
        y += _HEAD + _TALL + _ROWS
    gpa = _last_gpa(view)
    if last and gpa is not None:
        what = "an entry of stage 1" if _on_table(view) else "the address itself"
        rows.append(Row(f"GPA {gpa:#x}, {what}", y, _cells(last, y + _HEAD)))
        y += _HEAD + _TALL + _ROWS
    return rows, y


def _cells(steps: Sequence[Step], y: float) -> list[Cell]:
    return [Cell(step, MARGIN + place * (CELL + BETWEEN), y) for place, step in enumerate(steps)]


def _column(view: WalkView, y: float) -> tuple[list[Row], float]:
    """The steps of one stage below each other, and where they end."""
    rows = []
    for step in view.walk.steps:
        height = max(_TALL - LINE, (len(step_fields(view, step)) + 1) * LINE + 4)
        rows.append(Row("", y, [Cell(step, MARGIN, y, height)]))
        y += height + _ROWS
    return rows, y


def _row(view: WalkView, row: Row, *, nested: bool) -> Iterator[str]:
    if row.title:
        yield text(Label(MARGIN, row.y + 18, row.title))
    every = [*row.cells, *([row.found] if row.found else [])]
    for one, other in pairwise(every):
        yield _arrow(one.x + CELL, one.y + _TALL / 2, other.x)
    for cell in every:
        yield from _cell(view, cell)
    if nested:
        return
    for cell in row.cells:
        for place, value in enumerate(step_fields(view, cell.step)):
            said = _field(value)
            label = Label(cell.x + CELL + BETWEEN, cell.y + (place + 1) * LINE, fitted(said, FIELDS))
            yield f"<g><title>{escape(said)}</title>{text(label)}</g>"
        if cell.step is not view.walk.steps[-1]:
            yield _down(cell.x + CELL / 2, cell.y + cell.height, _ROWS)


def _field(value: FieldValue) -> str:
    return plain(f"[{value.bits}] {value.name} = {value.value:#x}: {value.meaning}" + " (reserved)" * value.reserved)


def _cell(view: WalkView, cell: Cell) -> Iterator[str]:
    step, x, y = cell.step, cell.x, cell.y
    look = LOOKS_OF[step.kind]
    wrong = step.kind in (EntryKind.NONE, EntryKind.MISCONFIGURED)
    level = level_text(view.regime(step.stage).format, step.level)
    title = f"stage {step.stage}, {level}: {entry_text(view, step)}; " + "; ".join(map(_field, step_fields(view, step)))
    yield f'<g data-slot="{step.slot_hpa:#x}" data-entry="{step.entry:#x}"><title>{escape(plain(title))}</title>'
    yield rect(x, y, CELL, cell.height, 'fill="#ffffff"')
    yield rect(x, y, CELL, cell.height, f'fill="{look.colour}" fill-opacity="0.12"')
    yield rect(x, y, _STRIP, cell.height, f'fill="url(#{_paint(step.kind)})"')
    yield from badge(x + 3, y + 4, look.letter, None)
    stroke = f'stroke="{ALARM}" stroke-width="2"' if wrong else f'stroke="{INK}"'
    yield rect(x, y, CELL, cell.height, f'fill="none" {stroke}')
    for row, (line, strong) in enumerate(_lines(view, step)):
        place = Label(x + _STRIP + _PAD, y + (row + 1) * LINE + 1, fitted(line, CELL - _STRIP - 2 * _PAD), strong)
        yield text(place)
    yield "</g>"


def _lines(view: WalkView, step: Step) -> Iterator[tuple[str, bool]]:
    """What stands in a cell, and whether it stands out."""
    nested = view.stage_1 is not None
    fmt = view.regime(step.stage).format
    yield f"stage {step.stage}, {level_text(fmt, step.level)}", True
    yield f"entry {step.index} of the table", False
    if step.stage == 1 and nested:
        yield f"at GPA {step.slot:#x}", False
    yield f"at HPA {step.slot_hpa:#x}", False
    yield f"holds {step.entry:#018x}", False
    space = "GPA" if step.stage == 1 and nested else "HPA"
    if step.kind is EntryKind.TABLE:
        yield f"table at {space} {step.output:#x}", False
    elif step.kind is EntryKind.LEAF:
        yield f"{format_size(fmt.leaf_size(step.level))} at {space} {step.output:#x}", True
    else:
        yield _WORDS[step.kind], True
    if step.kind in (EntryKind.TABLE, EntryKind.LEAF):
        yield f"allows {permission_text(step.permissions)} so far", False


def _result(view: WalkView, rows: Sequence[Row], x: float, bottom: float) -> tuple[list[str], float]:
    """What the walk ends in, behind the last row; and where all ends."""
    result = view.walk.result
    last = rows[-1] if rows else Row("", bottom)
    at = last.y + _HEAD
    if last.found is not None or not last.cells:
        at, bottom = bottom, bottom + _TALL + _ROWS
    if isinstance(result, Mapped):
        kind = view.memory_type
        lines = [
            (f"HPA {result.hpa:#x}", True),
            (f"allows {permission_text(result.permissions)}", False),
            (f"in a {format_size(result.size)} leaf", False),
            (kind.name if kind is not None and kind.name else "memory type open", False),
        ]
    else:
        word = result.kind.name.lower().replace("_", " ")
        level = level_text(view.regime(result.stage).format, result.level)
        lines = [(f"{word} fault", True), (f"at stage {result.stage}, {level}", False)]
        lines += [("reading a stage-1 table", False)] if result.on_table else []
    lines.append((counted(view.references, "memory reference"), False))
    stroke = f'stroke="{INK}"' if isinstance(result, Mapped) else f'stroke="{ALARM}"'
    found = [
        rect(x, at, CELL, _TALL, 'fill="#ffffff"'),
        rect(x, at, CELL, _TALL, f'fill="none" {stroke} stroke-width="3"'),
    ]
    for row, (line, strong) in enumerate(lines):
        found.append(text(Label(x + 12, at + 8 + (row + 1) * LINE, fitted(line, CELL - 24), strong)))
    if last.cells and last.found is None:
        found.append(_arrow(last.cells[-1].x + CELL, at + _TALL / 2, x))
    return found, bottom


def _arrow(x: float, y: float, end: float) -> str:
    tip = number(end - 1)
    return (
        f'<path d="M{number(x)} {number(y)}H{tip}M{number(end - 8)} {number(y - 4)}L{tip} {number(y)}'
        f'L{number(end - 8)} {number(y + 4)}" fill="none" stroke="{INK}"/>'
    )


def _down(x: float, y: float, height: float) -> str:
    tip = number(y + height - 1)
    return (
        f'<path d="M{number(x)} {number(y)}V{tip}M{number(x - 4)} {number(y + height - 8)}L{number(x)} {tip}'
        f'L{number(x + 4)} {number(y + height - 8)}" fill="none" stroke="{INK}"/>'
    )


def _notes(view: WalkView, *, nested: bool) -> list[str]:
    found = []
    if nested:
        found.append(
            "Each row: the entries of stage 2, root first, that find the GPA above them; then the entry of stage 1 "
            "that is there. What it holds is looked for in the next row."
        )
    legend = level_legend(view.stage_2.format)
    return [*found, *([legend] if legend is not None else [])]
