"""The kernels that translate arrays of addresses by both stages.

One goes address by address. The other does what hardware does: it remembers where the upper levels of both stages led,
in walk caches that live for one call, and it asks the cache for the leaf entries of both stages well before it looks at
them. It settles addresses that translate; every other one, and those for which hardware would set a bit of stage 1
first, goes the way of the first kernel.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ..formats.outcome import MAPPED, READ, TABLES_ACCESSED
from ..formats.record import Format
from ..formats.rules import TABLE_WALK
from ..formats.u64 import MASK_64, u64
from .assembly import check, compiled_lookup, compiled_two_stage, compiled_walk, locating, lookup, sides, whole_walk
from .compiled import Kernel, inlined, keep_marks_back, kernel, load, store
from .descent import Function, visit_nothing
from .raw import peek, poke, prefetch
from .walk import PENDING

UNMAPPED = MASK_64
"""The output of an address that is not mapped."""
AHEAD = 8
"""How many addresses each of the two phases runs ahead of the next."""
NEAR, FAR = 1024, 256
"""Entries of the walk caches: for what one last-level table covers, and for what a table above it does."""
_RING = 32
"""Addresses under way, a power of two above twice AHEAD."""
_ODD = 0xFE
"""A status of ours: this address goes the long way."""

# Columns of a walk cache.
_KEY, _STATUS, _OUTPUT, _ATTRIBUTES, _ENTRY = range(5)
# Columns of the ring, beside those: what stage 1 answered.
_GPA, _GRANTED, _LEAF_1 = range(5, 8)
_ROW_SHIFT = 6
"""log2 of a row's bytes: eight words, a line of the cache."""
_ROW = 1 << _ROW_SHIFT


@cache
def two_stage_kernel(first: Format, second: Format, *, marks: bool = False) -> Kernel:
    """kernel(host, regime_1, regime_2, need, write, gvas, hpas, gpas, permissions, statuses) for both stages.

    With `marks` accessed and dirty bits are stored as hardware would, one address after the other.

    Args of the kernel:
        regime_1, regime_2: (root, levels, root index bits, controls), unsigned 64-bit.
        need, write: mask of effective permissions, 0 for a lookup; 1 for a write.
        hpas: UNMAPPED where an address does not translate.
        gpas: on a stage-2 fault, the address that stage 2 refused.
        permissions: effective ones of both stages.
        statuses: 32 bits, as `tables.walk` describes them.
    """
    # A last-level table of the guest must lie in one page of stage 2, or several entries lead to it.
    if marks or first.table_size > second.page_size:
        return kernel(_one_by_one(first, second, store if marks else keep_marks_back), first, second)
    return kernel(_ahead(first, second), first, second)


def _one_by_one(first: Format, second: Format, keep: Function) -> Function:
    translate = compiled_two_stage(first, second, keep)

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


def _make_upper(fmt: Format, walk: Function, look_up: Function, settle: Function) -> Function:
    """The upper levels of a walk, remembered: upper(memory, regime, near, far, address) -> columns from status on.

    Equal prefixes lead to the same table or large leaf, and if one address fits the regime, all of its prefix do.

    Args:
        walk, look_up: of the format, over what `memory` is.
        settle: (memory, address of a last-level table) -> (status, HPA of it); 0 where it can be read.

    Returns:
        The status is PENDING with a last-level table as output, MAPPED with where the prefix begins in a large leaf, or
        another, which is not remembered.
    """
    near_shift, far_shift, bits = fmt.level_shift(1), fmt.level_shift(2), fmt.bits

    def upper(memory: Any, regime: Any, near: int, far: int, address: int) -> tuple[int, int, int, int]:
        prefix = address >> u64(near_shift)
        row = near + ((prefix & u64(NEAR - 1)) << u64(_ROW_SHIFT))
        if peek(row, u64(_KEY)) == prefix + u64(1):
            return (
                peek(row, u64(_STATUS)), peek(row, u64(_OUTPUT)), peek(row, u64(_ATTRIBUTES)), peek(row, u64(_ENTRY))
            )  # fmt: skip
        root, levels, root_bits, controls = regime
        floor = min(levels, u64(2))
        beyond = address >> u64(far_shift)
        place = far + ((beyond & u64(FAR - 1)) << u64(_ROW_SHIFT))
        status, output, attributes = u64(PENDING), peek(place, u64(_OUTPUT)), peek(place, u64(_ATTRIBUTES))
        entry = u64(0)
        if peek(place, u64(_KEY)) != beyond + u64(1):
            status, output, attributes, _level, _slot, entry = walk(
                memory, root, address, levels, root_bits, floor, controls
            )
            if status == u64(PENDING):
                poke(place, u64(_KEY), beyond + u64(1))
                poke(place, u64(_OUTPUT), output)
                poke(place, u64(_ATTRIBUTES), attributes)
        if status == u64(PENDING):
            middle_bits = u64(bits) if levels > u64(2) else root_bits
            status, output, attributes, _level, _slot, entry = look_up(
                memory, (output, middle_bits, attributes), address, floor, u64(1), controls
            )
            if status == u64(PENDING):
                failed, output = settle(memory, output)
                if failed != u64(0):
                    status = u64(_ODD)
        if status == u64(MAPPED):
            output &= u64(MASK_64) << u64(near_shift)
        if status == u64(MAPPED) or status == u64(PENDING):
            poke(row, u64(_KEY), prefix + u64(1))
            poke(row, u64(_STATUS), status)
            poke(row, u64(_OUTPUT), output)
            poke(row, u64(_ATTRIBUTES), attributes)
            poke(row, u64(_ENTRY), entry)
        return status, output, attributes, entry

    return upper


def _settled(memory: Any, table: int) -> tuple[int, int]:
    """The tables of stage 2 are where their HPAs say."""
    return u64(0), table


def _make_page_of_table(second: Format, upper: Function, look_up: Function, check_2: Function) -> Function:
    """Where a GPA that holds stage-1 entries is: page_of_table((host, regime_2, near, far), gpa) -> (status, HPA)."""
    walk_write, near_mask, bits = inlined(second.walk_write), second.leaf_size(1) - 1, second.bits

    def page_of_table(memory: Any, gpa: int) -> tuple[int, int]:
        host, regime, near, far = memory
        _root, levels, root_bits, controls = regime
        write = walk_write(controls & u64(MASK_64 ^ TABLE_WALK))
        status, output, attributes, entry = upper(host, regime, near, far, gpa)
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
            return u64(_ODD), u64(0)
        return load(memory[0], hpa)

    return load_through


def _ahead(first: Format, second: Format) -> Function:
    """The kernel that remembers and looks ahead."""
    translate = compiled_two_stage(first, second, keep_marks_back)
    check_1, check_2 = check(first, inlined), check(second, inlined)
    look_up_1, look_up_2 = compiled_lookup(first), compiled_lookup(second)
    locate_1, locate_2 = locating(first, inlined), locating(second, inlined)
    asking, both = sides(second, inlined)
    upper_2 = inlined(_make_upper(second, compiled_walk(second), look_up_2, inlined(_settled)))
    page_of_table = inlined(_make_page_of_table(second, upper_2, look_up_2, check_2))
    inlined(load)
    load_through = inlined(_make_load_through(page_of_table))
    upper_1 = inlined(
        _make_upper(
            first,
            whole_walk(first, load_through, visit_nothing, inlined),
            lookup(first, load_through, visit_nothing, inlined),
            page_of_table,
        )
    )
    bits_1, bits_2 = first.bits, second.bits
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
        # By address, because passing an array on costs counting who holds it.
        scratch = np.zeros((3 * (NEAR + FAR) + _RING + 1) << (_ROW_SHIFT - 3), np.uint64)
        ring = (u64(scratch.ctypes.data) + u64(_ROW - 1)) & u64(MASK_64 ^ (_ROW - 1))
        near_1 = ring + u64(_RING * _ROW)
        near_t, near_2 = near_1 + u64(NEAR * _ROW), near_1 + u64(2 * NEAR * _ROW)
        far_1 = near_1 + u64(3 * NEAR * _ROW)
        far_t, far_2 = far_1 + u64(FAR * _ROW), far_1 + u64(2 * FAR * _ROW)
        _, levels_1, root_bits_1, controls_1 = regime_1
        root_2, levels_2, root_bits_2, controls_2 = regime_2
        last_bits_1 = u64(bits_1) if levels_1 > u64(1) else root_bits_1
        last_bits_2 = u64(bits_2) if levels_2 > u64(1) else root_bits_2
        # Reads of tables and of data may differ in what they are allowed, so each has caches of its own.
        walking = (root_2, levels_2, root_bits_2, controls_2 | u64(TABLE_WALK))
        guest = (host, walking, near_t, far_t)
        count = u64(gvas.shape[0])
        for turn in range(count + u64(2 * AHEAD)):
            if turn < count:
                row = ring + ((turn & u64(_RING - 1)) << u64(_ROW_SHIFT))
                gva = gvas[turn]
                status, output, attributes, entry = upper_1(guest, regime_1, near_1, far_1, gva)
                if status == u64(PENDING):
                    slot, _rest = locate_1(output, gva, u64(0), last_bits_1)
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
                    status, gpa, attributes, _level, _slot, entry = look_up_1(
                        host, (gpa, last_bits_1, attributes), gvas[i], u64(1), u64(0), controls_1
                    )
                elif status == u64(MAPPED):
                    gpa |= gvas[i] & u64(mask_1)
                settled = u64(_ODD)
                if status == u64(MAPPED):
                    status, after, granted = check_1(attributes, entry, levels_1, need, write, controls_1)
                    tables_marked = need == u64(0) or attributes & u64(TABLES_ACCESSED) != u64(0)
                    # Hardware's writes to stage 1 go through stage 2, which may refuse them.
                    if status == u64(MAPPED) and after == entry and tables_marked:
                        poke(row, u64(_GPA), gpa)
                        poke(row, u64(_GRANTED), granted)
                        poke(row, u64(_LEAF_1), attributes)
                        settled, output, attributes, entry = upper_2(host, regime_2, near_2, far_2, gpa)
                        if settled == u64(PENDING):
                            slot, _rest = locate_2(output, gpa, u64(0), last_bits_2)
                            prefetch(slot + host[0])
                        poke(row, u64(_OUTPUT), output)
                        poke(row, u64(_ATTRIBUTES), attributes)
                        poke(row, u64(_ENTRY), entry)
                poke(row, u64(_STATUS), settled)
            if turn >= u64(2 * AHEAD):
                i = turn - u64(2 * AHEAD)
                row = ring + ((i & u64(_RING - 1)) << u64(_ROW_SHIFT))
                gpa, status, hpa = peek(row, u64(_GPA)), peek(row, u64(_STATUS)), peek(row, u64(_OUTPUT))
                attributes, entry = peek(row, u64(_ATTRIBUTES)), peek(row, u64(_ENTRY))
                if status == u64(PENDING):
                    status, hpa, attributes, _level, _slot, entry = look_up_2(
                        host, (hpa, last_bits_2, attributes), gpa, u64(1), u64(0), controls_2
                    )
                elif status == u64(MAPPED):
                    hpa |= gpa & u64(mask_2)
                granted = u64(0)
                if status == u64(MAPPED):
                    need_2, side = asking(peek(row, u64(_LEAF_1)), need)
                    status, _after, granted = check_2(attributes, entry, levels_2, need_2, write, controls_2)
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
