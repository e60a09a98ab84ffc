"""What a batch remembers of the upper levels of a walk, as hardware does in its paging-structure caches.

A cache lives for one call of a kernel, in memory of the kernel's own. It travels as three numbers: where its near rows
are, where its far rows are, and the number of each less one. Near rows are for what one last-level table covers, far
rows for what a table above it does. A row is four words: the address bits that it is for with the level and the status
below them, then output, attributes and entry.
"""

from __future__ import annotations

from typing import Any

from ..formats.outcome import MAPPED
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from .descent import Function
from .raw import peek, poke, prefetch
from .walk import PENDING

ODD = 0xFE
"""A status of kernels: not settled here, this address goes the long way."""
ROWS = 1024
"""The most rows of either kind; a short batch has fewer, which are sooner zeroed."""
ROW_SHIFT = 5
"""log2 of a row's bytes."""
_STATUS, _LEVEL_AT, _PREFIX_AT = 0xFF, 8, 16


def rows_for(count: int) -> int:
    """How many rows of each kind a batch of `count` addresses gets: a power of two."""
    rows = u64(1)
    while rows < count and rows < u64(ROWS):
        rows <<= u64(1)
    return rows


def settled(memory: Any, table: int) -> tuple[int, int]:
    """The `settle` of a format whose tables are where their addresses say."""
    return u64(0), table


def _shifts(fmt: Format) -> tuple[int, int]:
    """How far addresses are shifted to their near and far prefixes: no prefix reaches beyond what a regime takes, or an
    address that is too wide would share one with an address that is not."""
    width = fmt.input_bits - fmt.sign_extended
    return min(fmt.level_shift(1), width), min(fmt.level_shift(2), width)


def make_upper(fmt: Format, walk: Function, look_up: Function, settle: Function) -> Function:
    """The levels of a walk above the last, remembered.

    Equal prefixes lead to the same table or large leaf, and if one address fits the regime, all of its prefix do.

    Args:
        fmt: the format.
        walk, look_up: of the format, over what `memory` is.
        settle: (memory, address of a last-level table) -> (status, where it can be read); another status than 0 is
            remembered by nobody.

    Returns:
        upper(memory, regime, cache, address) -> (status, output, attributes, level, entry).
        PENDING: the output is the last-level table. MAPPED: it is where the prefix begins in a large leaf. ODD:
        `settle` failed. Any other is the fault of the walk.
    """
    (near_shift, far_shift), bits = _shifts(fmt), fmt.bits

    def upper(memory: Any, regime: Any, cache: Any, address: int) -> tuple[int, int, int, int, int]:
        near, far, last = cache
        prefix = address >> u64(near_shift)
        row = near + ((prefix & last) << u64(ROW_SHIFT))
        key = peek(row, u64(0))
        if key >> u64(_PREFIX_AT) == prefix + u64(1):
            level = (key >> u64(_LEVEL_AT)) & u64(_STATUS)
            return key & u64(_STATUS), peek(row, u64(1)), peek(row, u64(2)), level, peek(row, u64(3))
        root, levels, root_bits, controls = regime
        floor = min(levels, u64(2))
        beyond = address >> u64(far_shift)
        place = far + ((beyond & last) << u64(ROW_SHIFT))
        status, output, attributes, level, entry = (
            u64(PENDING), peek(place, u64(1)), peek(place, u64(2)), floor, u64(0)
        )  # fmt: skip
        if peek(place, u64(0)) != beyond + u64(1):
            status, output, attributes, level, _slot, entry = walk(
                memory, root, address, levels, root_bits, floor, controls
            )
            if status == u64(PENDING):
                poke(place, u64(0), beyond + u64(1))
                poke(place, u64(1), output)
                poke(place, u64(2), attributes)
        if status == u64(PENDING):
            middle_bits = u64(bits) if levels > u64(2) else root_bits
            status, output, attributes, level, _slot, entry = look_up(
                memory, (output, middle_bits, attributes), address, floor, u64(1), controls
            )
            if status == u64(PENDING):
                failed, output = settle(memory, output)
                if failed != u64(0):
                    status = u64(ODD)
        if status == u64(MAPPED):
            output &= u64(MASK_64) << u64(near_shift)
        if status == u64(MAPPED) or status == u64(PENDING):
            poke(row, u64(0), (prefix + u64(1)) << u64(_PREFIX_AT) | level << u64(_LEVEL_AT) | status)
            poke(row, u64(1), output)
            poke(row, u64(2), attributes)
            poke(row, u64(3), entry)
        return status, output, attributes, level, entry

    return upper


def make_announce(fmt: Format, locate: Function) -> Function:
    """Asks the cache for the entry that `upper` will look at for an address, where it will look at only one.

    Args:
        fmt, locate: the format, and where its entries stand.

    Returns:
        announce(delta, regime, cache, address); delta added to an address of a table gives its HVA.
    """
    (near_shift, far_shift), bits = _shifts(fmt), fmt.bits

    def announce(delta: int, regime: Any, cache: Any, address: int) -> None:
        near, far, last = cache
        prefix, beyond = address >> u64(near_shift), address >> u64(far_shift)
        if peek(near + ((prefix & last) << u64(ROW_SHIFT)), u64(0)) >> u64(_PREFIX_AT) != prefix + u64(1):
            place = far + ((beyond & last) << u64(ROW_SHIFT))
            if peek(place, u64(0)) == beyond + u64(1):
                _root, levels, root_bits, _controls = regime
                middle_bits = u64(bits) if levels > u64(2) else root_bits
                slot, _rest = locate(peek(place, u64(1)), address, min(levels, u64(2)) - u64(1), middle_bits)
                prefetch(slot + delta)

    return announce
