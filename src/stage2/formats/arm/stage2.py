"""The stage-2 descriptor (Arm ARM DDI 0487, D8.3.2, D8.4.2 "Stage 2 permissions", D8.6 "Memory region attributes")."""

from __future__ import annotations

from ...errors import EncodingError
from ...flags import MappingFlags, MemoryType
from .. import outcome
from ..outcome import LEAF, NONE, TABLE, TOO_WIDE
from ..record import Field, Switch
from ..rules import TABLE_WALK
from ..u64 import u64
from .layout import (
    AF,
    CONTIGUOUS,
    DBM,
    DIRTY_STATE,
    HA,
    HD,
    LPA2,
    OUTPUT_BITS_AT,
    PAGE_SHIFT_AT,
    SHAREABLE_INNER,
    TABLE_OR_PAGE,
    TOP_BLOCK_AT,
    VALID,
    address_of,
    too_wide,
)

MEMATTR_SHIFT = 2
READ, WRITE = 1 << 6, 1 << 7
"""S2AP[0], S2AP[1]."""
XN0, XN1 = 1 << 53, 1 << 54
"""XN[0], XN[1]."""

# --- controls of this stage, beside those of `layout` -----------------------------------------------------------
XNX = 1 << 4
"""FEAT_XNX: XN[1:0] tells EL1 fetches from EL0 fetches; without it XN[1] forbids both."""
PTW = 1 << 5
"""HCR_EL2.PTW: a stage-1 walk must not read Device memory."""
FWB = 1 << 6
"""HCR_EL2.FWB: MemAttr overrides stage 1 instead of combining with it."""

_MEMATTR = {
    MemoryType.WRITE_BACK: 0b1111,
    MemoryType.WRITE_THROUGH: 0b1010,
    MemoryType.WRITE_COMBINING: 0b0101,
    MemoryType.UNCACHED: 0b0101,
    MemoryType.DEVICE: 0b0001,
}
_MEMATTR_FWB = {
    MemoryType.WRITE_BACK: 0b0110,
    MemoryType.WRITE_COMBINING: 0b0101,
    MemoryType.UNCACHED: 0b0101,
    MemoryType.DEVICE: 0b0001,
}


def decode(entry: int, level: int, controls: int) -> tuple[int, int, int]:
    """Kind, address and attributes of a descriptor.

    A reserved descriptor (a block where none may be, bits 1:0 = 01 at the last level) is invalid to hardware and
    faults as a translation fault, so it is NONE here. Address bits below a block's size are ignored.

    Args:
        entry: the 64-bit descriptor.
        level: 0 for the smallest page.
        controls: bits of this module and of `layout`.
    """
    if entry & u64(VALID) == u64(0):
        return u64(NONE), u64(0), u64(0)
    page_shift = (controls >> u64(PAGE_SHIFT_AT)) & u64(0x1F)
    if level != u64(0) and entry & u64(TABLE_OR_PAGE) != u64(0):
        address = address_of(entry, page_shift, controls)
        if too_wide(address, controls):
            return u64(TOO_WIDE), u64(0), u64(0)
        return u64(TABLE), address, u64(outcome.ALL_ALLOWED)
    if level == u64(0):
        if entry & u64(TABLE_OR_PAGE) == u64(0):
            return u64(NONE), u64(0), u64(0)
    elif level > (controls >> u64(TOP_BLOCK_AT)) & u64(7):
        return u64(NONE), u64(0), u64(0)
    address = address_of(entry, page_shift + (page_shift - u64(3)) * level, controls)
    if too_wide(address, controls):
        return u64(TOO_WIDE), u64(0), u64(0)
    # S2AP, MemAttr, SH and AF stand in one order in the descriptor and in the attributes.
    attributes = (entry >> u64(6)) & u64(outcome.READ | outcome.WRITE)
    attributes |= (entry & u64(0x3C)) << u64(1) | (entry & u64(AF)) >> u64(2)
    if controls & u64(LPA2) == u64(0):
        attributes |= (entry & u64(0x300)) << u64(6)
    dirty = u64(outcome.DIRTY)
    if entry & u64(DBM) != u64(0) and controls & u64(DIRTY_STATE) == u64(DIRTY_STATE):
        # Writable; "clean" is what S2AP[1] = 0 means now (D8.4.6 "Hardware management of the dirty state").
        dirty = (attributes & u64(outcome.WRITE)) << u64(8)
        attributes |= u64(outcome.WRITE)
    # XN: 00 both fetch, 01 EL0 only, 10 neither, 11 EL1 only.
    xn1 = (entry >> u64(54)) & u64(1)
    xn0 = (entry >> u64(53)) & (controls >> u64(4)) & u64(1)
    attributes |= (u64(1) ^ xn1 ^ xn0) << u64(2) | (u64(1) ^ xn1) << u64(10)
    attributes |= (entry & u64(CONTIGUOUS)) >> u64(36)
    return u64(LEAF), address, attributes | dirty | u64(outcome.USER | outcome.TABLES_ACCESSED)


def permissions(attributes: int, controls: int) -> int:
    """S2AP for data of either level, XN for fetches from EL1 and EL0 (D8.4.2); HCR_EL2.PTW for stage-1 walks."""
    if controls & u64(TABLE_WALK | PTW) == u64(TABLE_WALK | PTW):
        kind = (attributes >> u64(outcome.MEMORY_TYPE_SHIFT)) & u64(0xF)
        device = kind >> u64(2) == u64(0)
        if controls & u64(FWB) != u64(0):
            device = kind & u64(4) == u64(0)
        if device:
            return u64(0)
    data = attributes & u64(outcome.READ | outcome.WRITE)
    user = data | (attributes & u64(outcome.EXECUTE_USER)) >> u64(8)
    return data | (attributes & u64(outcome.EXECUTE)) | user << u64(outcome.USER_SHIFT)


def mark(entry: int, write: int, controls: int) -> int:
    """The leaf after an access: AF with HA; with HD a first write sets S2AP[1] of a page with DBM (D8.4.6)."""
    if controls & u64(HA) == u64(0):
        return entry
    if write != u64(0) and controls & u64(HD) != u64(0) and entry & u64(DBM) != u64(0):
        return entry | u64(AF | WRITE)
    return entry | u64(AF)


def inherit(old: int, new: int) -> int:
    """The access flag of the old leaf, and its dirty state where both keep one (DBM)."""
    kept = u64(AF)
    if old & new & u64(DBM) != u64(0):
        kept |= u64(WRITE)
    return (new & ~kept) | (old & kept)


def forget(entry: int, what: int) -> int:
    """The access flag cleared; the dirty state too where there is one (DBM)."""
    bits = (what & u64(outcome.ACCESSED)) << u64(2)
    if entry & u64(DBM) != u64(0):
        bits |= (what & u64(outcome.DIRTY)) >> u64(2)
    return entry & ~bits


def encode_leaf(level: int, flags: MappingFlags, memory_type: MemoryType, controls: int) -> int:
    """All bits of a leaf but its address. AF is set, so that no access faults for its sake.

    Raises:
        EncodingError: nothing is allowed, a memory type that Arm does not have, or no block at this level.
    """
    if level > controls >> TOP_BLOCK_AT & 7:
        raise EncodingError(f"this granule has no leaf at level {level}")
    if not flags.permissions:
        raise EncodingError("a stage-2 leaf needs at least one of read, write and execute")
    types = _MEMATTR_FWB if controls & FWB else _MEMATTR
    if memory_type not in types:
        raise EncodingError(
            f"Arm's stage 2 cannot say {memory_type.value}" + (" under HCR_EL2.FWB" if controls & FWB else "")
        )
    bits = VALID | AF | types[memory_type] << MEMATTR_SHIFT
    if not controls & LPA2 and memory_type is not MemoryType.DEVICE:
        bits |= SHAREABLE_INNER
    if flags & MappingFlags.READ:
        bits |= READ
    if flags & MappingFlags.WRITE:
        bits |= WRITE | (DBM if controls & DIRTY_STATE == DIRTY_STATE else 0)
    if not flags & MappingFlags.EXECUTE:
        bits |= XN1
    return bits | (TABLE_OR_PAGE if level == 0 else 0)


_LEAF, _TABLE = frozenset({"leaf"}), frozenset({"table"})
_MEMATTR_VALUES = {
    0b0000: "Device-nGnRnE; under FWB too",
    0b0001: "Device-nGnRE; under FWB too",
    0b0010: "Device-nGRE; under FWB too",
    0b0011: "Device-GRE; under FWB too",
    0b0101: "Normal, non-cacheable inside and outside; under FWB non-cacheable whatever stage 1 says",
    0b0110: "Normal, outer non-cacheable, inner write-through; under FWB write-back whatever stage 1 says",
    0b0111: "Normal, outer non-cacheable, inner write-back; under FWB what stage 1 says",
    0b1001: "Normal, outer write-through, inner non-cacheable",
    0b1010: "Normal, write-through inside and outside",
    0b1011: "Normal, outer write-through, inner write-back",
    0b1101: "Normal, outer write-back, inner non-cacheable",
    0b1110: "Normal, outer write-back, inner write-through",
    0b1111: "Normal, write-back inside and outside",
}

FIELDS = (
    Field(0, 0, "valid", "the descriptor is valid", {0: "not valid: nothing is mapped here"}),
    Field(1, 1, "type", "a page; below the last level, a pointer to a table", {0: "a block"}),
    Field(
        5,
        2,
        "MemAttr",
        "reserved memory attributes",
        _MEMATTR_VALUES,
        _LEAF,
    ),
    Field(6, 6, "S2AP[0]", "reads are allowed", {0: "reads are not allowed"}, _LEAF),
    Field(
        7,
        7,
        "S2AP[1]",
        "writes are allowed",
        {0: "writes are not allowed; with DBM under hardware management of the dirty state: allowed, and clean"},
        _LEAF,
    ),
    Field(
        9,
        8,
        "SH",
        "shareability; with LPA2, address bits 51:50",
        {
            0: "non-shareable; with LPA2, address bits 51:50",
            1: "reserved; with LPA2, address bits 51:50",
            2: "outer shareable; with LPA2, address bits 51:50",
            3: "inner shareable; with LPA2, address bits 51:50",
        },
        _LEAF,
    ),
    Field(10, 10, "AF", "accessed", {0: "not accessed: an access faults or, with VTCR_EL2.HA, sets it"}, _LEAF),
    Field(11, 11, "FnXS", "TLB invalidations with nXS need not wait for this page", {}, _LEAF),
    Field(49, 12, "address", "address bits 47:12 of the page, block or table, from the granule's or block's size on"),
    Field(51, 51, "DBM", "writes are tracked by S2AP[1], with VTCR_EL2.HD", {}, _LEAF),
    Field(52, 52, "contiguous", "one of a group of leaves that a TLB may hold as one", {}, _LEAF),
    Field(53, 53, "XN[0]", "with XN[1] = 0: EL1 must not fetch; with XN[1] = 1: EL1 may (FEAT_XNX)", {}, _LEAF),
    Field(54, 54, "XN[1]", "no fetches, but those that XN[0] allows", {0: "fetches are allowed"}, _LEAF),
    Field(58, 55, "software", "free for software", {}, _LEAF),
    Field(62, 59, "PBHA", "page-based hardware attributes, if enabled, otherwise ignored", {}, _LEAF),
)

SWITCHES = {
    "af": Switch("VTCR_EL2.HA: hardware sets the access flag", HA),
    "ad": Switch("VTCR_EL2.HA and HD: hardware sets the access flag and the dirty state of pages with DBM", HA | HD),
    "no-xnx": Switch("no FEAT_XNX: XN[1] forbids fetches of EL1 and EL0, XN[0] means nothing", clears=XNX),
    "ptw": Switch("HCR_EL2.PTW: a stage-1 walk must not read Device memory", PTW),
    "fwb": Switch("HCR_EL2.FWB: MemAttr overrides stage 1", FWB),
    "pa36": Switch("VTCR_EL2.PS: output addresses have 36 bits", 36 << OUTPUT_BITS_AT, 0x3F << OUTPUT_BITS_AT),
}
