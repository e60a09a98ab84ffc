"""The kernel that maps: extents in the largest leaves that fit, and the tables they need."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..formats.outcome import TABLE
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from .assembly import compiled_descent, locating, span_shift
from .compiled import Fixed, fixed, inlined, load
from .descent import Function
from .edit import CONFLICT, DAMAGED, DONE, NEEDS_ROOM, first_meeting, row_empty, table_link
from .raw import peek, poke


@cache
def map_kernel(fmt: Format) -> Fixed:
    """kernel(table, extents, templates, top, frames, seen, planned) -> (result, address, tables).

    Args of the kernel:
        table: (host, root, controls).
        extents: (3, n) starts, outputs, sizes, sorted and disjoint by start, all multiples of the page size.
        templates: leaf bits without address, by level.
        top: highest level at which a leaf may be made.
        frames: zeroed frames for new tables, consumed in order. Too few of them: NEEDS_ROOM, nothing written.
        seen: scratch, a word per level.
        planned: 1 where this was planned before, so that it can be done at once.
    """
    level_for, reach, write_row = _level_for(fmt), reaching(fmt), _write_row(fmt)
    conflict, locate, shift_of = _conflict(), locating(fmt, inlined), span_shift(fmt, inlined)
    inlined(load)

    def map_extents(
        table: Any, extents: Any, templates: Any, top: int, frames: Any, seen: Any, planned: int
    ) -> tuple[int, int, int]:
        host, root, controls = table
        commit = planned
        while True:
            used = u64(0)
            seen[:] = u64(0)
            for extent in range(extents.shape[1]):
                address, output, left = extents[0, extent], extents[1, extent], extents[2, extent]
                while left != u64(0):
                    level = level_for(address | output, left, top)
                    result, held, index_bits, used = reach(
                        host, root, controls, address, level, frames, seen, used, commit
                    )
                    if result != u64(DONE):
                        return result, address, used
                    shift = shift_of(level)
                    slot, rest = locate(held, address, level, index_bits)
                    count = min(rest, left >> shift)
                    if held != u64(MISSING):
                        status, _entry = load(host, slot)
                        if status != u64(0):
                            return u64(DAMAGED), address, used
                        if commit != u64(0):
                            write_row(slot + host[0], count, output, shift, templates[level])
                        else:
                            free = conflict(slot + host[0], count)
                            if free != count:
                                return u64(CONFLICT), address + (free << shift), used
                    address += count << shift
                    output += count << shift
                    left -= count << shift
            if commit != u64(0):
                return u64(DONE), u64(0), used
            if used > u64(frames.shape[0]):
                return u64(NEEDS_ROOM), u64(0), used
            commit = u64(1)

    return fixed(map_extents, fmt)


def map_work(fmt: Format, extents: Any, top: int) -> int:
    """How many entries it takes at most to map extents, as `map_kernel` takes them."""
    entries = 0
    for start, output, size in extents.T.tolist():
        level = top
        # The largest leaves that addresses and size allow, and smaller ones at both ends.
        while level and ((start ^ output) & (fmt.leaf_size(level) - 1) or size < fmt.leaf_size(level)):
            level -= 1
        entries += (size >> fmt.level_shift(level)) + 2 * level * (1 << fmt.bits)
    return entries


MISSING = MASK_64
"""The address of a table that a plan finds is still to be made."""


def _level_for(fmt: Format) -> Function:
    shift_of = span_shift(fmt, inlined)

    def level_for(aligned: int, left: int, top: int) -> int:
        """The level of the largest leaf that fits addresses and size."""
        level = top
        while level != u64(0):
            size = u64(1) << shift_of(level)
            if left >= size and aligned & (size - u64(1)) == u64(0):
                break
            level -= u64(1)
        return level

    return inlined(level_for)


@cache
def reaching(fmt: Format) -> Function:
    """reach(host, root, controls, address, level, frames, seen, used, commit), the way to a row of leaves."""
    descend, link, first_met = compiled_descent(fmt), table_link(fmt), first_meeting(fmt)
    levels, root_bits, bits = fmt.levels, fmt.root_bits, fmt.bits

    def reach(
        host: Any, root: int, controls: int, address: int, level: int, frames: Any, seen: Any, used: int, commit: int
    ) -> tuple[int, int, int, int]:
        """(result, table, its index bits, tables used): the table whose entries are leaves of `level`.

        A commit makes tables that are missing; a plan counts each once and answers MISSING.
        """
        below, above = (root, u64(root_bits), u64(MASK_64)), u64(levels)
        while True:
            (status, above, slot, entry), (kind, _, _), below = descend(
                host, below, address, above, level + u64(1), controls
            )
            if status != u64(0):
                return u64(DAMAGED), u64(0), u64(0), used
            if kind == u64(TABLE):
                return u64(DONE), below[0], below[1], used
            if entry != u64(0):
                return u64(CONFLICT), u64(0), u64(0), used
            if commit == u64(0):
                while above != level:
                    above -= u64(1)
                    used += first_met(seen, address, above)
                return u64(DONE), u64(MISSING), u64(bits), used
            fresh = frames[used]
            used += u64(1)
            link(host, slot, fresh, controls)
            below = (fresh, u64(bits), u64(MASK_64))

    return inlined(reach)


def _write_row(fmt: Format) -> Function:
    pack_address = inlined(fmt.pack_address)

    def write_row(hva: int, count: int, output: int, shift: int, leaf_bits: int) -> None:
        """Leaves that continue each other."""
        for i in range(count):
            poke(hva, i, pack_address(output + (i << shift)) | leaf_bits)

    return inlined(write_row)


@cache
def _conflict() -> Function:
    row_is_empty = row_empty()

    def conflict(hva: int, count: int) -> int:
        """How many entries are free before the first that is not."""
        if not row_is_empty(hva, count):
            for i in range(count):
                if peek(hva, i) != u64(0):
                    return i
        return count

    return inlined(conflict)
