"""The instructions of x86 that programs reach device registers by: MOV in its forms, MOVZX, MOVSX, MOVSXD, TEST, CMP.

AMD APM Vol. 3, chapter 1 "Instruction Encoding" and these instructions. A nested page fault says which address
and whether it was a write; which register, and how wide, only the instruction says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ...formats.u64 import MASK_64

LONGEST = 15
"""Bytes of the longest instruction."""
_SEGMENTS = {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}
_OPERAND_SIZE, _ADDRESS_SIZE, _REPEATS = 0x66, 0x67, (0xF2, 0xF3)
_CF, _PARITY, _AF, _ZF, _SF, _OF = 1 << 0, 1 << 2, 1 << 4, 1 << 6, 1 << 7, 1 << 11
STATUS_FLAGS = _CF | _PARITY | _AF | _ZF | _SF | _OF


class Verb(Enum):
    """What is done with the memory operand."""

    MOVE = "mov"
    TEST = "test"
    COMPARE = "cmp memory with a register or an immediate"
    COMPARE_WITH = "cmp a register with memory"


@dataclass(frozen=True, slots=True)
class Move:
    """A load or a store.

    Args:
        write: it stores.
        width: bytes of the access.
        register: number of the register; None where an immediate is stored.
        high: the register is AH, CH, DH or BH: bits 15:8 of `register`.
        into: bytes of the register that a load sets.
        signed: a load extends the sign.
        immediate: what is stored without a register.
        length: bytes of the instruction.
        address: linear address, by the registers that `decode` was given.
        verb: of TEST and CMP `register` or `immediate` is the other operand.
    """

    write: bool
    width: int
    register: int | None
    high: bool
    into: int
    signed: bool
    immediate: int
    length: int
    address: int
    verb: Verb = Verb.MOVE

    def other(self, register: Callable[[int], int]) -> int:
        """The operand that is not in memory."""
        if self.register is None:
            return self.immediate
        ones = (1 << 8 * self.width) - 1
        return register(self.register) >> (8 if self.high else 0) & ones

    def flags(self, value: int, other: int) -> int:
        """The status flags after TEST or CMP of a memory operand with the other one."""
        top = 1 << 8 * self.width - 1
        mask = 2 * top - 1
        first, second = (other, value) if self.verb is Verb.COMPARE_WITH else (value, other)
        first, second = first & mask, second & mask
        found = 0
        if self.verb is Verb.TEST:
            result = first & second
        else:
            result = first - second & mask
            found |= _CF if first < second else 0
            found |= _AF if first & 0xF < second & 0xF else 0
            found |= _OF if (first ^ second) & (first ^ result) & top else 0
        found |= 0 if result else _ZF
        found |= _SF if result & top else 0
        return found | (0 if (result & 0xFF).bit_count() & 1 else _PARITY)

    def stored(self, register: Callable[[int], int]) -> int:
        """What a store stores."""
        return self.other(register)

    def loaded(self, value: int, before: int) -> int:
        """The register after a load of `value`; 32-bit results clear the upper half, narrower ones leave the rest."""
        value &= (1 << 8 * self.width) - 1
        if self.signed and value >> 8 * self.width - 1:
            value -= 1 << 8 * self.width
        value &= (1 << 8 * self.into) - 1
        if self.into >= 4:
            return value
        shift = 8 if self.high else 0
        mask = (1 << 8 * self.into) - 1 << shift
        return before & ~mask & MASK_64 | value << shift


_CMP_IMMEDIATE_8 = 0x83
_IMMEDIATE = {
    0xC6: (0, Verb.MOVE), 0xC7: (0, Verb.MOVE), 0xF6: (0, Verb.TEST), 0xF7: (0, Verb.TEST),
    0x80: (7, Verb.COMPARE), 0x81: (7, Verb.COMPARE), _CMP_IMMEDIATE_8: (7, Verb.COMPARE),
}  # fmt: skip
"""Opcode -> what the register field of ModRM must be, and what that does."""
_WITH_REGISTER = {
    0x84: Verb.TEST, 0x85: Verb.TEST, 0x38: Verb.COMPARE, 0x39: Verb.COMPARE,
    0x3A: Verb.COMPARE_WITH, 0x3B: Verb.COMPARE_WITH,
}  # fmt: skip


class _Reader:
    def __init__(self, code: bytes) -> None:
        self.code, self.at = code, 0

    def number(self, size: int, *, signed: bool = False) -> int:
        piece = self.code[self.at : self.at + size]
        if len(piece) != size:
            raise IndexError
        self.at += size
        return int.from_bytes(piece, "little", signed=signed)


def decode(
    code: bytes, *, long: bool, rip: int, register: Callable[[int], int], base: Callable[[str], int]
) -> Move | None:
    """The load or store that an instruction is.

    Args:
        code: its bytes, and any that follow.
        long: it is 64-bit code; otherwise 32-bit code.
        rip: its address.
        register: the value of a register, by its number.
        base: the base of a segment, by its name.

    Returns:
        None for any other instruction, or bytes that are cut short.
    """
    try:
        return _decode(_Reader(code[:LONGEST]), long, rip, register, base)
    except IndexError:
        return None


def _decode(
    reader: _Reader, long: bool, rip: int, register: Callable[[int], int], base: Callable[[str], int]
) -> Move | None:
    segment, narrow, short, rex = None, False, False, 0
    while True:
        byte = reader.number(1)
        if byte in _SEGMENTS:
            segment = _SEGMENTS[byte]
        elif byte == _OPERAND_SIZE:
            narrow = True
        elif byte == _ADDRESS_SIZE:
            short = True
        elif byte not in _REPEATS:
            break
    if long and byte >> 4 == 4:
        rex, byte = byte, reader.number(1)
    size = 8 if rex & 8 else 2 if narrow else 4
    address_size = (4 if short else 8) if long else 4
    if not long and short:
        return None
    form = _form(reader, byte, size, long)
    if form is None:
        return None
    write, width, into, signed, has_modrm = form
    verb = Verb.MOVE
    if not has_modrm:
        address = reader.number(address_size) + _base(segment or "ds", long, base)
        return Move(write, width, 0, False, into, signed, 0, reader.at, address & MASK_64)
    modrm = reader.number(1)
    if modrm >> 6 == 3:
        return None
    number = modrm >> 3 & 7 | (rex & 4) << 1
    immediate_size = 0
    if byte in _IMMEDIATE:
        wanted, verb = _IMMEDIATE[byte]
        if number & 7 != wanted:
            return None
        immediate_size = 1 if byte == _CMP_IMMEDIATE_8 else min(width, 4)
    elif byte in _WITH_REGISTER:
        verb = _WITH_REGISTER[byte]
    offset, default = _effective(reader, modrm, rex, long, immediate_size, rip, register)
    linear = (offset & (1 << 8 * address_size) - 1) + _base(segment or default, long, base)
    linear &= MASK_64 if long else 0xFFFF_FFFF
    if immediate_size:
        immediate = reader.number(immediate_size, signed=True) & (1 << 8 * width) - 1
        return Move(write, width, None, False, width, False, immediate, reader.at, linear, verb)
    high = (width if write else into) == 1 and not rex and number in (4, 5, 6, 7)
    return Move(write, width, number - 4 if high else number, high, into, signed, 0, reader.at, linear, verb)


def _form(reader: _Reader, byte: int, size: int, long: bool) -> tuple[bool, int, int, bool, bool] | None:
    """Whether it writes, width of the access, bytes of the register, sign extension, ModRM byte."""
    if byte == 0x0F:
        second = reader.number(1)
        if second not in (0xB6, 0xB7, 0xBE, 0xBF):
            return None
        return False, 1 if second in (0xB6, 0xBE) else 2, size, second >= 0xBE, True
    if byte == 0x63 and long:
        return False, min(size, 4), size, True, True
    one = not byte & 1
    width = 1 if one else size
    if byte in (0x88, 0x89, 0xC6, 0xC7):
        return True, width, width, False, True
    if byte in (0x8A, 0x8B) or byte in _WITH_REGISTER or byte in _IMMEDIATE:
        return False, width, width, False, True
    if byte in (0xA0, 0xA1, 0xA2, 0xA3):
        return byte >= 0xA2, width, width, False, False
    return None


def _effective(
    reader: _Reader, modrm: int, rex: int, long: bool, behind: int, rip: int, register: Callable[[int], int]
) -> tuple[int, str]:
    """Offset and default segment of a memory operand; `behind` bytes of the instruction follow it."""
    mode, low = modrm >> 6, modrm & 7
    address, segment = 0, "ds"
    relative = False
    if low == 4:
        sib = reader.number(1)
        index, root = sib >> 3 & 7 | (rex & 2) << 2, sib & 7
        if index != 4:
            address += register(index) << (sib >> 6)
        if root == 5 and mode == 0:
            address += reader.number(4, signed=True)
        else:
            address += register(root | (rex & 1) << 3)
            segment = "ss" if root in (4, 5) and not rex & 1 else "ds"
    elif low == 5 and mode == 0:
        address += reader.number(4, signed=True)
        relative = long
    else:
        address += register(low | (rex & 1) << 3)
        segment = "ss" if low == 5 and not rex & 1 else "ds"
    if mode == 1:
        address += reader.number(1, signed=True)
    elif mode == 2:
        address += reader.number(4, signed=True)
    if relative:
        address += rip + reader.at + behind
    return address, segment


def _base(segment: str, long: bool, base: Callable[[str], int]) -> int:
    """In 64-bit mode only FS and GS have one."""
    return 0 if long and segment not in ("fs", "gs") else base(segment)
