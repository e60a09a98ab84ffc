"""Which stage-1 regime the guest's control registers select (Intel SDM Vol. 3A, 5.1.1 "Four Paging Modes")."""

from __future__ import annotations

from ....formats.u64 import u64
from ....formats.x86 import longmode

CR0_PG, CR0_WP_SHIFT = 1 << 31, 16
CR4_LA57 = 1 << 12
CR4_PKE = 1 << 22
CR4_SMEP_SHIFT = 20
"""SMEP, and SMAP above it."""
EFER_LMA, EFER_NXE_SHIFT = 1 << 10, 11
EFLAGS_AC = 1 << 18
PHYSICAL_BITS = 40
"""Physical-address width that the CPU model's CPUID reports; entries with address bits above it are reserved."""
ROOT = 0x000F_FFFF_FFFF_F000
"""CR3's bits of the root table; below them are PWT, PCD or the PCID."""
FLAT, LONG, OTHER = 0, 1, 2
"""Paging is off; on in long mode; on in another mode, or with protection keys, which this
engine has no walker for."""


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


def controls_of(cr0: int, cr4: int, efer: int, exempt: int) -> int:
    """The format's control bits.

    Args:
        cr0, cr4, efer: the guest's registers.
        exempt: not 0 for an access that SMAP spares: EFLAGS.AC is set and the access is an explicit one (SDM 5.6).
    """
    controls = u64(PHYSICAL_BITS << longmode.MAXPHYADDR_SHIFT) | (cr0 >> u64(CR0_WP_SHIFT)) & u64(longmode.WP)
    controls |= (efer >> u64(EFER_NXE_SHIFT) & u64(1)) * u64(longmode.NXE)
    # SMEP is bit 1 and SMAP bit 2 of the controls.
    controls |= cr4 >> u64(CR4_SMEP_SHIFT - 1) & u64(longmode.SMEP | longmode.SMAP)
    if exempt != u64(0):
        controls &= ~u64(longmode.SMAP)
    return controls
