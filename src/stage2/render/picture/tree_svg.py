"""The picture of page tables as a tree, in the style of the map of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from ...address import format_size
from ..levels import level_text
from ..plain import about, counted, plain
from .layout import LINE, MARGIN, Label, fitted, text_width
from .parties import Kind
from .style import ALARM, INK, LOOKS, document, entries, kind_patterns, notes, number, paint, rect, text
from .tree import Fullness, Group, Tree, TreeLevel

WIDTH, GUTTER = 328.0, 44.0
"""Widths of a table, and between two levels."""
HEIGHT = 74.0
_PAD, _BAR, _BETWEEN, _SECTION = 8.0, 10.0, 10.0, 30.0
_HEAD = LINE + 12
_LEAST = 2.0
"""Pixels of a bar for any entries at all."""
_NOTES = (
    "A box is a table, or as many as it says that follow each other. Its bar is its entries: how many of them are "
    "leaves, lead to tables, or are empty.",
    "Lines lead to the tables of the next level. Dashed: tables that are not all alike, with the fewest and the most.",
)


def tree_svg(trees: Sequence[Tree]) -> str:
    """The tables of some spaces, one below the other; the same tables give the same text.

    Args:
        trees: of the spaces.
    """
    levels = max((len(tree.levels) for tree in trees), default=1) or 1
    width = 2 * MARGIN + levels * WIDTH + (levels - 1) * GUTTER
    body: list[str] = []
    y = 62.0
    for tree in trees:
        lines, y = _tree(tree, y)
        body += lines
    legend, y = entries(_legend(trees), y, width)
    told, y = notes(_NOTES, y, width)
    title = f"Page tables of {counted(len(trees), 'address space')}"
    described = "; ".join(f"{tree.title}, {tree.regime.format.name}: {tree.summary}" for tree in trees)
    return document(
        title, f"{described}.", width, y + MARGIN / 2, kind_patterns((Kind.RAM, Kind.TABLES)), [*body, *legend, *told]
    )


def _tree(tree: Tree, y: float) -> tuple[list[str], float]:
    """One space, and where it ends."""
    fmt = tree.regime.format
    title = plain(f"{tree.title}: {fmt.name}, root at HPA {tree.regime.root:#x}")
    lines = [text(Label(MARGIN, y, title, strong=True)), text(Label(MARGIN, y + LINE + 2, plain(tree.summary)))]
    top = y + LINE + 24
    bottom = top
    places: list[list[tuple[Group, float]]] = []
    for column, level in enumerate(tree.levels):
        x = MARGIN + column * (WIDTH + GUTTER)
        lines += _heading(tree, level, x, top)
        places.append([(group, top + _HEAD + row * (HEIGHT + _BETWEEN)) for row, group in enumerate(level.groups)])
        for group, at in places[-1]:
            lines += _box(tree, level, group, x, at)
            bottom = max(bottom, at + HEIGHT)
        if column:
            lines += _joints(places[-2], places[-1], x)
    if not tree.levels:
        lines.append(text(Label(MARGIN, top, "no tables: output equals input")))
        bottom = top
    return lines, max(bottom, top + _HEAD) + _SECTION


def _heading(tree: Tree, level: TreeLevel, x: float, y: float) -> Iterator[str]:
    leaves = "no leaves" if level.leaf_size is None else f"leaves of {format_size(level.leaf_size)}"
    yield text(Label(x, y, fitted(f"{level_text(tree.regime.format, level.level)}, {leaves}", WIDTH), strong=True))
    size = level.tables * level.entries * tree.regime.format.entry_size
    said = f"{counted(level.tables, 'table')}: {about(size)}; {counted(level.leaves, 'leaf', 'leaves')}"
    yield text(Label(x, y + LINE, fitted(said, WIDTH)))


def _box(tree: Tree, level: TreeLevel, group: Group, x: float, y: float) -> Iterator[str]:
    head = f"table at HPA {group.at:#x}" if group.count == 1 else f"{group.count:,} tables from HPA {group.at:#x}"
    covers, size = f"{group.first:#x} - {group.end:#x}", about(group.span.size)
    sorts = _sorts(group)
    said = ", ".join(f"{full.range} {many if full.most != 1 else one}" for one, many, full, _ in sorts if full.most)
    each = "each " if group.count > 1 else ""
    title = (
        f"{head}: {each}{said}, of {level.entries:,} entries; {covers}, {size}; "
        f"{counted(group.leaves.total, 'leaf', 'leaves')} together"
    )
    yield f"<g><title>{escape(plain(title))}</title>"
    yield rect(x, y, WIDTH, HEIGHT, 'fill="#ffffff"')
    yield rect(x, y, WIDTH, HEIGHT, f'fill="{LOOKS[Kind.TABLES].colour}" fill-opacity="0.1"')
    left, wide = x + _PAD, WIDTH - 2 * _PAD
    at = left
    yield rect(left, y + HEIGHT - _BAR - 6, wide, _BAR, 'fill="#ffffff"')
    for *_, full, fill in sorts:
        share = full.total / (group.count * level.entries)
        part = min(max(share * wide, _LEAST if full.total else 0.0), left + wide - at)
        if fill and part:
            yield rect(at, y + HEIGHT - _BAR - 6, part, _BAR, f'fill="{fill}"')
        at += part
    yield rect(left, y + HEIGHT - _BAR - 6, wide, _BAR, f'fill="none" stroke="{INK}" stroke-width="0.7"')
    dashes = "" if group.alike else ' stroke-dasharray="5 3"'
    yield rect(x, y, WIDTH, HEIGHT, f'fill="none" stroke="{INK}"{dashes}')
    if group.count > 1:
        # A second edge behind it, as of a pile.
        yield (
            f'<path d="M{number(x + 4)} {number(y + HEIGHT + 3)}H{number(x + WIDTH + 3)}V{number(y + 4)}" fill="none" '
            f'stroke="{INK}" stroke-width="0.8"/>'
        )
    yield text(Label(left, y + LINE, fitted(head, wide), strong=True))
    yield text(Label(left, y + 2 * LINE, fitted(f"{each}{said}", wide)))
    both = f"{covers}, {size}"
    yield text(Label(left, y + 3 * LINE, both if text_width(both) <= wide else fitted(covers, wide)))
    yield "</g>"


def _sorts(group: Group) -> list[tuple[str, str, Fullness, str]]:
    """Sorts of entries: what one and many are called, how many, and their paint; empty ones last."""
    return [
        ("leaf", "leaves", group.leaves, LOOKS[Kind.RAM].colour),
        ("table", "tables", group.tables, paint(Kind.TABLES)),
        ("wrong", "wrong", group.wrong, ALARM),
        ("empty", "empty", group.empty, ""),
    ]


def _joints(above: Sequence[tuple[Group, float]], below: Sequence[tuple[Group, float]], x: float) -> Iterator[str]:
    """Lines from tables to those that their entries lead to; `x` is the left edge of these."""
    for parent, y in above:
        for child, at in below:
            if parent.tables.total and parent.span.overlaps(child.span):
                start, middle = x - GUTTER + (3 if parent.count > 1 else 0), x - GUTTER / 2
                begin, end, turn = number(y + HEIGHT / 2), number(at + HEIGHT / 2), number(middle)
                path = f"M{number(start)} {begin}C{turn} {begin} {turn} {end} {number(x)} {end}"
                yield f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1"/>'


def _legend(trees: Sequence[Tree]) -> Iterator[tuple[list[str], str]]:
    found = [
        ("leaf", LOOKS[Kind.RAM].colour),
        ("entry that leads to a table", paint(Kind.TABLES)),
        ("empty entry", "#ffffff"),
    ]
    if any(level.wrong for tree in trees for level in tree.levels):
        found.append(("wrong: reserved bits, or a table that cannot be read", ALARM))
    for word, fill in found:
        yield [rect(0, 2, 32, 14, f'fill="{fill}" stroke="{INK}" stroke-width="0.7"')], word
