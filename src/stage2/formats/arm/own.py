"""A hypervisor's own regimes: EL2 with one root, EL2&0 with two (Arm ARM DDI 0487, D8.1.2 "Translation regimes").

HCR_EL2.E2H chooses the regime, and with it how TCR_EL2 and SCTLR_EL2 are laid out (D24.2 "TCR_EL2", "SCTLR_EL2").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import EncodingError
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
    SCTLR_WXN,
    TCR_AS,
    TCR_DS,
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
_LPA_SHIFT = 16
"""log2 of the granule whose 52-bit addresses are LPA's; those of the others are LPA2's, which TCR.DS gives to both."""


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

    Without ONE_PRIVILEGE it is EL2&0: the half that no tables are given for is not walked (EPD), and its fields of
    TCR_EL2 are the other's, so that none is reserved. PSTATE.PAN is no register, and is set elsewhere.

    Args:
        halves: format, root and controls of each root: one with ONE_PRIVILEGE for EL2; else EL2&0's, one or both. Of
            both, the output size, HA, HD and WXN are the first's.

    Raises:
        EncodingError: a format has no such regime, the halves do not go together, or HD is asked for without HA.
        MisalignedError, OutOfRangeError: a root does not fit its register.
    """
    (fmt, root, controls), *others = halves
    for half, _, _ in halves:
        if half.stage != 1:
            raise EncodingError(f"{half.name} is a format of stage 2: a hypervisor's own tables are of stage 1")
    if controls & stage1.ONE_PRIVILEGE:
        if fmt.high_half or others:
            raise EncodingError("the EL2 regime has no TTBR1: give tables of the low half alone, or use EL2&0 (E2H)")
        if controls & stage1.PAN:
            raise EncodingError("the EL2 regime has no EL0 for PAN to keep away from: leave PAN off, or use EL2&0")
        return _el2(fmt, root, controls)
    for other, _, _ in others:
        _require_together(fmt, other)
    tcr, roots = shared_fields(fmt, controls) | TCR_AS, {}
    for name, upper in (("TTBR0_EL2", False), ("TTBR1_EL2", True)):
        found = next((half for half in halves if half[0].high_half is upper), None)
        half, at, own = halves[0] if found is None else found
        tcr |= half_fields(half, upper=upper) << 16 * upper
        if found is None:
            tcr |= TCR_EPD << 16 * upper
            continue
        tcr |= (1 << TCR_HPD_SHIFT + upper if own & stage1.HPD else 0) | (TCR_DS if own & layout.LPA2 else 0)
        roots[name] = base_of(half, at, output_width(fmt, controls))
    sctlr = _SCTLR_HOST_RES1 | _sctlr(controls)
    return roots | {"TCR_EL2": tcr, "MAIR_EL2": stage1.MAIR, "SCTLR_EL2": sctlr, "HCR_EL2": HCR_E2H | HCR_TGE}


def _el2(fmt: Format, root: int, controls: int) -> dict[str, int]:
    require_access_flag(controls)
    width = output_width(fmt, controls)
    tcr = half_fields(fmt, upper=False) | _EL2_RES1 | parange(width) << EL2_PS_SHIFT
    tcr |= DS if controls & layout.LPA2 else 0
    for bit, control in ((EL2_HA, layout.HA), (EL2_HD, layout.HD), (EL2_HPD, stage1.HPD)):
        tcr |= bit if controls & control else 0
    return {
        "TTBR0_EL2": base_of(fmt, root, width),
        "TCR_EL2": tcr,
        "MAIR_EL2": stage1.MAIR,
        "SCTLR_EL2": _SCTLR_EL2_RES1 | _sctlr(controls),
    }


def _sctlr(controls: int) -> int:
    """The bits of SCTLR_EL2 that stand alike with and without E2H."""
    return _CACHES_ON | (SCTLR_WXN if controls & stage1.WXN else 0)


def _require_together(fmt: Format, other: Format) -> None:
    if other.high_half == fmt.high_half:
        raise EncodingError(f"{fmt.name} and {other.name} are not the two halves: one's name ends in -high")
    lpa2 = {bool(half.default_controls & layout.LPA2) for half in (fmt, other) if half.page_shift != _LPA_SHIFT}
    lpa = {bool(half.default_controls & layout.LPA) for half in (fmt, other) if half.page_shift == _LPA_SHIFT}
    if len(lpa2) > 1 or len(lpa) > 1:
        raise EncodingError(f"{fmt.name} and {other.name}: both halves have LPA2, or LPA, or neither of them has")
