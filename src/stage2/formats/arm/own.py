"""A hypervisor's own regimes: EL2 with one root, EL2&0 with two (Arm ARM DDI 0487, D8.1.2 "Translation regimes")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..record import Format
from . import layout, stage1
from .processors import controls as controls_on
from .sizes import parange
from .stage1_control import (
    EL2_HA,
    EL2_HD,
    EL2_HPD,
    EL2_PS_SHIFT,
    HCR_E2H,
    SCTLR_M,
    TCR_AS,
    TCR_EPD,
    TCR_HPD_SHIFT,
    base_of,
    half_fields,
    output_width,
    require_access_flag,
    shared_fields,
)
from .stage2_control import DS, HCR_TGE

if TYPE_CHECKING:
    from ...processor import Processor

_EL2_RES1 = 1 << 31 | 1 << 23
"""TCR_EL2 without E2H (D24.2 "TCR_EL2")."""
_CACHES_ON = SCTLR_M | 1 << 2 | 1 << 12
"""SCTLR.M, C and I: stage 1 is on, data and instructions are cached as the tables say."""
_SCTLR_EL2_RES1 = 0x30C5_0830
"""SCTLR_EL2 without E2H: bits 29, 28, 23, 22, 18, 16, 11, 5 and 4 (D24.2 "SCTLR_EL2")."""
_SCTLR_HOST_RES1 = 0x30D0_0800
"""SCTLR_EL2 under E2H, as SCTLR_EL1: LSMAOE, nTLSMD, SPAN, EIS, TSCXT and EOS, where they mean nothing."""


def own_controls(fmt: Format, processor: Processor | None, *, both: bool) -> int:
    """The control bits of a hypervisor's own tables.

    Args:
        fmt: a stage-1 format.
        processor: what the tables are for; None for no particular one.
        both: the EL2&0 regime; False for EL2, in which there is no EL0.
    """
    controls = fmt.default_controls if processor is None else controls_on(fmt, processor)
    return controls if both else controls | stage1.ONE_PRIVILEGE


def own_registers(halves: Sequence[tuple[Format, int, int]]) -> dict[str, int]:
    """What to load for a hypervisor's own tables, ASID 0.

    Args:
        halves: format, root and controls of each root: one with ONE_PRIVILEGE for EL2; else EL2&0's, one or both.

    Raises:
        EncodingError: HD is asked for without HA.
        MisalignedError, OutOfRangeError: a root does not fit its register.
    """
    (fmt, root, controls), *_ = halves
    if controls & stage1.ONE_PRIVILEGE:
        return _el2(fmt, root, controls)
    tcr, roots = shared_fields(fmt, controls) | TCR_AS, {}
    if controls & stage1.HPD:
        tcr |= 1 << TCR_HPD_SHIFT + 1
    for name, upper in (("TTBR0_EL2", False), ("TTBR1_EL2", True)):
        half = next((half for half in halves if half[0].high_half is upper), None)
        # Without a table, EPD: its addresses fault without a walk.
        tcr |= (TCR_EPD if half is None else half_fields(half[0])) << 16 * upper
        if half is not None:
            roots[name] = base_of(half[0], half[1], output_width(half[0], half[2]))
    sctlr = _SCTLR_HOST_RES1 | _CACHES_ON
    return roots | {"TCR_EL2": tcr, "MAIR_EL2": stage1.MAIR, "SCTLR_EL2": sctlr, "HCR_EL2": HCR_E2H | HCR_TGE}


def _el2(fmt: Format, root: int, controls: int) -> dict[str, int]:
    require_access_flag(controls)
    width = output_width(fmt, controls)
    tcr = half_fields(fmt) | _EL2_RES1 | parange(width) << EL2_PS_SHIFT | (DS if controls & layout.LPA2 else 0)
    for bit, control in ((EL2_HA, layout.HA), (EL2_HD, layout.HD), (EL2_HPD, stage1.HPD)):
        tcr |= bit if controls & control else 0
    return {
        "TTBR0_EL2": base_of(fmt, root, width),
        "TCR_EL2": tcr,
        "MAIR_EL2": stage1.MAIR,
        "SCTLR_EL2": _SCTLR_EL2_RES1 | _CACHES_ON,
    }
