"""The EPT entry, and its formats of 4 and 5 levels (Intel SDM Vol. 3C, 30.3 "The Extended Page Table Mechanism")."""

from __future__ import annotations

from ...errors import EncodingError
from ...flags import MappingFlags, MemoryType
from .. import outcome
from ..outcome import LEAF, MISCONFIGURED, NONE, TABLE
from ..record import Field, Format, Switch
from ..rules import Rules
from ..u64 import MASK_64, u64
from .geometry import x86_geometry
from .kinds import EPT

R, W, X = 1 << 0, 1 << 1, 1 << 2
MEMORY_TYPE_SHIFT = 3
IGNORE_PAT = 1 << 6
PAGE_SIZE = 1 << 7
ACCESSED = 1 << 8
DIRTY = 1 << 9
X_USER = 1 << 10
ADDRESS = 0x000F_FFFF_FFFF_F000

# --- controls: laid out so that decode needs few branches ------------------------------------------------
AD_ENABLED = ACCESSED | DIRTY
"""EPTP bit 6: hardware sets accessed and dirty flags."""
MODE_BASED_EXECUTE = X_USER
"""Secondary control 22: bit 2 governs supervisor-mode fetches, bit 10 user-mode fetches."""
NO_GIB_SHIFT = 5
NO_GIB = 1 << NO_GIB_SHIFT
"""IA32_VMX_EPT_VPID_CAP bit 17 is clear: no pages of 1 GiB, bit 7 of an EPT PDPTE is reserved."""
LEGAL_SHIFT = 16
EXECUTE_ONLY = (1 << X | 1 << 0) << LEGAL_SHIFT
"""IA32_VMX_EPT_VPID_CAP bit 0: entries that allow only fetches are legal."""
LEGAL = (1 << R | 1 << (R | W) | 1 << (R | X) | 1 << (R | W | X)) << LEGAL_SHIFT
"""One bit for each value of bits 2:0 that is no misconfiguration; part of every regime's controls."""
MAXPHYADDR_SHIFT = 24
"""Physical-address width in bits 31:24; address bits above it are reserved."""

MEMORY_TYPES = {
    MemoryType.UNCACHED: 0,
    MemoryType.DEVICE: 0,
    MemoryType.WRITE_COMBINING: 1,
    MemoryType.WRITE_THROUGH: 4,
    MemoryType.WRITE_PROTECTED: 5,
    MemoryType.WRITE_BACK: 6,
}


def decode(entry: int, level: int, controls: int) -> tuple[int, int, int]:
    """Kind, address and attributes of an EPT entry (SDM 30.3.2, misconfigurations 30.3.3.1).

    Args:
        entry: the 64-bit entry.
        level: 0 for the entry of a 4 KiB page.
        controls: bits of this module.
    """
    if entry & (u64(R | W | X) | (controls & u64(X_USER))) == u64(0):
        return u64(NONE), u64(0), u64(0)
    # Write without read; execute-only without the capability; address bits beyond the processor's width.
    legal = (controls >> (u64(LEGAL_SHIFT) + (entry & u64(R | W | X)))) & u64(1)
    address = entry & u64(ADDRESS)
    beyond = address >> ((controls >> u64(MAXPHYADDR_SHIFT)) & u64(0x3F))
    if legal == u64(0) or beyond != u64(0):
        return u64(MISCONFIGURED), u64(0), u64(0)
    attributes = (entry & u64(R | W | X | X_USER)) | u64(outcome.USER | outcome.TABLES_ACCESSED)
    if level > u64(0) and (entry & u64(PAGE_SIZE) == u64(0) or level > u64(2)):
        # Bits 6:3 are reserved in a pointer to a table; so is bit 7 above the 1 GiB level.
        if entry & u64(0xF8) != u64(0):
            return u64(MISCONFIGURED), u64(0), u64(0)
        # With accessed and dirty flags, table entries have the accessed one too (SDM 30.3.5).
        accessed = (entry | (controls ^ u64(AD_ENABLED))) & u64(ACCESSED)
        attributes &= (accessed << u64(5)) | u64(MASK_64 ^ outcome.TABLES_ACCESSED)
        return u64(TABLE), address, attributes | u64(outcome.ACCESSED | outcome.DIRTY)
    # Memory types 2, 3 and 7 are reserved.
    reserved_type = (u64(0x8C) >> ((entry >> u64(MEMORY_TYPE_SHIFT)) & u64(7))) & u64(1)
    too_large = level + ((controls >> u64(NO_GIB_SHIFT)) & u64(1)) > u64(2)
    if too_large or reserved_type != u64(0) or address & ((u64(1) << (u64(12) + u64(9) * level)) - u64(1)) != u64(0):
        return u64(MISCONFIGURED), u64(0), u64(0)
    attributes |= entry & u64(outcome.MEMORY_TYPE_MASK)
    # Where flags are not tracked, nothing is ever to be set.
    attributes |= (entry | (controls ^ u64(AD_ENABLED))) & u64(AD_ENABLED)
    return u64(LEAF), address, attributes


def permissions(attributes: int, controls: int) -> int:
    """EPT does not know the guest's privilege but for fetches under mode-based execute control (SDM 30.3.3.2)."""
    data = attributes & u64(outcome.READ | outcome.WRITE)
    fetch = attributes & u64(outcome.EXECUTE)
    if controls & u64(MODE_BASED_EXECUTE) != u64(0):
        fetch = (attributes & u64(outcome.EXECUTE_USER)) >> u64(8)
    user = data | fetch
    return data | (attributes & u64(outcome.EXECUTE)) | user << u64(outcome.USER_SHIFT)


def mark(entry: int, write: int, controls: int) -> int:
    """The leaf after an access: with EPTP bit 6, accessed (and dirty for a write) is set (SDM 30.3.5)."""
    if controls & u64(AD_ENABLED) == u64(0):
        return entry
    if write != u64(0):
        return entry | u64(ACCESSED | DIRTY)
    return entry | u64(ACCESSED)


def mark_table(entry: int, controls: int) -> int:
    """A table entry after a walk: with EPTP bit 6, accessed is set (SDM 30.3.5)."""
    return entry | (controls & u64(ACCESSED))


def walk_write(controls: int) -> int:
    """With accessed and dirty flags enabled, reads of guest tables count as writes (SDM 30.3.5)."""
    return (controls >> u64(9)) & u64(1)


def pack_address(address: int) -> int:
    """Address bits 51:12 stand where they belong."""
    return address & u64(ADDRESS)


def resize(entry: int, level: int, new_level: int) -> int:
    """Bit 7 tells a block from a page; the rest of a leaf is the same at every level (SDM 30.3.2)."""
    bits = entry & ~u64(ADDRESS | PAGE_SIZE)
    if new_level != u64(0):
        bits |= u64(PAGE_SIZE)
    return bits


def inherit(old: int, new: int) -> int:
    """Accessed and dirty flags of the old leaf, everything else of the new one."""
    return (new & ~u64(ACCESSED | DIRTY)) | (old & u64(ACCESSED | DIRTY))


def forget(entry: int, what: int) -> int:
    """The flags stand where their attributes do."""
    return entry & ~(what & u64(ACCESSED | DIRTY))


def encode_leaf(level: int, flags: MappingFlags, memory_type: MemoryType, controls: int) -> int:
    """All bits of a leaf but its address.

    Raises:
        EncodingError: an encoding that the SDM calls a misconfiguration, or a leaf larger than there are.
    """
    wanted = int(flags.permissions)
    if level > 2:
        raise EncodingError(f"EPT has no leaf at level {level}: 4 KiB, 2 MiB and 1 GiB are all there are")
    if level == 2 and controls & NO_GIB:
        raise EncodingError("this processor's EPT has no leaf at level 2: 4 KiB and 2 MiB are all there are")
    if not wanted:
        raise EncodingError("an EPT leaf needs at least one of read, write and execute")
    if wanted & W and not wanted & R:
        raise EncodingError("EPT calls write without read a misconfiguration (SDM 30.3.3.1)")
    if not wanted & R and not controls & EXECUTE_ONLY:
        raise EncodingError("this processor does not support execute-only EPT entries (SDM 30.3.3.1)")
    bits = wanted | MEMORY_TYPES[memory_type] << MEMORY_TYPE_SHIFT
    if wanted & X and controls & MODE_BASED_EXECUTE:
        bits |= X_USER
    return bits | (PAGE_SIZE if level else 0) | (controls & AD_ENABLED)


_LEAF = frozenset({"leaf"})
_TABLE = frozenset({"table"})
_TYPE_NAMES = {
    0: "uncacheable (UC)",
    1: "write-combining (WC)",
    2: "reserved",
    3: "reserved",
    4: "write-through (WT)",
    5: "write-protected (WP)",
    6: "write-back (WB)",
    7: "reserved",
}

FIELDS = (
    Field(0, 0, "R", "reads are allowed", {0: "reads are not allowed"}),
    Field(1, 1, "W", "writes are allowed", {0: "writes are not allowed"}),
    Field(
        2,
        2,
        "X",
        "fetches are allowed (supervisor-mode ones under mode-based execute control)",
        {0: "fetches are not allowed (supervisor-mode ones under mode-based execute control)"},
    ),
    Field(5, 3, "EMT", "memory type of the page", _TYPE_NAMES, _LEAF),
    Field(6, 6, "IPAT", "the guest's PAT is ignored", {0: "combines with the guest's PAT"}, _LEAF),
    Field(7, 7, "PS", "maps a block", {0: "not a block"}, _LEAF, levels=frozenset({1, 2})),
    Field(7, 7, "ignored", "ignored in the entry of a page", {}, _LEAF, levels=frozenset({0})),
    Field(
        7,
        7,
        "PS",
        "a block, of a size that this processor does not have",
        {0: "points to a table"},
        _TABLE,
        levels=frozenset({1, 2}),
    ),
    Field(7, 7, "PS", "reserved at this level, must be zero", {}, _TABLE, True, frozenset({3, 4})),
    Field(6, 3, "reserved", "reserved in a table pointer, must be zero", {}, _TABLE, reserved=True),
    Field(8, 8, "A", "accessed, if EPTP bit 6 is set", {0: "not accessed, or not tracked"}),
    Field(9, 9, "D", "written, if EPTP bit 6 is set", {0: "not written, or not tracked"}, _LEAF),
    Field(
        10,
        10,
        "XU",
        "user-mode fetches are allowed under mode-based execute control, ignored otherwise",
        {0: "user-mode fetches are not allowed under mode-based execute control, ignored otherwise"},
    ),
    Field(51, 12, "address", "address bits 51:12 of the page or the next table"),
    Field(
        57,
        57,
        "VGP",
        "guest paging is verified (needs bit 58 in the walk of the page's own tables), if enabled",
        {},
        _LEAF,
    ),
    Field(58, 58, "PW", "the guest's tables may stand here, if paging-write control is enabled", {}, _LEAF),
    Field(60, 60, "SSS", "supervisor shadow stack, if enabled", kinds=_LEAF),
    Field(61, 61, "SPP", "sub-page write permissions, if enabled", kinds=_LEAF, levels=frozenset({0})),
    Field(63, 63, "SVE", "violations do not become #VE, if enabled", {0: "violations may become #VE"}),
)


SWITCHES = {
    "ad": Switch("EPTP bit 6: hardware sets accessed and dirty flags", AD_ENABLED),
    "mbec": Switch("mode-based execute control: bit 10 governs user-mode fetches", MODE_BASED_EXECUTE),
    "no-execute-only": Switch("the processor does not support entries that allow only fetches", clears=EXECUTE_ONLY),
    "pa36": Switch("physical addresses have 36 bits", 36 << MAXPHYADDR_SHIFT, 0x3F << MAXPHYADDR_SHIFT),
}


RULES = Rules(
    name=EPT,
    family="x86",
    decode=decode,
    permissions=permissions,
    mark=mark,
    pack_address=pack_address,
    resize=resize,
    inherit=inherit,
    forget=forget,
    encode_leaf=encode_leaf,
    mark_table=mark_table,
    walk_write=walk_write,
    assumes=x86_geometry,
)


def _record(levels: int) -> Format:
    return Format(
        name=f"ept{levels}",
        title=f"Intel EPT, stage 2, {levels} levels, {12 + 9 * levels}-bit input",
        rules=RULES,
        stage=2,
        levels=levels,
        root_bits=9,
        top_leaf_level=2,
        output_bits=52,
        sign_extended=False,
        table_bits=R | W | X,
        table_controls=X_USER,
        fields=FIELDS,
        default_controls=LEGAL | EXECUTE_ONLY | 52 << MAXPHYADDR_SHIFT,
        hardware_ad=AD_ENABLED,
        manual='Intel SDM Vol. 3C, 30.3 "The Extended Page Table Mechanism (EPT)"',
        switches=SWITCHES,
        privilege_by_page=True,
    )


EPT4 = _record(4)
EPT5 = _record(5)

FORMATS = (EPT4, EPT5)
