"""What ESR_EL2 says of the load or store that stage 2 refused: the instruction syndrome (ISV and bits 23:14).

Hardware gives one for loads and stores of a single general-purpose register, the zero register included, with or
without acquire and release; none for those that write the base register back, pairs, exclusives, atomics, vectors,
prefetches, tags and cache instructions (Arm ARM DDI 0487, D24.2 "ESR_EL2", ISS encoding for a Data Abort, ISV;
AArch64.SetLSInstructionSyndrome). Encodings: C4.1.94 "Loads and Stores".
"""

from __future__ import annotations

from dataclasses import dataclass

_ISV, _SAS_SHIFT, _SSE, _SRT_SHIFT, _SF, _AR = 1 << 24, 22, 1 << 21, 16, 1 << 15, 1 << 14
_WNR = 1 << 6

# (mask, value) of instruction words.
_UNSIGNED_OFFSET = (0x3F00_0000, 0x3900_0000)
_UNSCALED = (0x3F20_0C00, 0x3800_0000)
UNPRIVILEGED = (0x3F20_0C00, 0x3800_0800)
"""LDTR, STTR and their kin, which access as EL0 does."""
_REGISTER_OFFSET = (0x3F20_0C00, 0x3820_0800)
_RCPC_UNSCALED = (0x3F20_0C00, 0x1900_0000)
_RCPC_LOAD = (0x3FFF_FC00, 0x38BF_C000)
_ORDERED = (0x3FBF_7C00, 0x089F_7C00)
_LITERAL = (0x3F00_0000, 0x1800_0000)
_AUTHENTICATED = (0xFF20_0C00, 0xF820_0400)
"""LDRAA and LDRAB without writing back."""
_LITERAL_SIZES = {0: (2, False, False), 1: (3, False, True), 2: (2, True, True)}
"""opc -> (log2 of the size, sign extended, 64-bit register); 3 is a prefetch."""


def instruction_syndrome(instruction: int) -> int:
    """Bits 24:14 of ESR_EL2 for a load or store that stage 2 refused; 0 where hardware gives none.

    Args:
        instruction: the word of an A64 instruction.
    """
    size, opc, register = instruction >> 30 & 3, instruction >> 22 & 3, instruction & 31
    if _is(instruction, _LITERAL):
        literal = _LITERAL_SIZES.get(size)
        return 0 if literal is None else _syndrome(literal[0], register, signed=literal[1], wide=literal[2])
    if _is(instruction, _ORDERED) or _is(instruction, _RCPC_LOAD):
        return _syndrome(size, register, wide=size == 3, ordered=True)
    if _is(instruction, _AUTHENTICATED):
        return _syndrome(3, register, wide=True)
    acquiring = _is(instruction, _RCPC_UNSCALED)
    plain = (_UNSIGNED_OFFSET, _UNSCALED, UNPRIVILEGED, _REGISTER_OFFSET)
    if not acquiring and not any(_is(instruction, form) for form in plain):
        return 0
    # opc: 0 stores, 1 loads, 2 and 3 load with the sign into 64 or 32 bits, as far as that is wider than the access.
    if opc < 2:
        return _syndrome(size, register, wide=size == 3, ordered=acquiring)
    if size + (opc == 3) > 2:
        return 0
    return _syndrome(size, register, signed=True, wide=opc == 2, ordered=acquiring)


@dataclass(frozen=True, slots=True)
class LoadStore:
    """What a data abort says of its instruction.

    Args:
        width: bytes of the access.
        register: number of the register, 31 the zero register.
        write: whether it stores.
        signed: whether what is loaded is extended by its sign.
        wide: whether the register has 64 bits.
    """

    width: int
    register: int
    write: bool
    signed: bool
    wide: bool

    def extended(self, value: int) -> int:
        """A loaded value as the register holds it: a register of 32 bits has zeros above them."""
        bits = 8 * self.width
        value &= (1 << bits) - 1
        if self.signed and value >> bits - 1:
            value |= -1 << bits
        return value & ((1 << 64) - 1 if self.wide else (1 << 32) - 1)


def load_store(esr: int) -> LoadStore | None:
    """The load or store that a data abort tells of; None where ISV is 0."""
    if not esr & _ISV:
        return None
    return LoadStore(
        1 << (esr >> _SAS_SHIFT & 3), esr >> _SRT_SHIFT & 31, bool(esr & _WNR), bool(esr & _SSE), bool(esr & _SF)
    )


def describe(esr: int) -> str:
    """The instruction syndrome of a data abort in a sentence; ISV is set."""
    size, register = 1 << (esr >> _SAS_SHIFT & 3), esr >> _SRT_SHIFT & 31
    wide = bool(esr & _SF)
    name = ("xzr" if wide else "wzr") if register == 31 else f"{'x' if wide else 'w'}{register}"
    if esr & _WNR:
        return f"The instruction stores {size} byte{'s' if size > 1 else ''} of {name}."
    signed = " and extends the sign" if esr & _SSE else ""
    return f"The instruction loads {size} byte{'s' if size > 1 else ''} into {name}{signed}."


def _is(instruction: int, form: tuple[int, int]) -> bool:
    return instruction & form[0] == form[1]


def _syndrome(size: int, register: int, *, signed: bool = False, wide: bool, ordered: bool = False) -> int:
    found = _ISV | size << _SAS_SHIFT | register << _SRT_SHIFT
    return found | (_SSE if signed else 0) | (_SF if wide else 0) | (_AR if ordered else 0)
