"""The bits of an address in a picture: which of them number an entry at which level, and which are the offset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from ...formats.outcome import EntryKind
from ...formats.record import Format
from ...tables.explain import Step
from .layout import LINE, Label, fitted
from .parties import Kind
from .style import INK, LOOKS, rect, text

ADDRESS_BITS = 64
HEIGHT = 3 * LINE + 10
_PAD, _ABOVE, _LEVEL, _OFFSET = 6.0, 122.0, 104.0, 150.0


@dataclass(frozen=True, slots=True)
class Part:
    """Some bits of an address.

    Args:
        high, low: their numbers.
        what: what they are for.
        value: what they say.
        used: the walk took them.
    """

    high: int
    low: int
    what: str
    value: str
    used: bool = True

    @property
    def bits(self) -> str:
        """Their numbers as manuals write them."""
        return f"bits {self.high}:{self.low}" if self.high > self.low else f"bit {self.low}"


def parts_of(fmt: Format, address: int, steps: Sequence[Step]) -> list[Part]:
    """The parts of an address, highest bits first.

    Args:
        fmt: what it goes through.
        address: it.
        steps: of the stage that it goes through, as far as the walk came.
    """
    found = []
    width = min(fmt.input_bits, ADDRESS_BITS)
    if width < ADDRESS_BITS:
        word = "all ones" if fmt.high_half else f"as bit {width - 1}" if fmt.sign_extended else "all zero"
        found.append(Part(ADDRESS_BITS - 1, width, word, f"{address >> width:#x}"))
    leaf = next((step.level for step in steps if step.kind is EntryKind.LEAF), 0)
    reached = {step.level for step in steps}
    for level in range(fmt.levels - 1, leaf - 1, -1):
        low, index = fmt.level_shift(level), str(fmt.index(address, level))
        found.append(Part(low + fmt.index_bits(level) - 1, low, f"level {level}", index, level in reached))
    size = fmt.leaf_size(leaf) if fmt.levels else 1 << width
    ended = any(step.kind is EntryKind.LEAF for step in steps) or not fmt.levels
    found.append(Part(size.bit_length() - 2, 0, "offset", f"{address % size:#x}", ended))
    return found


def bits_width(fmt: Format) -> float:
    """Pixels that the bits of an address of a format take, at most."""
    return _ABOVE + fmt.levels * _LEVEL + _OFFSET


def address_bits(title: str, parts: Sequence[Part], x: float, y: float) -> Iterator[str]:
    """The bits as a row of boxes under a title; HEIGHT and a line high.

    Args:
        title: what the address is.
        parts: highest bits first.
        x, y: the top left corner.
    """
    yield text(Label(x, y + 12, title, strong=True))
    y += LINE + 2
    for part in parts:
        level = part.what.startswith("level")
        width = _LEVEL if level else _OFFSET if part.low == 0 else _ABOVE
        dashes = "" if part.used else ' stroke-dasharray="4 3"'
        said = f"{part.bits}, {part.what}: {part.value}" + ("" if part.used else ", which the walk did not come to")
        yield f"<g><title>{escape(said)}</title>"
        yield rect(x, y, width, HEIGHT, 'fill="#ffffff"')
        if level and part.used:
            yield rect(x, y, width, HEIGHT, f'fill="{LOOKS[Kind.TABLES].colour}" fill-opacity="0.12"')
        yield rect(x, y, width, HEIGHT, f'fill="none" stroke="{INK}"{dashes}')
        for row, line in enumerate((part.bits, part.what, part.value), 1):
            yield text(Label(x + _PAD, y + row * LINE, fitted(line, width - 2 * _PAD), strong=row == 3))
        yield "</g>"
        x += width
