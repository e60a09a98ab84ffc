"""Instructions that read a descriptor table: a supervisor's access whoever executes them (Intel SDM Vol. 3A, 5.6).

The library asks for a translation without saying with whose rights, so at CPL 3 only the instruction can tell.
"""

from __future__ import annotations

_PREFIXES = bytes.fromhex("66 67 f2 f3 2e 36 3e 26 64 65")
_FAR_RETURNS = frozenset({0xCA, 0xCB, 0xCF})
"""RETF and IRET."""
_IN_32_BIT_CODE = frozenset({0x9A, 0xEA, 0x07, 0x17, 0x1F})
"""Far CALL and JMP to a pointer in the instruction; POP of ES, SS and DS."""
_MOV_TO_SEGMENT = 0x8E
_POPS = frozenset({0xA1, 0xA9})
"""After 0x0f: POP of FS and GS."""
_LOOKS = frozenset({0x02, 0x03})
"""After 0x0f: LAR and LSL."""


def reads_descriptor(code: bytes, *, long: bool) -> bool:
    """Whether an instruction reads the GDT or the LDT and nothing else but registers and the stack.

    The forms that take the selector from memory are left out: their own operand is the user's access, and the two
    cannot be told apart where both are in one page.

    Args:
        code: the instruction's bytes, and any that follow.
        long: it is 64-bit code.
    """
    code = code.lstrip(_PREFIXES)
    if long and code and code[0] >> 4 == 4:
        code = code[1:]  # REX
    if not code:
        return False
    first, second, third = (code[i] if i < len(code) else 0 for i in range(3))
    if first == _MOV_TO_SEGMENT:
        return second >> 6 == 3
    if first == 0x0F:
        verify = second == 0 and third >> 3 & 7 in (4, 5)  # VERR and VERW
        return second in _POPS or (third >> 6 == 3 and (second in _LOOKS or verify))
    return first in _FAR_RETURNS or (not long and first in _IN_32_BIT_CODE)
