"""What a processor makes of the family's tables: controls, widths, and what it refuses; and what its ID registers say.

Arm ARM DDI 0487, D24.2 "ID_AA64MMFR0_EL1", "ID_AA64MMFR1_EL1", "ID_AA64MMFR2_EL1"; the bounds are those of
AArch64.S1TxSZFaults, S2TxSZFaults and S2InvalidSL.
"""

from __future__ import annotations

from ...errors import EncodingError
from ...processor import Processor
from ..record import Format
from . import formats, layout, stage1, stage2
from .sizes import PA_SIZES, WIDEST_PA, pa_bits
from .stage2_control import too_narrow

_GRANULE_NAMES = {shift: name for name, shift in formats.GRANULES.items()}
_NO_GRANULE_4K_64K = 15
_STAGE_1_SWITCHES = {"pan": (stage1.PAN, "PSTATE.PAN (pan)"), "hpds": (stage1.HPD, "TCR.HPD (hpds)")}
_STAGE_2_SWITCHES = {"xnx": (stage2.XNX, "XN[0] (xnx)"), "fwb": (stage2.FWB, "HCR_EL2.FWB (fwb)")}


def controls(fmt: Format, processor: Processor) -> int:
    """See `Family.controls`: the output size is the processor's, and XN[0] means something if it has FEAT_XNX."""
    found = formats.sized_controls(fmt, output_bits(fmt, processor))
    if fmt.stage == 2 and not processor.has("xnx"):
        found &= ~stage2.XNX
    require(fmt, processor, found)
    return found


def require(fmt: Format, processor: Processor, controls: int) -> None:
    """See `Family.require`."""
    if processor.pa_bits not in PA_SIZES:
        sizes = ", ".join(str(size) for size in PA_SIZES if size <= WIDEST_PA)
        raise EncodingError(
            f"{processor.name}: Arm's physical addresses have {sizes} bits, and not {processor.pa_bits}"
        )
    lacking = _format_lacks(fmt, processor) or _switch_lacks(fmt, processor, controls)
    if lacking is not None:
        raise EncodingError(f"{fmt.name} is not for {processor.name}: it has no {lacking}")
    narrow = too_narrow(fmt.page_shift, fmt.input_bits, fmt.levels, processor.pa_bits) if fmt.stage == 2 else None
    if narrow is not None:
        raise EncodingError(f"{fmt.name} is not for {processor.name}: {narrow}")
    asked = controls >> layout.OUTPUT_BITS_AT & 0x3F
    if asked > processor.pa_bits:
        raise EncodingError(
            f"{fmt.name} with output addresses of {asked} bits is not for {processor.name}, whose physical addresses "
            f"have {processor.pa_bits}"
        )


def output_bits(fmt: Format, processor: Processor) -> int:
    """See `Family.output_bits`."""
    return min(fmt.output_bits, processor.pa_bits)


def vmid_bits(processor: Processor) -> int:
    """Bits of a VMID: 8, or 16 with VTCR_EL2.VS (FEAT_VMID16)."""
    return 16 if processor.numbers["vmid"] == 16 else 8


def _format_lacks(fmt: Format, processor: Processor) -> str | None:
    """What a format needs and a processor does not have; None if it has it all."""
    granule = _GRANULE_NAMES[fmt.page_shift]
    if not processor.has(f"granule-{granule}"):
        return f"{granule[:-1]} KiB granules (granule-{granule})"
    if fmt.default_controls & layout.LPA2 and not processor.has("lpa2"):
        return "52-bit addresses with 4 and 16 KiB granules (lpa2)"
    if fmt.default_controls & layout.LPA and not processor.has("lpa"):
        return "52-bit addresses with 64 KiB granules (lpa)"
    if fmt.stage == 1 and fmt.page_shift == 16 and fmt.input_bits > 48 and not processor.has("lva"):
        return "52-bit input addresses with 64 KiB granules (lva)"
    if fmt.stage == 2 and fmt.page_shift == 12 and fmt.levels == 1 and not processor.has("ttst"):
        return "stage 2 that starts at level 3 of 4 KiB granules (ttst)"
    return None


def _switch_lacks(fmt: Format, processor: Processor, controls: int) -> str | None:
    """What controls ask for and a processor does not have."""
    if controls & layout.HA and not processor.has("ha"):
        return "access flags that hardware sets (ha)"
    if controls & layout.HD and not processor.has("hd"):
        return "dirty state that hardware manages (hd)"
    switches = _STAGE_2_SWITCHES if fmt.stage == 2 else _STAGE_1_SWITCHES
    for feature, (bit, meaning) in switches.items():
        if controls & bit and not processor.has(feature):
            return meaning
    return None


def identified(mmfr0: int, mmfr1: int, mmfr2: int) -> tuple[frozenset[str], dict[str, int]]:
    """The features and numbers of a processor, as `Processor` names them, from its ID registers.

    Args:
        mmfr0, mmfr1, mmfr2: ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1.

    Raises:
        EncodingError: PARange is reserved.
    """

    def of(register: int, low: int) -> int:
        return register >> low & 0xF

    width = min(pa_bits(of(mmfr0, 0)), WIDEST_PA)
    granule_4k, granule_16k, granule_64k = of(mmfr0, 28), of(mmfr0, 20), of(mmfr0, 24)
    has = {
        "pan": of(mmfr1, 20) >= 1,
        "hpds": of(mmfr1, 12) >= 1,
        "ha": of(mmfr1, 0) >= 1,
        "hd": of(mmfr1, 0) >= 2,
        "lva": of(mmfr2, 16) >= 1,
        "lpa": width == WIDEST_PA,
        "lpa2": granule_4k == 1 and granule_16k >= 2,
        "ttst": of(mmfr2, 28) >= 1,
        "xnx": of(mmfr1, 28) >= 1,
        "fwb": of(mmfr2, 40) >= 1,
        "granule-4k": granule_4k != _NO_GRANULE_4K_64K,
        "granule-16k": granule_16k != 0,
        "granule-64k": granule_64k != _NO_GRANULE_4K_64K,
    }
    numbers = {"pa": width, "vmid": 16 if of(mmfr1, 4) == 2 else 8, "bbm": of(mmfr2, 52)}
    return frozenset(name for name, there in has.items() if there), numbers
