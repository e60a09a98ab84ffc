"""TCR, TTBR, SCTLR and HCR of a stage-1 regime, read together: which tables an exception level translates by.

Arm ARM DDI 0487, D8.1.2 "Translation regimes", D8.2 "Translation process", D24.2 "TCR_EL1", "TCR_EL2", "SCTLR_EL1".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from ...address import format_size, require_aligned
from ...errors import EncodingError, OutOfRangeError
from ..record import Format
from . import formats, layout, stage1
from .sizes import WIDEST_PA, has_lpa, output_size, parange, root_of, table_base, wide_roots, widest
from .stage2_control import DS, GRANULES, HCR_DC, HCR_TGE, HCR_VM, granule_of

TG1_GRANULES: Mapping[int, int] = {1: 14, 2: 12, 3: 16}
"""TG1 -> log2 of the granule; TG0 counts differently."""
HCR_E2H = 1 << 34
SCTLR_M, SCTLR_WXN = 1 << 0, 1 << 19
SCTLR_RES1 = 1 << 29 | 1 << 28 | 1 << 23 | 1 << 22 | 1 << 20 | 1 << 11
"""Bits of SCTLR_EL1 that are one where the CPU has none of the features that gave them a meaning."""

# TCR_EL1, and TCR_EL2 under HCR_EL2.E2H. TTBR1's half of the low fields is 16 bits up.
TCR_EPD = 1 << 7
"""Of either half, once TTBR1's is shifted down by 16."""
TCR_A1 = 1 << 22
TCR_IPS_SHIFT = 32
TCR_AS = 1 << 36
TCR_TBI_SHIFT = 37
"""TBI0; the bit above it is TBI1."""
TCR_HA, TCR_HD = 1 << 39, 1 << 40
TCR_HPD_SHIFT = 41
"""HPD0; the bit above it is HPD1."""
TCR_DS = 1 << 59

# TCR_EL2 without E2H.
EL2_PS_SHIFT, EL2_TBI, EL2_HA, EL2_HD, EL2_HPD = 16, 1 << 20, 1 << 21, 1 << 22, 1 << 24

_WALKS_WRITE_BACK = 1 << 8 | 1 << 10 | 3 << 12
"""IRGN0, ORGN0 and SH0: walks are write-back and inner shareable."""


class Stage1Regime(Enum):
    """The stage-1 regimes of Non-secure state."""

    EL1_0 = "EL1&0"
    EL2 = "EL2"
    EL2_0 = "EL2&0"


@dataclass(frozen=True, slots=True)
class Stage1Root:
    """The tables of one half of a regime's addresses.

    Args:
        register: where the root comes from: `TTBR0_EL1`.
        format: how the tables are laid out.
        root: address of the root table.
        controls: the format's control bits.
        top_byte_ignored: TBI: bits 63:56 of an address are a tag.
    """

    register: str
    format: Format
    root: int
    controls: int
    top_byte_ignored: bool


@dataclass(frozen=True, slots=True)
class Stage1Control:
    """What the registers of a regime say together.

    Args:
        regime: which it is.
        low, high: the halves by TTBR0 and TTBR1; None where nothing is translated: stage 1 is off, EPD forbids
            walks, or the regime has no such half.
        mair: what AttrIndx of a descriptor chooses from.
        asid: tags TLB entries of pages that are not global; None in the EL2 regime, which has none.
        on: SCTLR.M counts and is set.
        under_stage_2: output addresses are IPAs that stage 2 translates.
        flat_type: with stage 1 off, the memory type that data gets; None with it on.
    """

    regime: Stage1Regime
    low: Stage1Root | None
    high: Stage1Root | None
    mair: int
    asid: int | None
    on: bool
    under_stage_2: bool
    flat_type: str | None


def regime_of(el: int, hcr: int = 0) -> Stage1Regime:
    """The regime that an exception level uses (D8.1.2).

    Args:
        el: 0, 1 or 2.
        hcr: HCR_EL2.

    Raises:
        EncodingError: there is no such exception level here, or EL1 under a host that leaves it out of use.
    """
    if el not in (0, 1, 2):
        raise EncodingError(f"EL{el} has none of the regimes EL1&0, EL2 and EL2&0")
    host = bool(hcr & HCR_E2H)
    if el == 2:
        return Stage1Regime.EL2_0 if host else Stage1Regime.EL2
    if host and hcr & HCR_TGE:
        if el == 1:
            raise EncodingError("HCR_EL2 has E2H and TGE set: EL1 is out of use, EL0 is in the EL2&0 regime")
        return Stage1Regime.EL2_0
    return Stage1Regime.EL1_0


def regimes(
    el: int,
    *,
    tcr: int,
    ttbr0: int,
    ttbr1: int = 0,
    sctlr: int = SCTLR_M,
    mair: int = stage1.MAIR,
    hcr: int = 0,
    pan: bool = False,
    implemented_bits: int | None = None,
) -> Stage1Control:
    """What an exception level translates by at stage 1.

    Args:
        el: the exception level: 0, 1 or 2.
        tcr, ttbr0, ttbr1, sctlr, mair: the registers of the level's regime; TTBR1 counts where there are two halves.
        hcr: HCR_EL2: E2H and TGE choose the regime, DC and TGE switch EL1&0's stage 1 off (AArch64.S1Enabled).
        pan: PSTATE.PAN.
        implemented_bits: ID_AA64MMFR0_EL1.PARange; a wider IPS means this much, and 52 means FEAT_LPA. None where it
            is not known: IPS then is within it, and FEAT_LPA there if IPS asks for it.

    A root that is wider than the output is no error here: walks that begin there end in an address size fault.

    Raises:
        EncodingError: a field is reserved, or fields contradict each other.
        MisalignedError: a root is not aligned to its size.
    """
    regime = regime_of(el, hcr)
    names = ("TTBR0_EL1", "TTBR1_EL1") if regime is Stage1Regime.EL1_0 else ("TTBR0_EL2", "TTBR1_EL2")
    guest = regime is Stage1Regime.EL1_0
    # TGE without E2H keeps EL0 in EL1&0, with its stage 1 off and its stage 2 as VM and DC say (D24.2 "HCR_EL2").
    stage_2 = guest and bool(hcr & (HCR_VM | HCR_DC))
    default_cacheable = guest and bool(hcr & HCR_DC)
    on = bool(sctlr & SCTLR_M) and not (guest and hcr & (HCR_DC | HCR_TGE))
    asid: int | None = None
    if regime is not Stage1Regime.EL2:
        asid = (ttbr1 if tcr & TCR_A1 else ttbr0) >> 48 & (0xFFFF if tcr & TCR_AS else 0xFF)
    if not on:
        flat = "Normal Write-Back" if default_cacheable else "Device-nGnRnE"
        return Stage1Control(regime, None, None, mair, asid, False, stage_2, flat)
    common = (stage1.WXN if sctlr & SCTLR_WXN else 0) | _hardware(regime, tcr)
    if regime is Stage1Regime.EL2:
        common |= stage1.ONE_PRIVILEGE | (stage1.HPD if tcr & EL2_HPD else 0)
        fmt = half_of(tcr, regime, implemented_bits=implemented_bits)
        assert fmt is not None, "the EL2 regime has no EPD"
        low = _root(names[0], fmt, ttbr0, common, output_bits(tcr, regime), implemented_bits, bool(tcr & EL2_TBI))
        return Stage1Control(regime, low, None, mair, asid, True, stage_2, None)
    common |= stage1.PAN if pan else 0
    halves: list[Stage1Root | None] = []
    for upper, (name, ttbr) in enumerate(zip(names, (ttbr0, ttbr1), strict=True)):
        fmt = half_of(tcr, regime, upper=bool(upper), implemented_bits=implemented_bits)
        if fmt is None:
            halves.append(None)
            continue
        controls = common | (stage1.HPD if tcr >> TCR_HPD_SHIFT + upper & 1 else 0)
        tagged = bool(tcr >> TCR_TBI_SHIFT + upper & 1)
        halves.append(_root(name, fmt, ttbr, controls, output_bits(tcr, regime), implemented_bits, tagged))
    return Stage1Control(regime, halves[0], halves[1], mair, asid, True, stage_2, None)


def half_of(
    tcr: int, regime: Stage1Regime, *, upper: bool = False, implemented_bits: int | None = None
) -> Format | None:
    """The format of one half of a regime's addresses (D8.2.4 "Stage 1 input address size"); None if EPD is set.

    Args:
        tcr: TCR_EL1, or TCR_EL2 laid out as the regime has it.
        regime: which.
        upper: the half by TTBR1; the EL2 regime has none.
        implemented_bits: ID_AA64MMFR0_EL1.PARange; see `regimes`.

    Raises:
        EncodingError: TG is reserved, or TxSZ is out of range.
    """
    one_half = regime is Stage1Regime.EL2
    if upper and one_half:
        raise EncodingError("the EL2 regime has no TTBR1")
    name, fields = ("1", tcr >> 16) if upper else ("0", tcr)
    if not one_half and fields & TCR_EPD:
        return None
    granule = granule_of(f"TG{name}", fields >> 14 & 3, TG1_GRANULES if upper else GRANULES)
    wide = bool(tcr & (DS if one_half else TCR_DS)) and granule != 16
    bits, most, size = 64 - (fields & 0x3F), widest(granule, wide), format_size(1 << granule)
    if not 25 <= bits <= most:
        raise EncodingError(f"T{name}SZ {64 - bits} asks for {bits}-bit addresses; {size} granules take 25 to {most}")
    lpa = has_lpa(granule, output_bits(tcr, regime), implemented_bits)
    return formats.make(1, granule, bits, lpa=lpa, lpa2=wide, high=upper)


def output_bits(tcr: int, regime: Stage1Regime) -> int:
    """Width of output addresses, from IPS or PS."""
    return output_size(tcr >> (EL2_PS_SHIFT if regime is Stage1Regime.EL2 else TCR_IPS_SHIFT) & 7)


def stage_1_registers(fmt: Format, root: int, controls: int, asid: int) -> dict[str, int]:
    """What to load for tables of EL1&0 that TTBR0 points to: TCR_EL1, its fields of TTBR1 left 0, and TTBR0_EL1.

    `controls` give the output size, HA, HD and HPD; SCTLR_EL1.WXN and PSTATE.PAN are set elsewhere.

    Raises:
        EncodingError: the format is not one of TTBR0 under EL1&0, or HD is asked for without HA.
        MisalignedError: the root is not aligned to its size.
        OutOfRangeError: the ASID has more than 16 bits, or the root is wider than the output.
    """
    if fmt.stage != 1 or fmt.high_half or controls & stage1.ONE_PRIVILEGE:
        raise EncodingError(f"{fmt.name} under these controls is no format of TTBR0 in the EL1&0 regime")
    width = output_width(fmt, controls)
    if asid < 0 or asid >> 16:
        raise OutOfRangeError(f"ASID {asid:#x} has more than 16 bits")
    tcr = half_fields(fmt, upper=False) | TCR_AS | shared_fields(fmt, controls)
    tcr |= 1 << TCR_HPD_SHIFT if controls & stage1.HPD else 0
    return {"TCR_EL1": tcr, "TTBR0_EL1": asid << 48 | base_of(fmt, root, width)}


def half_fields(fmt: Format, *, upper: bool) -> int:
    """TxSZ, the walks' cacheability and TG of one half: write-back, inner shareable walks.

    They stand alike in TCR_EL1 and TCR_EL2, whatever HCR_EL2.E2H; TTBR1's are to be shifted up by 16.

    Args:
        fmt: of the half.
        upper: TG counts as TTBR1's does.
    """
    codes = TG1_GRANULES if upper else GRANULES
    granule = next(code for code, shift in codes.items() if shift == fmt.page_shift)
    return 64 - fmt.input_bits | _WALKS_WRITE_BACK | granule << 14


def shared_fields(fmt: Format, controls: int) -> int:
    """IPS, HA, HD and DS of TCR_EL1, and of TCR_EL2 under E2H.

    Raises:
        EncodingError: HD is asked for without HA.
    """
    found = parange(output_width(fmt, controls)) << TCR_IPS_SHIFT | (TCR_DS if controls & layout.LPA2 else 0)
    for bit, control in ((TCR_HA, layout.HA), (TCR_HD, layout.HD)):
        found |= bit if controls & control else 0
    require_access_flag(controls)
    return found


def require_access_flag(controls: int) -> None:
    """Refuse HD without HA (D8.4.6 "Hardware management of the dirty state").

    Raises:
        EncodingError: HD is asked for without HA.
    """
    if controls & layout.HD and not controls & layout.HA:
        raise EncodingError("TCR: HD, hardware dirty state, does nothing without HA: ask for the access flag too")


def output_width(fmt: Format, controls: int) -> int:
    """Width of output addresses that controls ask for."""
    return controls >> layout.OUTPUT_BITS_AT & 0x3F or fmt.output_bits


def base_of(fmt: Format, root: int, width: int) -> int:
    """BADDR of a TTBR.

    Raises:
        MisalignedError: the root is not aligned to its size.
        OutOfRangeError: it is wider than the output.
    """
    require_aligned("root table", root, fmt.root_alignment)
    if root >> width:
        raise OutOfRangeError(f"root table {root:#x} is above 2^{width}, where output addresses end")
    return table_base(root, wide=wide_roots(fmt, width))


def _hardware(regime: Stage1Regime, tcr: int) -> int:
    one_half = regime is Stage1Regime.EL2
    access, dirty = (EL2_HA, EL2_HD) if one_half else (TCR_HA, TCR_HD)
    if not tcr & access:
        return 0  # HD behaves as 0 then.
    return layout.HA | (layout.HD if tcr & dirty else 0)


def _root(
    register: str, fmt: Format, ttbr: int, controls: int, asked_bits: int, implemented_bits: int | None, tagged: bool
) -> Stage1Root:
    width = min(asked_bits, implemented_bits or WIDEST_PA, fmt.output_bits)
    root = root_of(ttbr, wide=wide_roots(fmt, width))
    require_aligned(f"root table in {register}", root, fmt.root_alignment)
    return Stage1Root(register, fmt, root, formats.sized_controls(fmt, width) | controls, tagged)
