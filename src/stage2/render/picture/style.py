"""What all pictures look like: their colours, patterns, letters and signs, and the pieces of SVG they are made of.

Every kind of thing has a colour (Okabe and Ito's palette, which colour-blind eyes tell apart), a pattern and a letter,
so that a picture can be read in grey as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from ...flags import MappingFlags
from ..plain import plain
from .layout import LINE, MARGIN, Label, fitted, text_width
from .marks import MarkKind
from .parties import Kind

INK, ALARM = "#222222", "#b00020"
_FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
_RIGHTS = (MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE)
LEGEND_LINE = 24.0
"""Height of a row of a legend."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a kind of thing is drawn; `pattern` is lines within 8 by 8 pixels."""

    letter: str
    colour: str
    pattern: str


LOOKS = {
    Kind.RAM: Look("M", "#009e73", ""),
    Kind.ROM: Look("R", "#56b4e9", "M0 4H8"),
    Kind.SHARE: Look("S", "#f0e442", "M0 8L8 0"),
    Kind.PASSTHROUGH: Look("D", "#d55e00", "M0 0L8 8M8 0L0 8"),
    Kind.EMULATED: Look("E", "#cc79a7", "M4 0V8"),
    Kind.TABLES: Look("T", "#e69f00", "M0 2H8M0 5H8"),
    Kind.HYPERVISOR: Look("H", "#0072b2", "M0 4H8M4 0V8"),
    Kind.RESERVED: Look("X", "#cccccc", "M0 0L8 8"),
    Kind.UNDECLARED: Look("U", "#ffffff", "M0 6L4 2L8 6"),
}
_SIGNS = {
    MarkKind.WITNESS: "M-9 0A9 9 0 1 1 9 0A9 9 0 1 1 -9 0Z",
    MarkKind.OVERLAP: "M-8 -8H8V8H-8Z",
    MarkKind.FINDING: "M0 -11L11 0L0 11L-11 0Z",
}
"""The outlines of signs around their middles."""


def document(title: str, described: str, width: float, height: float, patterns: Iterable[str], body: list[str]) -> str:
    """A whole picture as a file: it has its words for screen readers, and loads nothing.

    Args:
        title: what it shows; also its heading.
        described: more of it, a sentence.
        width, height: in pixels.
        patterns: those that it needs (`pattern`).
        body: what is drawn.
    """
    wide, high = number(width), number(height)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc" width="{wide}" '
        f'height="{high}" viewBox="0 0 {wide} {high}">',
        f'<title id="title">{escape(plain(title))}</title>',
        f'<desc id="desc">{escape(plain(described))}</desc>',
        "<defs>",
        *patterns,
        "</defs>",
        f'<rect width="{wide}" height="{high}" fill="#ffffff"/>',
        f'<g font-family="{_FONT}" font-size="12" fill="{INK}">',
        f'<text x="{number(MARGIN)}" y="28" font-size="17" font-weight="bold">{escape(plain(title))}</text>',
        *body,
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """A number of pixels as short as it can be written."""
    return f"{value:.1f}".removesuffix(".0")


def paint(kind: Kind) -> str:
    """The paint of a kind: its colour and pattern."""
    return f"url(#{kind.name.lower()})"


def kind_patterns(kinds: Iterable[Kind]) -> Iterator[str]:
    """The paints of kinds, for the head of a picture."""
    for kind in kinds:
        yield pattern(kind.name.lower(), LOOKS[kind])


def pattern(name: str, look: Look) -> str:
    """What `url(#name)` paints: a colour with lines on it."""
    lines = f'<path d="{look.pattern}" stroke="{INK}" stroke-width="1" fill="none"/>' if look.pattern else ""
    return (
        f'<pattern id="{name}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<rect width="8" height="8" fill="{look.colour}"/>{lines}</pattern>'
    )


def text(label: Label) -> str:
    """A line of text."""
    weight = ' font-weight="bold"' if label.strong else ""
    return f'<text x="{number(label.x)}" y="{number(label.y)}"{weight}>{escape(label.text)}</text>'


def rect(x: float, y: float, width: float, height: float, more: str) -> str:
    """A rectangle; `more` is its other attributes."""
    place = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    return f"<rect {place} {more}/>"


def badge(x: float, y: float, letter: str, flags: MappingFlags | None) -> Iterator[str]:
    """The letter of a kind on a white plate, and the permissions as bars beside it."""
    yield rect(x, y, 38 if flags is not None else 16, 16, f'fill="#ffffff" stroke="{INK}" stroke-width="0.5"')
    yield f'<text x="{number(x + 4)}" y="{number(y + 12)}" font-weight="bold">{letter}</text>'
    if flags is not None:
        for place, right in enumerate(_RIGHTS):
            fill = INK if flags & right else "none"
            yield rect(x + 16 + 7 * place, y + 3, 5, 10, f'fill="{fill}" stroke="{INK}" stroke-width="0.7"')


def sign(x: float, y: float, kind: MarkKind, said: str, title: str, more: str = "") -> str:
    """A mark's sign around its middle, with its number; `more` is attributes of it."""
    size = 11 if len(said) < 3 else 8
    return (
        f'<g transform="translate({number(x)} {number(y)})"{more}><title>{escape(plain(title))}</title>'
        f'<path d="{_SIGNS[kind]}" fill="{ALARM}" stroke="#ffffff" stroke-width="1"/>'
        f'<text y="4" fill="#ffffff" font-size="{size}" font-weight="bold" text-anchor="middle">{said}</text></g>'
    )


def kind_entry(kind: Kind) -> tuple[list[str], str]:
    """What stands before a kind in a legend, with its left end at 0 0, and its words."""
    return swatch(kind.name.lower(), LOOKS[kind]), kind.value


def swatch(name: str, look: Look) -> list[str]:
    """A piece of a pattern with its letter, as it stands in a legend."""
    return [
        rect(0, 0, 32, 18, f'fill="url(#{name})" stroke="{INK}" stroke-width="0.5"'),
        *badge(8, 1, look.letter, None),
    ]


def entries(found: Iterable[tuple[list[str], str]], y: float, width: float) -> tuple[list[str], float]:
    """Rows of a legend, and where they end.

    Args:
        found: what stands before each entry, 32 by 18 pixels from 0 0, and its words.
        y: where they begin.
        width: of the picture.
    """
    lines: list[str] = []
    x = MARGIN
    for drawn, said in found:
        wide = 38 + text_width(said) + 22
        if x > MARGIN and x + wide > width - MARGIN:
            x, y = MARGIN, y + LEGEND_LINE
        lines += [f'<g transform="translate({number(x)} {number(y)})">', *drawn, "</g>"]
        lines.append(text(Label(x + 38, y + 13, said)))
        x += wide
    return lines, y + (LEGEND_LINE if lines else 0)


def notes(said: Sequence[str], y: float, width: float) -> tuple[list[str], float]:
    """Sentences below a picture, and where they end."""
    lines: list[str] = []
    for note in said:
        for line in wrapped(note, width - 2 * MARGIN):
            lines.append(text(Label(MARGIN, y + 13, line)))
            y += LEGEND_LINE
    return lines, y


def captions(marked: Sequence[tuple[str, MarkKind, str]], y: float, width: float) -> tuple[list[str], float]:
    """What marks say, each after its sign, and where they end.

    Args:
        marked: number, kind and words of each.
        y, width: as of `entries`.
    """
    lines: list[str] = []
    for said, kind, caption in marked:
        lines.append(sign(MARGIN + 11, y + 9, kind, said, caption))
        for line in wrapped(plain(caption), width - 2 * MARGIN - 38):
            lines.append(text(Label(MARGIN + 38, y + 13, line)))
            y += LINE
        y += LEGEND_LINE - LINE
    return lines, y


def wrapped(said: str, width: float) -> Iterator[str]:
    """A text in lines that have room for it."""
    line = ""
    for word in said.split():
        longer = f"{line} {word}".strip()
        if line and text_width(longer) > width:
            yield line
            longer = word
        line = longer
    yield fitted(line, width)
