"""The way down a table: where an entry stands, and the descent from table to table. Nothing else computes either.

Makers, as in `walk`: they take a format and return functions in the compilable subset. Walks, edits, listings and the
joining of leaves are all made of these.

A table travels through a descent as three numbers: its address, its index bits (a root may have more or fewer than
the others), and the attributes that the tables above it let through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..formats.outcome import COMBINED, GROUPED, NONE, TABLE
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64

Function = Callable[..., Any]
"""A function of the compilable subset; numba infers its types, mypy need not."""
Table = tuple[int, int, int]
"""(address, index bits, attributes let through so far)."""
Place = tuple[int, int, int, int]
"""(status, level, address of an entry, entry); the status is 0 or the number of a FaultKind."""
Decoded = tuple[int, int, int]
"""(kind, output, attributes), as the format's `decode` answers."""


def visit_nothing(memory: Any, level: int, table: int, slot: int, entry: int, decoded: Any, controls: int) -> int:
    """The visitor of walks that only go through; disappears when inlined."""
    return u64(0)


def entry_at(base: int, index: int) -> int:
    """The address of an entry, from that of a table or of another entry."""
    return base + (index << u64(3))


def make_span_shift(fmt: Format) -> Function:
    """log2 of the bytes that one entry covers: span_shift(level)."""
    page_shift, bits = fmt.page_shift, fmt.bits

    def span_shift(level: int) -> int:
        return u64(page_shift) + u64(bits) * level

    return span_shift


def make_locate(span_shift: Function) -> Function:
    """Where the entry for an address stands: locate(table, address, level, index_bits) -> (slot, rest).

    `slot` is the entry's address, `rest` counts the entries from there to the end of the table.
    """

    def locate(table: int, address: int, level: int, index_bits: int) -> tuple[int, int]:
        index = (address >> span_shift(level)) & ((u64(1) << index_bits) - u64(1))
        return entry_at(table, index), (u64(1) << index_bits) - index

    return locate


def make_descent(fmt: Format, locate: Function, load: Function, visit: Function) -> Function:
    """The descent from one table towards smaller pages: the loop that every way down a table is.

    Args:
        fmt: its decode and the index bits of its tables.
        locate: of the format.
        load: (memory, address of an entry) -> (status, entry).
        visit: (memory, level, table, slot, entry, decoded, controls) -> status; called with every entry, its
            attributes cut down to what the tables above it let through. A status other than 0 ends the descent.

    Returns:
        descend(memory, table, address, level, floor, controls) -> (place, decoded, table).
        It starts at the entry of `table`, `level` levels above the leaves' end (as many as are left), and ends at an
        entry that is no table, at one that cannot be loaded, or when `floor` levels are left. Then the kind is
        TABLE, and the table is the one that the last entry points to; otherwise it is the one that holds the entry.
    """
    decode, bits = fmt.decode, fmt.bits

    def descend(
        memory: Any, table: Table, address: int, level: int, floor: int, controls: int
    ) -> tuple[Place, Decoded, Table]:
        held, index_bits, allowed = table
        slot, entry = u64(0), u64(0)
        kind, output, attributes = u64(TABLE), held, allowed
        while level != floor:
            level -= u64(1)
            slot, _ = locate(held, address, level, index_bits)
            status, entry = load(memory, slot)
            if status != u64(0):
                return (status, level, slot, u64(0)), (u64(NONE), u64(0), u64(0)), (held, index_bits, allowed)
            kind, output, attributes = decode(entry, level, controls)
            status = visit(memory, level, held, slot, entry, (kind, output, attributes & allowed), controls)
            if status != u64(0) or kind != u64(TABLE):
                return (status, level, slot, entry), (kind, output, attributes), (held, index_bits, allowed)
            allowed &= attributes | u64(MASK_64 ^ COMBINED)
            held, index_bits = output, u64(bits)
        return (u64(0), level, slot, entry), (kind, output, attributes), (held, index_bits, allowed)

    return descend


def make_leaf_output(fmt: Format, span_shift: Function) -> Function:
    """Where one leaf leads: leaf_output(output, attributes, address, level).

    It differs from what `decode` says where all leaves of a group hold the address of the whole group (RISC-V
    NAPOT); `address` is any input address that the leaf maps.
    """
    group_bits = fmt.group_bits_at(0) if fmt.group_translates else 0

    def leaf_output(output: int, attributes: int, address: int, level: int) -> int:
        if group_bits and attributes & u64(GROUPED) != u64(0):
            output |= address & (u64((1 << group_bits) - 1) << span_shift(level))
        return output

    return leaf_output
