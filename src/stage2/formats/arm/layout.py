"""What the descriptors of both stages have in common: addresses by granule, tables, blocks, the contiguous hint.

Arm ARM DDI 0487, D8.3 "Translation table descriptor formats". Arm counts levels from the root (0 to 3, -1 with LPA2);
here level 0 is the smallest page, Arm's level 3.
"""

from __future__ import annotations

from ..u64 import u64

VALID = 1 << 0
TABLE_OR_PAGE = 1 << 1
SH_SHIFT = 8
SH = 3 << SH_SHIFT
AF = 1 << 10
DBM = 1 << 51
CONTIGUOUS = 1 << 52

ADDRESS = 0x0003_FFFF_FFFF_F000
"""Bits 49:12; 49:48 hold an address with LPA2 only."""
SHAREABLE_INNER = 3 << SH_SHIFT

# --- controls common to both stages -------------------------------------------------------------------------
HA = 1 << 0
"""TCR.HA / VTCR_EL2.HA: hardware sets the access flag; clear means an access flag fault."""
HD = 1 << 1
"""TCR.HD / VTCR_EL2.HD: hardware makes a page with DBM writable at the first write. Does nothing without HA."""
DIRTY_STATE = HA | HD
"""Both of them: hardware manages the dirty state."""
LPA = 1 << 2
"""64 KiB granule on a processor with FEAT_LPA: descriptor bits 15:12 are address bits 51:48, whatever PS says."""
LPA2 = 1 << 3
"""TCR.DS / VTCR_EL2.DS: descriptor bits 49:48 are address bits 49:48, bits 9:8 are 51:50; there is no SH."""
PAGE_SHIFT_AT = 32
"""log2 of the granule in bits 36:32."""
TOP_BLOCK_AT = 40
"""The highest level at which blocks are allowed in bits 42:40."""
OUTPUT_BITS_AT = 24
OUTPUT_BITS = 0x3F << OUTPUT_BITS_AT
"""Width of output addresses (IPS or PS) in bits 29:24; a wider address is an address size fault."""
ROOT_FAULT_LEVEL = 3
"""Arm's level 0, at which an address size fault of the root's address is reported, wherever walks start."""


def address_of(entry: int, low: int, controls: int) -> int:
    """The output address in a descriptor, from bit `low` on."""
    address = entry & u64(0x0000_FFFF_FFFF_F000)
    if controls & u64(LPA) != u64(0):
        # Bits 15:12 of the address are below the granule and go below.
        address |= (entry & u64(0xF000)) << u64(36)
    if controls & u64(LPA2) != u64(0):
        address = (entry & u64(ADDRESS)) | ((entry & u64(0x300)) << u64(42))
    return address & ~((u64(1) << (low & u64(0x3F))) - u64(1))


def too_wide(address: int, controls: int) -> bool:
    """Whether an address is beyond the output size (D8.1.6 "Output address size", AArch64.OAOutOfRange)."""
    return address >> ((controls >> u64(OUTPUT_BITS_AT)) & u64(0x3F)) != u64(0)


def root_too_wide(root: int, controls: int) -> int:
    """The root's address is bounded as those in descriptors are (AArch64.S1Walk, AArch64.S2Walk)."""
    if too_wide(root, controls):
        return u64(1)
    return u64(0)


def pack_address(address: int) -> int:
    """Address bits 47:12 stand where they belong."""
    return address & u64(0x0000_FFFF_FFFF_F000)


def pack_address_lpa(address: int) -> int:
    """Bits 51:48 go to 15:12 (64 KiB granule, 52-bit addresses)."""
    return (address & u64(0x0000_FFFF_FFFF_0000)) | ((address >> u64(36)) & u64(0xF000))


def pack_address_lpa2(address: int) -> int:
    """Bits 49:12 stand where they belong, 51:50 go to 9:8."""
    return (address & u64(ADDRESS)) | ((address >> u64(42)) & u64(0x300))


def resize(entry: int, level: int, new_level: int) -> int:
    """Bit 1 tells a page from a block; the contiguous hint speaks of the old neighbours."""
    bits = entry & ~u64(ADDRESS | CONTIGUOUS | TABLE_OR_PAGE)
    if new_level == u64(0):
        bits |= u64(TABLE_OR_PAGE)
    return bits


def resize_lpa2(entry: int, level: int, new_level: int) -> int:
    """As `resize`; bits 9:8 are address."""
    bits = entry & ~u64(ADDRESS | CONTIGUOUS | TABLE_OR_PAGE | SH)
    if new_level == u64(0):
        bits |= u64(TABLE_OR_PAGE)
    return bits


def group(entry: int, level: int) -> int:
    """A leaf with the contiguous hint."""
    return entry | u64(CONTIGUOUS)


def ungroup(entry: int, level: int, address: int) -> int:
    """A leaf without the contiguous hint."""
    return entry & ~u64(CONTIGUOUS)
