"""Where everything of a picture stands: VMs on both sides of the host, in pixels. Knows nothing of SVG.

Addresses grow downwards. One scale holds for the whole picture; what would be too small to be read at it has a least
height and says that it is not to scale, and a gap that is too long or too short for it is folded and says its size.
A range that several parties have is a box of its own.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from unicodedata import combining, east_asian_width

from ...address import Range
from ...flags import MappingFlags
from ..plain import about, plain
from .cutting import Cut, Held, cut_up, together
from .filling import Fill, fills
from .marks import Mark, MarkKind, with_marked
from .parties import Kind, Party, Space
from .signs import Signs, Spot

COLUMN, GUTTER, MARGIN, STRIP = 380.0, 110.0, 20.0, 46.0
"""Widths: of a space, between two spaces, around all, and of a box's strip with colour, letter and permissions."""
LETTER, LINE = 7.3, 16.0
"""Width of a letter and height of a line; text is monospaced, 12 pixels high."""
TOP = 70.0
"""Where the first space begins."""
FOLD = 20.0
_HEAD, _BETWEEN, _PAD = 24.0, 26.0, 8.0
_MOST_GAP = 60.0
_TEXT, _TWO_LINES = COLUMN - STRIP - 2 * _PAD, 2 * LINE + _PAD
"""Width of a box's text, and height of a box with two lines of it."""
_ROOMY = 48
"""Boxes up to which each has two lines and the largest is tall."""
_MOST_NAMES = 4
"""Limit: parties that a box names; its title names all."""
_LEAST_BAND = 0.5
"""Height of a band's end whose range is too small to be seen."""
_CLOSE_TO = 0.5
"""Pixels that a box may be off and still be called to scale."""


@dataclass(frozen=True, slots=True)
class Label:
    """A line of text: its left end, its baseline, and whether it stands out."""

    x: float
    y: float
    text: str
    strong: bool = False

    @property
    def width(self) -> float:
        """Pixels that it takes, at most."""
        return text_width(self.text)


@dataclass(frozen=True, slots=True)
class Box:
    """A range of a space that the same parties have.

    Args:
        x, y, height: its place; it is COLUMN wide.
        span: its addresses; None for host memory whose place cannot be known.
        kind: of its parties; where they differ, of the first.
        flags: what any of them may do there; None where nobody says.
        title: all there is to say of it, in one line.
        to_scale: its height is.
        overlap: several have it, and not all as a declared share.
        fills: what of it the tables have; None where no tables are looked at, and it is drawn as if all.
        vm: number of the VM whose space it is in; None in the host's.
    """

    x: float
    y: float
    height: float
    span: Range | None
    kind: Kind
    flags: MappingFlags | None
    title: str
    to_scale: bool
    overlap: bool
    fills: tuple[Fill, ...] | None = None
    vm: int | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Addresses that nobody has; folded: higher if it were to scale."""

    x: float
    y: float
    height: float
    span: Range
    folded: bool
    to_scale: bool


@dataclass(frozen=True, slots=True)
class Band:
    """From a VM's range to the host memory behind it: two edges, each an x and its two ys.

    Args:
        kind, title: as of a box.
        loose: not address by address: the memory has no one place, or lies behind addresses in any order.
    """

    x: float
    top: float
    bottom: float
    host_x: float
    host_top: float
    host_bottom: float
    kind: Kind
    title: str
    loose: bool
    vm: int


@dataclass(slots=True)
class Picture:
    """All that is drawn, in drawing order within each list.

    Args:
        width, height: of all.
        scale: bytes that a pixel stands for.
    """

    width: float = 0.0
    height: float = 0.0
    scale: float = 1.0
    boxes: list[Box] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    marked: Signs = field(default_factory=Signs)


def text_width(text: str) -> float:
    """Pixels that a line takes: two letters' for one of East Asia's wide ones."""
    return LETTER * sum(0 if combining(one) else 1 + (east_asian_width(one) in "WF") for one in text)


def fitted(text: str, width: float) -> str:
    """As much of a line as a width has room for; what is cut ends in three dots."""
    if text_width(text) <= width:
        return text
    while text and text_width(text) + LETTER > width:
        text = text[:-1]
    return text.rstrip() + "…"


def lay_out(vms: Sequence[Space], host: Sequence[Party], marks: Sequence[Mark] = ()) -> Picture:
    """Place all of a picture.

    Args:
        vms: the VMs' spaces; the first half stands left of the host, the others right of it.
        host: what the host has besides the memory of the VMs.
        marks: what is to be marked besides overlaps.
    """
    spaces, own = with_marked(vms, host, marks)
    cuts = [cut_up([Held(party, party.span) for party in vm.parties]) for vm in spaces]
    links = [(vm, party, link) for vm in spaces for party in vm.parties for link in party.behind]
    placed = [Held(party, link.hpa, vm.title, True) for vm, party, link in links if link.hpa is not None]
    host_cuts = cut_up([*(Held(party, party.span) for party in own), *placed])
    every = [one for space in (*cuts, host_cuts) for one in space]
    roomy = len(every) <= _ROOMY
    picture = Picture(scale=max((one.span.size for one in every), default=1) / (300.0 if roomy else 90.0))
    left = (len(vms) + 1) // 2
    host_x = MARGIN + COLUMN + GUTTER
    pen = _Pen(picture, _TWO_LINES if roomy else LINE + _PAD)
    bottom, at_host = pen.space(host_x, TOP, "Host physical addresses", host_cuts)
    bottom, chosen = pen.chosen(host_x, bottom, spaces)
    drawn: list[list[Box]] = []
    titles: list[Label] = []
    for first, x, side in ((0, MARGIN, spaces[:left]), (left, host_x + COLUMN + GUTTER, spaces[left:])):
        y = TOP
        for number, vm in enumerate(side, first):
            titles.append(Label(x, y + _HEAD / 2, fitted(f"{plain(vm.title)}: guest physical addresses", COLUMN)))
            y, boxes = pen.space(x, y, titles[-1].text, cuts[number], number)
            pen.bands((number, vm), boxes, at_host, chosen, x < host_x)
            drawn.append(boxes)
            y += _BETWEEN
        bottom = max(bottom, y)
    for mark in marks:
        seats = [_spot(drawn[number], gpa) for number, gpa in mark.seats]
        whole = [(number, titles[number]) for number in mark.whole]
        ends = [Spot(one.x, one.width, one.y, one.y, one.y, number) for number, one in whole]
        picture.marked.add(mark, seats, None if mark.hpa is None else _spot(at_host, mark.hpa), ends)
    for boxes, space in ((at_host, "HPA"), *((one, "GPA") for one in drawn)):
        for box in boxes:
            if box.overlap and box.span is not None:
                mark = Mark(MarkKind.OVERLAP, f"{space} {box.title}")
                picture.marked.add(mark, [], _spot(boxes, box.span.start), [])
    picture.width = 2 * MARGIN + COLUMN + (COLUMN + GUTTER) * min(2, len(vms))
    picture.width = max(picture.width, picture.marked.right + MARGIN / 2)
    picture.height = bottom + MARGIN
    return picture


class _Pen:
    """Puts spaces into a picture from the top down.

    Args:
        picture: what it fills.
        least: height of the smallest box.
    """

    def __init__(self, picture: Picture, least: float) -> None:
        self._picture, self._least = picture, least

    def space(
        self, x: float, y: float, title: str, cuts: Sequence[Cut], vm: int | None = None
    ) -> tuple[float, list[Box]]:
        """Draw one space; answers where it ends, and its boxes."""
        picture = self._picture
        picture.labels.append(Label(x, y + LINE - 3, fitted(title, COLUMN), strong=True))
        y += _HEAD
        boxes: list[Box] = []
        last: int | None = None
        for cut in cuts:
            if last is not None and cut.span.start > last:
                y = self._gap(x, y, Range(last, cut.span.start))
            boxes.append(self._box(x, y, cut, vm))
            y += boxes[-1].height
            last = cut.span.end
        if not cuts:
            picture.labels.append(Label(x, y + LINE, "nothing is known to be here"))
            y += LINE + _PAD
        return y, boxes

    def chosen(self, x: float, y: float, vms: Sequence[Space]) -> tuple[float, dict[tuple[Kind, str], Box]]:
        """Draw host memory whose place cannot be known, below that whose place is."""
        found: dict[tuple[Kind, str], list[Held]] = {}
        for vm in vms:
            for party in vm.parties:
                for link in party.behind:
                    if link.hpa is None:
                        found.setdefault((party.kind, link.chosen), []).append(Held(party, link.gpa, vm.title))
        boxes: dict[tuple[Kind, str], Box] = {}
        if found:
            y += _BETWEEN
            self._label(x, y + LINE - 3, "Host memory without one address", COLUMN, strong=True)
            y += _HEAD
        for (kind, name), held in found.items():
            height = _TWO_LINES
            names = ", ".join(one.name for one in held)
            flags = together(held)
            box = Box(x, y, height, None, kind, flags, plain(f"{name}: {names}"), False, False)
            boxes[kind, name] = box
            self._picture.boxes.append(box)
            self._lines(box, name, names)
            y += height + _PAD
        return y, boxes

    def bands(
        self,
        numbered: tuple[int, Space],
        boxes: Sequence[Box],
        at_host: Sequence[Box],
        chosen: dict[tuple[Kind, str], Box],
        left: bool,
    ) -> None:
        """Connect a VM's ranges with the host memory behind them."""
        number, vm = numbered
        starts, host_starts = _starts(boxes), _starts(at_host)
        for party in vm.parties:
            for link in party.behind:
                top, bottom = _edges(boxes, starts, link.gpa)
                if link.hpa is None:
                    end = chosen[party.kind, link.chosen]
                    host_x, host_top, host_bottom = end.x, end.y, end.y + end.height
                else:
                    host_x = at_host[0].x
                    host_top, host_bottom = _edges(at_host, host_starts, link.hpa)
                behind = link.chosen if link.hpa is None else f"HPA {link.hpa}"
                self._picture.bands.append(Band(
                    boxes[0].x + (COLUMN if left else 0), top, bottom,
                    host_x + (0 if left else COLUMN), host_top, host_bottom, party.kind,
                    plain(f"{vm.title} {party.name} {'among ' if link.scattered else ''}GPA {link.gpa}: {behind}"),
                    link.hpa is None or link.scattered, number,
                ))  # fmt: skip

    def _gap(self, x: float, y: float, span: Range) -> float:
        true = span.size / self._picture.scale
        folded = true > _MOST_GAP
        height = FOLD if folded else max(true, FOLD)
        close = not folded and height - true < _CLOSE_TO
        self._picture.gaps.append(Gap(x, y, height, span, folded, close))
        words = f"{about(span.size)}{'' if folded or close else '*'} with nothing{', folded' if folded else ''}"
        self._label(x + STRIP + _PAD, y + height / 2 + 4, words, COLUMN - STRIP - _PAD)
        return y + height

    def _box(self, x: float, y: float, cut: Cut, vm: int | None) -> Box:
        true = cut.span.size / self._picture.scale
        kinds = {one.party.kind for one in cut.held}
        overlap = len(cut.held) > 1 and kinds != {Kind.SHARE}
        flags = cut.flags
        rights = "" if flags is None else f" {flags.short}"
        several = [f"OVERLAP of {len(cut.held)}" if overlap else f"shared by {len(cut.held)}"]
        names = [one.name for one in cut.held]
        listed = [*names, *cut.notes] if len(names) == 1 else [*several, *names[:_MOST_NAMES]]
        if len(names) > _MOST_NAMES:
            listed.append(f"and {len(names) - _MOST_NAMES} more")
        size = about(cut.span.size)
        short = f"{cut.span.start:#x} {size}*{rights} {listed[0]}"
        # A second line rather than a name that is cut.
        least = self._least if text_width(short) <= _TEXT else _TWO_LINES
        height = max(true, least + LINE * (len(listed) - 1))
        close = abs(true - height) < _CLOSE_TO
        said = ", ".join(names) if len(names) == 1 else f"{several[0]}: {', '.join(names)}"
        parts = [
            f"{said}: {cut.span}",
            f"{size}{rights}",
            " and ".join(sorted(kind.value for kind in kinds)),
            *cut.notes,
        ]
        title = plain(", ".join(parts))
        kind, filled = cut.held[0].party.kind, _fills(cut, height)
        box = Box(x, y, height, cut.span, kind, flags, title, close, overlap, filled, vm)
        self._picture.boxes.append(box)
        size += "" if close else "*"
        if height >= LINE * (len(listed) + 1) + _PAD:
            self._lines(box, f"{cut.span.start:#x} - {cut.span.end:#x}", f"{size}{rights} {listed[0]}", *listed[1:])
        else:
            self._lines(box, f"{cut.span.start:#x} {size}{rights} {listed[0]}", *listed[1:])
        return box

    def _lines(self, box: Box, *lines: str) -> None:
        for number, line in enumerate(lines):
            y = box.y + _PAD / 2 + LINE * (number + 1) - 4
            self._label(box.x + STRIP + _PAD, y, line, _TEXT, strong=len(lines) > 1 and number == 0)

    def _label(self, x: float, y: float, text: str, width: float, *, strong: bool = False) -> None:
        self._picture.labels.append(Label(x, y, fitted(plain(text), width), strong))


def _fills(cut: Cut, height: float) -> tuple[Fill, ...] | None:
    """What the tables have of a range, where all who have it say so."""
    if cut.actual is None:
        return None
    cells = sorted((cell for one in cut.actual for cell in one.cells), key=lambda cell: cell[0])
    return fills(cut.span, height, cells)


def _edges(boxes: Sequence[Box], starts: Sequence[int], span: Range) -> tuple[float, float]:
    """The heights at which a range of a space begins and ends."""
    first = boxes[bisect_right(starts, span.start) - 1]
    last = boxes[bisect_left(starts, span.end) - 1]
    top = _height(first, span.start)
    return top, max(_height(last, span.end), top + _LEAST_BAND)


def _height(box: Box, address: int) -> float:
    assert box.span is not None, "it lies in a space"
    if address == box.span.end:
        return box.y + box.height
    return box.y + box.height * ((address - box.span.start) / box.span.size)


def _spot(boxes: Sequence[Box], address: int) -> Spot:
    """Where an address is that some box has."""
    box = boxes[bisect_right(_starts(boxes), address) - 1]
    return Spot(box.x, COLUMN, box.y, box.y + box.height, _height(box, address), box.vm)


def _starts(boxes: Sequence[Box]) -> list[int]:
    return [box.span.start for box in boxes if box.span is not None]
