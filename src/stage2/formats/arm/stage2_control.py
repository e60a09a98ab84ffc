"""VTCR_EL2, VTTBR_EL2 and HCR_EL2 of a stage-2 regime, computed and read back.

Arm ARM DDI 0487, D24.2 "VTCR_EL2", "VTTBR_EL2", "HCR_EL2", and D8.2 "Translation process" for what the fields of
VTCR_EL2 demand of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...address import format_size, require_aligned
from ...errors import EncodingError, OutOfRangeError
from ..record import Format
from . import formats, layout, stage2
from .fault_status import ARM_LAST_LEVEL
from .sizes import WIDEST_PA, has_lpa, output_size, parange, root_of, table_base, wide_roots, widest

GRANULES = {0: 12, 1: 16, 2: 14}
"""TG0 -> log2 of the granule; 3 is reserved."""
MAX_CONCATENATED_BITS = formats.MAX_CONCATENATED_BITS

# VTCR_EL2.
_SL0_SHIFT, _IRGN0_SHIFT, _ORGN0_SHIFT, _SH0_SHIFT, _TG0_SHIFT, _PS_SHIFT = 6, 8, 10, 12, 14, 16
_WRITE_BACK, _INNER_SHAREABLE = 1, 3
_VS, _HA, _HD, _RES1, DS, _SL2 = 1 << 19, 1 << 21, 1 << 22, 1 << 31, 1 << 32, 1 << 33

# HCR_EL2.
HCR_VM, HCR_SWIO, HCR_PTW, HCR_DC = 1 << 0, 1 << 1, 1 << 2, 1 << 12
HCR_TGE, HCR_RW, HCR_FWB = 1 << 27, 1 << 31, 1 << 46
HCR_FMO, HCR_IMO, HCR_VF, HCR_VI = 1 << 3, 1 << 4, 1 << 6, 1 << 7
"""Physical FIQs and IRQs come to EL2, and the guest has virtual ones; which are pending."""
HCR_TSC = 1 << 19
"""SMC is trapped."""

# The start level that (SL2, SL0) stands for, in Arm's numbers, by log2 of the granule (D8.2.5, "Stage 2 start level").
_START_LEVELS: Mapping[int, Mapping[tuple[int, int], int]] = {
    12: {(0, 0): 2, (0, 1): 1, (0, 2): 0, (0, 3): 3, (1, 0): -1},
    14: {(0, 0): 3, (0, 1): 2, (0, 2): 1, (0, 3): 0},
    16: {(0, 0): 3, (0, 1): 2, (0, 2): 1},
}
_NEEDED_FOR_LEVELS = {(12, 5): 52, (12, 4): 44, (14, 4): 52, (14, 3): 42, (16, 3): 44}
"""(log2 of the granule, levels) -> the least width of a processor's physical addresses (AArch64.S2InvalidSL)."""


def sl0(granule: int, levels: int, *, ds: bool = False) -> tuple[int, int]:
    """(SL2, SL0) of VTCR_EL2 for a number of levels.

    Args:
        granule: log2 of the granule: 12, 14 or 16.
        levels: number of levels of tables, 1 to 5.
        ds: VTCR_EL2.DS: 52-bit addresses with 4 or 16 KiB granules.

    Raises:
        EncodingError: the granule cannot begin at that level.
    """
    start = ARM_LAST_LEVEL + 1 - levels
    for code, level in _START_LEVELS[_require_granule(granule)].items():
        if level == start and (ds or not _needs_ds(granule, code)):
            return code
    raise EncodingError(
        f"stage 2 with {format_size(1 << granule)} granules{' and DS' if ds else ''} cannot have {levels} levels"
    )


def start_level(granule: int, sl0: int, *, sl2: int = 0, ds: bool = False) -> int:
    """The start level in Arm's numbers: -1 to 3, 3 being the pages.

    SL2 counts only for 4 KiB granules with DS.

    Raises:
        EncodingError: the code is reserved for the granule.
    """
    code = (sl2 if ds and granule == 12 else 0, sl0)
    found = _START_LEVELS[_require_granule(granule)].get(code)
    if found is None or (_needs_ds(granule, code) and not ds):
        with_sl2 = f"SL2 {code[0]}, " if code[0] else ""
        raise EncodingError(
            f"VTCR_EL2: {with_sl2}SL0 {sl0} is reserved for {format_size(1 << granule)} granules"
            + (" unless DS is set" if found is not None else "")
        )
    return found


@dataclass(frozen=True, slots=True)
class Stage2Control:
    """What a consistent VTCR_EL2 says.

    Args:
        granule: log2 of the granule.
        ipa_bits: width of an IPA: 64 - T0SZ.
        levels: number of levels of tables.
        pa_bits: width of output addresses: what PS, the processor and the descriptors allow.
        hardware_af, hardware_dirty: HA; HD, which does nothing without HA.
        ds: 52-bit addresses with 4 or 16 KiB granules; DS does nothing with 64 KiB granules.
        vmid_bits: 8 or 16, from VS.
        format_name: the format it selects.
        controls: that format's control bits, as far as VTCR_EL2 and the width of physical addresses decide them.
    """

    granule: int
    ipa_bits: int
    levels: int
    pa_bits: int
    hardware_af: bool
    hardware_dirty: bool
    ds: bool
    vmid_bits: int
    format_name: str
    controls: int

    @property
    def arm_start_level(self) -> int:
        """The start level as the manual counts, 3 being the pages."""
        return ARM_LAST_LEVEL + 1 - self.levels

    @property
    def root_bits(self) -> int:
        """Index bits of the root, concatenated tables together."""
        return self.ipa_bits - self.granule - (self.granule - 3) * (self.levels - 1)

    @property
    def root_tables(self) -> int:
        """How many tables are concatenated at the start level; 1 is an ordinary root."""
        return 1 << max(self.root_bits - (self.granule - 3), 0)


def vtcr_el2(
    granule: int,
    ipa_bits: int,
    levels: int,
    *,
    pa_bits: int = 48,
    hardware_af: bool = False,
    hardware_dirty: bool = False,
    ds: bool = False,
    vmid_bits: int = 8,
) -> int:
    """VTCR_EL2 for a regime: walks write-back and inner shareable, bit 31 one.

    Args:
        granule: log2 of the granule: 12, 14 or 16.
        ipa_bits: width of an IPA.
        levels: number of levels of tables.
        pa_bits: width of output addresses, PS; the processor bounds it by ID_AA64MMFR0_EL1.PARange.
        hardware_af, hardware_dirty: HA and HD; HD needs HA.
        ds: 52-bit addresses with 4 or 16 KiB granules (FEAT_LPA2).
        vmid_bits: 8 or 16 (VS).

    Raises:
        EncodingError: the architecture does not allow the combination.
    """
    if vmid_bits not in (8, 16):
        raise EncodingError(f"a VMID has 8 or 16 bits, not {vmid_bits}")
    sl2, low = sl0(granule, levels, ds=ds)
    tg0 = next(code for code, shift in GRANULES.items() if shift == granule)
    ps = parange(pa_bits)
    if pa_bits > WIDEST_PA:
        raise EncodingError(f"VTCR_EL2: {pa_bits}-bit physical addresses (PS {ps}) exist only with 128-bit descriptors")
    if ds and granule == 16:
        raise EncodingError("VTCR_EL2.DS does nothing for 64 KiB granules: ask for 4 or 16 KiB, or leave it out")
    if hardware_dirty and not hardware_af:
        raise EncodingError("VTCR_EL2: HD, hardware dirty state, does nothing without HA: ask for the access flag too")
    _require_consistent(granule, ipa_bits, levels, WIDEST_PA, ds)
    value = _RES1 | ps << _PS_SHIFT | tg0 << _TG0_SHIFT | _INNER_SHAREABLE << _SH0_SHIFT
    value |= _WRITE_BACK << _ORGN0_SHIFT | _WRITE_BACK << _IRGN0_SHIFT | low << _SL0_SHIFT | (64 - ipa_bits)
    value |= (_HA if hardware_af else 0) | (_HD if hardware_dirty else 0) | (_VS if vmid_bits == 16 else 0)
    return value | (DS if ds else 0) | (_SL2 if sl2 else 0)


def decode_vtcr_el2(value: int, implemented_bits: int | None = None) -> Stage2Control:
    """Read VTCR_EL2 as a processor does.

    PS bounds output addresses and the table's base only (AArch64.OAOutOfRange). An IPA may be wider than that: what
    bounds it is the processor (AArch64.S2MinTxSZ, AArch64.S2InvalidSL).

    Args:
        value: the register.
        implemented_bits: width of the processor's physical addresses, from ID_AA64MMFR0_EL1.PARange, which decides
            what descriptors of 64 KiB granules hold (FEAT_LPA). Where it is not known, it is taken to be enough, and
            FEAT_LPA to be there if PS asks for it.

    Raises:
        EncodingError: a field is reserved, fields contradict each other, or the processor has no such sizes.
    """
    granule = granule_of("VTCR_EL2.TG0", value >> _TG0_SHIFT & 3, GRANULES)
    ds = bool(value & DS) and granule != 16
    start = start_level(granule, value >> _SL0_SHIFT & 3, sl2=1 if value & _SL2 else 0, ds=ds)
    ipa_bits, levels = 64 - (value & 0x3F), ARM_LAST_LEVEL + 1 - start
    most = WIDEST_PA if implemented_bits is None else implemented_bits
    _require_consistent(granule, ipa_bits, levels, most, ds)
    size = min(output_size(value >> _PS_SHIFT & 7), most, widest(granule, ds))
    hardware_af = bool(value & _HA)
    hardware_dirty = hardware_af and bool(value & _HD)
    fmt = formats.make(2, granule, ipa_bits, levels, lpa=has_lpa(granule, size, implemented_bits), lpa2=ds)
    controls = formats.sized_controls(fmt, size)
    return Stage2Control(
        granule,
        ipa_bits,
        levels,
        size,
        hardware_af,
        hardware_dirty,
        ds,
        16 if value & _VS else 8,
        fmt.name,
        controls | (layout.HA if hardware_af else 0) | (layout.HD if hardware_dirty else 0),
    )


def vttbr_el2(root: int, vmid: int, *, vmid_bits: int = 16, wide: bool = True) -> int:
    """VTTBR_EL2: VMID in bits 63:48, the root in 47:1, or where addresses have 52 bits its bits 51:48 in 5:2.

    A root has its size's alignment, more where it is concatenated; that is checked where the format is known, in
    `stage_2_registers`.

    Args:
        root: HPA of the root table.
        vmid: the VMID, and its width.
        wide: see `root_of`.

    Raises:
        MisalignedError: the root is no multiple of the least size of a root.
        OutOfRangeError: the root is wider than the register holds, or the VMID has too many bits.
    """
    if vmid < 0 or vmid >> vmid_bits:
        raise OutOfRangeError(f"VMID {vmid:#x} has more than {vmid_bits} bits")
    return vmid << 48 | table_base(root, wide=wide)


def decode_vttbr_el2(value: int, *, wide: bool = True) -> tuple[int, int]:
    """(root, VMID) of VTTBR_EL2.

    Args:
        value: the register.
        wide: see `root_of`.
    """
    return root_of(value, wide=wide), value >> 48 & 0xFFFF


def stage_2_registers(fmt: Format, root: int, controls: int, identifier: int) -> dict[str, int]:
    """What to load for a stage-2 regime: VTCR_EL2, VTTBR_EL2, and HCR_EL2 with VM, RW and SWIO.

    `controls` give the physical address size, HA, HD, FWB and PTW; VS is set for a VMID above 255.

    Raises:
        MisalignedError: the root is not aligned to its size.
        OutOfRangeError: the VMID has more than 16 bits, or the root is wider than the output.
        EncodingError: no VTCR_EL2 stands for the format with these controls.
    """
    require_aligned("root table", root, fmt.root_alignment)
    size = controls >> layout.OUTPUT_BITS_AT & 0x3F or fmt.output_bits
    if root >> size:
        raise OutOfRangeError(f"root table {root:#x} is above 2^{size}")
    wide_vmid = identifier > 0xFF
    vtcr = vtcr_el2(
        fmt.page_shift,
        fmt.input_bits,
        fmt.levels,
        pa_bits=size,
        hardware_af=bool(controls & layout.HA),
        hardware_dirty=bool(controls & layout.HD),
        ds=fmt.output_bits > 48 and fmt.page_shift < 16,
        vmid_bits=16 if wide_vmid else 8,
    )
    hcr = HCR_VM | HCR_SWIO | HCR_RW
    hcr |= (HCR_PTW if controls & stage2.PTW else 0) | (HCR_FWB if controls & stage2.FWB else 0)
    vttbr = vttbr_el2(root, identifier, wide=wide_roots(fmt, size))
    return {"VTCR_EL2": vtcr, "VTTBR_EL2": vttbr, "HCR_EL2": hcr}


def too_narrow(granule: int, ipa_bits: int, levels: int, implemented_bits: int) -> str | None:
    """Why a processor is too narrow for IPAs or levels of stage 2 (AArch64.S2MinTxSZ, AArch64.S2InvalidSL).

    Args:
        granule: log2 of the granule.
        ipa_bits: width of an IPA.
        levels: number of levels of tables.
        implemented_bits: width of the processor's physical addresses.

    Returns:
        None if it is not.
    """
    if ipa_bits > implemented_bits:
        return (
            f"{ipa_bits}-bit IPAs (T0SZ {64 - ipa_bits}) are wider than the {implemented_bits}-bit physical addresses "
            "of the processor (PARange)"
        )
    needed = _NEEDED_FOR_LEVELS.get((granule, levels), 0)
    if implemented_bits < needed:
        return (
            f"{levels} levels of {format_size(1 << granule)} granules need a processor of {needed}-bit physical "
            f"addresses, and this one has {implemented_bits}"
        )
    return None


def _require_consistent(granule: int, ipa_bits: int, levels: int, implemented_bits: int, ds: bool) -> None:
    """Refuse what contradicts itself, or a processor's width (D8.2.5 "Stage 2 start level", AArch64.S2TxSZFaults,
    AArch64.S2InvalidSL, AArch64.S2InconsistentSL). Hardware answers each access with a translation fault at level 0.
    """
    size, per_level = format_size(1 << granule), granule - 3
    most = widest(granule, ds)
    if not 25 <= ipa_bits <= most:
        hint = " without DS" if granule != 16 and not ds and ipa_bits > most else ""
        raise EncodingError(
            f"VTCR_EL2: T0SZ {64 - ipa_bits} asks for {ipa_bits}-bit IPAs; {size} granules{hint} take 25 to {most}"
        )
    problem = too_narrow(granule, ipa_bits, levels, implemented_bits)
    if problem is not None:
        raise EncodingError(f"VTCR_EL2: {problem}")
    root_bits = ipa_bits - granule - per_level * (levels - 1)
    start = ARM_LAST_LEVEL + 1 - levels
    where = f"VTCR_EL2: {ipa_bits}-bit IPAs (T0SZ {64 - ipa_bits}) cannot start at level {start} with {size} granules"
    if root_bits < 1:
        raise EncodingError(f"{where}: nothing would be left to index the root with")
    if root_bits > per_level + MAX_CONCATENATED_BITS:
        raise EncodingError(f"{where}: {1 << root_bits - per_level} tables would have to be concatenated, 16 may be")


def _needs_ds(granule: int, code: tuple[int, int]) -> bool:
    """Codes that mean something only with DS: level -1 of 4 KiB, level 0 of 16 KiB granules."""
    return (granule, code) in ((12, (1, 0)), (14, (0, 3)))


def _require_granule(granule: int) -> int:
    if granule not in _START_LEVELS:
        raise EncodingError(f"no granule is 2^{granule} bytes: 12, 14 and 16 are defined")
    return granule


def granule_of(name: str, code: int, codes: Mapping[int, int]) -> int:
    """log2 of the granule that a code of TG0 or TG1 stands for.

    Raises:
        EncodingError: the code is reserved.
    """
    if code not in codes:
        raise EncodingError(f"{name} {code} is reserved: it stands for no granule")
    return codes[code]
