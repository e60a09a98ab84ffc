"""The x86-64 page table entry: stage 1 of a guest in long mode, and AMD's nested page tables, which are the same.

Intel SDM Vol. 3A, 5.5 "4-Level Paging and 5-Level Paging"; AMD APM Vol. 2, 5.3 "Long-Mode Page Translation" and 15.25
"Nested Paging".
"""

from __future__ import annotations

from ...errors import EncodingError
from ...flags import MappingFlags, MemoryType
from .. import outcome
from ..outcome import LEAF, MISCONFIGURED, NONE, TABLE
from ..record import Field, Format, Switch
from ..rules import Rules
from ..u64 import u64
from .geometry import x86_geometry
from .kinds import LONG_MODE

P, RW, US, PWT, PCD, A, D, PS, G = (1 << bit for bit in range(9))
PAT_4K = PS
"""In the entry of a 4 KiB page, bit 7 is PAT."""
PAT_BLOCK = 1 << 12
"""In the entry of a block, PAT is bit 12."""
NX = 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000

# --- controls: what of the registers matters to a walk -----------------------------------------------------
WP = 1 << 0
"""CR0.WP: supervisor writes obey R/W too."""
SMEP = 1 << 1
"""CR4.SMEP: no supervisor fetches from user pages."""
SMAP = 1 << 2
"""CR4.SMAP, and EFLAGS.AC is clear: no supervisor data accesses to user pages."""
NESTED = 1 << 3
"""Nested paging: every guest access counts as a user access (APM 15.25.5)."""
AMD = 1 << 4
"""An AMD processor: bit 8 of a PML4E and a PML5E is reserved."""
NO_GIB_SHIFT = 5
NO_GIB = 1 << NO_GIB_SHIFT
"""The processor has no pages of 1 GiB: bit 7 of a PDPE is reserved."""
NXE = 1 << 8
"""EFER.NXE: bit 63 forbids fetches; without it the bit is reserved."""
FETCHES_TOLD = NXE | SMEP
"""With either of them, the error code of a page fault tells a fetch from a data read (SDM Vol. 3A, 5.7)."""
MAXPHYADDR_SHIFT = 24
"""Physical-address width in bits 31:24; address bits above it are reserved."""
C_BIT_SHIFT = 32
"""Number of SEV's C-bit in bits 37:32, 0 where there is none. It says that memory is encrypted, and is no bit of the
address, nor reserved (APM 7.10.2 "Encrypted Memory Accesses")."""

PAT_INDEX = {
    MemoryType.WRITE_BACK: 0,
    MemoryType.WRITE_THROUGH: 1,
    MemoryType.UNCACHED: 3,
    MemoryType.DEVICE: 3,
    MemoryType.WRITE_COMBINING: 6,
    MemoryType.WRITE_PROTECTED: 5,
}
"""PAT, PCD and PWT as a number, under a PAT whose entries 5 and 6 hold WP and WC; the others are the reset value's."""
PAT_MSR = 0x0001_0506_0007_0406
"""IA32_PAT that `PAT_INDEX` counts on: WB, WT, UC-, UC, WB, WP, WC, UC."""


def decode(entry: int, level: int, controls: int) -> tuple[int, int, int]:
    """Kind, address and attributes of an entry (SDM 5.5.4, reserved bits 5.5.4 and table 5-20; APM 5.3).

    Args:
        entry: the 64-bit entry.
        level: 0 for the entry of a 4 KiB page.
        controls: bits of this module.
    """
    if entry & u64(P) == u64(0):
        return u64(NONE), u64(0), u64(0)
    # Without a C-bit this takes bit 0 away, which is none of the address.
    address = entry & u64(ADDRESS) & ~(u64(1) << ((controls >> u64(C_BIT_SHIFT)) & u64(0x3F)))
    # Bit 63 without NXE, and address bits beyond the processor's width, are reserved.
    no_execute = entry >> u64(63)
    if no_execute > (controls >> u64(8)) & u64(1) or address >> (
        (controls >> u64(MAXPHYADDR_SHIFT)) & u64(0x3F)
    ) != u64(0):
        return u64(MISCONFIGURED), u64(0), u64(0)
    # R/W is bit 1 as in the attributes; U/S is bit 2, USER bit 11; accessed is bit 5, ours 8.
    attributes = (entry & u64(RW)) | u64(outcome.READ)
    attributes |= (no_execute ^ u64(1)) << u64(2) | (no_execute ^ u64(1)) << u64(10)
    attributes |= (entry & u64(US)) << u64(9)
    if level > u64(0) and entry & u64(PS) == u64(0):
        # AMD reserves bit 8 of a PML4E and a PML5E, and ignores it in PDPE and PDE; Intel ignores it everywhere.
        if level > u64(2) and controls & u64(AMD) != u64(0) and entry & u64(G) != u64(0):
            return u64(MISCONFIGURED), u64(0), u64(0)
        accessed = (entry & u64(A)) << u64(8)
        return u64(TABLE), address, attributes | accessed | u64(outcome.ACCESSED | outcome.DIRTY)
    pat = (entry >> u64(7)) & u64(1)
    if level > u64(0):
        # Bit 7 is reserved above the 1 GiB level; of a block's address the bits below its size are, but PAT.
        pat = (entry >> u64(12)) & u64(1)
        address &= ~u64(PAT_BLOCK)
        largest = u64(2) - ((controls >> u64(NO_GIB_SHIFT)) & u64(1))
        if level > largest or address & ((u64(1) << (u64(12) + u64(9) * level)) - u64(1)) != u64(0):
            return u64(MISCONFIGURED), u64(0), u64(0)
    attributes |= (entry & u64(PWT | PCD)) | pat << u64(5)
    attributes |= (entry & u64(A | D)) << u64(3) | (entry & u64(G)) << u64(4)
    return u64(LEAF), address, attributes | u64(outcome.TABLES_ACCESSED)


def permissions(attributes: int, controls: int) -> int:
    """What privileged (bits 0-2) and user (bits 3-5) accesses may do (SDM 5.6 "Access Rights").

    All levels must allow writes, users and fetches; a page is a user page if all levels say so. Under nested paging
    (APM 15.25.5) every access of the guest is one of a user.
    """
    data = attributes & u64(outcome.READ | outcome.WRITE)
    fetch = attributes & u64(outcome.EXECUTE)
    user = attributes & u64(outcome.USER)
    if controls & u64(NESTED) != u64(0):
        if user == u64(0):
            return u64(0)
        return data | fetch | (data | fetch) << u64(outcome.USER_SHIFT)
    granted = data
    if controls & u64(WP) == u64(0):
        granted = u64(outcome.READ | outcome.WRITE)
    if user == u64(0):
        return granted | fetch
    if controls & u64(SMAP) != u64(0):
        granted = u64(0)
    if controls & u64(SMEP) == u64(0):
        granted |= fetch
    return granted | (data | fetch) << u64(outcome.USER_SHIFT)


def mark(entry: int, write: int, controls: int) -> int:
    """The leaf after an access: accessed is always set, dirty after a write (SDM 5.8)."""
    if write != u64(0):
        return entry | u64(A | D)
    return entry | u64(A)


def mark_table(entry: int, controls: int) -> int:
    """A table entry after a walk: accessed is set (SDM 5.8)."""
    return entry | u64(A)


def walk_write(controls: int) -> int:
    """As nested tables, reads of the guest's tables are writes, for they may set its accessed bits (APM 15.25.5)."""
    return u64(1)


def pack_address(address: int) -> int:
    """Address bits 51:12 stand where they belong."""
    return address & u64(ADDRESS)


def resize(entry: int, level: int, new_level: int) -> int:
    """PAT moves between bit 7 of a page and bit 12 of a block, where bit 7 says that it is one."""
    bits = entry & ~u64(ADDRESS | PS)
    pat = (entry >> u64(7)) & u64(1)
    if level != u64(0):
        pat = (entry >> u64(12)) & u64(1)
    if new_level == u64(0):
        return bits | pat << u64(7)
    return bits | u64(PS) | pat << u64(12)


def inherit(old: int, new: int) -> int:
    """Accessed and dirty bits of the old leaf, everything else of the new one."""
    return (new & ~u64(A | D)) | (old & u64(A | D))


def forget(entry: int, what: int) -> int:
    """The bits stand three below their attributes."""
    return entry & ~((what & u64(outcome.ACCESSED | outcome.DIRTY)) >> u64(3))


def encode_leaf(level: int, flags: MappingFlags, memory_type: MemoryType, controls: int) -> int:
    """All bits of a leaf but its address. Accessed and dirty are set, so that no table is written for their sake.

    Raises:
        EncodingError: no read permission (a present page is always readable), or a leaf larger than there are.
    """
    if level > 2:
        raise EncodingError(f"x86 has no leaf at level {level}: 4 KiB, 2 MiB and 1 GiB are all there are")
    if level == 2 and controls & NO_GIB:
        raise EncodingError("this processor has no leaf at level 2: 4 KiB and 2 MiB are all there are")
    if not flags & MappingFlags.READ:
        raise EncodingError("a present x86 page is always readable: write-only and execute-only do not exist")
    bits = P | A | D
    if flags & MappingFlags.WRITE:
        bits |= RW
    if controls & NESTED or flags & MappingFlags.USER:
        bits |= US
    if not flags & MappingFlags.EXECUTE:
        if not controls & NXE:
            raise EncodingError("without EFER.NXE every x86 page is executable")
        bits |= NX
    index = PAT_INDEX[memory_type]
    bits |= (PWT if index & 1 else 0) | (PCD if index & 2 else 0)
    if index & 4:
        bits |= PAT_BLOCK if level else PAT_4K
    return bits | (PS if level else 0)


_LEAF = frozenset({"leaf"})
_TABLE = frozenset({"table"})
_PAGE, _BLOCKS = frozenset({0}), frozenset({1, 2})
_TABLE_LEVELS, _ABOVE_1G = frozenset({1, 2}), frozenset({3, 4})

FIELDS = (
    Field(0, 0, "P", "present", {0: "not present: nothing is mapped here"}),
    Field(1, 1, "R/W", "writes are allowed", {0: "writes are not allowed"}),
    Field(
        2,
        2,
        "U/S",
        "user-mode accesses are allowed; nested tables need it for every access",
        {0: "user-mode accesses are not allowed; in nested tables no access is"},
    ),
    Field(3, 3, "PWT", "bit 0 of the PAT index; for a table, how it is read"),
    Field(4, 4, "PCD", "bit 1 of the PAT index; for a table, how it is read"),
    Field(5, 5, "A", "accessed since this bit was last cleared", {0: "not accessed"}),
    Field(6, 6, "D", "written since this bit was last cleared", {0: "not written"}, _LEAF),
    Field(7, 7, "PAT", "bit 2 of the PAT index", {}, _LEAF, levels=_PAGE),
    Field(7, 7, "PS", "maps a block", {}, _LEAF, levels=_BLOCKS),
    Field(
        7,
        7,
        "PS",
        "a block, of a size that this processor does not have",
        {0: "points to a table"},
        _TABLE,
        levels=_TABLE_LEVELS,
    ),
    Field(7, 7, "PS", "reserved at this level, must be zero", {}, frozenset({"leaf", "table"}), True, _ABOVE_1G),
    Field(8, 8, "G", "global: kept when CR3 is loaded, if CR4.PGE is set", {0: "not global"}, _LEAF),
    Field(11, 9, "AVL", "free for software"),
    Field(12, 12, "PAT", "bit 2 of the PAT index", {}, _LEAF, levels=_BLOCKS),
    Field(51, 12, "address", "address bits 51:12 of the page", {}, _LEAF, levels=_PAGE),
    Field(51, 13, "address", "address bits 51:13 of the block", {}, _LEAF, levels=_BLOCKS),
    Field(51, 12, "address", "address bits 51:12 of the next table", {}, _TABLE),
    Field(58, 52, "AVL", "free for software"),
    Field(62, 59, "AVL", "free for software", {}, _TABLE),
    Field(62, 59, "PK", "protection key, if CR4.PKE is set, otherwise free for software", {}, _LEAF),
    Field(63, 63, "NX", "fetches are not allowed", {0: "fetches are allowed, if every level says so"}),
)

STAGE_1_FIELDS = (
    *FIELDS,
    Field(8, 8, "G", "ignored by Intel's processors; AMD's reserve it at this level", {}, _TABLE, levels=_ABOVE_1G),
)
NESTED_FIELDS = (
    *FIELDS,
    Field(8, 8, "G", "reserved at this level, must be zero", {}, _TABLE, True, _ABOVE_1G),
)

_SWITCHES = {
    "no-nx": Switch("EFER.NXE is clear: bit 63 is reserved", clears=NXE),
    "pa36": Switch("physical addresses have 36 bits", 36 << MAXPHYADDR_SHIFT, 0x3F << MAXPHYADDR_SHIFT),
}
SWITCHES = {
    "smep": Switch("CR4.SMEP: no supervisor fetches from user pages", SMEP),
    "smap": Switch("CR4.SMAP with EFLAGS.AC clear: no supervisor data accesses to user pages", SMAP),
    "no-wp": Switch("CR0.WP is clear: supervisor writes ignore R/W", clears=WP),
    "amd": Switch("an AMD processor: bit 8 of a PML4E and a PML5E is reserved", AMD),
} | _SWITCHES


RULES = Rules(
    name=LONG_MODE,
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


def _record(name: str, levels: int, *, nested: bool) -> Format:
    bits = 12 + 9 * levels
    what = "AMD nested paging, stage 2" if nested else "x86-64 long mode, stage 1"
    return Format(
        name=name,
        title=f"{what}, {levels} levels, {bits}-bit input",
        rules=RULES,
        stage=2 if nested else 1,
        levels=levels,
        root_bits=9,
        top_leaf_level=2,
        output_bits=52,
        sign_extended=not nested,
        table_bits=P | RW | US | A,
        fields=NESTED_FIELDS if nested else STAGE_1_FIELDS,
        default_controls=NXE | WP | 52 << MAXPHYADDR_SHIFT | (NESTED | AMD if nested else 0),
        hardware_ad=0,
        manual='AMD APM Vol. 2, 15.25 "Nested Paging"'
        if nested
        else 'Intel SDM Vol. 3A, 5.5 "4-Level and 5-Level Paging"',
        switches=_SWITCHES if nested else SWITCHES,
    )


X86_4LEVEL = _record("x86-4level", 4, nested=False)
X86_5LEVEL = _record("x86-5level", 5, nested=False)
NPT4 = _record("npt4", 4, nested=True)
NPT5 = _record("npt5", 5, nested=True)

FORMATS = (X86_4LEVEL, X86_5LEVEL, NPT4, NPT5)
