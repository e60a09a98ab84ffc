"""What all tables of the command line have in common, and the one place that prints them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from ..formats.describe import FieldValue
from ..plain_terminal import wants_plain
from .adaptive import PROSE, Adaptive, Field, WholeText
from .plain import plain

PIPE_WIDTH = 120
"""Columns of output that goes to no terminal and whose reader did not set COLUMNS."""
LEAST_WIDTH = 40
"""Columns below which COLUMNS is not believed."""
_UNKNOWN_TERMINAL = 80
"""Columns of a terminal that does not say how many it has."""
_WIDTH = re.compile("[0-9]{1,4}")


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, right: Iterable[str] = ()) -> Adaptive:
    """A light table. The last column and those called "name" may wrap, the others keep each value on one line.

    Args:
        columns: headings.
        rows: cells, as text taken literally.
        right: headings of columns that are set to the right.
    """
    set_right = set(right)
    fields = [
        Field(column, right=column in set_right, wraps=column == columns[-1] or column == "name") for column in columns
    ]
    return rows_under(fields, rows)


def rows_under(fields: Sequence[Field], rows: Iterable[Sequence[str | Text]]) -> Adaptive:
    """A table whose columns say themselves which of them wrap."""
    return Adaptive(fields, ([_cell(value) for value in row] for row in rows))


def facts(rows: Iterable[tuple[str, str | Text]]) -> Adaptive:
    """Pairs of a dim word and what is to be said about it, with a hanging indent."""
    fields = (Field("", style="dim"), Field("", wraps=True, least=PROSE))
    return Adaptive(fields, ((text(word), _cell(value)) for word, value in rows), heading=False, titled=True)


def field_table(fields: Iterable[FieldValue], *, wide_names: bool = True) -> Adaptive:
    """Fields of an entry or a register: bits, name, value and meaning.

    Args:
        fields: the fields.
        wide_names: a name stays on one line.
    """
    columns = (
        Field("bits", right=True, style="dim"),
        Field("field", wraps=not wide_names, most=None if wide_names else 16),
        Field("value", right=True),
        Field("meaning", wraps=True, least=PROSE),
    )
    rows = []
    for field in fields:
        style = "red" if field.reserved else ""
        value = f"{field.value:#x}" if ":" in field.bits else str(field.value)
        meaning = f"set, but {field.meaning}" if field.reserved else field.meaning
        rows.append([text(cell, style) for cell in (field.bits, field.name, value, meaning)])
    return Adaptive(columns, rows, heading=False)


def _cell(value: str | Text) -> Text:
    return value if isinstance(value, Text) else text(value)


def text(value: str, style: str = "") -> Text:
    """Text from outside, taken literally: no markup, no control characters; its own line breaks stay."""
    return WholeText("\n".join(plain(line) for line in value.split("\n")), style=style, overflow="fold")


def unbroken(value: str) -> Text:
    """One line whatever the width: a path that is broken over two can be neither copied nor searched for."""
    return Text(plain(value), no_wrap=True, overflow="ignore")


def indented(item: RenderableType, by: int = 2) -> Padding:
    """The same, further right."""
    return Padding(item, (0, 0, 0, by))


def stack(items: Iterable[RenderableType]) -> Group:
    """One below the other."""
    return Group(*items)


def render_text(item: RenderableType, *, width: int = PIPE_WIDTH) -> str:
    """What a pipe would get: no colours, no blanks at the ends of lines."""
    console = plain_console(width=width)
    with console.capture() as capture:
        console.print(Group(item), crop=False)
    return "\n".join(line.rstrip() for line in capture.get().split("\n"))


def plain_console(stream: TextIO | None = None, *, width: int | None = None) -> Console:
    """A console that prints no colours and no styles.

    Args:
        stream: where to; standard output if None.
        width: columns; as wide as what is printed there if None.
    """
    return Console(
        file=stream,
        width=width or text_width(stream or sys.stdout),
        color_system=None,
        force_terminal=False,
        force_jupyter=False,  # there it would show an empty cell beside what it captures
        highlight=False,
        markup=False,
        emoji=False,
    )


def text_width(stream: TextIO, otherwise: int = PIPE_WIDTH) -> int:
    """Columns of what is printed: as COLUMNS says, else as the terminal does.

    Args:
        stream: where it goes.
        otherwise: columns where that is no terminal.
    """
    columns = os.environ.get("COLUMNS", "")
    if _WIDTH.fullmatch(columns) and int(columns):
        return max(LEAST_WIDTH, int(columns))
    if not stream.isatty():
        return otherwise
    try:
        return os.get_terminal_size(stream.fileno()).columns or _UNKNOWN_TERMINAL
    except (OSError, ValueError):
        return _UNKNOWN_TERMINAL


def print_renderable(item: RenderableType, *, stream: TextIO | None = None, otherwise: int = PIPE_WIDTH) -> None:
    """Print to standard output: with colours on a terminal that has them, plainly elsewhere.

    Args:
        item: what to print.
        stream: where to, in place of standard output.
        otherwise: columns of output that goes to no terminal, unless COLUMNS says otherwise.
    """
    out = stream or sys.stdout
    width = text_width(out, otherwise)
    if out.isatty() and not wants_plain():
        Console(file=out, width=width, highlight=False, markup=False, emoji=False).print(Group(item), crop=False)
    else:
        out.write(render_text(item, width=width))
