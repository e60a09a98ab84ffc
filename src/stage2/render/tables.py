"""What all tables of the command line have in common, and the one place that prints them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .plain import plain

PIPE_WIDTH = 120
"""Columns of output that goes to no terminal and whose reader did not set COLUMNS."""
_WIDTH = re.compile("[0-9]{1,4}")


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, right: Iterable[str] = ()) -> Table:
    """A light table. The last column and those called "name" may wrap, the others keep each value on one line.

    Args:
        columns: headings.
        rows: cells, as text taken literally.
        right: headings of columns that are set to the right.
    """
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        wraps = column == columns[-1] or column == "name"
        found.add_column(
            column, justify="right" if column in set(right) else "left", no_wrap=not wraps, overflow="fold"
        )
    for row in rows:
        found.add_row(*[cell if isinstance(cell, Text) else text(cell) for cell in row])
    return found


def facts(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Pairs of a dim word and what is to be said about it, with a hanging indent."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for word, value in rows:
        grid.add_row(text(word), value if isinstance(value, Text) else text(value))
    return grid


def text(value: str, style: str = "") -> Text:
    """Text from outside, taken literally: no markup, no control characters; its own line breaks stay."""
    return Text("\n".join(plain(line) for line in value.split("\n")), style=style, overflow="fold")


def indented(item: RenderableType, by: int = 2) -> Padding:
    """The same, further right."""
    return Padding(item, (0, 0, 0, by))


def stack(items: Iterable[RenderableType]) -> Group:
    """One below the other."""
    return Group(*items)


def render_text(item: RenderableType, *, width: int = PIPE_WIDTH) -> str:
    """What a pipe would get: no colours, no blanks at the ends of lines."""
    console = Console(
        width=width,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,  # there it would show an empty cell beside what it captures
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as capture:
        console.print(item)
    return "\n".join(line.rstrip() for line in capture.get().split("\n"))


def print_renderable(item: RenderableType, *, stream: TextIO | None = None) -> None:
    """Print to standard output: with colours on a terminal, plainly elsewhere."""
    out = stream or sys.stdout
    if out.isatty():
        Console(file=out, highlight=False, markup=False, emoji=False).print(item)
        return
    columns = os.environ.get("COLUMNS", "")
    out.write(render_text(item, width=max(40, int(columns)) if _WIDTH.fullmatch(columns) else PIPE_WIDTH))
