"""Tables that never cut a number: where the columns have no room side by side, every row becomes a block of lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, OverflowMethod, RenderResult
from rich.containers import Lines
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_NUMBER = re.compile(r"(?<![0-9A-Za-z_])[-+]?(?:0[xX][0-9A-Fa-f_]+|[0-9][0-9_.,:]*[0-9]|[0-9])(?:[KMGTPE]iB)?")
_WORD = re.compile(r"\S+")
_READABLE = 12
"""Columns below which a wrapped name is tiresome to read, so that blocks are better than a table."""
PROSE = 24
"""The same of sentences."""
_GAP = 2
"""Blanks between columns."""


class WholeText(Text):
    """Text whose numbers are never cut: a word that is wider than the line is cut around them."""

    def wrap(
        self,
        console: Console,
        width: int,
        *,
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        tab_size: int = 8,
        no_wrap: bool | None = None,
    ) -> Lines:
        """The lines, as rich asks for them."""
        lines = Lines()
        for piece in self.divide(_cuts(self.plain, width)):
            lines.extend(
                Text.wrap(piece, console, width, justify=justify, overflow=overflow, tab_size=tab_size, no_wrap=no_wrap)
            )
        return lines


def _cuts(line: str, width: int) -> list[int]:
    """Where words that are wider than a line are cut, so that no number is, unless it is wider itself."""
    cuts: list[int] = []
    for word in _WORD.finditer(line):
        if cell_len(word[0]) <= width:
            continue
        start = word.start()
        numbers = [(start + found.start(), start + found.end()) for found in _NUMBER.finditer(word[0])]
        while cell_len(line[start : word.end()]) > width:
            end = start + width
            while cell_len(line[start:end]) > width:
                end -= 1
            inside = [low for low, high in numbers if low < end < high]
            if inside and inside[0] > start:
                end = inside[0]
            end = max(end, start + 1)
            cuts.append(end)
            start = end
    return cuts


@dataclass(frozen=True, slots=True)
class Field:
    """A column, or a line of each block.

    Args:
        label: its heading, and what stands before its value in a block.
        right: its values are set to the right.
        wraps: its values may take several lines.
        style: of its values.
        most: columns that it takes at most.
        least: columns below which its values are not wrapped.
    """

    label: str
    right: bool = False
    wraps: bool = False
    style: str = ""
    most: int | None = None
    least: int = _READABLE


class Adaptive:
    """Rows under columns, or one block of `label: value` lines for each row where that would cut a number.

    Args:
        fields: the columns.
        rows: their values.
        heading: labels stand above the columns, too.
        titled: the first value of a row stands for the label of the second: a word and what is said of it.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        rows: Iterable[Sequence[Text]],
        *,
        heading: bool = True,
        titled: bool = False,
    ) -> None:
        self._fields, self._heading, self._titled = fields, heading, titled
        self._rows = [tuple(row) for row in rows]

    def widths(self, room: int) -> list[int] | None:
        """How wide each column is in a room; None when the room is too small for a table."""
        least, most = [], []
        for index, field in enumerate(self._fields):
            cells = [row[index] for row in self._rows]
            heading = cell_len(field.label) if self._heading else 0
            whole = max([heading, *(_widest(cell.plain.split("\n")) for cell in cells)])
            kept = whole
            if field.wraps:
                kept = max([heading, min(whole, field.most or field.least), *(_tokens(cell.plain) for cell in cells)])
            least.append(kept)
            most.append(max(kept, whole if field.most is None else min(whole, field.most)))
        spare = room - _GAP * (len(self._fields) - 1) - sum(least)
        if spare < 0:
            return None
        # Columns that need least beyond what they must have are served first, so that few have to wrap.
        for index in sorted(range(len(least)), key=lambda index: most[index] - least[index]):
            given = min(spare, most[index] - least[index])
            least[index] += given
            spare -= given
        return least

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._rows and not self._heading:
            return
        widths = self.widths(options.max_width)
        if widths is None:
            yield from self._blocks(options.max_width)
            return
        # The box of a heading has a blank of its own between columns.
        found = Table(
            box=box.SIMPLE_HEAD if self._heading else None,
            padding=(0, _GAP - self._heading, 0, 0),
            pad_edge=False,
            show_edge=False,
            show_header=self._heading,
            header_style="bold",
        )
        for field, width in zip(self._fields, widths, strict=True):
            found.add_column(
                field.label, justify="right" if field.right else "left", width=width, overflow="fold", style=field.style
            )
        for row in self._rows:
            found.add_row(*row)
        yield found

    def _blocks(self, room: int) -> RenderResult:
        for number, row in enumerate(self._rows):
            if number and not self._titled:
                yield Text()
            pairs = list(zip(self._fields, row, strict=True))
            if self._titled:
                pairs = [(Field(row[0].plain), row[1])]
            for field, value in pairs:
                if value.plain.strip():
                    yield from _line(field.label, value, room)


def _line(label: str, value: Text, room: int) -> RenderResult:
    """`label: value`; a value that does not fit stands below its label, further right."""
    head = Text(f"{label}:" if label else "", style="dim")
    beside = cell_len(label) + 2 + _widest(value.plain.split("\n"))
    if beside <= room and "\n" not in value.plain:
        yield WholeText.assemble(head, " ", value) if label else value
        return
    yield head
    yield Padding(value, (0, 0, 0, 2))


def _widest(lines: Iterable[str]) -> int:
    return max((cell_len(line) for line in lines), default=0)


def _tokens(plain: str) -> int:
    """The widest number of a text."""
    return _widest(found[0] for found in _NUMBER.finditer(plain))
