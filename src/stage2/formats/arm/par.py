"""PAR_EL1 as an AT instruction leaves it (Arm ARM DDI 0487, D24.2 "PAR_EL1")."""

from __future__ import annotations

_FAILED = 1 << 0
_FST_SHIFT, _SH_SHIFT, _ATTR_SHIFT = 1, 7, 56
_NOT_SECURE = 1 << 9
_ONE = 1 << 11
"""NSE or RES1: one without FEAT_RME."""
_ADDRESS = 0x000F_FFFF_FFFF_F000
_OUTER_SHAREABLE = 2
_NON_CACHEABLE = 0x44


def encode_translated(address: int, attribute: int, shareability: int) -> int:
    """The register after a translation in Non-secure state.

    Args:
        address: the output address.
        attribute: the byte of MAIR that the leaf chose.
        shareability: the leaf's SH; Device and Non-cacheable memory is Outer Shareable whatever it says.
    """
    if not attribute & 0xF0 or attribute == _NON_CACHEABLE:
        shareability = _OUTER_SHAREABLE
    return attribute << _ATTR_SHIFT | address & _ADDRESS | _ONE | _NOT_SECURE | shareability << _SH_SHIFT


def encode_failed(status: int) -> int:
    """The register after a translation that stage 1 refused (F = 1).

    Args:
        status: the fault status code, FST.
    """
    return status << _FST_SHIFT | _FAILED | _ONE
