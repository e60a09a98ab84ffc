"""Address spaces as pictures: columns of bands, with long gaps folded. Plain SVG, nothing from outside.

In a column a larger band is taller, by as much as it is larger, from a height on that small ones need to be readable;
the picture says so.

Colours follow what may be done with memory (safe for colour-blind eyes), and every kind has a pattern of its own, so
that the picture can be read in grey too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..address import Range
from .plain import about

_LEAST, _MOST = 22.0, 130.0
"""Height of a band in pixels, whatever its size."""
_LEAST_WITH_NOTE = 40.0
_FOLD = 26.0
_COLUMN, _LABEL, _TOP, _BETWEEN = 320.0, 170.0, 64.0, 60.0
_LEGEND_LINE, _NOTE_LINE, _LETTER = 22.0, 16.0, 7.2
_FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"

KINDS = {
    "code": ("#0072b2", "executable"),
    "constants": ("#56b4e9", "read-only"),
    "data": ("#e69f00", "writable"),
    "stack": ("#f0e442", "writable, stack"),
    "per-cpu": ("#cc79a7", "writable, per CPU"),
    "device": ("#d55e00", "device registers"),
    "ram": ("#009e73", "memory"),
    "tables": ("#999999", "page tables"),
    "guard": ("#ffffff", "not mapped, on purpose"),
    "gap": ("#eeeeee", "alignment"),
}
"""Kind of band -> colour (Okabe and Ito's palette) and its word in the legend."""
_PATTERNS = {
    "code": "M0 6L6 0", "data": "M0 3H6", "per-cpu": "M3 0V6", "device": "M0 0L6 6M6 0L0 6", "stack": "M0 1H6M0 4H6",
    "guard": "M0 0L6 6", "tables": "M0 3H6M3 0V6",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Band:
    """One range of a column.

    Args:
        span: its addresses.
        kind: of `KINDS`.
        name: what stands in it.
        note: what stands below the name.
        marked: drawn with a heavy red frame: a finding is about it.
    """

    span: Range
    kind: str
    name: str
    note: str = ""
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """One address space.

    Args:
        title: above it.
        bands: in order, disjoint.
    """

    title: str
    bands: tuple[Band, ...]


@dataclass(frozen=True, slots=True)
class _Placed:
    band: Band
    y: float
    height: float


def bands_svg(title: str, columns: Sequence[Column], *, description: str = "") -> str:
    """The picture.

    Args:
        title: for the heading, and for screen readers.
        columns: from left to right.
        description: one sentence more for screen readers.
    """
    placed = [_place(column) for column in columns]
    width = max(len(columns) * (_COLUMN + _LABEL + _BETWEEN) - _BETWEEN + 40, 2 * _LETTER * len(title))
    used = [kind for kind in KINDS if any(band.kind == kind for column in columns for band in column.bands)]
    bottom = max((entry[-1].y + entry[-1].height for entry in placed if entry), default=_TOP)
    legend, lines = _legend(used, bottom + 30, width)
    marked = any(band.marked for column in columns for band in column.bands)
    notes = ["A larger part is taller; small ones are drawn larger than they are."]
    notes += ["A red frame: there is a finding about it."] if marked else []
    below = bottom + 30 + lines * _LEGEND_LINE
    height = below + len(notes) * _NOTE_LINE + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-labelledby="title desc" font-family="{_FONT}" font-size="12">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(description or title)}</desc>',
        f"<defs>{''.join(_pattern(kind) for kind in used if kind in _PATTERNS)}</defs>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="15" font-weight="bold" fill="#111111">{escape(title)}</text>',
    ]
    for number, (column, entries) in enumerate(zip(columns, placed, strict=True)):
        parts += _column(column, entries, 16 + number * (_COLUMN + _LABEL + _BETWEEN))
    for number, note in enumerate(notes):
        parts.append(
            f'<text x="16" y="{below + 12 + number * _NOTE_LINE:.0f}" fill="#333333" font-size="11">{note}</text>'
        )
    return "\n".join([*parts, *legend, "</svg>", ""])


def _place(column: Column) -> list[_Placed]:
    """Heights by size within bounds, so that small parts stay readable; gaps between bands fold to one height."""
    found: list[_Placed] = []
    largest = max((band.span.size for band in column.bands), default=1)
    y = _TOP
    for band in column.bands:
        if found and band.span.start > found[-1].band.span.end:
            y += _FOLD
        height = _LEAST + (_MOST - _LEAST) * (band.span.size / largest)
        if band.note:
            height = max(height, _LEAST_WITH_NOTE)
        found.append(_Placed(band, y, height))
        y += height
    return found


def _column(column: Column, entries: Sequence[_Placed], x: float) -> list[str]:
    left = x + _LABEL
    parts = [
        f'<text x="{left:.0f}" y="{_TOP - 14:.0f}" font-weight="bold" fill="#111111">{escape(column.title)}</text>'
    ]
    before: _Placed | None = None
    for entry in entries:
        band, y, height = entry.band, entry.y, entry.height
        if before is not None and band.span.start > before.band.span.end:
            gap = band.span.start - before.band.span.end
            top = before.y + before.height
            parts.append(
                f'<text x="{left + _COLUMN / 2:.0f}" y="{top + _FOLD / 2 + 4:.0f}" text-anchor="middle" '
                f'fill="#555555">&#8942; {about(gap)} &#8942;</text>'
            )
            parts.append(_address(left, top, before.band.span.end))
        frame = ' stroke="#b00020" stroke-width="3"' if band.marked else ' stroke="#333333" stroke-width="1"'
        label = f"{band.name}, {band.span}, {about(band.span.size)}" + (f", {band.note}" if band.note else "")
        parts.append(f"<g><title>{escape(label)}</title>")
        box = f'x="{left:.1f}" y="{y:.1f}" width="{_COLUMN:.1f}" height="{height:.1f}"'
        parts.append(f'<rect {box} fill="{KINDS[band.kind][0]}" fill-opacity="0.55"{frame}/>')
        if band.kind in _PATTERNS:
            parts.append(f'<rect {box} fill="url(#p-{band.kind})" pointer-events="none"/>')
        middle = y + height / 2 + (4 if not band.note else -2)
        parts.append(_label(left + 8, middle, band.name, bold=True))
        parts.append(_label(left + _COLUMN - 8, middle, about(band.span.size), end=True))
        if band.note:
            parts.append(_label(left + 8, middle + 14, band.note))
        parts.append("</g>")
        parts.append(_address(left, y, band.span.start))
        before = entry
    if before is not None:
        parts.append(_address(left, before.y + before.height, before.band.span.end))
    return parts


def _label(x: float, y: float, text: str, *, bold: bool = False, end: bool = False) -> str:
    """Text on a light plate of its own, readable on every pattern."""
    anchor = ' text-anchor="end"' if end else ""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}"{anchor}{weight} fill="#111111" stroke="#ffffff" stroke-width="3" '
        f'paint-order="stroke">{escape(text)}</text>'
    )


def _address(left: float, y: float, address: int) -> str:
    return (
        f'<line x1="{left - 6:.1f}" y1="{y:.1f}" x2="{left:.1f}" y2="{y:.1f}" stroke="#333333"/>'
        f'<text x="{left - 10:.1f}" y="{y + 4:.1f}" text-anchor="end" fill="#333333" font-size="11">{address:#x}</text>'
    )


def _pattern(kind: str) -> str:
    return (
        f'<pattern id="p-{kind}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<path d="{_PATTERNS[kind]}" stroke="#000000" stroke-opacity="0.22" fill="none"/></pattern>'
    )


def _legend(kinds: Sequence[str], y: float, width: float) -> tuple[list[str], int]:
    """The kinds that occur, in as many lines as they need."""
    parts: list[str] = []
    x, lines = 16.0, 1
    for kind in kinds:
        colour, word = KINDS[kind]
        needed = 24 + _LETTER * len(word) + 22
        if x + needed > width and x > 16.0:
            x, y, lines = 16.0, y + _LEGEND_LINE, lines + 1
        box = f'x="{x:.0f}" y="{y:.0f}" width="18" height="14"'
        parts.append(f'<rect {box} fill="{colour}" fill-opacity="0.55" stroke="#333333"/>')
        if kind in _PATTERNS:
            parts.append(f'<rect {box} fill="url(#p-{kind})"/>')
        parts.append(f'<text x="{x + 24:.0f}" y="{y + 11:.0f}" fill="#111111" font-size="11">{escape(word)}</text>')
        x += needed
    return parts, lines
