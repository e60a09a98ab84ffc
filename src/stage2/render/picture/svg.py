"""A picture of memory as one SVG file: text is text, and nothing comes from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from ..plain import about, counted
from .filling import STEPS, Fill
from .layout import COLUMN, MARGIN, STRIP, Band, Box, Gap, Label, Picture, lay_out
from .marks import Mark, MarkKind
from .parties import Kind, Party, Space
from .signs import MOST_CAPTIONS, Signs
from .style import (
    ALARM,
    INK,
    LEGEND_LINE,
    LOOKS,
    badge,
    captions,
    document,
    entries,
    kind_entry,
    kind_patterns,
    notes,
    number,
    paint,
    rect,
    sign,
    text,
)

_NOTES = (
    "Addresses grow downwards. * not to scale: too small to be read otherwise. Zigzag: a gap that is folded.",
    "Three bars beside the letter: read, write, execute; filled where allowed.",
)
_LAYERS = "Outline: what is declared. Filled: what the tables map of it, paler where that is a part."
_LINES = "A red frame or line is around or at what a sign is about; dashes lead from a GPA to its HPA."


def picture_svg(vms: Sequence[Space], host: Sequence[Party], *, marks: Sequence[Mark] = ()) -> str:
    """The picture of VMs' spaces beside the host's; the same spaces give the same text.

    Args:
        vms, host, marks: as for `lay_out`.
    """
    picture = lay_out(vms, host, marks)
    kinds = [kind for kind in Kind if any(box.kind is kind for box in picture.boxes)]
    below, height = _below(kinds, picture)
    overlaps = sum(box.overlap for box in picture.boxes)
    described = [f"{vm.title}: {counted(len(vm.parties), 'range')}" for vm in vms]
    described.append(f"{counted(overlaps, 'overlap')} on the whole" if overlaps else "nothing overlaps but shares")
    described += [mark.caption for mark in marks]
    body = [
        text(Label(MARGIN, 50, f"1 pixel is {about(max(1, round(picture.scale)))}")),
        *(_band(band) for band in picture.bands),
        *(gap_sides(gap) for gap in picture.gaps),
        *(line for box in picture.boxes for line in _box(box)),
        *_lines(picture.marked),
        *(text(label) for label in picture.labels),
        *(sign(one.x, one.y, one.kind, str(one.number), one.title, _of(one.vm)) for one in picture.marked.signs),
        *below,
    ]
    title = f"Memory of {counted(len(vms), 'VM')} beside the host's"
    return document(title, f"{'; '.join(described)}.", picture.width, height, kind_patterns(kinds), body)


def _band(band: Band) -> str:
    path = ribbon(band.x, band.top, band.bottom, band.host_x, band.host_top, band.host_bottom)
    dashes = ' stroke-dasharray="5 3"' if band.loose else ""
    colour = LOOKS[band.kind].colour
    return (
        f'<path d="{path}" fill="{colour}" fill-opacity="0.25" stroke="{INK}" stroke-opacity="0.6" '
        f'stroke-width="0.8"{dashes} data-vm="{band.vm}" data-kind="{band.kind.name.lower()}">'
        f"<title>{escape(band.title)}</title></path>"
    )


def ribbon(x: float, top: float, bottom: float, end_x: float, end_top: float, end_bottom: float) -> str:
    """The outline of a band between two edges, each an x and its two ys."""
    middle, left, right = number((x + end_x) / 2), number(x), number(end_x)
    y, low, end_y, end_low = map(number, (top, bottom, end_top, end_bottom))
    return (
        f"M{left} {y}C{middle} {y} {middle} {end_y} {right} {end_y}V{end_low}"
        f"C{middle} {end_low} {middle} {low} {left} {low}Z"
    )


def gap_sides(gap: Gap) -> str:
    """The side of a gap: a zigzag where it is folded, a dotted line where it is to scale."""
    found = []
    for x in (gap.x + 0.5, gap.x + COLUMN - 0.5):
        if gap.folded:
            step = gap.height / 4
            ys = [gap.y + step * place for place in range(5)]
            points = " ".join(f"{number(x + (0, 5, -5, 5, 0)[n])},{number(y)}" for n, y in enumerate(ys))
            found.append(f'<polyline points="{points}" fill="none" stroke="{INK}"/>')
        else:
            line = f'x1="{number(x)}" y1="{number(gap.y)}" x2="{number(x)}" y2="{number(gap.y + gap.height)}"'
            found.append(f'<line {line} stroke="{INK}" stroke-dasharray="2 3"/>')
    return "".join(found)


def _box(box: Box) -> Iterator[str]:
    look = LOOKS[box.kind]
    space = "host" if box.vm is None else box.vm
    span = "" if box.span is None else f' data-start="{box.span.start:#x}" data-end="{box.span.end:#x}"'
    yield f'<g data-space="{space}"{span} data-kind="{box.kind.name.lower()}"><title>{escape(box.title)}</title>'
    yield rect(box.x, box.y, COLUMN, box.height, 'fill="#ffffff"')
    for fill in (Fill(0, box.height, STEPS),) if box.fills is None else box.fills:
        y, share = box.y + fill.y, fill.step / STEPS
        tint = 0.12 if box.fills is None else 0.2 * share
        solid = "" if fill.step == STEPS else f' fill-opacity="{share:.2f}"'
        yield rect(box.x, y, COLUMN, fill.height, f'fill="{look.colour}" fill-opacity="{tint:.2f}"')
        yield rect(box.x, y, STRIP, fill.height, f'fill="{paint(box.kind)}"{solid}')
    if box.fills is not None:
        edge = f"M{number(box.x + STRIP)} {number(box.y)}v{number(box.height)}"
        yield f'<path d="{edge}" stroke="{INK}" stroke-width="0.5"/>'
    yield from badge(box.x + 4, box.y + 4, look.letter, box.flags)
    dashes = ' stroke-dasharray="5 3"' if box.span is None else ""
    yield rect(box.x, box.y, COLUMN, box.height, f'fill="none" stroke="{INK}" stroke-width="1"{dashes}')
    yield "</g>"


def _lines(marked: Signs) -> Iterator[str]:
    """Frames around what is marked, heights within it, and lines from GPAs to HPAs."""
    for spot in marked.frames:
        # Inside the box, or the next one would hide its lower edge.
        height = spot.bottom - spot.top - 4
        more = f'fill="none" stroke="{ALARM}" stroke-width="3"{_of(spot.vm)}'
        yield rect(spot.x + 2, spot.top + 2, spot.width - 4, height, more)
    for spot in marked.ticks:
        line = f"M{number(spot.x)} {number(spot.y)}h{number(spot.width)}"
        yield f'<path d="{line}" stroke="{ALARM}" stroke-width="2"{_of(spot.vm)}/>'
    for wire in marked.wires:
        middle = number((wire.x + wire.host_x) / 2)
        y, host_y = number(wire.y), number(wire.host_y)
        path = f"M{number(wire.x)} {y}C{middle} {y} {middle} {host_y} {number(wire.host_x)} {host_y}"
        dashes = f'stroke="{ALARM}" stroke-width="2" stroke-dasharray="7 3"{_of(wire.vm)}'
        yield f'<path d="{path}" fill="none" {dashes}/>'


def _of(vm: int | None) -> str:
    """Whose a mark's line or sign is, for pages that put VMs away."""
    return "" if vm is None else f' data-of="{vm}"'


def _below(kinds: Sequence[Kind], picture: Picture) -> tuple[list[str], float]:
    """What marks say and signs mean, below all; and where it ends."""
    width, all_marks = picture.width, picture.marked.captions
    numbered = [(str(place), mark.kind, mark.caption) for place, mark in enumerate(all_marks[:MOST_CAPTIONS], 1)]
    said, y = captions(numbered, picture.height, width)
    if len(all_marks) > MOST_CAPTIONS:
        more, y = notes([f"and {counted(len(all_marks) - MOST_CAPTIONS, 'more mark')}"], y, width)
        said += more
    y += LEGEND_LINE / 2 if said else 0
    used = [kind for kind in MarkKind if any(mark.kind is kind for mark in all_marks)]
    signs = [([sign(16, 9, kind, "n", kind.value)], kind.value) for kind in used]
    legend, y = entries([*(kind_entry(kind) for kind in kinds), *signs], y, width)
    sentences = [*_NOTES]
    if any(box.fills is not None for box in picture.boxes):
        sentences.append(_LAYERS)
    if used:
        sentences.append(_LINES)
    told, y = notes(sentences, y, width)
    return [*said, *legend, *told], y + MARGIN
