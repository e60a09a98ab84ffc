"""The registers by which a hypervisor at EL2 translates its own addresses: the EL2 regime, and EL2&0 (VHE).

Arm ARM DDI 0487, D8.1.2 "Translation regimes", D24.2 "TCR_EL2", "SCTLR_EL2", "TTBR0_EL2", "TTBR1_EL2", "HCR_EL2".
HCR_EL2.E2H chooses the regime, and with it how TCR_EL2 and SCTLR_EL2 are laid out.
"""

from __future__ import annotations

from ...errors import EncodingError
from ..record import Format
from . import layout, stage1
from .sizes import parange
from .stage1_control import (
    EL2_HA,
    EL2_HD,
    EL2_HPD,
    EL2_PS_SHIFT,
    HCR_E2H,
    SCTLR_M,
    SCTLR_WXN,
    TCR_A1,
    TCR_EPD,
    TCR_HPD_SHIFT,
    output_width,
    tcr_both,
    tcr_half,
    tcr_hardware,
    ttbr,
)
from .stage2_control import DS

SCTLR_C, SCTLR_I = 1 << 2, 1 << 12
"""Memory is cacheable as the tables say, for data and for fetches."""
SCTLR_EL2_ONES = 0x30C5_0830
"""SCTLR_EL2's bits that are one with HCR_EL2.E2H 0; EIS and EOS among them, which are so without FEAT_ExS."""
SCTLR_EL2_VHE_ONES = 0x30D0_0800
"""Those with E2H 1, where it is laid out as SCTLR_EL1: nTLSMD, LSMAOE, SPAN, EIS, TSCXT, EOS."""
_TCR_EL2_ONES = 1 << 31 | 1 << 23
_LPA_SHIFT = 16
"""log2 of the granule whose 52-bit addresses are LPA's; those of the others are LPA2's, which TCR.DS gives to both."""


def own_registers(
    fmt: Format, root: int, controls: int, identifier: int = 0, *, beside: tuple[Format, int] | None = None
) -> dict[str, int]:
    """What to load so that EL2 translates its own addresses by these tables.

    Controls with `stage1.ONE_PRIVILEGE` are the EL2 regime (HCR_EL2.E2H 0), which has no EL0, no ASID and no TTBR1.
    Others are EL2&0 (E2H 1): the half that no tables are given for is not walked (EPD), and its fields of TCR_EL2 are
    the other's. PSTATE.PAN is no register, and is set elsewhere.

    Args:
        fmt: a stage-1 format; of the high half, the tables are TTBR1_EL2's.
        root: HPA of the root table.
        controls: the regime's: output size, HA, HD, HPD, WXN, PAN, ONE_PRIVILEGE.
        identifier: the ASID; 0 in the EL2 regime.
        beside: under EL2&0, the other half: its format and its root. The controls are the same, and the ASID is that of
            the low half.

    Returns:
        TTBR0_EL2, TTBR1_EL2 (of EL2&0), TCR_EL2, MAIR_EL2, SCTLR_EL2 and HCR_EL2, of which E2H alone is this
        module's to say: the rest of HCR_EL2 is a VM's.

    Raises:
        EncodingError: the format has no such regime, the halves do not go together, or HD is asked for without HA.
        MisalignedError: a root is not aligned to its size.
        OutOfRangeError: a root is wider than the output, or the ASID than 16 bits.
    """
    if fmt.stage != 1:
        raise EncodingError(f"{fmt.name} is a format of stage {fmt.stage}: EL2's own addresses need one of stage 1")
    sctlr = SCTLR_M | SCTLR_C | SCTLR_I | (SCTLR_WXN if controls & stage1.WXN else 0)
    if controls & stage1.ONE_PRIVILEGE:
        if fmt.high_half or beside is not None:
            raise EncodingError("the EL2 regime has no TTBR1: give tables of the low half, or use EL2&0 (E2H)")
        if identifier:
            raise EncodingError(f"the EL2 regime has no ASIDs: ask for 0, not {identifier}")
        if controls & stage1.PAN:
            raise EncodingError("the EL2 regime has no EL0 for PAN to keep away from: leave PAN off, or use EL2&0")
        return {
            "HCR_EL2": 0,
            "TCR_EL2": _tcr_el2(fmt, controls),
            "TTBR0_EL2": ttbr(fmt, root, controls, 0),
            "MAIR_EL2": stage1.MAIR,
            "SCTLR_EL2": sctlr | SCTLR_EL2_ONES,
        }
    halves, either = [(fmt, root)], controls
    if beside is not None:
        _require_together(fmt, beside[0])
        halves.append(beside)
        either |= beside[0].default_controls & layout.LPA2
    by_half = {half.high_half: (half, at) for half, at in halves}
    tcr = tcr_both(fmt, either) | (0 if False in by_half else TCR_A1)
    found = {"HCR_EL2": HCR_E2H}
    for upper, name in enumerate(("TTBR0_EL2", "TTBR1_EL2")):
        if bool(upper) in by_half:
            half, at = by_half[bool(upper)]
            tcr |= tcr_half(half, upper=bool(upper)) | (1 << TCR_HPD_SHIFT + upper if controls & stage1.HPD else 0)
            found[name] = ttbr(half, at, controls, identifier)
        else:
            tcr |= tcr_half(fmt, upper=bool(upper)) | TCR_EPD << 16 * upper
            found[name] = 0
    return found | {"TCR_EL2": tcr, "MAIR_EL2": stage1.MAIR, "SCTLR_EL2": sctlr | SCTLR_EL2_VHE_ONES}


def _tcr_el2(fmt: Format, controls: int) -> int:
    """TCR_EL2 with HCR_EL2.E2H 0."""
    tcr = tcr_half(fmt, upper=False) | _TCR_EL2_ONES | parange(output_width(fmt, controls)) << EL2_PS_SHIFT
    tcr |= tcr_hardware(controls, EL2_HA, EL2_HD) | (EL2_HPD if controls & stage1.HPD else 0)
    return tcr | (DS if controls & layout.LPA2 else 0)


def _require_together(fmt: Format, other: Format) -> None:
    if other.stage != 1 or other.high_half == fmt.high_half:
        raise EncodingError(f"{fmt.name} and {other.name} are not the two halves: one ends in -high, and both are s1")
    lpa2 = {bool(half.default_controls & layout.LPA2) for half in (fmt, other) if half.page_shift != _LPA_SHIFT}
    lpa = {bool(half.default_controls & layout.LPA) for half in (fmt, other) if half.page_shift == _LPA_SHIFT}
    if len(lpa2) > 1 or len(lpa) > 1:
        raise EncodingError(f"{fmt.name} and {other.name}: both halves have LPA2, or LPA, or neither of them has")
