"""The kernels that join leaves: equal neighbours into one block, or marked as one group.

Each plans: it reads and lists what is to be rewritten. `commit` writes. Between the two the caller flushes where an
architecture demands that a live entry be broken before another is made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ..formats.outcome import ACCESSED, DIRTY, GROUPED, LEAF, TABLE
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from .compiled import inlined, kernel, load, peek, poke
from .edit import DAMAGED, DONE, VALID

GROUP, UNGROUP = 0, 1
"""What to look for: leaves that could be a group, or groups that a range touches."""
HIDE, MARK, UNMARK = 0, 1, 2
"""What to do with groups: make them invalid for a while, mark them, take the mark away."""
_STATE = ACCESSED | DIRTY


@cache
def merge_kernel(fmt: Format) -> Callable[..., Any]:
    """kernel(host, root, controls, start, end, level, rows) -> (result, address, count).

    Finds the tables below `level` in [start, end) whose leaves are equal and continue each other, so that one block
    at `level` says the same. Accessed and dirty bits need not be equal: the block takes the most that any leaf has.

    Args of the kernel:
        rows: (n, 4) address of the entry, the table it points to, the block's entry, input address; a count beyond
            n says how many there are.
    """
    decode, resize, forget = inlined(fmt.decode), inlined(fmt.resize), inlined(fmt.forget)
    inherit, pack_address = inlined(fmt.inherit), inlined(fmt.pack_address)
    inlined(load)
    levels, root_bits, page_shift, bits = fmt.levels, fmt.root_bits, fmt.page_shift, fmt.bits
    group_bits = fmt.group_bits_at(0) if fmt.group_translates else 0

    def find_blocks(
        host: Any, root: int, controls: int, start: int, end: int, level: int, rows: Any
    ) -> tuple[int, int, int]:
        count = u64(0)
        address = start
        while address < end:
            table, index_bits, at = root, u64(root_bits), u64(levels)
            kind, slot, shift = u64(TABLE), u64(0), u64(0)
            while kind == u64(TABLE) and at != level:
                at -= u64(1)
                shift = u64(page_shift) + u64(bits) * at
                slot = table + (((address >> shift) & ((u64(1) << index_bits) - u64(1))) << u64(3))
                status, entry = load(host, slot)
                if status != u64(0):
                    return u64(DAMAGED), address, count
                kind, output, _ = decode(entry, at, controls)
                if kind == u64(TABLE):
                    table, index_bits = output, u64(bits)
            base = address & ~((u64(1) << shift) - u64(1))
            address = base + (u64(1) << shift)
            if kind != u64(TABLE) or base < start or address > end:
                continue
            child = level - u64(1)
            child_shift = shift - u64(bits)
            status, entry = load(host, table)
            if status != u64(0):
                return u64(DAMAGED), base, count
            hva = table + host[0]
            plain, donor, best, first = u64(0), u64(0), u64(0), u64(0)
            equal = True
            for i in range(u64(1 << bits)):
                entry = peek(hva, i)
                kind, output, attributes = decode(entry, child, controls)
                if kind != u64(LEAF):
                    equal = False
                    break
                if group_bits and attributes & u64(GROUPED) != u64(0):
                    output |= (i << child_shift) & ((u64(1) << (child_shift + u64(group_bits))) - u64(1))
                shape = resize(entry, child, level)
                if i == u64(0):
                    first, plain, donor = output, forget(shape, u64(_STATE)), shape
                    if first & ((u64(1) << shift) - u64(1)) != u64(0):
                        equal = False
                        break
                if forget(shape, u64(_STATE)) != plain or output != first + (i << child_shift):
                    equal = False
                    break
                state = attributes & u64(_STATE)
                if state > best:
                    donor, best = shape, state
            if equal:
                if count < u64(rows.shape[0]):
                    rows[count, 0] = slot
                    rows[count, 1] = table
                    rows[count, 2] = inherit(donor, pack_address(first) | plain)
                    rows[count, 3] = base
                count += u64(1)
        return u64(DONE), u64(0), count

    return kernel(find_blocks, fmt)


@cache
def group_kernel(fmt: Format) -> Callable[..., Any]:
    """kernel(host, root, controls, start, end, operation, rows) -> (result, address, count).

    GROUP finds aligned groups of equal leaves that continue each other, wholly in [start, end) and not marked yet;
    UNGROUP finds marked groups that [start, end) touches.

    Args of the kernel:
        rows: (n, 2) address of the group's first entry, its level.
    """
    decode, resize = inlined(fmt.decode), inlined(fmt.resize)
    inlined(load)
    levels, root_bits, page_shift, bits = fmt.levels, fmt.root_bits, fmt.page_shift, fmt.bits
    # One number with the group size of each level in a byte.
    sizes = sum(fmt.group_bits_at(level) << 8 * level for level in range(fmt.levels))

    def find_groups(
        host: Any, root: int, controls: int, start: int, end: int, operation: int, rows: Any
    ) -> tuple[int, int, int]:
        count = u64(0)
        address = start
        while address < end:
            table, index_bits, at = root, u64(root_bits), u64(levels)
            kind, slot, shift, output, entry, attributes = u64(TABLE), u64(0), u64(0), u64(0), u64(0), u64(0)
            while kind == u64(TABLE):
                if at == u64(0):
                    return u64(DAMAGED), address, count
                at -= u64(1)
                shift = u64(page_shift) + u64(bits) * at
                slot = table + (((address >> shift) & ((u64(1) << index_bits) - u64(1))) << u64(3))
                status, entry = load(host, slot)
                if status != u64(0):
                    return u64(DAMAGED), address, count
                kind, output, attributes = decode(entry, at, controls)
                if kind == u64(TABLE):
                    table, index_bits = output, u64(bits)
            width = (u64(sizes) >> (u64(8) * at)) & u64(0xFF)
            if kind != u64(LEAF) or width == u64(0):
                address = (address & ~((u64(1) << shift) - u64(1))) + (u64(1) << shift)
                continue
            whole = u64(1) << (shift + width)
            base = address & ~(whole - u64(1))
            address = base + whole
            members = u64(1) << width
            index = (base >> shift) & ((u64(1) << index_bits) - u64(1))
            hva = table + (index << u64(3)) + host[0]
            found = False
            if operation == u64(UNGROUP):
                for i in range(members):
                    kind, output, attributes = decode(peek(hva, i), at, controls)
                    if kind == u64(LEAF) and attributes & u64(GROUPED) != u64(0):
                        found = True
            elif base >= start and address <= end:
                found = True
                first, plain = u64(0), u64(0)
                for i in range(members):
                    entry = peek(hva, i)
                    kind, output, attributes = decode(entry, at, controls)
                    shape = resize(entry, at, at)
                    if i == u64(0):
                        first, plain = output, shape
                    fits = output == first + (i << shift) and shape == plain and first & (whole - u64(1)) == u64(0)
                    if kind != u64(LEAF) or attributes & u64(GROUPED) != u64(0) or not fits:
                        found = False
                        break
            if found:
                if count < u64(rows.shape[0]):
                    rows[count, 0] = table + (index << u64(3))
                    rows[count, 1] = at
                count += u64(1)
        return u64(DONE), u64(0), count

    return kernel(find_groups, fmt)


@cache
def regroup_kernel(fmt: Format) -> Callable[..., Any]:
    """kernel(host, rows, operation, controls): HIDE, MARK or UNMARK the groups that `group_kernel` listed."""
    decode, group, ungroup = inlined(fmt.decode), inlined(fmt.group), inlined(fmt.ungroup)
    page_shift, bits = fmt.page_shift, fmt.bits
    sizes = sum(fmt.group_bits_at(level) << 8 * level for level in range(fmt.levels))
    hides = VALID if fmt.break_before_make else 0
    translates = 1 if fmt.group_translates else 0

    def regroup(host: Any, rows: Any, operation: int, controls: int) -> None:
        for row in range(rows.shape[0]):
            hva, level = rows[row, 0] + host[0], rows[row, 1]
            shift = u64(page_shift) + u64(bits) * level
            for i in range(u64(1) << ((u64(sizes) >> (u64(8) * level)) & u64(0xFF))):
                entry = peek(hva, i)
                if entry == u64(0):
                    continue
                if operation == u64(HIDE):
                    poke(hva, i, entry & u64(MASK_64 ^ VALID))
                elif operation == u64(MARK):
                    poke(hva, i, group(entry | u64(hides), level))
                else:
                    entry |= u64(hides)
                    kind, output, attributes = decode(entry, level, controls)
                    if kind == u64(LEAF) and attributes & u64(GROUPED) != u64(0):
                        if translates:
                            output += i << shift
                        entry = ungroup(entry, level, output)
                    poke(hva, i, entry)

    return kernel(regroup, fmt)


@cache
def poke_kernel() -> Callable[..., Any]:
    """kernel(host, slots, entries): publish entries, each with one aligned store."""

    def poke_all(host: Any, slots: Any, entries: Any) -> None:
        for i in range(slots.shape[0]):
            poke(slots[i] + host[0], u64(0), entries[i])

    return kernel(poke_all)


@cache
def fill_kernel(fmt: Format) -> Callable[..., Any]:
    """kernel(host, table, output, shift, leaf_bits): a table of leaves that continue each other."""
    pack_address, bits = inlined(fmt.pack_address), fmt.bits

    def fill(host: Any, table: int, output: int, shift: int, leaf_bits: int) -> None:
        for i in range(u64(1 << bits)):
            poke(table + host[0], i, pack_address(output + (i << shift)) | leaf_bits)

    return kernel(fill, fmt)
