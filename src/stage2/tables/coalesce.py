"""The kernels that join leaves: equal neighbours into one block, or marked as one group.

Each plans: it reads and lists what is to be rewritten. `commit` writes. Between the two the caller flushes where an
architecture demands that a live entry be broken before another is made.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..formats.outcome import ACCESSED, DIRTY, GROUPED, LEAF, TABLE
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from .assembly import compiled_descent, leaf_output, locating, span_shift
from .compiled import Fixed, fixed, inlined, load
from .descent import Function
from .edit import DAMAGED, DONE, VALID, leaf_stretch, table_filling
from .raw import peek, poke

GROUP, UNGROUP = 0, 1
"""What to look for: leaves that could be a group, or groups that a range touches."""
HIDE, MARK, UNMARK = 0, 1, 2
"""What to do with groups: make them invalid for a while, mark them, take the mark away."""
_STATE = ACCESSED | DIRTY


@cache
def merge_kernel(fmt: Format) -> Fixed:
    """kernel(table, start, end, level, rows) -> (result, address, count).

    Finds the tables below `level` in [start, end) whose leaves are equal and continue each other, so that one block
    at `level` says the same. Accessed and dirty bits need not be equal: the block takes the most that any leaf has.

    Args of the kernel:
        table: (host, root, controls).
        rows: (n, 4) address of the entry, the table it points to, the block's entry, input address; a count beyond
            n says how many there are.
    """
    descend, shift_of, block_of = compiled_descent(fmt), span_shift(fmt, inlined), _block_of(fmt)
    inlined(load)
    levels, root_bits = fmt.levels, fmt.root_bits

    def find_blocks(table: Any, start: int, end: int, level: int, rows: Any) -> tuple[int, int, int]:
        host, root, controls = table
        count = u64(0)
        address = start
        while address < end:
            (status, at, slot, _), (kind, _, _), (below, _, _) = descend(
                host, (root, u64(root_bits), u64(MASK_64)), address, u64(levels), level, controls
            )
            if status != u64(0):
                return u64(DAMAGED), address, count
            span = u64(1) << shift_of(at)
            base = address & ~(span - u64(1))
            address = base + span
            if kind != u64(TABLE) or base < start or address > end:
                continue
            status, _entry = load(host, below)
            if status != u64(0):
                return u64(DAMAGED), base, count
            block = block_of(below + host[0], level, controls)
            if block != u64(0):
                if count < u64(rows.shape[0]):
                    rows[count, 0] = slot
                    rows[count, 1] = below
                    rows[count, 2] = block
                    rows[count, 3] = base
                count += u64(1)
        return u64(DONE), u64(0), count

    return fixed(find_blocks, fmt)


def _block_of(fmt: Format) -> Function:
    decode, resize, forget = inlined(fmt.decode), inlined(fmt.resize), inlined(fmt.forget)
    inherit, pack_address = inlined(fmt.inherit), inlined(fmt.pack_address)
    shift_of, output_of, bits = span_shift(fmt, inlined), leaf_output(fmt, inlined), fmt.bits
    stretch = leaf_stretch(fmt)

    def block_of(hva: int, level: int, controls: int) -> int:
        """The entry of the block at `level` that says what a table of leaves below it says; 0 where none does."""
        child = level - u64(1)
        shift = shift_of(child)
        entry = peek(hva, u64(0))
        kind, first, attributes = decode(entry, child, controls)
        first = output_of(first, attributes, u64(0), child)
        if kind != u64(LEAF) or first & ((u64(1) << shift_of(level)) - u64(1)) != u64(0):
            return u64(0)
        donor, best = resize(entry, child, level), attributes & u64(_STATE)
        plain = forget(donor, u64(_STATE))
        if stretch(hva, u64(1 << bits), child, entry, u64(0), (kind, first, attributes), controls) != u64(0):
            return inherit(donor, pack_address(first) | plain)
        for i in range(u64(1 << bits)):
            entry = peek(hva, i)
            kind, output, attributes = decode(entry, child, controls)
            if kind != u64(LEAF) or output_of(output, attributes, i << shift, child) != first + (i << shift):
                return u64(0)
            shape = resize(entry, child, level)
            if forget(shape, u64(_STATE)) != plain:
                return u64(0)
            state = attributes & u64(_STATE)
            if state > best:
                donor, best = shape, state
        return inherit(donor, pack_address(first) | plain)

    return inlined(block_of)


@cache
def group_kernel(fmt: Format) -> Fixed:
    """kernel(table, start, end, operation, rows) -> (result, address, count).

    GROUP finds aligned groups of equal leaves that continue each other, wholly in [start, end) and not marked yet;
    UNGROUP finds marked groups that [start, end) touches.

    Args of the kernel:
        table: (host, root, controls).
        rows: (n, 2) address of the group's first entry, its level.
    """
    descend, locate, shift_of = compiled_descent(fmt), locating(fmt, inlined), span_shift(fmt, inlined)
    group_width, is_marked, could_be_group = _group_width(fmt), _is_marked(fmt), _could_be_group(fmt)
    levels, root_bits = fmt.levels, fmt.root_bits

    def find_groups(table: Any, start: int, end: int, operation: int, rows: Any) -> tuple[int, int, int]:
        host, root, controls = table
        count = u64(0)
        address = start
        while address < end:
            (status, level, _, _), (kind, _, _), (held, index_bits, _) = descend(
                host, (root, u64(root_bits), u64(MASK_64)), address, u64(levels), u64(0), controls
            )
            if status != u64(0) or kind == u64(TABLE):
                return u64(DAMAGED), address, count
            width = group_width(level)
            if kind != u64(LEAF) or width == u64(0):
                span = u64(1) << shift_of(level)
                address = (address & ~(span - u64(1))) + span
                continue
            whole = u64(1) << (shift_of(level) + width)
            base = address & ~(whole - u64(1))
            address = base + whole
            slot, _rest = locate(held, base, level, index_bits)
            if operation == u64(UNGROUP):
                found = is_marked(slot + host[0], level, width, controls)
            else:
                found = base >= start and address <= end and could_be_group(slot + host[0], level, width, controls)
            if found:
                if count < u64(rows.shape[0]):
                    rows[count, 0] = slot
                    rows[count, 1] = level
                count += u64(1)
        return u64(DONE), u64(0), count

    return fixed(find_groups, fmt)


@cache
def _group_width(fmt: Format) -> Function:
    # One number with the group size of each level in a byte.
    widths = sum(fmt.group_bits_at(level) << 8 * level for level in range(fmt.levels))

    def group_width(level: int) -> int:
        """log2 of the leaves in a group at `level`."""
        return (u64(widths) >> (u64(8) * level)) & u64(0xFF)

    return inlined(group_width)


def _is_marked(fmt: Format) -> Function:
    decode = inlined(fmt.decode)

    def is_marked(hva: int, level: int, width: int, controls: int) -> bool:
        """Whether any leaf of a group is marked."""
        found = False
        for i in range(u64(1) << width):
            kind, _, attributes = decode(peek(hva, i), level, controls)
            if kind == u64(LEAF) and attributes & u64(GROUPED) != u64(0):
                found = True
        return found

    return inlined(is_marked)


def _could_be_group(fmt: Format) -> Function:
    decode, resize, shift_of = inlined(fmt.decode), inlined(fmt.resize), span_shift(fmt, inlined)

    def could_be_group(hva: int, level: int, width: int, controls: int) -> bool:
        """Whether all leaves are equal, unmarked, and continue each other from an aligned output address."""
        shift = shift_of(level)
        whole = u64(1) << (shift + width)
        first, plain = u64(0), u64(0)
        for i in range(u64(1) << width):
            entry = peek(hva, i)
            kind, output, attributes = decode(entry, level, controls)
            shape = resize(entry, level, level)
            if i == u64(0):
                first, plain = output, shape
            fits = output == first + (i << shift) and shape == plain and first & (whole - u64(1)) == u64(0)
            if kind != u64(LEAF) or attributes & u64(GROUPED) != u64(0) or not fits:
                return False
        return True

    return inlined(could_be_group)


@cache
def regroup_kernel(fmt: Format) -> Fixed:
    """kernel(host, rows, operation, controls): HIDE, MARK or UNMARK the groups that `group_kernel` listed."""
    regrouped, group_width = _regrouped(fmt), _group_width(fmt)

    def regroup(host: Any, rows: Any, operation: int, controls: int) -> None:
        for row in range(rows.shape[0]):
            hva, level = rows[row, 0] + host[0], rows[row, 1]
            for i in range(u64(1) << group_width(level)):
                entry = peek(hva, i)
                if entry != u64(0):
                    poke(hva, i, regrouped(entry, level, i, operation, controls))

    return fixed(regroup, fmt)


def _regrouped(fmt: Format) -> Function:
    decode, group, ungroup = inlined(fmt.decode), inlined(fmt.group), inlined(fmt.ungroup)
    output_of, shift_of = leaf_output(fmt, inlined), span_shift(fmt, inlined)
    hides = VALID if fmt.break_before_make else 0

    def regrouped(entry: int, level: int, i: int, operation: int, controls: int) -> int:
        """What HIDE, MARK or UNMARK makes of the entry of a group's leaf number `i`."""
        if operation == u64(HIDE):
            return entry & u64(MASK_64 ^ VALID)
        entry |= u64(hides)
        if operation == u64(MARK):
            return group(entry, level)
        kind, output, attributes = decode(entry, level, controls)
        if kind == u64(LEAF) and attributes & u64(GROUPED) != u64(0):
            return ungroup(entry, level, output_of(output, attributes, i << shift_of(level), level))
        return entry

    return inlined(regrouped)


@cache
def leaf_kernel(fmt: Format) -> Fixed:
    """kernel(table, address) -> (kind, level, address of the entry, entry, output, attributes): where the way ends.

    The output is where the leaf's first byte leads. The kind is NONE where a table is outside memory, too.
    """
    descend, output_of, shift_of = compiled_descent(fmt), leaf_output(fmt, inlined), span_shift(fmt, inlined)
    levels, root_bits = fmt.levels, fmt.root_bits

    def find_leaf(table: Any, address: int) -> tuple[int, int, int, int, int, int]:
        host, root, controls = table
        (_status, level, slot, entry), (kind, output, attributes), _held = descend(
            host, (root, u64(root_bits), u64(MASK_64)), address, u64(levels), u64(0), controls
        )
        base = address & ~((u64(1) << shift_of(level)) - u64(1))
        return kind, level, slot, entry, output_of(output, attributes, base, level), attributes

    return fixed(find_leaf, fmt)


@cache
def poke_kernel() -> Fixed:
    """kernel(host, rows, make): publish entries, each with one aligned store.

    Args of the kernel:
        rows: as `merge_kernel` lists them; only where the entries stand and what they become is looked at.
        make: 0 to break them: what is published is 0.
    """

    def poke_all(host: Any, rows: Any, make: int) -> None:
        for row in range(rows.shape[0]):
            poke(rows[row, 0] + host[0], u64(0), rows[row, 2] if make != u64(0) else u64(0))

    return fixed(poke_all)


@cache
def fill_kernel(fmt: Format) -> Fixed:
    """kernel(host, table, output, shift, leaf_bits): a table of leaves that continue each other."""
    fill_table = table_filling(fmt)

    def fill(host: Any, table: int, output: int, shift: int, leaf_bits: int) -> None:
        fill_table(host, table, output, shift, leaf_bits)

    return fixed(fill, fmt)
