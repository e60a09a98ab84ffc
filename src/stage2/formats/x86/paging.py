"""Which stage-1 regime the control registers select (Intel SDM Vol. 3A, 5.1.1 "Four Paging Modes"), and back.

The functions of numbers are in the compilable subset, for an engine's MMU.
"""

from __future__ import annotations

from ..u64 import u64
from . import longmode

CR0_WP_SHIFT = 16
CR0_PE, CR0_WP, CR0_PG = 1 << 0, 1 << CR0_WP_SHIFT, 1 << 31
CR0_ET, CR0_NE = 1 << 4, 1 << 5
"""An x87 is there, and reports errors by exceptions."""
CR4_SMEP_SHIFT = 20
"""SMEP, and SMAP above it."""
CR4_PAE, CR4_LA57, CR4_SMEP, CR4_SMAP, CR4_PKE = 1 << 5, 1 << 12, 1 << CR4_SMEP_SHIFT, 1 << 21, 1 << 22
EFER_NXE_SHIFT = 11
EFER_LME, EFER_LMA, EFER_NXE = 1 << 8, 1 << 10, 1 << EFER_NXE_SHIFT
EFER_SCE, EFER_SVME, EFER_FFXSR = 1 << 0, 1 << 12, 1 << 14
CR4_OSXSAVE = 1 << 18
EFLAGS_AC = 1 << 18
ROOT = 0x000F_FFFF_FFFF_F000
"""CR3's bits of the root table; below them are PWT, PCD or the PCID."""
FLAT, LONG, OTHER = 0, 1, 2
"""Paging is off; on in long mode; on in another mode, or with protection keys, which no format here knows."""


def mode_of(cr0: int, cr4: int, efer: int) -> int:
    """FLAT, LONG or OTHER."""
    if cr0 & u64(CR0_PG) == u64(0):
        return u64(FLAT)
    if efer & u64(EFER_LMA) == u64(0) or cr4 & u64(CR4_PKE) != u64(0):
        return u64(OTHER)
    return u64(LONG)


def levels_of(cr4: int) -> int:
    """Levels of long mode's tables (SDM 5.5)."""
    if cr4 & u64(CR4_LA57) != u64(0):
        return u64(5)
    return u64(4)


def controls_of(cr0: int, cr4: int, efer: int, exempt: int, processor: int) -> int:
    """Long mode's control bits.

    Args:
        cr0, cr4, efer: the registers.
        exempt: not 0 for an access that SMAP spares: EFLAGS.AC is set and the access is an explicit one (SDM 5.6).
        processor: the control bits that the processor decides: the width of addresses, AMD.
    """
    controls = processor | (cr0 >> u64(CR0_WP_SHIFT)) & u64(longmode.WP)
    controls |= (efer >> u64(EFER_NXE_SHIFT) & u64(1)) * u64(longmode.NXE)
    # SMEP is bit 1 and SMAP bit 2 of the controls.
    controls |= cr4 >> u64(CR4_SMEP_SHIFT - 1) & u64(longmode.SMEP | longmode.SMAP)
    if exempt != u64(0):
        controls &= ~u64(longmode.SMAP)
    return controls


def registers_for(controls: int) -> tuple[int, int, int]:
    """The bits of CR0, CR4 and EFER that stand for long mode's controls: WP, SMEP, SMAP and NXE."""

    def when(control: int, bit: int) -> int:
        return bit if controls & control else 0

    return (
        when(longmode.WP, CR0_WP),
        when(longmode.SMEP, CR4_SMEP) | when(longmode.SMAP, CR4_SMAP),
        when(longmode.NXE, EFER_NXE),
    )
