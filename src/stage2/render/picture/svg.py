"""A picture of memory as one SVG file: text is text, and nothing comes from outside.

Every kind of range has a colour (Okabe and Ito's palette, which colour-blind eyes tell apart), a pattern and a letter,
so that the picture can be read in grey as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from ...flags import MappingFlags
from ..plain import about, counted, plain
from .layout import COLUMN, MARGIN, STRIP, Band, Box, Gap, Label, Picture, fitted, lay_out, text_width
from .parties import Kind, Party, Space

_FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
_INK, _ALARM = "#222222", "#b00020"
_RIGHTS = (MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE)
_NOTES = (
    "Addresses grow downwards. * not to scale: too small to be read otherwise. Zigzag: a gap that is folded.",
    "Three bars beside the letter: read, write, execute; filled where allowed. Red frame: several have it, and it is no"
    " share.",
)
_LEGEND_LINE = 24.0


@dataclass(frozen=True, slots=True)
class _Look:
    letter: str
    colour: str
    pattern: str
    """Lines within 8 by 8 pixels."""


_LOOKS = {
    Kind.RAM: _Look("M", "#009e73", ""),
    Kind.ROM: _Look("R", "#56b4e9", "M0 4H8"),
    Kind.SHARE: _Look("S", "#f0e442", "M0 8L8 0"),
    Kind.PASSTHROUGH: _Look("D", "#d55e00", "M0 0L8 8M8 0L0 8"),
    Kind.EMULATED: _Look("E", "#cc79a7", "M4 0V8"),
    Kind.TABLES: _Look("T", "#e69f00", "M0 2H8M0 5H8"),
    Kind.HYPERVISOR: _Look("H", "#0072b2", "M0 4H8M4 0V8"),
    Kind.RESERVED: _Look("X", "#cccccc", "M0 0L8 8"),
}


def picture_svg(vms: Sequence[Space], host: Sequence[Party]) -> str:
    """The picture of VMs' spaces beside the host's; the same spaces give the same text.

    Args:
        vms, host: as for `lay_out`.
    """
    picture = lay_out(vms, host)
    kinds = [kind for kind in Kind if any(box.kind is kind for box in picture.boxes)]
    legend, height = _legend(kinds, picture)
    overlaps = sum(box.overlap for box in picture.boxes)
    title = f"Memory of {counted(len(vms), 'VM')} beside the host's"
    described = [f"{vm.title}: {counted(len(vm.parties), 'range')}" for vm in vms]
    described.append(f"{counted(overlaps, 'overlap')} on the whole" if overlaps else "nothing overlaps but shares")
    width, total = _number(picture.width), _number(picture.height + height)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc" width="{width}" '
        f'height="{total}" viewBox="0 0 {width} {total}">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(plain("; ".join(described)))}.</desc>',
        "<defs>",
        *(_pattern(kind) for kind in kinds),
        "</defs>",
        f'<rect width="{width}" height="{total}" fill="#ffffff"/>',
        f'<g font-family="{_FONT}" font-size="12" fill="{_INK}">',
        f'<text x="{_number(MARGIN)}" y="28" font-size="17" font-weight="bold">{escape(title)}</text>',
        _text(Label(MARGIN, 50, f"1 pixel is {about(max(1, round(picture.scale)))}")),
        *(_band(band) for band in picture.bands),
        *(_gap(gap) for gap in picture.gaps),
        *(line for box in picture.boxes for line in _box(box)),
        *(_text(label) for label in picture.labels),
        *legend,
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _pattern(kind: Kind) -> str:
    look = _LOOKS[kind]
    lines = f'<path d="{look.pattern}" stroke="{_INK}" stroke-width="1" fill="none"/>' if look.pattern else ""
    return (
        f'<pattern id="{kind.name.lower()}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<rect width="8" height="8" fill="{look.colour}"/>{lines}</pattern>'
    )


def _text(label: Label) -> str:
    weight = ' font-weight="bold"' if label.strong else ""
    return f'<text x="{_number(label.x)}" y="{_number(label.y)}"{weight}>{escape(label.text)}</text>'


def _rect(x: float, y: float, width: float, height: float, more: str) -> str:
    place = f'x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" height="{_number(height)}"'
    return f"<rect {place} {more}/>"


def _band(band: Band) -> str:
    middle = _number((band.x + band.host_x) / 2)
    x, host_x = _number(band.x), _number(band.host_x)
    top, bottom, host_top, host_bottom = map(_number, (band.top, band.bottom, band.host_top, band.host_bottom))
    path = (
        f"M{x} {top}C{middle} {top} {middle} {host_top} {host_x} {host_top}V{host_bottom}"
        f"C{middle} {host_bottom} {middle} {bottom} {x} {bottom}Z"
    )
    dashes = ' stroke-dasharray="5 3"' if band.chosen else ""
    colour = _LOOKS[band.kind].colour
    return (
        f'<path d="{path}" fill="{colour}" fill-opacity="0.25" stroke="{_INK}" stroke-opacity="0.6" '
        f'stroke-width="0.8"{dashes} data-vm="{band.vm}" data-kind="{band.kind.name.lower()}">'
        f"<title>{escape(band.title)}</title></path>"
    )


def _gap(gap: Gap) -> str:
    """The side of a gap: a zigzag where it is folded, a dotted line where it is to scale."""
    found = []
    for x in (gap.x + 0.5, gap.x + COLUMN - 0.5):
        if gap.folded:
            step = gap.height / 4
            ys = [gap.y + step * number for number in range(5)]
            points = " ".join(f"{_number(x + (0, 5, -5, 5, 0)[n])},{_number(y)}" for n, y in enumerate(ys))
            found.append(f'<polyline points="{points}" fill="none" stroke="{_INK}"/>')
        else:
            line = f'x1="{_number(x)}" y1="{_number(gap.y)}" x2="{_number(x)}" y2="{_number(gap.y + gap.height)}"'
            found.append(f'<line {line} stroke="{_INK}" stroke-dasharray="2 3"/>')
    return "".join(found)


def _box(box: Box) -> Iterator[str]:
    look = _LOOKS[box.kind]
    space = "host" if box.vm is None else box.vm
    span = "" if box.span is None else f' data-start="{box.span.start:#x}" data-end="{box.span.end:#x}"'
    yield f'<g data-space="{space}"{span} data-kind="{box.kind.name.lower()}"><title>{escape(box.title)}</title>'
    yield _rect(box.x, box.y, COLUMN, box.height, 'fill="#ffffff"')
    yield _rect(box.x, box.y, COLUMN, box.height, f'fill="{look.colour}" fill-opacity="0.12"')
    yield _rect(box.x, box.y, STRIP, box.height, f'fill="url(#{box.kind.name.lower()})"')
    yield from _badge(box.x + 4, box.y + 4, look.letter, box.flags)
    dashes = ' stroke-dasharray="5 3"' if box.span is None else ""
    yield _rect(box.x, box.y, COLUMN, box.height, f'fill="none" stroke="{_INK}" stroke-width="1"{dashes}')
    if box.overlap:
        # Inside the box, or the next one would hide its lower edge.
        inner = f'fill="none" stroke="{_ALARM}" stroke-width="3"'
        yield _rect(box.x + 2, box.y + 2, COLUMN - 4, box.height - 4, inner)
    yield "</g>"


def _badge(x: float, y: float, letter: str, flags: MappingFlags | None) -> Iterator[str]:
    """The letter of a kind on a white plate, and the permissions as bars beside it."""
    yield _rect(x, y, 38 if flags is not None else 16, 16, f'fill="#ffffff" stroke="{_INK}" stroke-width="0.5"')
    yield f'<text x="{_number(x + 4)}" y="{_number(y + 12)}" font-weight="bold">{letter}</text>'
    if flags is not None:
        for number, right in enumerate(_RIGHTS):
            fill = _INK if flags & right else "none"
            yield _rect(x + 16 + 7 * number, y + 3, 5, 10, f'fill="{fill}" stroke="{_INK}" stroke-width="0.7"')


def _legend(kinds: Sequence[Kind], picture: Picture) -> tuple[list[str], float]:
    """What the signs mean, below all; and how high that is."""
    found: list[str] = []
    x, y = MARGIN, picture.height
    for kind in kinds:
        width = 38 + text_width(kind.value) + 22
        if x > MARGIN and x + width > picture.width - MARGIN:
            x, y = MARGIN, y + _LEGEND_LINE
        found.append(_rect(x, y, 32, 18, f'fill="url(#{kind.name.lower()})" stroke="{_INK}" stroke-width="0.5"'))
        found += _badge(x + 8, y + 1, _LOOKS[kind].letter, None)
        found.append(_text(Label(x + 38, y + 13, kind.value)))
        x += width
    for note in _wrapped(picture.width - 2 * MARGIN):
        y += _LEGEND_LINE
        found.append(_text(Label(MARGIN, y + 13, note)))
    return found, y + _LEGEND_LINE + MARGIN - picture.height


def _wrapped(width: float) -> Iterator[str]:
    for note in _NOTES:
        line = ""
        for word in note.split():
            longer = f"{line} {word}".strip()
            if line and text_width(longer) > width:
                yield line
                longer = word
            line = longer
        yield fitted(line, width)
