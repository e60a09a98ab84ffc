"""What a batch remembers of last-level leaves: all with the same bits but for the address are decoded alike.

The kernels that go over rows of leaves take that for granted (`edit.leaf_stretch`), and a record for which it is not so
is refused (`formats.soundness`). An address may be refused for its width alone, so one that is not above another of the
same bits is as good. Leaves of groups are not remembered: their addresses may say how large the group is.

A memo lives for one call of a kernel. Each of its rows is four words: the bits besides the address, the first address
field that is too large to be known, what the bits add to the address, and the attributes.
"""

from __future__ import annotations

from typing import Any

from ..formats.outcome import GROUPED, MAPPED
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from .descent import Function, Table
from .raw import peek, poke
from .walk_cache import ROW_SHIFT

MEMO_WORDS = 64
"""Words of a memo, all 0 in the beginning."""
_ROWS_SHIFT = 4
_SPREAD = 0x9E3779B97F4A7C15
"""An odd number whose multiples differ in their upper bits."""
_KEY, _END, _ADDED, _ATTRIBUTES = range(4)


def address_field(fmt: Format) -> tuple[int, int]:
    """The bits of a leaf that hold a stretch of the address as it is, and how far to the left of it they stand.

    The stretch begins at the page's size. Other bits of the address may stand elsewhere (Arm's 52-bit ones).
    """
    places = [int(fmt.pack_address(u64(1 << bit))) for bit in range(fmt.page_shift, fmt.output_bits)]
    shift = places[0].bit_length() - 1 - fmt.page_shift
    mask = 0
    for bit, place in enumerate(places, fmt.page_shift):
        if place != (1 << bit) << shift if shift >= 0 else place != (1 << bit) >> -shift:
            break
        mask |= place
    return mask, shift


def make_last_leaf(fmt: Format, look_up: Function, locate: Function, load: Function) -> Function:
    """The last level of a walk, with a memo.

    Args:
        fmt: the format.
        look_up, locate, load: of the format, over what `memory` is.

    Returns:
        last_leaf(memory, memo, table, address, controls) -> as `look_up` from the last level.
    """
    mask, shift = address_field(fmt)
    left, right = max(shift, 0), max(-shift, 0)
    offset = fmt.page_size - 1

    def last_leaf(
        memory: Any, memo: int, table: Table, address: int, controls: int
    ) -> tuple[int, int, int, int, int, int]:
        held, index_bits, allowed = table
        slot, _rest = locate(held, address, u64(0), index_bits)
        failed, entry = load(memory, slot)
        key, place = entry & u64(MASK_64 ^ mask), entry & u64(mask)
        row = memo + ((u64(key * u64(_SPREAD)) >> u64(64 - _ROWS_SHIFT)) << u64(ROW_SHIFT))
        if failed == u64(0) and peek(row, u64(_KEY)) == key and place < peek(row, u64(_END)):
            output = peek(row, u64(_ADDED)) | place >> u64(left) << u64(right) | address & u64(offset)
            return u64(MAPPED), output, peek(row, u64(_ATTRIBUTES)) & allowed, u64(0), slot, entry
        status, output, attributes, level, slot, entry = look_up(
            memory, (held, index_bits, u64(MASK_64)), address, u64(1), u64(0), controls
        )
        if status == u64(MAPPED) and attributes & u64(GROUPED) == u64(0):
            poke(row, u64(_KEY), key)
            poke(row, u64(_END), place + u64(1))
            poke(row, u64(_ADDED), (output & ~u64(offset)) ^ place >> u64(left) << u64(right))
            poke(row, u64(_ATTRIBUTES), attributes)
        return status, output, attributes & allowed, level, slot, entry

    return last_leaf
