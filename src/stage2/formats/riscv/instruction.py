"""The load or store that stage 2 refused, from htinst or from the instruction itself.

Only loads and stores of one integer register are told: atomics, floating point, vectors and cache operations are not.
Encodings: RISC-V Unprivileged, "RV32I" and "RV64I", "Load and Store Instructions"; "C" Extension, "Load and Store
Instructions"; "Zcb". Privileged, "Transformed Instruction or Pseudoinstruction" for htinst.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...flags import Access
from ..u64 import MASK_64

_LOAD, _STORE, _STORE_FLOAT, _ATOMIC = 0x03, 0x23, 0x27, 0x2F
_LOAD_RESERVED = 2
"""funct5 of an atomic instruction that only loads."""

_COMPRESSED = {
    (0, 2): (4, False), (0, 3): (8, False), (0, 6): (4, True), (0, 7): (8, True),
    (2, 2): (4, False), (2, 3): (8, False), (2, 6): (4, True), (2, 7): (8, True),
}  # fmt: skip
"""Quadrant and funct3 -> bytes, and whether it stores: C.LW, C.LD, C.SW, C.SD, and from the stack pointer on."""
_ZCB = {0b100000: (1, False), 0b100001: (2, False), 0b100010: (1, True), 0b100011: (2, True)}
"""Bits 15:10 -> the same: C.LBU, C.LHU and C.LH, C.SB, C.SH."""


@dataclass(frozen=True, slots=True)
class LoadStore:
    """A load or store.

    Args:
        width: bytes of the access.
        register: number of the register.
        write: whether it stores.
        signed: whether what is loaded is extended by its sign.
        size: bytes of the instruction.
    """

    width: int
    register: int
    write: bool
    signed: bool
    size: int

    def extended(self, value: int) -> int:
        """A loaded value as the register holds it."""
        bits = 8 * self.width
        value &= (1 << bits) - 1
        if self.signed and value >> bits - 1:
            value |= -1 << bits
        return value & MASK_64


def load_store(htinst: int, instruction: int = 0) -> LoadStore | None:
    """The load or store that a guest-page fault tells of; None where it is none of one integer register.

    Args:
        htinst: the register.
        instruction: where htinst is 0, the instruction's 32 or 16 bits; 0 where it is not known.
    """
    if htinst:
        # Bit 0 tells a transformed instruction; bit 1 is clear where it was a compressed one, expanded.
        return _wide(htinst | 2, 4 if htinst & 2 else 2) if htinst & 1 else None
    if instruction & 3 == 3:
        return _wide(instruction, 4)
    return _compressed(instruction & 0xFFFF)


def attempted(instruction: int) -> Access:
    """What a load or store wanted: an atomic instruction stores, too (Privileged, "Trap Cause Codes").

    Args:
        instruction: its 32 or 16 bits.
    """
    if instruction & 3 != 3:
        # C.FSD, C.SW and C.SD, relative to a register or to the stack pointer; Zcb's stores.
        plain = instruction >> 13 & 7 in (5, 6, 7) and not instruction & 1
        found = _ZCB.get(instruction >> 10 & 0x3F) if instruction & 3 == 0 else None
        return Access.WRITE if plain or (found is not None and found[1]) else Access.READ
    opcode = instruction & 0x7F
    atomic = opcode == _ATOMIC and instruction >> 27 & 31 != _LOAD_RESERVED
    return Access.WRITE if atomic or opcode in (_STORE, _STORE_FLOAT) else Access.READ


def _wide(word: int, size: int) -> LoadStore | None:
    opcode, kind = word & 0x7F, word >> 12 & 7
    if opcode == _LOAD and kind != 7:
        return LoadStore(1 << (kind & 3), word >> 7 & 31, write=False, signed=kind < 4, size=size)
    if opcode == _STORE and kind < 4:
        return LoadStore(1 << kind, word >> 20 & 31, write=True, signed=False, size=size)
    return None


def _compressed(half: int) -> LoadStore | None:
    quadrant = half & 3
    found = _COMPRESSED.get((quadrant, half >> 13))
    if found is not None:
        width, write = found
        # x8 to x15 in three bits, or any register: where a store has it, and where a load has it.
        register = 8 + (half >> 2 & 7) if quadrant == 0 else half >> 2 & 31 if write else half >> 7 & 31
        if quadrant == 2 and not write and register == 0:
            return None  # reserved
        return LoadStore(width, register, write, not write, 2)
    found = _ZCB.get(half >> 10) if quadrant == 0 else None
    if found is None:
        return None
    width, write = found
    second = bool(half & 0x40)  # C.LH; of a store it is reserved
    if width == 2 and write and second:
        return None
    return LoadStore(width, 8 + (half >> 2 & 7), write, width == 2 and not write and second, 2)
