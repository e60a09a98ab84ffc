"""The kernels that translate arrays of addresses by both stages.

One goes address by address. The other does what hardware does: it remembers where the upper levels of both stages led,
in walk caches that live for one call, and it asks the cache for the leaf entries of both stages well before it looks at
them. It settles addresses that translate; every other one, and those for which hardware would set a bit of stage 1
first, goes the way of the first kernel.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..formats.outcome import MAPPED, READ, TABLES_ACCESSED
from ..formats.record import Format
from ..formats.rules import TABLE_WALK
from ..formats.u64 import MASK_64, u64
from .assembly import (
    check,
    compiled_lookup,
    compiled_two_stage,
    compiled_walk,
    folded_two_stage,
    locating,
    lookup,
    sides,
    whole_walk,
)
from .compiled import Kernel, inlined, keep_marks_back, kernel, load, store
from .descent import Function, visit_nothing
from .folded import FEW
from .leaf_memo import MEMO_WORDS, make_last_leaf
from .raw import peek, poke, prefetch, room
from .walk import PENDING
from .walk_cache import ODD, ROW_SHIFT, make_upper, rows_for, settled

UNMAPPED = MASK_64
"""The output of an address that is not mapped."""
AHEAD = 8
"""How many addresses each of the two phases runs ahead of the next."""
_RING = 32
"""Addresses under way, a power of two above twice AHEAD."""
_ROW_SHIFT = 6
"""log2 of the bytes of an address under way: eight words, a line of the cache."""
_ROW = 1 << _ROW_SHIFT
# Columns of the ring; the leaf of stage 1 by its attributes.
_STATUS, _OUTPUT, _ATTRIBUTES, _ENTRY, _GPA, _GRANTED, _LEAF_1 = range(7)


@cache
def two_stage_kernel(first: Format, second: Format, *, marks: bool = False, ahead: bool = True) -> Kernel:
    """kernel(host, regime_1, regime_2, need, write, gvas, hpas, gpas, permissions, statuses) for both stages.

    With `marks` accessed and dirty bits are stored as hardware would, one address after the other. Looking ahead is for
    millions of addresses: compiling what does it takes five times as long as compiling what does not.

    Args of the kernel:
        regime_1, regime_2: (root, levels, root index bits, controls), unsigned 64-bit.
        need, write: mask of effective permissions, 0 for a lookup; 1 for a write.
        hpas: UNMAPPED where an address does not translate.
        gpas: on a stage-2 fault, the address that stage 2 refused.
        permissions: effective ones of both stages.
        statuses: 32 bits, as `tables.walk` describes them.
    """
    keep = store if marks else keep_marks_back
    slow = one_by_one(first, second, keep)
    plain = _plain(slow, first, second, keep)
    # A last-level table of the guest must lie in one page of stage 2, or several entries lead to it.
    if marks or not ahead or first.table_size > second.page_size:
        return kernel(slow, first, second, plain=plain)
    return kernel(_ahead(first, second), first, second, plain=plain)


def steps(first: Format, second: Format) -> int:
    """Entries that a translation goes over, at most: every table of stage 1 is looked for through stage 2, and so is
    where the last of them leads."""
    return (first.levels + 1) * (second.levels + 1)


def one_by_one(first: Format, second: Format, keep: Function) -> Function:
    """The kernel that goes address by address; `keep` stores accessed and dirty bits, or keeps them back."""
    return _answering(compiled_two_stage(first, second, keep))


def _plain(slow: Function, first: Format, second: Format, keep: Function) -> Function:
    """What `one_by_one` does, to be run as plain Python: with constants worked out where there are many addresses."""

    def translate_both(
        host: Any, regime_1: Any, regime_2: Any, need: int, write: int, gvas: Any, *answers: Any
    ) -> None:
        many = gvas.shape[0] > FEW
        chosen = _answering(folded_two_stage(first, second, keep)) if many else slow
        chosen(host, regime_1, regime_2, need, write, gvas, *answers)

    return translate_both


def _answering(translate: Function) -> Function:
    """An array of addresses, each by the given translation of one."""

    def translate_both(
        host: Any,
        regime_1: Any,
        regime_2: Any,
        need: int,
        write: int,
        gvas: Any,
        hpas: Any,
        gpas: Any,
        permissions: Any,
        statuses: Any,
    ) -> None:
        for i in range(gvas.shape[0]):
            status, hpa, granted, gpa, _level_1, _level_2 = translate(host, regime_1, regime_2, gvas[i], need, write)
            hpas[i] = hpa if status == u64(MAPPED) else u64(UNMAPPED)
            gpas[i] = gpa
            permissions[i] = granted
            statuses[i] = status

    return translate_both


def _make_page_of_table(second: Format, upper: Function, look_up: Function, check_2: Function) -> Function:
    """Where a GPA that holds stage-1 entries is: page_of_table((host, regime_2, cache), gpa) -> (status, HPA)."""
    walk_write, near_mask, bits = inlined(second.walk_write), second.leaf_size(1) - 1, second.bits

    def page_of_table(memory: Any, gpa: int) -> tuple[int, int]:
        host, regime, cache = memory
        _root, levels, root_bits, controls = regime
        write = walk_write(controls & u64(MASK_64 ^ TABLE_WALK))
        status, output, attributes, _level, entry = upper(host, regime, cache, gpa)
        if status == u64(MAPPED):
            output |= gpa & u64(near_mask)
        elif status == u64(PENDING):
            last_bits = u64(bits) if levels > u64(1) else root_bits
            status, output, attributes, _level, _slot, entry = look_up(
                host, (output, last_bits, attributes), gpa, u64(1), u64(0), controls
            )
        if status == u64(MAPPED):
            need = u64(READ) | write << u64(1)
            status, _after, _granted = check_2(attributes, entry, levels, need, write, controls)
        return status, output

    return page_of_table


def _make_load_through(page_of_table: Function) -> Function:
    """Loading of a stage-1 entry through the walk caches of stage 2; a status other than 0 means the long way."""

    def load_through(memory: Any, slot: int) -> tuple[int, int]:
        status, hpa = page_of_table(memory, slot)
        if status != u64(0):
            return u64(ODD), u64(0)
        return load(memory[0], hpa)

    return load_through


def _ahead(first: Format, second: Format) -> Function:
    """The kernel that remembers and looks ahead."""
    translate = compiled_two_stage(first, second, keep_marks_back)
    check_1, check_2 = check(first, inlined), check(second, inlined)
    look_up_1, look_up_2 = compiled_lookup(first), compiled_lookup(second)
    locate_1, locate_2 = locating(first, inlined), locating(second, inlined)
    asking, both = sides(second, inlined)
    upper_2 = inlined(make_upper(second, compiled_walk(second), look_up_2, inlined(settled)))
    page_of_table = inlined(_make_page_of_table(second, upper_2, look_up_2, check_2))
    inlined(load)
    inlined(rows_for)
    last_leaf_1 = inlined(make_last_leaf(first, look_up_1, locate_1, load))
    last_leaf_2 = inlined(make_last_leaf(second, look_up_2, locate_2, load))
    load_through = inlined(_make_load_through(page_of_table))
    upper_1 = inlined(
        make_upper(
            first,
            whole_walk(first, load_through, visit_nothing, inlined),
            lookup(first, load_through, visit_nothing, inlined),
            page_of_table,
        )
    )
    levels_1, root_bits_1, levels_2, root_bits_2 = first.levels, first.root_bits, second.levels, second.root_bits
    last_bits_1 = first.bits if levels_1 > 1 else root_bits_1
    last_bits_2 = second.bits if levels_2 > 1 else root_bits_2
    mask_1, mask_2 = first.leaf_size(1) - 1, second.leaf_size(1) - 1

    def translate_both(
        host: Any,
        regime_1: Any,
        regime_2: Any,
        need: int,
        write: int,
        gvas: Any,
        hpas: Any,
        gpas: Any,
        permissions: Any,
        statuses: Any,
    ) -> None:
        count = u64(gvas.shape[0])
        rows = rows_for(count)
        # By address, because passing an array on costs counting who holds it.
        cached = rows << u64(ROW_SHIFT)
        scratch = room((u64(_RING + 1) << u64(_ROW_SHIFT - 3)) + u64(2 * MEMO_WORDS) + (u64(6) * cached >> u64(3)))
        ring = (u64(scratch.ctypes.data) + u64(_ROW - 1)) & u64(MASK_64 ^ (_ROW - 1))
        memo_1 = ring + u64(_RING * _ROW)
        memo_2 = memo_1 + u64(8 * MEMO_WORDS)
        caches = memo_2 + u64(8 * MEMO_WORDS)
        cache_1 = (caches, caches + cached, rows - u64(1))
        cache_2 = (caches + u64(2) * cached, caches + u64(3) * cached, rows - u64(1))
        # Reads of tables and of data may differ in what they are allowed, so each has a cache of its own.
        cache_t = (caches + u64(4) * cached, caches + u64(5) * cached, rows - u64(1))
        root_1, _levels, _root_bits, controls_1 = regime_1
        root_2, _levels, _root_bits, controls_2 = regime_2
        # What the formats say anyway, as constants, which make shifts cheap.
        regime_1 = (root_1, u64(levels_1), u64(root_bits_1), controls_1)
        regime_2 = (root_2, u64(levels_2), u64(root_bits_2), controls_2)
        walking = (root_2, u64(levels_2), u64(root_bits_2), controls_2 | u64(TABLE_WALK))
        guest = (host, walking, cache_t)
        for turn in range(count + u64(2 * AHEAD)):
            if turn < count:
                row = ring + ((turn & u64(_RING - 1)) << u64(_ROW_SHIFT))
                gva = gvas[turn]
                status, output, attributes, _level, entry = upper_1(guest, regime_1, cache_1, gva)
                if status == u64(PENDING):
                    slot, _rest = locate_1(output, gva, u64(0), u64(last_bits_1))
                    prefetch(slot + host[0])
                poke(row, u64(_STATUS), status)
                poke(row, u64(_OUTPUT), output)
                poke(row, u64(_ATTRIBUTES), attributes)
                poke(row, u64(_ENTRY), entry)
            i = turn - u64(AHEAD)
            if turn >= u64(AHEAD) and i < count:
                row = ring + ((i & u64(_RING - 1)) << u64(_ROW_SHIFT))
                status, gpa = peek(row, u64(_STATUS)), peek(row, u64(_OUTPUT))
                attributes, entry = peek(row, u64(_ATTRIBUTES)), peek(row, u64(_ENTRY))
                if status == u64(PENDING):
                    status, gpa, attributes, _level, _slot, entry = last_leaf_1(
                        host, memo_1, (gpa, u64(last_bits_1), attributes), gvas[i], controls_1
                    )
                elif status == u64(MAPPED):
                    gpa |= gvas[i] & u64(mask_1)
                outcome = u64(ODD)
                if status == u64(MAPPED):
                    status, after, granted = check_1(attributes, entry, u64(levels_1), need, write, controls_1)
                    tables_marked = need == u64(0) or attributes & u64(TABLES_ACCESSED) != u64(0)
                    # Hardware's writes to stage 1 go through stage 2, which may refuse them.
                    if status == u64(MAPPED) and after == entry and tables_marked:
                        poke(row, u64(_GPA), gpa)
                        poke(row, u64(_GRANTED), granted)
                        poke(row, u64(_LEAF_1), attributes)
                        outcome, output, attributes, _level, entry = upper_2(host, regime_2, cache_2, gpa)
                        if outcome == u64(PENDING):
                            slot, _rest = locate_2(output, gpa, u64(0), u64(last_bits_2))
                            prefetch(slot + host[0])
                        poke(row, u64(_OUTPUT), output)
                        poke(row, u64(_ATTRIBUTES), attributes)
                        poke(row, u64(_ENTRY), entry)
                poke(row, u64(_STATUS), outcome)
            if turn >= u64(2 * AHEAD):
                i = turn - u64(2 * AHEAD)
                row = ring + ((i & u64(_RING - 1)) << u64(_ROW_SHIFT))
                gpa, status, hpa = peek(row, u64(_GPA)), peek(row, u64(_STATUS)), peek(row, u64(_OUTPUT))
                attributes, entry = peek(row, u64(_ATTRIBUTES)), peek(row, u64(_ENTRY))
                if status == u64(PENDING):
                    status, hpa, attributes, _level, _slot, entry = last_leaf_2(
                        host, memo_2, (hpa, u64(last_bits_2), attributes), gpa, controls_2
                    )
                elif status == u64(MAPPED):
                    hpa |= gpa & u64(mask_2)
                granted = u64(0)
                if status == u64(MAPPED):
                    need_2, side = asking(peek(row, u64(_LEAF_1)), need)
                    status, _after, granted = check_2(attributes, entry, u64(levels_2), need_2, write, controls_2)
                    granted = both(peek(row, u64(_GRANTED)), granted, side)
                if status != u64(MAPPED):
                    status, hpa, granted, gpa, _level_1, _level_2 = translate(
                        host, regime_1, regime_2, gvas[i], need, write
                    )
                hpas[i] = hpa if status == u64(MAPPED) else u64(UNMAPPED)
                gpas[i] = gpa
                permissions[i] = granted
                statuses[i] = status

    return translate_both
