"""What the suite over all formats draws its examples from. Making a strategy takes longer than drawing from it."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from stage2.flags import RWX, MappingFlags
from stage2.formats.record import Format
from stage2.formats.u64 import MASK_64

WORDS = st.integers(0, MASK_64)
NARROW = 36
"""Bits of an output address under the switch `pa36`."""


@cache
def switches(fmt: Format) -> st.SearchStrategy[frozenset[str]]:
    """Any of the format's switches."""
    return st.frozensets(st.sampled_from(sorted(fmt.switches)))


@cache
def addresses(fmt: Format, level: int, width: int | None = None) -> st.SearchStrategy[int]:
    """Output addresses that a leaf at `level` can hold."""
    shift = fmt.level_shift(level)
    return st.integers(0, (1 << max((width or fmt.output_bits) - shift, 0)) - 1).map(lambda block: block << shift)


def width_under(fmt: Format, on: frozenset[str]) -> int:
    """Bits of an output address."""
    return NARROW if "pa36" in on else fmt.output_bits


@cache
def entries(fmt: Format) -> st.SearchStrategy[int]:
    """64-bit words: any at all, and any small change to a legal leaf or table, which random words seldom are."""
    near = st.one_of(addresses(fmt, 0), addresses(fmt, fmt.top_leaf_level), addresses(fmt, 1, NARROW))
    legal = st.one_of(
        near.map(fmt.table_entry),
        st.builds(
            lambda level, address, flags: fmt.leaf_entry(level, address, flags),
            st.integers(0, fmt.top_leaf_level),
            near,
            st.sampled_from([MappingFlags.READ, MappingFlags(3), MappingFlags(5), RWX, RWX | MappingFlags.USER]),
        ),
    )
    flipped = st.builds(
        lambda word, bits: word ^ sum(1 << b for b in bits), legal, st.sets(st.integers(0, 63), max_size=3)
    )
    return st.one_of(WORDS, legal, flipped)
