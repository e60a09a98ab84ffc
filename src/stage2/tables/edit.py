"""The edit kernels: map, clear, protect and list whole ranges of a table, compiled once per format.

Every edit runs twice: first as a plan, which reads, refuses conflicts and counts the tables it needs, and then,
if those tables are at hand, as a commit that cannot fail. Both are the same loop, so they cannot disagree. A loop
turns once for each row of leaves within one table, never once for each page.

A new table is zero, and a table made by a split is complete, before the entry that points to it is published.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ..formats.outcome import COMBINED, GROUPED, LEAF, NONE, TABLE
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from .compiled import inlined, kernel, load, peek, poke

DONE = 0
CONFLICT = 1
"""Something stands where the edit wants to write; the address says where."""
DAMAGED = 2
"""The table itself is unusable there: a reserved encoding, or a table outside memory."""

NEEDS_ROOM = 3
"""The plan is sound but needs more tables or rows than it was given; nothing was written."""

CLEAR, PROTECT, HARVEST, MARK, BREAK = 0, 1, 2, 3, 4
"""Operations of the sweep kernel: HARVEST lists and clears accessed or dirty leaves, MARK sets both bits, BREAK makes
leaves invalid without forgetting them, for a PROTECT to follow (break-before-make)."""
VALID = 1 << 0
"""What BREAK takes away; every format that breaks before it makes has its valid bit here."""


@cache
def _row_is_empty() -> Callable[..., Any]:
    def row_is_empty(hva: int, count: int) -> bool:
        used = u64(0)
        for i in range(count):
            used |= peek(hva, i)
        return used == u64(0)

    return inlined(row_is_empty)


@cache
def map_kernel(fmt: Format) -> Callable[..., Any]:
    """kernel(host, root, controls, starts, outputs, sizes, templates, top, frames, seen) ->
    (result, address, tables).

    Args of the kernel:
        starts, outputs, sizes: extents, sorted and disjoint by start, all multiples of the page size.
        templates: leaf bits without address, by level.
        top: highest level at which a leaf may be made.
        frames: zeroed frames for new tables, consumed in order. Too few of them: NEEDS_ROOM, nothing written.
        seen: scratch, a word per level.
    """
    decode, pack_address = inlined(fmt.decode), inlined(fmt.pack_address)
    inlined(load)
    row_is_empty = _row_is_empty()
    levels, root_bits, page_shift, bits = fmt.levels, fmt.root_bits, fmt.page_shift, fmt.bits
    table_bits, table_controls = fmt.table_bits, fmt.table_controls

    def map_extents(
        host: Any,
        root: int,
        controls: int,
        starts: Any,
        outputs: Any,
        sizes: Any,
        templates: Any,
        top: int,
        frames: Any,
        seen: Any,
    ) -> tuple[int, int, int]:
        commit = u64(0)
        while True:
            used = u64(0)
            seen[:] = u64(0)
            for extent in range(starts.shape[0]):
                address, output, left = starts[extent], outputs[extent], sizes[extent]
                while left != u64(0):
                    level = top
                    while level != u64(0):
                        size = u64(1) << (u64(page_shift) + u64(bits) * level)
                        if left >= size and (address | output) & (size - u64(1)) == u64(0):
                            break
                        level -= u64(1)
                    # Down to the table that holds leaves of this level.
                    table = root
                    index_bits = u64(root_bits)
                    above = u64(levels)
                    missing = False
                    while above != level + u64(1):
                        above -= u64(1)
                        shift = u64(page_shift) + u64(bits) * above
                        if not missing:
                            slot = table + (((address >> shift) & ((u64(1) << index_bits) - u64(1))) << u64(3))
                            status, entry = load(host, slot)
                            if status != u64(0):
                                return u64(DAMAGED), address, used
                            kind, below, _ = decode(entry, above, controls)
                            if kind == u64(TABLE):
                                table = below
                            elif entry != u64(0):
                                return u64(CONFLICT), address, used
                            elif commit != u64(0):
                                table = frames[used]
                                used += u64(1)
                                poke(
                                    slot + host[0],
                                    u64(0),
                                    pack_address(table) | u64(table_bits) | (controls & u64(table_controls)),
                                )
                            else:
                                missing = True
                        if missing:
                            # Rows come in order of address, so a table is counted when its prefix first appears.
                            prefix = (address >> shift) + u64(1)
                            if seen[above] != prefix:
                                seen[above] = prefix
                                used += u64(1)
                        index_bits = u64(bits)
                    shift = u64(page_shift) + u64(bits) * level
                    index = (address >> shift) & ((u64(1) << index_bits) - u64(1))
                    count = min((u64(1) << index_bits) - index, left >> shift)
                    if not missing:
                        slot = table + (index << u64(3))
                        status, _ = load(host, slot)
                        if status != u64(0):
                            return u64(DAMAGED), address, used
                        hva = slot + host[0]
                        if commit != u64(0):
                            bits_of_leaf = templates[level]
                            for i in range(count):
                                poke(hva, i, pack_address(output + (i << shift)) | bits_of_leaf)
                        elif not row_is_empty(hva, count):
                            for i in range(count):
                                if peek(hva, i) != u64(0):
                                    return u64(CONFLICT), address + (i << shift), used
                    address += count << shift
                    output += count << shift
                    left -= count << shift
            if commit != u64(0):
                return u64(DONE), u64(0), used
            if used > u64(frames.shape[0]):
                return u64(NEEDS_ROOM), u64(0), used
            commit = u64(1)

    return kernel(map_extents, fmt)


@cache
def sweep_kernel(fmt: Format) -> Callable[..., Any]:
    """kernel(host, root, controls, start, end, operation, templates, frames, path, runs, freed) ->
    (result, address, tables, runs, freed tables, leaves).

    Clears, re-protects, harvests or marks every leaf in [start, end). Blocks that reach beyond it are split; holes
    are skipped by the whole entry that is absent; a table left empty is unlinked and listed in `freed`.

    Args of the kernel:
        operation: CLEAR, PROTECT, HARVEST or MARK.
        templates: for PROTECT, leaf bits without address, by level; for HARVEST, the attribute that counts (ACCESSED
            or DIRTY of `formats.outcome`); for MARK, the controls under which hardware would mark, then 1 for a write.
        frames: zeroed frames for the tables that splits need.
        path: scratch of shape (levels, 2).
        runs: (n, 3) start, output, size of what was touched, neighbours merged. Too few rows or frames:
            NEEDS_ROOM with the numbers needed, nothing written.
        freed: addresses of unlinked tables.
    """
    decode, pack_address = inlined(fmt.decode), inlined(fmt.pack_address)
    resize, inherit = inlined(fmt.resize), inlined(fmt.inherit)
    forget, mark = inlined(fmt.forget), inlined(fmt.mark)
    inlined(load)
    row_is_empty = _row_is_empty()
    levels, root_bits, page_shift, bits = fmt.levels, fmt.root_bits, fmt.page_shift, fmt.bits
    table_bits, table_controls = fmt.table_bits, fmt.table_controls
    group_bits = fmt.group_bits_at(0) if fmt.group_translates else 0
    broken_bits = VALID if fmt.break_before_make else 0

    def sweep(
        host: Any,
        root: int,
        controls: int,
        start: int,
        end: int,
        operation: int,
        templates: Any,
        frames: Any,
        path: Any,
        runs: Any,
        freed: Any,
    ) -> tuple[int, int, int, int, int, int]:
        commit = u64(0)
        while True:
            used = u64(0)
            run_count = u64(0)
            freed_count = u64(0)
            leaves = u64(0)
            run_next, run_output_next = u64(1), u64(1)
            address = start
            while address < end:
                table = root
                index_bits = u64(root_bits)
                level = u64(levels)
                kind, output, entry, slot, shift = u64(TABLE), u64(0), u64(0), u64(0), u64(0)
                attributes = u64(0)
                while kind == u64(TABLE):
                    if level == u64(0):
                        return u64(DAMAGED), address, used, run_count, freed_count, leaves
                    level -= u64(1)
                    shift = u64(page_shift) + u64(bits) * level
                    slot = table + (((address >> shift) & ((u64(1) << index_bits) - u64(1))) << u64(3))
                    path[level, 0] = table
                    path[level, 1] = slot
                    status, entry = load(host, slot)
                    if status != u64(0):
                        return u64(DAMAGED), address, used, run_count, freed_count, leaves
                    kind, output, attributes = decode(entry, level, controls)
                    if broken_bits and operation == u64(PROTECT) and kind == u64(NONE) and entry != u64(0):
                        entry |= u64(broken_bits)
                        kind, output, attributes = decode(entry, level, controls)
                    if kind == u64(TABLE):
                        table = output
                        index_bits = u64(bits)
                span = u64(1) << shift
                base = address & ~(span - u64(1))
                if group_bits and attributes & u64(GROUPED) != u64(0):
                    output |= base & ((span << u64(group_bits)) - span)
                if kind == u64(NONE):
                    address = base + span
                    continue
                if kind != u64(LEAF):
                    return u64(DAMAGED), address, used, run_count, freed_count, leaves

                if operation == u64(HARVEST) and attributes & templates[0] == u64(0):
                    address = base + span
                    continue
                if base < start or base + span > end:
                    # The block reaches beyond the range: it is replaced by a table of smaller leaves.
                    if commit != u64(0):
                        fresh = frames[used]
                        used += u64(1)
                        child_shift = shift - u64(bits)
                        child_bits = resize(entry, level, level - u64(1))
                        child_hva = fresh + host[0]
                        for i in range(u64(1 << bits)):
                            poke(child_hva, i, pack_address(output + (i << child_shift)) | child_bits)
                        poke(
                            slot + host[0],
                            u64(0),
                            pack_address(fresh) | u64(table_bits) | (controls & u64(table_controls)),
                        )
                        continue
                    # Planning: a table for each level that a boundary inside the block cuts; where both boundaries
                    # cut the same smaller block, once.
                    at = level
                    while at != u64(0):
                        size = u64(1) << (u64(page_shift) + u64(bits) * at)
                        cut_start = base < start and start & (size - u64(1)) != u64(0)
                        cut_end = base + span > end and end & (size - u64(1)) != u64(0)
                        if not cut_start and not cut_end:
                            break
                        used += u64(1)
                        if cut_start and cut_end and (start & ~(size - u64(1))) != (end & ~(size - u64(1))):
                            used += u64(1)
                        at -= u64(1)
                    count = u64(1)
                    first = max(base, start)
                    size = min(base + span, end) - first
                    output += first - base
                else:
                    # A row of whole leaves.
                    index = (address >> shift) & ((u64(1) << index_bits) - u64(1))
                    count = min((u64(1) << index_bits) - index, (end - base) >> shift)
                    first = base
                    size = span
                hva = slot + host[0]
                done = u64(0)
                while done != count:
                    if done != u64(0):
                        entry = peek(hva, done)
                        if broken_bits and operation == u64(PROTECT) and entry != u64(0):
                            entry |= u64(broken_bits)
                        kind, output, attributes = decode(entry, level, controls)
                        if kind != u64(LEAF):
                            break
                        if operation == u64(HARVEST) and attributes & templates[0] == u64(0):
                            break
                        first = base + (done << shift)
                        if group_bits and attributes & u64(GROUPED) != u64(0):
                            output |= first & ((span << u64(group_bits)) - span)
                    leaves += u64(1)
                    if first == run_next and output == run_output_next:
                        run_next += size
                        run_output_next += size
                        if run_count <= u64(runs.shape[0]):
                            runs[run_count - u64(1), 2] += size
                    else:
                        if run_count < u64(runs.shape[0]):
                            runs[run_count, 0] = first
                            runs[run_count, 1] = output
                            runs[run_count, 2] = size
                        run_count += u64(1)
                        run_next = first + size
                        run_output_next = output + size
                    if commit != u64(0):
                        if operation == u64(CLEAR):
                            poke(hva, done, u64(0))
                        elif operation == u64(HARVEST):
                            poke(hva, done, forget(entry, templates[0]))
                        elif operation == u64(MARK):
                            poke(hva, done, mark(entry, templates[1], templates[0]))
                        elif operation == u64(BREAK):
                            poke(hva, done, entry & u64(MASK_64 ^ VALID))
                        else:
                            poke(hva, done, inherit(entry, pack_address(output) | templates[level]))
                    done += u64(1)
                address = base + (done << shift)
                if commit == u64(0) or operation != u64(CLEAR):
                    continue
                # Unlink the table if it is empty now, and so on upwards. The rest of the row after the cleared part
                # is where something is most likely still mapped.
                while level != u64(levels - 1):
                    table = path[level, 0]
                    after = (path[level, 1] - table >> u64(3)) + done
                    entries = u64(1 << bits)
                    if after < entries and not row_is_empty(table + host[0] + (after << u64(3)), entries - after):
                        break
                    if not row_is_empty(table + host[0], after):
                        break
                    level += u64(1)
                    poke(path[level, 1] + host[0], u64(0), u64(0))
                    freed[freed_count] = table
                    freed_count += u64(1)
                    done = u64(1)
            if commit != u64(0) or leaves == u64(0):
                return u64(DONE), u64(0), used, run_count, freed_count, leaves
            if used > u64(frames.shape[0]) or run_count > u64(runs.shape[0]):
                return u64(NEEDS_ROOM), u64(0), used, run_count, freed_count, leaves
            commit = u64(1)

    return kernel(sweep, fmt)


@cache
def list_kernel(fmt: Format) -> Callable[..., Any]:
    """kernel(host, root, controls, start, end, merge, rows, totals, seen) -> (result, address, rows).

    Lists the leaves in [start, end), in order.

    Args of the kernel:
        merge: 1 joins neighbours whose addresses continue and whose attributes are equal, whatever their size.
        rows: (n, 4) start, output, size, attributes with the level in bits 31:24; empty to only count.
        totals: leaves by level, then tables by level.
        seen: scratch, a word per level.
    """
    decode = inlined(fmt.decode)
    inlined(load)
    levels, root_bits, page_shift, bits = fmt.levels, fmt.root_bits, fmt.page_shift, fmt.bits
    group_bits = fmt.group_bits_at(0) if fmt.group_translates else 0

    def list_leaves(
        host: Any, root: int, controls: int, start: int, end: int, merge: int, rows: Any, totals: Any, seen: Any
    ) -> tuple[int, int, int]:
        seen[:] = u64(0)
        totals[:] = u64(0)
        row_count = u64(0)
        capacity = u64(rows.shape[0])
        address = start
        run_next, run_output_next, run_attributes = u64(1), u64(1), u64(MASK_64)
        while address < end:
            table = root
            index_bits = u64(root_bits)
            level = u64(levels)
            allowed = u64(MASK_64)
            kind, output, attributes = u64(TABLE), u64(0), u64(0)
            slot, shift = u64(0), u64(0)
            while kind == u64(TABLE):
                if level == u64(0):
                    return u64(DAMAGED), address, row_count
                level -= u64(1)
                shift = u64(page_shift) + u64(bits) * level
                # One table per prefix: rows come in order of address.
                prefix = (address >> (shift + index_bits)) + u64(1)
                if seen[level] != prefix:
                    seen[level] = prefix
                    totals[u64(levels) + level] += u64(1)
                slot = table + (((address >> shift) & ((u64(1) << index_bits) - u64(1))) << u64(3))
                status, entry = load(host, slot)
                if status != u64(0):
                    return u64(DAMAGED), address, row_count
                kind, output, attributes = decode(entry, level, controls)
                if kind == u64(TABLE):
                    table = output
                    allowed &= attributes | u64(MASK_64 ^ COMBINED)
                    index_bits = u64(bits)
            span = u64(1) << shift
            base = address & ~(span - u64(1))
            hva = slot + host[0]
            index = (address >> shift) & ((u64(1) << index_bits) - u64(1))
            count = (u64(1) << index_bits) - index
            done = u64(0)
            while done != count and base + (done << shift) < end:
                if done != u64(0):
                    kind, output, attributes = decode(peek(hva, done), level, controls)
                    if kind == u64(TABLE):
                        break
                if kind == u64(LEAF):
                    first = base + (done << shift)
                    totals[level] += u64(1)
                    attributes &= allowed
                    if group_bits and attributes & u64(GROUPED) != u64(0):
                        output |= first & ((span << u64(group_bits)) - span)
                    joined = first == run_next and output == run_output_next and attributes == run_attributes
                    if merge != u64(0) and joined:
                        if row_count <= capacity:
                            rows[row_count - u64(1), 2] += span
                    else:
                        if row_count < capacity:
                            rows[row_count, 0] = first
                            rows[row_count, 1] = output
                            rows[row_count, 2] = span
                            rows[row_count, 3] = attributes | level << u64(24)
                        row_count += u64(1)
                    run_next = first + span
                    run_output_next = output + span
                    run_attributes = attributes
                done += u64(1)
            address = base + (done << shift)
        return u64(DONE), u64(0), row_count

    return kernel(list_leaves, fmt)
