"""The RISC-V page table entry: one layout for stage 1 and stage 2 (Privileged, "Sv39: Addressing and Memory
Protection"; G-stage differences in "Guest Physical Address Translation")."""

from __future__ import annotations

from ...errors import EncodingError
from ...flags import MappingFlags, MemoryType
from .. import outcome
from ..outcome import LEAF, MISCONFIGURED, NONE, TABLE
from ..record import Field, Switch
from ..rules import TABLE_WALK
from ..u64 import u64

V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
PBMT_SHIFT = 61
N = 1 << 63
NAPOT_BITS = 4
"""log2 of the pages in a group: 64 KiB is the only size that Svnapot defines."""
NAPOT_PPN = 0b1000
"""The low PPN bits of a leaf in a group of 64 KiB."""
PPN_SHIFT = 10
PPN_BITS = 44
PPN_FIELD = ((1 << PPN_BITS) - 1) << PPN_SHIFT

# --- controls: what of the CSRs and of the instruction matters to a walk -----------------------------------
SUM = 1 << 0
"""sstatus.SUM / vsstatus.SUM: supervisor may read and write user pages."""
MXR = 1 << 1
"""sstatus.MXR / vsstatus.MXR: explicit loads are allowed where only fetches are. The former governs both stages of a
guest's access, the latter the first one only."""
HARDWARE_AD = 1 << 2
"""Svadu (menvcfg.ADUE / henvcfg.ADUE): hardware sets A and D; clear means Svade: a page fault instead."""
G_STAGE = 1 << 3
"""Second stage: every access counts as a user access, so U is required."""
HLVX = 1 << 4
"""The load is an HLVX, by which a hypervisor reads a guest's instructions: it needs execute permission instead of read
permission, at both stages. In all else it is a load, also in what it raises."""
HIGH_SHIFT = 8
SVPBMT = 0x180 << HIGH_SHIFT
"""Svpbmt (menvcfg.PBMTE / henvcfg.PBMTE): bits 62:61 of a leaf are a memory type. Controls from bit 8 on are the
entry's bits from 54 on that are not reserved."""
SVNAPOT = 0x200 << HIGH_SHIFT
"""Svnapot: bit 63 of a leaf at level 0 marks a group of 64 KiB."""

MEMORY_TYPES = {
    MemoryType.UNCACHED: 1,
    MemoryType.WRITE_COMBINING: 1,
    MemoryType.DEVICE: 2,
}
"""PBMT: 1 is NC, 2 is IO; everything else is left to the PMAs."""


def decode(entry: int, level: int, controls: int) -> tuple[int, int, int]:
    """Kind, address and attributes of an entry (Privileged, "Virtual Address Translation Process", steps 3-6).

    Args:
        entry: the 64-bit page table entry.
        level: 0 for the smallest page.
        controls: bits of this module.
    """
    if entry & u64(V) == u64(0):
        return u64(NONE), u64(0), u64(0)
    # Bits 60:54 are reserved; PBMT (62:61) and N (63) are too where Svpbmt and Svnapot are absent.
    high = entry >> u64(54)
    if high & ~(controls >> u64(HIGH_SHIFT)) != u64(0) or entry & u64(R | W) == u64(W):
        return u64(MISCONFIGURED), u64(0), u64(0)
    address = (entry & u64(PPN_FIELD)) << u64(2)
    if entry & u64(R | W | X) == u64(0):
        # A pointer: N, PBMT, D, A and U are reserved, and below level 0 there is no table.
        if level == u64(0) or entry & u64(U | A | D) != u64(0) or high != u64(0):
            return u64(MISCONFIGURED), u64(0), u64(0)
        return u64(TABLE), address, u64(outcome.ALL_ALLOWED)
    if address & ((u64(1) << (u64(12) + u64(9) * level)) - u64(1)) != u64(0):
        return u64(MISCONFIGURED), u64(0), u64(0)
    attributes = (entry >> u64(1)) & u64(outcome.READ | outcome.WRITE | outcome.EXECUTE)
    # G of a G-stage entry is reserved, and ignored ("Guest Physical Address Translation"). G_STAGE is two bits below G.
    attributes |= (entry & (u64(U | G) ^ (controls & u64(G_STAGE)) << u64(2))) << u64(7)
    attributes |= (entry & u64(A | D)) << u64(2)
    if high != u64(0):
        pbmt = (entry >> u64(PBMT_SHIFT)) & u64(3)
        if pbmt == u64(3):
            return u64(MISCONFIGURED), u64(0), u64(0)
        attributes |= pbmt << u64(outcome.MEMORY_TYPE_SHIFT)
        if entry & u64(N) != u64(0):
            # Svnapot: 64 KiB at level 0 is the only encoding that is not reserved.
            if level != u64(0) or (entry >> u64(PPN_SHIFT)) & u64(0xF) != u64(NAPOT_PPN):
                return u64(MISCONFIGURED), u64(0), u64(0)
            address &= ~u64(0xFFFF)
            attributes |= u64(outcome.GROUPED)
    return u64(LEAF), address, attributes | u64(outcome.TABLES_ACCESSED)


def permissions(attributes: int, controls: int) -> int:
    """What a leaf lets privileged (bits 0-2) and user (bits 3-5) accesses do.

    Privileged, "Supervisor Memory Privilege" (SUM, MXR), and for the G-stage "Guest Physical Address
    Translation": accesses are checked as if in U-mode. MXR and HLVX are of explicit loads only ("Two-Stage Address
    Translation", "Hypervisor Virtual-Machine Load and Store Instructions"), not of hardware's reads of tables.
    """
    allowed = attributes & u64(outcome.READ | outcome.WRITE | outcome.EXECUTE)
    if controls & u64(MXR | HLVX) != u64(0) and controls & u64(TABLE_WALK) == u64(0):
        if controls & u64(HLVX) != u64(0):
            allowed &= u64(outcome.WRITE | outcome.EXECUTE)
        # EXECUTE is two bits above READ.
        allowed |= (allowed >> u64(2)) & u64(outcome.READ)
    if controls & u64(G_STAGE) != u64(0):
        if attributes & u64(outcome.USER) == u64(0):
            return u64(0)
        return allowed | allowed << u64(outcome.USER_SHIFT)
    if attributes & u64(outcome.USER) == u64(0):
        return allowed
    if controls & u64(SUM) == u64(0):
        return allowed << u64(outcome.USER_SHIFT)
    return (allowed & u64(outcome.READ | outcome.WRITE)) | allowed << u64(outcome.USER_SHIFT)


def mark(entry: int, write: int, controls: int) -> int:
    """The leaf after an access: A (and D for a write) set when hardware updates them (Svadu), else unchanged."""
    if controls & u64(HARDWARE_AD) == u64(0):
        return entry
    if write != u64(0):
        return entry | u64(A | D)
    return entry | u64(A)


def pack_address(address: int) -> int:
    """The PPN field of a page- or table-aligned address below 2^56."""
    return (address >> u64(12)) << u64(PPN_SHIFT)


def resize(entry: int, level: int, new_level: int) -> int:
    """A leaf looks the same at every level: everything but the PPN, and N, which exists at level 0 only."""
    return entry & ~u64(N | PPN_FIELD)


def group(entry: int, level: int) -> int:
    """A leaf of a group of 64 KiB: N, and the size in the low PPN bits ("Svnapot")."""
    return (entry & ~u64(0xF << PPN_SHIFT)) | u64(N | NAPOT_PPN << PPN_SHIFT)


def ungroup(entry: int, level: int, address: int) -> int:
    """The leaf on its own."""
    return resize(entry, level, level) | pack_address(address)


def inherit(old: int, new: int) -> int:
    """A and D of the old leaf, everything else of the new one."""
    return (new & ~u64(A | D)) | (old & u64(A | D))


def forget(entry: int, what: int) -> int:
    """A and D stand two bits below their attributes."""
    return entry & ~((what & u64(outcome.ACCESSED | outcome.DIRTY)) >> u64(2))


def encode_leaf(level: int, flags: MappingFlags, memory_type: MemoryType, controls: int) -> int:
    """All bits of a leaf but the PPN. A and D are set, so that no access faults for their sake.

    RISC-V keeps memory types outside the entry (PMAs) unless Svpbmt is there, so without it `memory_type` leaves no
    trace.

    Raises:
        EncodingError: write without read is reserved; a leaf with no permission would be a table pointer.
    """
    permissions_wanted = flags.permissions
    if not permissions_wanted:
        raise EncodingError("a RISC-V leaf needs at least one of read, write and execute")
    if permissions_wanted & MappingFlags.WRITE and not permissions_wanted & MappingFlags.READ:
        raise EncodingError("RISC-V reserves write without read (R=0, W=1)")
    bits = V | A | D | int(permissions_wanted) << 1
    if controls & G_STAGE or flags & MappingFlags.USER:
        bits |= U
    if controls & SVPBMT:
        bits |= MEMORY_TYPES.get(memory_type, 0) << PBMT_SHIFT
    return bits


_LEAF = frozenset({"leaf"})
_TABLE = frozenset({"table"})


def _fields(user: Field, everyones: Field) -> tuple[Field, ...]:
    """The fields of an entry.

    Args:
        user: U in a leaf.
        everyones: G.
    """
    return (
        Field(0, 0, "V", "valid: the entry takes part in translation", {0: "not valid: nothing is mapped here"}),
        Field(1, 1, "R", "readable", {0: "not readable"}, _LEAF),
        Field(2, 2, "W", "writable", {0: "not writable"}, _LEAF),
        Field(3, 3, "X", "executable", {0: "not executable"}, _LEAF),
        Field(3, 1, "XWR", "all clear: points to the next table", {}, _TABLE),
        user,
        everyones,
        Field(6, 6, "A", "accessed since this bit was last cleared", {0: "not accessed"}, _LEAF),
        Field(7, 7, "D", "written since this bit was last cleared", {0: "not written"}, _LEAF),
        Field(4, 4, "U", "reserved in a table pointer", {}, _TABLE, reserved=True),
        Field(7, 6, "DA", "reserved in a table pointer", {}, _TABLE, reserved=True),
        Field(9, 8, "RSW", "free for the supervisor's software"),
        Field(53, 10, "PPN", "physical page number: address bits 55:12"),
        Field(60, 54, "reserved", "reserved, must be zero", reserved=True),
        Field(
            62,
            61,
            "PBMT",
            "page-based memory type, if Svpbmt is enabled, otherwise reserved",
            {
                1: "non-cacheable main memory (NC), if Svpbmt is enabled, otherwise reserved",
                2: "I/O (IO), if Svpbmt is enabled, otherwise reserved",
                3: "reserved",
            },
            _LEAF,
        ),
        Field(
            63,
            63,
            "N",
            "one of a naturally aligned group of 64 KiB, if Svnapot is there, otherwise reserved",
            {},
            _LEAF,
        ),
        Field(62, 61, "PBMT", "reserved in a table pointer", {}, _TABLE, reserved=True),
        Field(63, 63, "N", "reserved in a table pointer", {}, _TABLE, reserved=True),
    )


STAGE_1_FIELDS = _fields(
    Field(4, 4, "U", "user mode may use the page", {0: "supervisor page: user mode may not use it"}, _LEAF),
    Field(5, 5, "G", "global: the same in every address space", {0: "not global"}),
)
G_STAGE_FIELDS = _fields(
    Field(
        4, 4, "U", "the guest may use the page: every guest access needs U", {0: "no guest access is allowed"}, _LEAF
    ),
    Field(5, 5, "G", "reserved at stage 2: hardware ignores it, and software leaves it clear"),
)

_SWITCHES = {
    "ad": Switch("Svadu: hardware sets A and D instead of a page fault", HARDWARE_AD),
    "mxr": Switch("sstatus.MXR: loads are allowed where fetches are; reads of tables are not", MXR),
    "hlvx": Switch("the load is an HLVX: it needs execute permission instead of read permission", HLVX),
    "pbmt": Switch("Svpbmt: bits 62:61 are a memory type", SVPBMT),
    "napot": Switch("Svnapot: bit 63 marks a group of 64 KiB", SVNAPOT),
}
STAGE_1_SWITCHES = {"sum": Switch("sstatus.SUM: supervisor data accesses may use user pages", SUM)} | _SWITCHES
G_STAGE_SWITCHES = _SWITCHES
