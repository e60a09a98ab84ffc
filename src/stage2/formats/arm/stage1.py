"""The stage-1 descriptor of EL1&0, EL2 and EL2&0 (Arm ARM DDI 0487, D8.3.1, D8.4.1 "Stage 1 permissions")."""

from __future__ import annotations

from ...errors import EncodingError
from ...flags import MappingFlags, MemoryType
from .. import outcome
from ..outcome import LEAF, NONE, TABLE, TOO_WIDE
from ..record import Field, Switch
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

ATTR_INDEX_SHIFT = 2
USER, READ_ONLY = 1 << 6, 1 << 7
"""AP[1] and AP[2]."""
NOT_GLOBAL = 1 << 11
PXN, UXN = 1 << 53, 1 << 54
PXN_TABLE, UXN_TABLE = 1 << 59, 1 << 60
AP_TABLE_NO_USER = 1 << 61

# --- controls of this stage, beside those of `layout` -----------------------------------------------------------
WXN = 1 << 4
"""SCTLR.WXN: what is writable is not executable."""
PAN = 1 << 5
"""PSTATE.PAN: no privileged data accesses to pages of EL0."""
HPD = 1 << 6
"""TCR.HPD: no hierarchical permissions in table descriptors."""
ONE_PRIVILEGE = 1 << 7
"""The EL2 regime (HCR_EL2.E2H = 0): there is no EL0 in it, AP[1] means nothing, bit 54 is XN."""

MAIR = 0x0000_0000_BB44_04FF
"""MAIR that `ATTR_INDEX` counts on: 0 write-back, 1 Device-nGnRE, 2 non-cacheable, 3 write-through."""
ATTR_INDEX = {
    MemoryType.WRITE_BACK: 0,
    MemoryType.DEVICE: 1,
    MemoryType.UNCACHED: 2,
    MemoryType.WRITE_COMBINING: 2,
    MemoryType.WRITE_THROUGH: 3,
}


def decode(entry: int, level: int, controls: int) -> tuple[int, int, int]:
    """Kind, address and attributes of a descriptor; reserved ones are invalid, as at stage 2.

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
        if controls & u64(HPD) != u64(0):
            return u64(TABLE), address, u64(outcome.ALL_ALLOWED)
        # Bits 62:59 take away: writes, EL0, EL0 fetches, privileged fetches (D8.4.4 "Hierarchical permissions").
        denied = (entry >> u64(61)) & u64(outcome.WRITE) | (entry & u64(AP_TABLE_NO_USER)) >> u64(50)
        uxn, pxn = (entry >> u64(60)) & u64(1), (entry >> u64(59)) & u64(1)
        if controls & u64(ONE_PRIVILEGE) != u64(0):
            denied &= u64(outcome.WRITE)
            pxn = uxn
        denied |= pxn << u64(2) | uxn << u64(10)
        return u64(TABLE), address, u64(outcome.ALL_ALLOWED) & ~denied
    if level == u64(0):
        if entry & u64(TABLE_OR_PAGE) == u64(0):
            return u64(NONE), u64(0), u64(0)
    elif level > (controls >> u64(TOP_BLOCK_AT)) & u64(7):
        return u64(NONE), u64(0), u64(0)
    address = address_of(entry, page_shift + (page_shift - u64(3)) * level, controls)
    if too_wide(address, controls):
        return u64(TOO_WIDE), u64(0), u64(0)
    writable = ((entry >> u64(7)) & u64(1)) ^ u64(1)
    dirty = u64(outcome.DIRTY)
    if entry & u64(DBM) != u64(0) and controls & u64(DIRTY_STATE) == u64(DIRTY_STATE):
        # Writable; "clean" is what AP[2] = 1 means now.
        dirty = writable << u64(9)
        writable = u64(1)
    attributes = u64(outcome.READ) | writable << u64(1) | (entry & u64(0x1C)) << u64(1)
    attributes |= (entry & u64(AF)) >> u64(2) | (entry & u64(USER)) << u64(5)
    attributes |= ((entry & u64(NOT_GLOBAL)) ^ u64(NOT_GLOBAL)) << u64(1)
    if controls & u64(LPA2) == u64(0):
        attributes |= (entry & u64(0x300)) << u64(6)
    uxn, pxn = (entry >> u64(54)) & u64(1), (entry >> u64(53)) & u64(1)
    if controls & u64(ONE_PRIVILEGE) != u64(0):
        # No EL0 and no ASID: AP[1] is res1, nG res0.
        pxn = uxn
        attributes = (attributes | u64(outcome.GLOBAL)) & ~u64(outcome.USER)
    attributes |= (pxn ^ u64(1)) << u64(2) | (uxn ^ u64(1)) << u64(10)
    attributes |= (entry & u64(CONTIGUOUS)) >> u64(36)
    return u64(LEAF), address, attributes | dirty | u64(outcome.TABLES_ACCESSED)


def permissions(attributes: int, controls: int) -> int:
    """What EL1 or EL2 (bits 0-2) and EL0 (bits 3-5) may do (D8.4.1).

    What EL0 may write, EL1 never executes. EL0 may execute what it may not read.
    """
    data = attributes & u64(outcome.READ | outcome.WRITE)
    fetch = attributes & u64(outcome.EXECUTE)
    user_fetch = (attributes & u64(outcome.EXECUTE_USER)) >> u64(8)
    user = attributes & u64(outcome.USER)
    writable = attributes & u64(outcome.WRITE)
    if controls & u64(WXN) != u64(0) and writable != u64(0):
        fetch = u64(0)
        if user != u64(0):
            user_fetch = u64(0)
    if controls & u64(ONE_PRIVILEGE) != u64(0):
        return data | fetch
    granted = data
    user_data = u64(0)
    if user != u64(0):
        user_data = data
        if writable != u64(0):
            fetch = u64(0)
        if controls & u64(PAN) != u64(0):
            granted = u64(0)
    return granted | fetch | (user_data | user_fetch) << u64(outcome.USER_SHIFT)


def mark(entry: int, write: int, controls: int) -> int:
    """The leaf after an access: AF with HA; with HD a first write clears AP[2] of a page with DBM (D8.4.6)."""
    if controls & u64(HA) == u64(0):
        return entry
    if write != u64(0) and controls & u64(HD) != u64(0) and entry & u64(DBM) != u64(0):
        return (entry | u64(AF)) & ~u64(READ_ONLY)
    return entry | u64(AF)


def inherit(old: int, new: int) -> int:
    """The access flag of the old leaf, and its dirty state where both keep one (DBM)."""
    kept = u64(AF)
    if old & new & u64(DBM) != u64(0):
        kept |= u64(READ_ONLY)
    return (new & ~kept) | (old & kept)


def forget(entry: int, what: int) -> int:
    """The access flag cleared; clean again where the dirty state is kept (DBM)."""
    bits = entry & ~((what & u64(outcome.ACCESSED)) << u64(2))
    if entry & u64(DBM) != u64(0):
        bits |= (what & u64(outcome.DIRTY)) >> u64(2)
    return bits


def encode_leaf(level: int, flags: MappingFlags, memory_type: MemoryType, controls: int) -> int:
    """All bits of a leaf but its address. AF is set; the memory type is an index into `MAIR`.

    Raises:
        EncodingError: no read permission for data, a memory type that is not in `MAIR`, or no block at this level.
    """
    if level > controls >> TOP_BLOCK_AT & 7:
        raise EncodingError(f"this granule has no leaf at level {level}")
    if not flags & MappingFlags.READ:
        raise EncodingError("a stage-1 page is always readable by the privileged level: READ must be there")
    if memory_type not in ATTR_INDEX:
        raise EncodingError(f"Arm cannot say {memory_type.value}")
    bits = VALID | AF | ATTR_INDEX[memory_type] << ATTR_INDEX_SHIFT
    if not controls & LPA2 and memory_type is not MemoryType.DEVICE:
        bits |= SHAREABLE_INNER
    if not flags & MappingFlags.WRITE:
        bits |= READ_ONLY
    elif controls & DIRTY_STATE == DIRTY_STATE:
        bits |= DBM
    user = bool(flags & MappingFlags.USER) and not controls & ONE_PRIVILEGE
    if user:
        bits |= USER | NOT_GLOBAL
    execute = bool(flags & MappingFlags.EXECUTE)
    if controls & ONE_PRIVILEGE:
        bits |= USER | (0 if execute else UXN)
    else:
        bits |= (0 if execute and user else UXN) | (0 if execute and not user else PXN)
    return bits | (TABLE_OR_PAGE if level == 0 else 0)


_LEAF, _TABLE = frozenset({"leaf"}), frozenset({"table"})

FIELDS = (
    Field(0, 0, "valid", "the descriptor is valid", {0: "not valid: nothing is mapped here"}),
    Field(1, 1, "type", "a page; below the last level, a pointer to a table", {0: "a block"}),
    Field(4, 2, "AttrIndx", "index into MAIR, which holds the memory type", {0: "memory type 0 of MAIR"}, _LEAF),
    Field(5, 5, "NS", "non-secure, in Secure state only", {}, _LEAF),
    Field(
        6, 6, "AP[1]", "EL0 may access the page", {0: "EL0 may not access the page (in the EL2 regime: res1)"}, _LEAF
    ),
    Field(
        7,
        7,
        "AP[2]",
        "read-only; with DBM under hardware management of the dirty state: writable, and clean",
        {0: "writable"},
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
    Field(10, 10, "AF", "accessed", {0: "not accessed: an access faults or, with TCR.HA, sets it"}, _LEAF),
    Field(11, 11, "nG", "belongs to the current ASID", {0: "global: the same for every ASID"}, _LEAF),
    Field(49, 12, "address", "address bits 47:12 of the page, block or table, from the granule's or block's size on"),
    Field(50, 50, "GP", "guarded: branch targets are checked (FEAT_BTI)", {}, _LEAF),
    Field(51, 51, "DBM", "writes are tracked by AP[2], with TCR.HD", {}, _LEAF),
    Field(52, 52, "contiguous", "one of a group of leaves that a TLB may hold as one", {}, _LEAF),
    Field(53, 53, "PXN", "EL1 must not fetch", {0: "EL1 may fetch, unless EL0 may write"}, _LEAF),
    Field(54, 54, "UXN", "EL0 must not fetch (in the EL2 regime: nobody)", {0: "EL0 may fetch"}, _LEAF),
    Field(58, 55, "software", "free for software", {}, _LEAF),
    Field(62, 59, "PBHA", "page-based hardware attributes, if enabled, otherwise ignored", {}, _LEAF),
    Field(59, 59, "PXNTable", "no privileged fetches below", {}, _TABLE),
    Field(60, 60, "UXNTable", "no EL0 fetches below (in the EL2 regime: none at all)", {}, _TABLE),
    Field(61, 61, "APTable[0]", "no EL0 accesses below", {}, _TABLE),
    Field(62, 62, "APTable[1]", "no writes below", {}, _TABLE),
    Field(63, 63, "NSTable", "non-secure below, in Secure state only", {}, _TABLE),
)

SWITCHES = {
    "af": Switch("TCR.HA: hardware sets the access flag", HA),
    "ad": Switch("TCR.HA and HD: hardware sets the access flag and the dirty state of pages with DBM", HA | HD),
    "wxn": Switch("SCTLR.WXN: what is writable is not executable", WXN),
    "pan": Switch("PSTATE.PAN: no privileged data accesses to pages of EL0", PAN),
    "hpd": Switch("TCR.HPD: table descriptors restrict nothing", HPD),
    "el2": Switch("the EL2 regime (HCR_EL2.E2H is 0): there is no EL0", ONE_PRIVILEGE),
    "pa36": Switch("TCR.IPS: output addresses have 36 bits", 36 << OUTPUT_BITS_AT, 0x3F << OUTPUT_BITS_AT),
}
