"""The kernel that lists leaves."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..formats.outcome import LEAF, TABLE
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from .assembly import compiled_descent, leaf_output, locating, span_shift
from .compiled import Fixed, fixed, inlined
from .descent import Function
from .edit import DAMAGED, DONE, first_meeting, leaf_stretch, room_of, run_note
from .mapping import LEVEL_FIELD
from .raw import peek, poke


def _row_note(note: Function) -> Function:
    def note_row(room: Any, run: Any, first: int, output: int, leaves: Any, key: int, joins: int) -> Any:
        """Note leaves that continue each other: as one, or each by itself.

        Those that there is no room for are counted together, which makes it cheap to ask how many there are.
        """
        count, shift = leaves
        if joins != u64(0):
            return note(room, run, first, output, count << shift, key, joins)
        rows, capacity = room
        listed, size = run[0], u64(1) << shift
        if listed + count <= capacity:
            row = rows + (listed << u64(5))
            for i in range(count):
                poke(row, i << u64(2), first + (i << shift))
                poke(row, (i << u64(2)) + u64(1), output + (i << shift))
                poke(row, (i << u64(2)) + u64(2), size)
                poke(row, (i << u64(2)) + u64(3), key)
        return listed + count, first + (count << shift), output + (count << shift), key

    return inlined(note_row)


@cache
def list_kernel(fmt: Format) -> Fixed:
    """kernel(table, start, end, merge, rows, totals, seen) -> (result, address, rows).

    Lists the leaves in [start, end), in order.

    Args of the kernel:
        table: (host, root, controls).
        merge: 1 joins neighbours whose addresses continue and whose attributes are equal, whatever their size.
        rows: (n, 4) start, output, size, attributes with the level in bits 31:24. They are all there if the count that
            is answered is not larger than n.
        totals: leaves by level, then tables by level.
        seen: scratch, a word per level.
    """
    decode, descend, output_of = inlined(fmt.decode), compiled_descent(fmt), leaf_output(fmt, inlined)
    locate, shift_of = locating(fmt, inlined), span_shift(fmt, inlined)
    first_met, note, stretch = first_meeting(fmt), run_note(4), leaf_stretch(fmt)
    note_row = _row_note(note)
    inlined(room_of)
    levels, root_bits = fmt.levels, fmt.root_bits

    def list_leaves(
        table: Any, start: int, end: int, merge: int, rows: Any, totals: Any, seen: Any
    ) -> tuple[int, int, int]:
        host, root, controls = table
        seen[:] = u64(0)
        totals[:] = u64(0)
        totals[u64(2 * levels - 1)] = u64(1)
        room = room_of(rows)
        run = (u64(0), u64(1), u64(0), u64(MASK_64))
        address = start
        while address < end:
            (status, level, slot, _), (kind, _, _), (held, index_bits, allowed) = descend(
                host, (root, u64(root_bits), u64(MASK_64)), address, u64(levels), u64(0), controls
            )
            if status != u64(0) or kind == u64(TABLE):
                return u64(DAMAGED), address, run[0]
            above = level
            while above != u64(levels - 1):
                totals[u64(levels) + above] += first_met(seen, address, above)
                above += u64(1)
            shift = shift_of(level)
            span = u64(1) << shift
            address &= ~(span - u64(1))
            _slot, rest = locate(held, address, level, index_bits)
            hva = slot + host[0]
            i = u64(0)
            while i != rest and address < end:
                kind, output, attributes = decode(peek(hva, i), level, controls)
                if kind == u64(TABLE):
                    break
                if kind == u64(LEAF):
                    key = attributes & allowed | level << u64(LEVEL_FIELD)
                    if i == u64(0):
                        left = min(rest, (end - address + span - u64(1)) >> shift)
                        i = stretch(hva, left, level, peek(hva, i), u64(0), (kind, output, attributes), controls)
                        if i != u64(0):
                            totals[level] += i
                            run = note_row(room, run, address, output, (i, shift), key, merge)
                            address += i << shift
                            break
                    totals[level] += u64(1)
                    output = output_of(output, attributes, address, level)
                    run = note(room, run, address, output, span, key, merge)
                address += span
                i += u64(1)
        return u64(DONE), u64(0), run[0]

    return fixed(list_leaves, fmt)
