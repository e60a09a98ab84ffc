"""How wide addresses are, and how registers say so: PS, IPS and PARange, and the root in a TTBR or VTTBR_EL2.

Arm ARM DDI 0487, D8.1.6 "Output address size", D8.1.7 "Implemented physical address size", D8.2.3 "Translation table
base address register".
"""

from __future__ import annotations

from ...address import require_aligned
from ...errors import EncodingError, OutOfRangeError
from ..record import Format
from ..rules import ENTRY_SIZE
from . import layout

PA_SIZES = (32, 36, 40, 42, 44, 48, 52, 56)
"""PS, IPS and PARange -> bits of a physical address."""
WIDEST_PA = 52
"""Of 64-bit descriptors, in bits: PS and IPS 7 mean what 6 means (D24.2 "VTCR_EL2", PS)."""


def parange(pa_bits: int) -> int:
    """The code of a physical address size in PS, IPS and PARange.

    Raises:
        EncodingError: no code stands for it.
    """
    if pa_bits not in PA_SIZES:
        raise EncodingError(f"no PS stands for {pa_bits}-bit physical addresses: 32, 36, 40, 42, 44, 48, 52, 56 do")
    return PA_SIZES.index(pa_bits)


def pa_bits(ps: int) -> int:
    """The physical address size that a code of PS, IPS or PARange stands for.

    Raises:
        EncodingError: the code is reserved.
    """
    if not 0 <= ps < len(PA_SIZES):
        raise EncodingError(f"{ps:#x} is a reserved physical address size: 0 to 7 are defined")
    return PA_SIZES[ps]


def has_lpa(granule: int, output_bits: int, implemented_bits: int | None) -> bool:
    """Whether descriptors hold 52-bit addresses because of FEAT_LPA: with 64 KiB granules where the processor has it,
    whatever PS or IPS says (AArch64.LeafBase, AArch64.NextTableBase).

    Args:
        granule: log2 of the granule.
        output_bits: what PS or IPS and the processor allow.
        implemented_bits: the processor's width, None where it is not known.
    """
    known = output_bits if implemented_bits is None else implemented_bits
    return granule == 16 and known >= WIDEST_PA


def output_size(ps: int) -> int:
    """Bits of an output address that PS or IPS stands for with 64-bit descriptors: 7 means what 6 means."""
    return min(pa_bits(ps), WIDEST_PA)


def widest(granule: int, ds: bool) -> int:
    """The widest address that descriptors of a granule can hold, in bits."""
    return 52 if ds or granule == 16 else 48


def wide_roots(fmt: Format, output_bits: int) -> bool:
    """Whether a TTBR or VTTBR_EL2 holds 52-bit addresses: LPA2, or 64 KiB granules with PS 6 (AArch64.S2TTBaseAddress).

    Args:
        fmt: of the tables.
        output_bits: what PS or IPS allows.
    """
    return output_bits == WIDEST_PA or bool(fmt.default_controls & layout.LPA2)


def table_base(root: int, *, wide: bool = True) -> int:
    """A root as TTBR and VTTBR_EL2 hold it.

    Args:
        root: its address.
        wide: see `root_of`.

    Raises:
        MisalignedError: it is no multiple of 64 bytes, or with 48-bit addresses of the two entries of the least root.
        OutOfRangeError: it is above 2^52, or 2^48.
    """
    width = WIDEST_PA if wide else 48
    require_aligned("root table", root, 64 if wide else 2 * ENTRY_SIZE)
    if root < 0 or root >> width:
        raise OutOfRangeError(f"root table {root:#x} is above 2^{width}")
    return root & (1 << 48) - 1 | root >> 46 & 0x3C


def root_of(value: int, *, wide: bool = True) -> int:
    """The root in a TTBR or VTTBR_EL2.

    Args:
        value: the register.
        wide: the register holds 52-bit addresses, so that bits 5:2 are bits 51:48; else they are address bits 5:2.
    """
    if wide:
        return value & 0x0000_FFFF_FFFF_FFC0 | (value & 0x3C) << 46
    return value & 0x0000_FFFF_FFFF_FFFE
