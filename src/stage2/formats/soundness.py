"""What every format record must satisfy before anything is built from it.

Kernels and rules take some things for granted (64-bit entries, tables of one page, an index of 9 bits). A record that
breaks one of them would build wrong bytes without a word, so it is refused when it is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import EncodingError
from ..flags import MappingFlags, MemoryType
from .outcome import LEAF, READ, TABLE
from .rules import ENTRY_SIZE, stands_alone

if TYPE_CHECKING:
    from .record import Format

MOST_ROOT_TABLES_BITS = 4
"""log2 of the tables that a root may be made of; Arm's 16 concatenated ones are the most of any architecture."""
WIDEST_OUTPUT, LEAST_PAGE_SHIFT, MOST_LEVELS = 56, 12, 8
"""What the one number can hold that a compiled translation answers with (`tables.single`)."""
_RWX = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE


def require_sound(fmt: Format) -> None:
    """Refuse a record whose numbers contradict each other, its rules, or what the kernels take for granted.

    Raises:
        EncodingError: which of them, in a sentence.
    """
    problem = _geometry(fmt)
    if problem is None and not fmt.is_bare:
        problem = fmt.rules.assumes(fmt)
    if problem is None and not fmt.is_bare and not fmt.rules.wrong_on_purpose:
        problem = _round_trip(fmt)
    if problem is not None:
        raise EncodingError(f"{fmt.name} is no sound format: {problem}")


def _geometry(fmt: Format) -> str | None:
    """What is wrong with the numbers, whatever the rules."""
    if fmt.stage not in (1, 2):
        return f"stage {fmt.stage} does not exist: 1 and 2 do"
    if fmt.entry_size != ENTRY_SIZE:
        return f"kernels load and store entries of {ENTRY_SIZE} bytes, and its have {fmt.entry_size}"
    if fmt.page_size != fmt.entry_size << fmt.bits:
        return (
            f"a table takes one page, but {1 << fmt.bits} entries ({fmt.bits} index bits) of {fmt.entry_size} bytes "
            f"take {fmt.entry_size << fmt.bits:#x} bytes and a page has {fmt.page_size:#x}"
        )
    if fmt.is_bare:
        return None if fmt.root_bits == 0 else "it has no levels, so there is no root that could have index bits"
    if not 1 <= fmt.root_bits <= fmt.bits + MOST_ROOT_TABLES_BITS:
        return (
            f"its root has {fmt.root_bits} index bits; 1 to {fmt.bits + MOST_ROOT_TABLES_BITS} are possible, "
            f"which is {1 << MOST_ROOT_TABLES_BITS} tables side by side"
        )
    if not 0 <= fmt.top_leaf_level < fmt.levels:
        return f"leaves up to level {fmt.top_leaf_level} need more than its {fmt.levels} levels"
    if not fmt.page_shift < fmt.output_bits <= WIDEST_OUTPUT:
        return (
            f"output addresses of {fmt.output_bits} bits hold no page, or are wider than the {WIDEST_OUTPUT} bits that "
            "a compiled translation answers with"
        )
    if fmt.page_shift < LEAST_PAGE_SHIFT or fmt.levels > MOST_LEVELS:
        return (
            f"a compiled translation answers with pages of 4 KiB or more and up to {MOST_LEVELS} levels; its have "
            f"{fmt.page_size:#x} bytes and {fmt.levels} levels"
        )
    if fmt.input_bits > 64:
        return f"its levels together translate {fmt.input_bits} bits, and an address has 64"
    return _groups(fmt)


def _groups(fmt: Format) -> str | None:
    if bool(fmt.group_bits) != (fmt.rules.group is not stands_alone):
        return "it must have both a size and a mark of groups of leaves, or neither"
    for level, width in enumerate(fmt.group_bits):
        if level >= fmt.levels:
            return f"it has groups at level {level}, and only {fmt.levels} levels"
        if not 0 <= width <= fmt.bits:
            return f"a group of 2^{width} leaves at level {level} does not fit a table of 2^{fmt.bits} entries"
    return None


def _round_trip(fmt: Format) -> str | None:
    """Whether what is encoded is decoded as the same, at each level."""
    controls = fmt.default_controls
    every_bit = (1 << fmt.output_bits) - 1
    for level in range(fmt.top_leaf_level + 1):
        address = every_bit & ~(fmt.leaf_size(level) - 1)
        kind, output, attributes = fmt.decode(
            fmt.leaf_entry(level, address, _RWX, MemoryType.WRITE_BACK, controls), level, controls
        )
        if kind != LEAF or output != address or not attributes & READ:
            return f"the leaf that it encodes at level {level} for {address:#x} is not decoded as such"
        lowest = fmt.leaf_entry(level, 0, _RWX, MemoryType.WRITE_BACK, controls)
        first, _, first_attributes = fmt.decode(lowest, level, controls)
        if (first, first_attributes) != (LEAF, attributes):
            return (
                f"leaves at level {level} that differ in nothing but their addresses are not decoded alike, as the "
                "kernels take for granted that go over rows of them"
            )
    for level in range(1, fmt.levels):
        address = every_bit & ~(fmt.table_size - 1)
        kind, output, _ = fmt.decode(fmt.table_entry(address, controls), level, controls)
        if kind != TABLE or output != address:
            return f"the pointer that it encodes at level {level} to the table at {address:#x} is not decoded as such"
    return None
