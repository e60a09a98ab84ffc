"""The manuals' rules for entries, written down a second time: slow, plain, one statement after the other.

Nothing of the package's own rules is used here, so that the suite compares two independent readings of the manuals.
Switches are named as in `Format.switches`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from stage2.formats.outcome import LEAF, MISCONFIGURED, NONE, TABLE, TOO_WIDE
from stage2.formats.record import Format

Switches = Collection[str]


@dataclass(frozen=True)
class Reading:
    """What an entry is, and for a leaf: its accessed and dirty state (True where hardware tracks none)."""

    kind: int
    address: int = 0
    accessed: bool = True
    dirty: bool = True


def bit(word: int, number: int) -> bool:
    return bool(word >> number & 1)


def bits(word: int, high: int, low: int) -> int:
    """The bits in their own places, the others zero."""
    return sum(1 << number for number in range(low, high + 1) if bit(word, number))


# --- Intel SDM 5.5, AMD APM 5.3 and 15.25 ------------------------------------------------------------------------
def long_mode(fmt: Format, entry: int, level: int, on: Switches) -> Reading:
    if not bit(entry, 0):
        return Reading(NONE)
    leaf = level == 0 or bit(entry, 7)
    reserved = bits(entry, 51, 36) if "pa36" in on else 0
    if "no-nx" in on:
        reserved |= bits(entry, 63, 63)
    if level in (3, 4):  # PML4E, PML5E
        reserved |= bits(entry, 7, 7)
    if leaf and level in (1, 2):
        reserved |= bits(entry, 11 + 9 * level, 13)
    if level in (3, 4) and (fmt.stage == 2 or "amd" in on):  # AMD: ignored in PDPE and PDE
        reserved |= bits(entry, 8, 8)
    if reserved:
        return Reading(MISCONFIGURED)
    if not leaf:
        return Reading(TABLE, bits(entry, 51, 12))
    return Reading(LEAF, bits(entry, 51, 12 + 9 * level), bit(entry, 5), bit(entry, 6))


def long_mode_access(leaf: int, tables: Sequence[int], on: Switches) -> tuple[str, str]:
    walk = (leaf, *tables)
    write, execute = all(bit(e, 1) for e in walk), not any(bit(e, 63) for e in walk)
    user_page = all(bit(e, 2) for e in walk)
    user = rwx(user_page, user_page and write, user_page and execute)
    data = not (user_page and "smap" in on)
    supervisor = rwx(data, data and (write or "no-wp" in on), execute and not (user_page and "smep" in on))
    return supervisor, user


def nested_access(leaf: int, tables: Sequence[int], on: Switches) -> tuple[str, str]:
    _, user = long_mode_access(leaf, tables, on)  # every access is one of a user
    return user, user


# --- Intel SDM 30.3.2, 30.3.3 ------------------------------------------------------------------------------------
def ept(_fmt: Format, entry: int, level: int, on: Switches) -> Reading:
    read, write, execute, execute_user = (bit(entry, number) for number in (0, 1, 2, 10))
    execute_user = execute_user and "mbec" in on
    if not (read or write or execute or execute_user):
        return Reading(NONE)
    if not read and write:
        return Reading(MISCONFIGURED)
    if not read and (execute or execute_user) and "no-execute-only" in on:
        return Reading(MISCONFIGURED)
    if "pa36" in on and bits(entry, 51, 36):
        return Reading(MISCONFIGURED)
    if level >= 3:  # PML4E, PML5E
        return Reading(MISCONFIGURED) if bits(entry, 7, 3) else Reading(TABLE, bits(entry, 51, 12))
    if level and not bit(entry, 7):
        return Reading(MISCONFIGURED) if bits(entry, 6, 3) else Reading(TABLE, bits(entry, 51, 12))
    if entry >> 3 & 7 in (2, 3, 7):
        return Reading(MISCONFIGURED)
    if level and bits(entry, 11 + 9 * level, 12):
        return Reading(MISCONFIGURED)
    tracked = "ad" in on
    return Reading(LEAF, bits(entry, 51, 12), not tracked or bit(entry, 8), not tracked or bit(entry, 9))


def ept_access(leaf: int, tables: Sequence[int], on: Switches) -> tuple[str, str]:
    walk = (leaf, *tables)
    read, write, execute, execute_user = (all(bit(e, number) for e in walk) for number in (0, 1, 2, 10))
    return rwx(read, write, execute), rwx(read, write, execute_user if "mbec" in on else execute)


# --- RISC-V Privileged, "Virtual Address Translation Process", "Svnapot", "Svpbmt", and of HLVX "Hypervisor
# Virtual-Machine Load and Store Instructions" --------------------------------------------------------------------
def riscv(_fmt: Format, entry: int, level: int, on: Switches) -> Reading:
    v, r, w, x, u, _, a, d = (bit(entry, number) for number in range(8))
    if not v:
        return Reading(NONE)
    if (w and not r) or bits(entry, 60, 54):
        return Reading(MISCONFIGURED)
    leaf = r or x
    pbmt, napot = entry >> 61 & 3, bit(entry, 63)
    if pbmt and ("pbmt" not in on or pbmt == 3 or not leaf):
        return Reading(MISCONFIGURED)
    if napot and ("napot" not in on or not leaf or level or entry >> 10 & 0xF != 0b1000):
        return Reading(MISCONFIGURED)
    ppn = entry >> 10 & (1 << 44) - 1
    if not leaf:
        return Reading(MISCONFIGURED) if level == 0 or u or a or d else Reading(TABLE, ppn << 12)
    if ppn % (1 << 9 * level):
        return Reading(MISCONFIGURED)
    return Reading(LEAF, (ppn & ~0xF if napot else ppn) << 12, a, d)


def riscv_access(leaf: int, _tables: Sequence[int], on: Switches) -> tuple[str, str]:
    read, write, execute, user = (bit(leaf, number) for number in (1, 2, 3, 4))
    read = execute if "hlvx" in on else read or (execute and "mxr" in on)
    data = not user or "sum" in on
    return rwx(data and read, data and write, execute and not user), rwx(
        user and read, user and write, user and execute
    )


def g_stage_access(leaf: int, _tables: Sequence[int], on: Switches) -> tuple[str, str]:
    _, user = riscv_access(leaf, (), on)  # every access is one of a user
    return user, user


# --- Arm ARM DDI 0487, D8.3, D8.4 --------------------------------------------------------------------------------
BLOCKS = {12: (1, 2), 14: (2,), 16: (2,)}
"""Arm's numbers of the levels at which blocks may stand; with 52-bit addresses the level above them too."""


def arm(fmt: Format, entry: int, level: int, on: Switches) -> Reading:
    granule, wide, arm_level = fmt.page_shift, fmt.output_bits == 52, 3 - level
    if not bit(entry, 0):
        return Reading(NONE)
    blocks = BLOCKS[granule] if not wide else (min(BLOCKS[granule]) - 1, *BLOCKS[granule])
    table = arm_level < 3 and bit(entry, 1)
    if not table and (not bit(entry, 1) if arm_level == 3 else arm_level not in blocks):
        return Reading(NONE)
    low = granule if table else granule + (granule - 3) * level
    if wide and granule == 16:
        address = bits(entry, 47, low) | (entry >> 12 & 0xF) << 48
    elif wide:
        address = bits(entry, 49, low) | (entry >> 8 & 3) << 50
    else:
        address = bits(entry, 47, low)
    if "pa36" in on and address >> 36:
        return Reading(TOO_WIDE)
    if table:
        return Reading(TABLE, address)
    dirty = True
    if "ad" in on and bit(entry, 51):
        dirty = bit(entry, 7) if fmt.stage == 2 else not bit(entry, 7)
    return Reading(LEAF, address, bit(entry, 10), dirty)


def arm_stage_2_access(leaf: int, _tables: Sequence[int], on: Switches) -> tuple[str, str]:
    read = bit(leaf, 6)
    write = bit(leaf, 7) or ("ad" in on and bit(leaf, 51))
    if "no-xnx" in on:
        el1 = el0 = not bit(leaf, 54)
    else:
        el1, el0 = {0: (True, True), 1: (False, True), 2: (False, False), 3: (True, False)}[leaf >> 53 & 3]
    return rwx(read, write, el1), rwx(read, write, el0)


def arm_stage_1_access(leaf: int, tables: Sequence[int], on: Switches) -> tuple[str, str]:
    el2, obeyed = "el2" in on, () if "hpd" in on else tables
    write = not bit(leaf, 7) or ("ad" in on and bit(leaf, 51))
    write = write and not any(bit(table, 62) for table in obeyed)
    uxn = bit(leaf, 54) or any(bit(table, 60) for table in obeyed)
    if el2:
        return rwx(True, write, not uxn and not (write and "wxn" in on)), "---"
    user = bit(leaf, 6) and not any(bit(table, 61) for table in obeyed)
    pxn = bit(leaf, 53) or any(bit(table, 59) for table in obeyed)
    user_write = user and write
    data = not (user and "pan" in on)
    el1 = rwx(data, data and write, not pxn and not user_write and not (write and "wxn" in on))
    return el1, rwx(user, user_write, not uxn and not (user_write and "wxn" in on))


# --- memory types: SDM tables 13-10 and 30-6, DDI 0487 D8.6, "Svpbmt" ----------------------------------------------
_PAT = ("write-back", "write-through", "uncached-minus", "uncached",
        "write-back", "write-protected", "write-combining", "uncached")  # fmt: skip
"""By index, in the IA32_PAT that this package counts on."""
_EPT_TYPES = {0: "uncached", 1: "write-combining", 4: "write-through", 5: "write-protected", 6: "write-back"}
_MAIR = ("write-back", "device", "uncached", "write-through")
_MEMATTR_OUTER = {0: "device", 1: "uncached", 2: "write-through", 3: "write-back"}
_MEMATTR_FWB = {0b101: "uncached", 0b110: "write-back"}


def memory_type(fmt: Format, leaf: int, level: int, on: Switches) -> str | None:
    """The word for a leaf's memory type; None where the leaf does not decide it, or the value is reserved."""
    if fmt.family == "riscv":
        return (None, "uncached", "device", None)[leaf >> 61 & 3]
    if fmt.family == "x86" and not fmt.name.startswith("ept"):
        return _PAT[leaf >> 3 & 3 | bit(leaf, 12 if level else 7) << 2]
    if fmt.family == "x86":
        return _EPT_TYPES[leaf >> 3 & 7]
    if fmt.stage == 1:
        index = leaf >> 2 & 7
        return _MAIR[index] if index < len(_MAIR) else None
    outer, inner = leaf >> 4 & 3, leaf >> 2 & 3
    if "fwb" in on:
        return _MEMATTR_FWB.get(leaf >> 2 & 0xF) if outer & 1 else "device"
    return None if outer and not inner else _MEMATTR_OUTER[outer]


def rwx(read: bool, write: bool, execute: bool) -> str:
    return "".join(letter if allowed else "-" for letter, allowed in zip("rwx", (read, write, execute), strict=True))


Rules = Callable[[Format, int, int, Switches], Reading]
Grants = Callable[[int, Sequence[int], Switches], tuple[str, str]]
_MANUALS: dict[str, tuple[Rules, Grants]] = {
    "x86-": (long_mode, long_mode_access),
    "npt": (long_mode, nested_access),
    "ept": (ept, ept_access),
    "arm-s1": (arm, arm_stage_1_access),
    "arm-s2": (arm, arm_stage_2_access),
}


def of(fmt: Format) -> tuple[Rules, Grants]:
    """What an entry is, and what a leaf under tables lets the privileged level and the user do."""
    if fmt.family == "riscv":
        return riscv, riscv_access if fmt.stage == 1 else g_stage_access
    return next(rules for start, rules in _MANUALS.items() if fmt.name.startswith(start))
