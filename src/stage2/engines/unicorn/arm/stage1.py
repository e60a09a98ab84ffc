"""Which stage-1 regime the guest's registers select for an address (Arm ARM DDI 0487, D8.2, and TCR_EL1)."""

from __future__ import annotations

from typing import Any

from ....formats.arm import formats, layout, stage1
from ....formats.arm.sizes import PA_SIZES
from ....formats.arm.stage1_control import (
    SCTLR_M,
    SCTLR_WXN,
    TCR_EPD,
    TCR_HA,
    TCR_HD,
    TCR_HPD_SHIFT,
    TCR_IPS_SHIFT,
    TCR_TBI_SHIFT,
)
from ....formats.outcome import ADDRESS_SIZE, TRANSLATION
from ....formats.record import Format
from ....formats.u64 import u64
from ....tables.walk import LEVEL_SHIFT
from .abi import PSTATE_PAN

SMALLEST_TSZ, LARGEST_TSZ = 16, 39
"""Input sizes of 48 to 25 bits; what lies outside is taken as the nearest, which the manual allows."""
PHYSICAL_BITS = 44
"""ID_AA64MMFR0_EL1.PARange of the CPU model; a wider TCR_EL1.IPS means this much."""
WRONG_GRANULE = 1 << 62
"""A status: the tables have another granule than the format that was asked."""
_FIRST_LEVEL = layout.ROOT_FAULT_LEVEL << LEVEL_SHIFT
"""Arm's level 0, at which addresses without a table are reported."""
_ADDRESS = (1 << 48) - 1
_IPS_BITS = sum(min(size, PHYSICAL_BITS) << 6 * code for code, size in enumerate(PA_SIZES))
"""Output width for each value of IPS, 6 bits each."""


def stage_1_format(page_shift: int, bits: int = 48, *, upper: bool = False) -> Format:
    """The stage-1 format of a granule; a compiled walker of the widest serves the narrower ones too.

    Args:
        page_shift: log2 of the granule.
        bits: width of the input address.
        upper: the half of the addresses that TTBR1_EL1 serves.
    """
    return formats.make(1, page_shift, bits, high=upper)


def granule_of(tcr: int, upper: int) -> int:
    """log2 of the granule: TG1 and TG0 count differently. A reserved value is taken as 4 KiB."""
    if upper != u64(0):
        tg = (tcr >> u64(30)) & u64(3)
        if tg == u64(1):
            return u64(14)
    else:
        tg = (tcr >> u64(14)) & u64(3)
        if tg == u64(2):
            return u64(14)
        tg |= tg << u64(1)
    if tg == u64(3):
        return u64(16)
    return u64(12)


def controls_of(sctlr: int, tcr: int, pstate: int, upper: int) -> int:
    """The format's control bits that registers decide."""
    controls = ((u64(_IPS_BITS) >> (u64(6) * ((tcr >> u64(TCR_IPS_SHIFT)) & u64(7)))) & u64(0x3F)) << u64(
        layout.OUTPUT_BITS_AT
    )
    if sctlr & u64(SCTLR_WXN) != u64(0):
        controls |= u64(stage1.WXN)
    if pstate & u64(PSTATE_PAN) != u64(0):
        controls |= u64(stage1.PAN)
    if (tcr >> (u64(TCR_HPD_SHIFT) + upper)) & u64(1) != u64(0):
        controls |= u64(stage1.HPD)
    if tcr & u64(TCR_HA) != u64(0):
        controls |= u64(layout.HA)
        if tcr & u64(TCR_HD) != u64(0):
            controls |= u64(layout.HD)
    return controls


def make_select(fmt: Format, granule: Any = granule_of, controls: Any = controls_of) -> Any:
    """The choice of TTBR0_EL1 or TTBR1_EL1 and of the first level, for tables of one granule.

    Args:
        fmt: a stage-1 format of that granule.
        granule, controls: `granule_of` and `controls_of`, prepared for compiled code where that is what is made.

    Returns:
        select(gva, sctlr, tcr, ttbr0, ttbr1, pstate) ->
        (status, input address, root, levels, root index bits, controls). The status is 0, WRONG_GRANULE, or a fault
        without a walk. The input address is the one that the tables of its half see, from 0 on.
    """
    page_shift, bits = fmt.page_shift, fmt.bits
    geometry = fmt.default_controls & ~layout.OUTPUT_BITS

    def select(
        gva: int, sctlr: int, tcr: int, ttbr0: int, ttbr1: int, pstate: int
    ) -> tuple[int, int, int, int, int, int]:
        upper = (gva >> u64(55)) & u64(1)
        tagged = (tcr >> (u64(TCR_TBI_SHIFT) + upper)) & u64(1)
        if sctlr & u64(SCTLR_M) == u64(0):
            # Output is input (D8.2.10), as far as there are physical addresses.
            flat = gva
            if tagged != u64(0):
                flat &= u64((1 << 56) - 1)
            if flat >> u64(PHYSICAL_BITS) != u64(0):
                return u64(ADDRESS_SIZE | _FIRST_LEVEL), gva, u64(0), u64(0), u64(bits), u64(0)
            return u64(0), flat, u64(0), u64(0), u64(bits), u64(0)
        if granule(tcr, upper) != u64(page_shift):
            return u64(WRONG_GRANULE), gva, u64(0), u64(0), u64(bits), u64(0)
        root, half, above = ttbr0, tcr, gva
        if upper != u64(0):
            root, half, above = ttbr1, tcr >> u64(16), ~gva
        width = u64(64) - min(max(half & u64(0x3F), u64(SMALLEST_TSZ)), u64(LARGEST_TSZ))
        if tagged != u64(0):
            above &= u64((1 << 56) - 1)
        if above >> width != u64(0) or half & u64(TCR_EPD) != u64(0):
            return u64(TRANSLATION | _FIRST_LEVEL), gva, u64(0), u64(0), u64(bits), u64(0)
        indexed = width - u64(page_shift)
        levels = (indexed + u64(bits - 1)) // u64(bits)
        root_bits = indexed - u64(bits) * (levels - u64(1))
        root &= u64(_ADDRESS) & ~((u64(8) << root_bits) - u64(1))
        chosen = u64(geometry) | controls(sctlr, tcr, pstate, upper)
        return u64(0), gva & ((u64(1) << width) - u64(1)), root, levels, root_bits, chosen

    return select
