"""The picture of a map of a memory's tables: GVA, GPA and HPA side by side, with bands from each to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from ...address import Range, format_size
from ...flags import MappingFlags
from ...inspect.kinds import Kind
from ...inspect.mapping import MapPart
from ...tables.result import permission_text
from ..plain import about, counted, plain
from . import parties
from .layout import COLUMN, LINE, MARGIN, STRIP, Gap, Label, fitted, text_width
from .memory_axes import CLASSES, MIXED, MOST_BANDS, MOST_BOXES, Axis, AxisBox, Joint, axes_of, joints_of
from .style import INK, LOOKS, Look, badge, document, entries, notes, pattern, rect, swatch, text
from .svg import gap_sides, ribbon

_GUTTER, _TOP, _HEAD, _PAD, _FOLD = 150.0, 84.0, 12.0, 8.0, 24.0
_WIDE_TITLE = 1.45
"""Width of a letter of the heading, in letters of the text."""
_MOST_TITLE = 60
_HIGH = 3 * LINE + 10
_LEAST_BAND = 1.5
CLASS_LOOKS = (
    Look("N", "#ffffff", "M0 8L8 0"),
    Look("R", LOOKS[parties.Kind.ROM].colour, "M0 4H8"),
    Look("W", LOOKS[parties.Kind.RAM].colour, ""),
    Look("X", LOOKS[parties.Kind.TABLES].colour, "M4 0V8"),
    Look("!", LOOKS[parties.Kind.PASSTHROUGH].colour, "M0 0L8 8M8 0L0 8"),
    Look("M", LOOKS[parties.Kind.RESERVED].colour, "M0 0L8 8"),
)
_WORDS = (
    "no access, or nothing behind it",
    "read only",
    "written",
    "executed",
    "written and executed",
    "several of these",
)
_FLAGS = (0, 1, 3, 5, 7, None)
_NOTES = (
    "Addresses grow downwards; heights are not to scale. Zigzag: addresses that nothing leads to.",
    "Bands lead from addresses to what is behind them; a dashed one is of several ranges and covers what is between.",
    "Letters before and after a slash: what privileged code and what user mode may do.",
)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a map is called.

    Args:
        source: the memory's name.
        roots: of the tables, a sentence each.
        left_out: ranges that there are besides those that are drawn.
    """

    source: str
    roots: Sequence[str] = ()
    left_out: int = 0


def memory_map_svg(part: MapPart, of: Drawing) -> str:
    """The picture of a map; the same map gives the same text, of bounded size.

    Args:
        part: its ranges.
        of: its names.
    """
    axes, kinds = axes_of(part)
    title = fitted(f"Map of {plain(of.source)}", _MOST_TITLE * text_width("m"))
    width = max(
        2 * MARGIN + len(axes) * COLUMN + (len(axes) - 1) * _GUTTER, 2 * MARGIN + text_width(title) * _WIDE_TITLE
    )
    y, head = 50.0, []
    for root in of.roots:
        head.append(text(Label(MARGIN, y, fitted(plain(root), width - 2 * MARGIN))))
        y += LINE
    top = max(_TOP, y + LINE + _HEAD)
    height = max(_least_height(axis) for axis in axes)
    places = [_places(axis, top, height) for axis in axes]
    bottom = max(place.bottom for place in places)
    body, sentences = [*head], list(_NOTES)
    for column, (axis, place) in enumerate(zip(axes, places, strict=True)):
        x = MARGIN + column * (COLUMN + _GUTTER)
        if column:
            joints, more = joints_of(axes[column - 1], axis, part, kinds)
            joints = sorted(joints, key=lambda one: (one.left, one.right))
            body += [_band(joint, axes[column - 1], axis, places[column - 1], place, x) for joint in joints]
            if more:
                sentences.append(
                    f"{counted(more, 'band')} from {axes[column - 1].name} to {axis.name} that fewer bytes go through "
                    f"than through the {MOST_BANDS} drawn are left out."
                )
        ranges = counted(sum(box.count for box in axis.boxes), "range")
        body.append(text(Label(x, top - _HEAD, f"{axis.name}: {ranges}", strong=True)))
        if not axis.boxes:
            body.append(text(Label(x, top + LINE, "nothing")))
        for box, at, high in zip(axis.boxes, place.tops, place.heights, strict=False):
            body += _box(axis.name, box, kinds, (x, at, high))
        body += _gaps(axis, place, x)
    if any(box.count > 1 for axis in axes for box in axis.boxes):
        sentences.append(
            f"Up to {MOST_BOXES} boxes a column: ranges are put together in one box between the largest gaps and, in "
            "the first column, between those that allow different things."
        )
    if of.left_out:
        sentences.append(f"{counted(of.left_out, 'range')} at higher addresses are left out.")
    used = sorted({box.looks for axis in axes for box in axis.boxes})
    legend, y = entries([(swatch(CLASSES[one], CLASS_LOOKS[one]), _WORDS[one]) for one in used], bottom + 16, width)
    told, y = notes(sentences, y + 4, width)
    described = "; ".join(f"{axis.name}: {counted(len(axis.boxes), 'box', 'boxes')}" for axis in axes)
    patterns = [pattern(CLASSES[one], CLASS_LOOKS[one]) for one in used]
    return document(title, f"{counted(len(part), 'range')}. {described}.", width, y + MARGIN / 2, patterns, [
        *body, *legend, *told,
    ])  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Places:
    """Where an axis' boxes are: the top and the height of each."""

    tops: Sequence[float]
    heights: Sequence[float]

    @property
    def bottom(self) -> float:
        """Where the last ends."""
        return self.tops[-1] + self.heights[-1]


def _least_height(axis: Axis) -> float:
    gaps = sum(1 for before, box in pairwise(axis.boxes) if _gap(before, box))
    return max(1, len(axis.boxes)) * _HIGH + gaps * _FOLD


def _places(axis: Axis, y: float, height: float) -> _Places:
    """The places of boxes in a column; boxes of many ranges get what of its height is left, so that bands are apart."""
    if not axis.boxes:
        return _Places([y], [_HIGH])
    share = (height - _least_height(axis)) / sum(box.count for box in axis.boxes)
    tops, heights = [], []
    for place, box in enumerate(axis.boxes):
        if place and _gap(axis.boxes[place - 1], box):
            y += _FOLD
        tops.append(y)
        heights.append(_HIGH + share * box.count)
        y += heights[-1]
    return _Places(tops, heights)


def _gap(before: AxisBox, box: AxisBox) -> int:
    return box.start - before.last - 1


def _gaps(axis: Axis, place: _Places, x: float) -> Iterator[str]:
    for number_of, box in enumerate(axis.boxes[1:], 1):
        before = axis.boxes[number_of - 1]
        if _gap(before, box):
            y = place.tops[number_of - 1] + place.heights[number_of - 1]
            yield gap_sides(Gap(x, y, _FOLD, Range(before.last + 1, box.start), folded=True, to_scale=False))
            yield text(Label(x + STRIP + _PAD, y + _FOLD / 2 + 4, f"gap of {about(_gap(before, box))}"))


def _band(joint: Joint, left: Axis, right: Axis, start: _Places, end: _Places, x: float) -> str:
    top, bottom = _edge(left.boxes[joint.left], start, joint.left, joint.start, joint.last)
    far, low = _edge(right.boxes[joint.right], end, joint.right, joint.end_start, joint.end_last)
    dashes = ' stroke-dasharray="5 3"' if joint.count > 1 else ""
    colour = CLASS_LOOKS[joint.looks].colour
    title = (
        f"{left.name} {joint.start:#x}-{joint.last:#x} to {right.name} {joint.end_start:#x}-{joint.end_last:#x}: "
        f"{counted(joint.count, 'range')}, {about(joint.size)}, {_WORDS[joint.looks]}"
    )
    return (
        f'<path d="{ribbon(x - _GUTTER, top, bottom, x, far, low)}" fill="{colour}" fill-opacity="0.3" '
        f'stroke="{INK}" stroke-opacity="0.5" stroke-width="0.8"{dashes} data-ranges="{joint.count}">'
        f"<title>{escape(title)}</title></path>"
    )


def _edge(box: AxisBox, places: _Places, place: int, start: int, last: int) -> tuple[float, float]:
    """Where some of a box's addresses are at its side."""
    whole, top, height = box.last - box.start + 1, places.tops[place], places.heights[place]
    high = top + height * (start - box.start) / whole
    low = top + height * (last + 1 - box.start) / whole
    if low - high < _LEAST_BAND:
        high = min(high, top + height - _LEAST_BAND)
        low = high + _LEAST_BAND
    return high, low


def _box(name: str, box: AxisBox, kinds: Sequence[Kind], at: tuple[float, float, float]) -> Iterator[str]:
    x, y, height = at
    look, flags = CLASS_LOOKS[box.looks], _FLAGS[box.looks]
    lines, title = _lines(box, [kinds[one] for one in box.kinds])
    yield (
        f'<g data-axis="{name}" data-start="{box.start:#x}" data-last="{box.last:#x}" data-ranges="{box.count}" '
        f'data-allows="{CLASSES[box.looks]}"><title>{escape(plain(f"{name} {title}"))}</title>'
    )
    yield rect(x, y, COLUMN, height, 'fill="#ffffff"')
    yield rect(x, y, COLUMN, height, f'fill="{look.colour}" fill-opacity="0.12"')
    yield rect(x, y, STRIP, height, f'fill="url(#{CLASSES[box.looks]})"')
    yield from badge(x + 4, y + 4, look.letter, None if flags is None else MappingFlags(flags))
    dashes = ' stroke-dasharray="5 3"' if box.looks == MIXED else ""
    yield rect(x, y, COLUMN, height, f'fill="none" stroke="{INK}"{dashes}')
    for row, line in enumerate(lines):
        yield text(Label(x + STRIP + _PAD, y + (row + 1) * LINE + 1, line, strong=row == 0))
    yield "</g>"


def _lines(box: AxisBox, kinds: Sequence[Kind]) -> tuple[list[str], str]:
    """The three lines of a box, and all there is to say of it."""
    span = f"{box.start:#x}-{box.last:#x}"
    size = about(box.size)
    # "1,000,000 ranges of at least 512 GiB, 1.02 TiB" has room.
    held = size if box.count == 1 else f"{counted(box.count, 'range')} of at least {format_size(box.least)}, {size}"
    allows = list(dict.fromkeys(permission_text(kind.permissions) for kind in kinds))
    types = list(dict.fromkeys(kind.memory_type for kind in kinds if kind.memory_type))
    leaves = sorted({kind.leaf for kind in kinds})
    sized = format_size(leaves[0]) if len(leaves) == 1 else f"{format_size(leaves[0])} to {format_size(leaves[-1])}"
    title = f"{span}: {held}; allows {', '.join(allows)}; leaves of {sized}"
    title += f"; {', '.join(types)}" if types else "; the tables do not decide the memory type"
    room = COLUMN - STRIP - 2 * _PAD
    for shown in range(max(len(allows), len(types)), 0, -1):
        line = _some(allows, shown) + (f", {_some(types, shown)}" if types else "")
        if text_width(line) <= room:
            break
    else:
        line = counted(len(allows), "permission") + (f", {counted(len(types), 'memory type')}" if types else "")
    return [span, fitted(held, room), fitted(line, room)], title


def _some(words: Sequence[str], most: int) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
