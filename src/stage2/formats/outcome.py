"""The vocabulary that every format's `decode` answers in.

`decode(entry, level, controls)` returns three unsigned 64-bit numbers: a kind, an output address, and
attributes. The attribute bits below are the same for every format, so that one walker serves them all; they
stand where EPT has them, which saves its decode most of the work.
"""

from __future__ import annotations

from enum import IntEnum

# --- kinds -----------------------------------------------------------------------------------------
NONE = 0
"""Not present: the walk ends in a translation fault."""
TABLE = 1
"""Points to the next table; the attributes are what the table lets through."""
LEAF = 2
"""Maps a page or a block."""
MISCONFIGURED = 3
"""Present, but reserved bits or a reserved encoding are set: hardware faults on it."""
TOO_WIDE = 4
"""Present, but its address is wider than the regime's output (Arm: an address size fault)."""


class EntryKind(IntEnum):
    """The kinds as an enumeration, for reports."""

    NONE = NONE
    TABLE = TABLE
    LEAF = LEAF
    MISCONFIGURED = MISCONFIGURED
    TOO_WIDE = TOO_WIDE


# --- attributes ------------------------------------------------------------------------------------
READ = 1 << 0
WRITE = 1 << 1
EXECUTE = 1 << 2
MEMORY_TYPE_SHIFT = 3
MEMORY_TYPE_MASK = 0xF << MEMORY_TYPE_SHIFT
"""The format's own memory-type field, as found in the entry."""
ACCESSED = 1 << 8
"""Accessed, or the regime does not track it."""
DIRTY = 1 << 9
"""Dirty, or the regime does not track it."""
EXECUTE_USER = 1 << 10
"""Fetches from user mode are allowed, where a format separates them from supervisor fetches."""
USER = 1 << 11
"""The page belongs to user mode (stage 1), or stage 2 lets the guest use it at all (RISC-V U)."""
GLOBAL = 1 << 12
TABLES_ACCESSED = 1 << 13
"""Of a table entry: its accessed flag is set, or there is none to set. Every leaf has it."""
SHAREABILITY_SHIFT = 14
SHAREABILITY_MASK = 3 << SHAREABILITY_SHIFT
"""Arm's SH field, as found in the entry."""
GROUPED = 1 << 16
"""The leaf is marked as one of a naturally aligned group (RISC-V NAPOT, Arm's contiguous hint)."""

COMBINED = READ | WRITE | EXECUTE | USER | EXECUTE_USER | TABLES_ACCESSED
"""Attributes that hold only if every level of the walk grants them."""
ALL_ALLOWED = COMBINED | ACCESSED | DIRTY
"""What a table entry that restricts nothing answers."""

# --- effective permissions: what `permissions(attributes, controls)` answers ---------------------------
USER_SHIFT = 3
"""Bits 0-2 are R, W, X of a privileged access, bits 3-5 the same of a user access."""
ALL_PERMISSIONS = 0x3F


# --- how a walk ends ---------------------------------------------------------------------------------
MAPPED = 0


class FaultKind(IntEnum):
    """Why a translation failed; the number is what compiled walks return, 0 being success."""

    TRANSLATION = 1
    PERMISSION = 2
    ACCESS_FLAG = 3
    MISCONFIGURATION = 4
    ADDRESS_SIZE = 5
    TABLE_OUTSIDE_MEMORY = 6

    @property
    def meaning(self) -> str:
        """One sentence for a reader of a report."""
        return _FAULT_MEANINGS[self]


_FAULT_MEANINGS = {
    FaultKind.TRANSLATION: "nothing is mapped there: an entry on the way is not present",
    FaultKind.PERMISSION: "a mapping exists but does not allow this access",
    FaultKind.ACCESS_FLAG: "the accessed bit is clear, or at a write RISC-V's dirty bit, and hardware is not to set it",
    FaultKind.MISCONFIGURATION: "an entry on the way has reserved bits or a reserved encoding",
    FaultKind.ADDRESS_SIZE: "the address, or one that a table or its register holds, is wider than it may be",
    FaultKind.TABLE_OUTSIDE_MEMORY: "a table on the way lies outside physical memory",
}

# Plain numbers for the compilable subset.
TRANSLATION = int(FaultKind.TRANSLATION)
PERMISSION = int(FaultKind.PERMISSION)
ACCESS_FLAG = int(FaultKind.ACCESS_FLAG)
MISCONFIGURATION = int(FaultKind.MISCONFIGURATION)
ADDRESS_SIZE = int(FaultKind.ADDRESS_SIZE)
TABLE_OUTSIDE_MEMORY = int(FaultKind.TABLE_OUTSIDE_MEMORY)
