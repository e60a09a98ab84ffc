"""64-bit arithmetic that means the same in plain Python and compiled.

A format's functions are written once and run both ways. Compiled code types a bare integer literal as signed,
and mixing signed with unsigned 64-bit values gives floats or loses bit 63; so every constant in such a function
goes through `u64`. In plain Python it masks to 64 bits; `tables.compiled` tells numba that it is a cast.
"""

from __future__ import annotations

MASK_64 = 0xFFFF_FFFF_FFFF_FFFF


def u64(value: int) -> int:
    """`value` as an unsigned 64-bit number."""
    return value & MASK_64
