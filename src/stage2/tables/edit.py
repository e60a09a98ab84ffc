"""What the kernels that edit and list tables are made of; each is compiled once per format.

Every edit runs twice: first as a plan, which reads, refuses conflicts and counts the tables it needs, and then,
if those tables are at hand, as a commit that cannot fail. Both are the same loop, so they cannot disagree. A loop
turns once for each row of leaves within one table, never once for each page.

A new table is zero, and a table made by a split is complete, before the entry that points to it is published.

Kernels take a table as (host memory, root, controls).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..formats.outcome import GROUPED, LEAF
from ..formats.record import Format
from ..formats.u64 import u64
from .assembly import span_shift
from .compiled import inlined
from .descent import Function
from .mapping import ATTRIBUTES
from .raw import peek, poke

DONE = 0
CONFLICT = 1
"""Something stands where the edit wants to write; the address says where."""
DAMAGED = 2
"""The table itself is unusable there: a reserved encoding, or a table outside memory."""
NEEDS_ROOM = 3
"""The plan is sound but needs more tables or rows than it was given; nothing was written."""

_SHORT = 8
"""Fewer leaves are sooner looked at one by one."""
VALID = 1 << 0
"""What makes an entry valid, in every format that breaks before it makes."""


@cache
def row_empty() -> Function:
    """row_is_empty(hva, count): whether `count` entries from an address on are 0."""

    def row_is_empty(hva: int, count: int) -> bool:
        used = u64(0)
        for i in range(count):
            used |= peek(hva, i)
        return used == u64(0)

    return inlined(row_is_empty)


@cache
def table_link(fmt: Format) -> Function:
    """link(host, slot, table, controls): publish the entry that points to a table."""
    pack_address, table_bits, table_controls = inlined(fmt.pack_address), fmt.table_bits, fmt.table_controls

    def link(host: Any, slot: int, table: int, controls: int) -> None:
        poke(slot + host[0], u64(0), pack_address(table) | u64(table_bits) | (controls & u64(table_controls)))

    return inlined(link)


@cache
def table_filling(fmt: Format) -> Function:
    """fill(host, table, output, shift, leaf_bits): a table of leaves of 2^shift bytes that continue each other."""
    pack_address, bits = inlined(fmt.pack_address), fmt.bits

    def fill(host: Any, table: int, output: int, shift: int, leaf_bits: int) -> None:
        hva = table + host[0]
        for i in range(u64(1 << bits)):
            poke(hva, i, pack_address(output + (i << shift)) | leaf_bits)

    return inlined(fill)


@cache
def leaf_stretch(fmt: Format) -> Function:
    """stretch(hva, count, level, entry, mend, decoded, controls) -> leaves: a row of leaves looked at as a whole.

    All `count` where every entry from `hva` on is the first one but for its address, and the addresses continue each
    other; else 0. Then all have the first one's attributes, which hang on nothing else, and all are valid where the
    last one is: addresses grow, and what a format refuses of them is their width. Marked groups are left out: where
    all of a group hold one address, the next one does not continue it.

    Args of the function:
        entry: the first one, as it stands in the table.
        mend: bits to turn over before an entry is decoded: what a BREAK took away.
        decoded: what `decode` says of the first one, mended.
    """
    decode, pack_address = inlined(fmt.decode), inlined(fmt.pack_address)
    shift_of = span_shift(fmt, inlined)

    def stretch(hva: int, count: int, level: int, entry: int, mend: int, decoded: Any, controls: int) -> int:
        _kind, output, attributes = decoded
        if count < u64(_SHORT) or attributes & u64(GROUPED) != u64(0):
            return u64(0)
        shift = shift_of(level)
        # Nothing but the first entry's address may differ, so where that is not encoded as it would be, nothing fits.
        rest = entry ^ pack_address(output)
        last = pack_address(output + ((count - u64(1)) << shift)) ^ rest
        if peek(hva, count - u64(1)) != last:
            return u64(0)
        difference = u64(0)
        for i in range(count):
            difference |= peek(hva, i) ^ pack_address(output + (i << shift)) ^ rest
        if difference != u64(0):
            return u64(0)
        kind, end, _attributes = decode(last ^ mend, level, controls)
        if kind != u64(LEAF) or end != output + ((count - u64(1)) << shift):
            return u64(0)
        return count

    return inlined(stretch)


@cache
def first_meeting(fmt: Format) -> Function:
    """first_met(seen, address, level): 1 when the table at `level` is met for the first time, else 0.

    `address` is any that it translates; addresses come in order. Not for the root.

    Args of the function:
        seen: scratch, a word per level, zero in the beginning.
    """
    shift_of = span_shift(fmt, inlined)

    def first_met(seen: Any, address: int, level: int) -> int:
        prefix = (address >> shift_of(level + u64(1))) + u64(1)
        if seen[level] == prefix:
            return u64(0)
        seen[level] = prefix
        return u64(1)

    return inlined(first_met)


def room_of(rows: Any) -> tuple[int, int]:
    """(address, number of rows) of an array: what pieces take, since passing arrays on costs reference counting."""
    return u64(rows.ctypes.data), u64(rows.shape[0])


@cache
def run_note(columns: int) -> Function:
    """note(room, run, first, output, size, key, joins) -> run: list [first, first + size), or lengthen the last row.

    A row is lengthened where input and output continue it and the keys' attributes are equal. Rows that there is no
    room for are counted all the same.

    Args:
        columns: 3 for rows of start, output, size; 4 to have the key of the row's first leaf too.

    Args of the function:
        room: `room_of` the rows.
        run: (rows so far, next input, next output, key); in the beginning no input that there is.
        joins: 0 gives everything a row of its own.
    """

    def note(
        room: tuple[int, int], run: tuple[int, int, int, int], first: int, output: int, size: int, key: int, joins: int
    ) -> tuple[int, int, int, int]:
        rows, capacity = room
        count, next_input, next_output, last_key = run
        equal = (key ^ last_key) & u64(ATTRIBUTES) == u64(0)
        if joins != u64(0) and equal and first == next_input and output == next_output:
            if count <= capacity:
                total = count * u64(columns) - u64(columns - 2)
                poke(rows, total, peek(rows, total) + size)
        else:
            if count < capacity:
                poke(rows, count * u64(columns), first)
                poke(rows, count * u64(columns) + u64(1), output)
                poke(rows, count * u64(columns) + u64(2), size)
                if columns > 3:
                    poke(rows, count * u64(columns) + u64(3), key)
            count += u64(1)
        return count, first + size, output + size, key

    return inlined(note)
