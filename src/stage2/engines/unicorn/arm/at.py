"""The AT S1E* instructions, answered by our walker: the CPU's own would look in the engine's physical memory.

Arm ARM, "AT S1E1R" and PAR_EL1. Stage 1 alone is asked for; its tables are read through stage 2.
"""

from __future__ import annotations

from ....flags import Access
from ....formats.arm.fault_status import encode_status
from ....formats.arm.par import encode_failed, encode_translated
from ....formats.outcome import (
    MEMORY_TYPE_MASK,
    MEMORY_TYPE_SHIFT,
    SHAREABILITY_MASK,
    SHAREABILITY_SHIFT,
    FaultKind,
)
from ....tables.explain import Walk
from ....tables.result import Mapped

_BASE, _MASK = 0xD508_7800, 0xFFFF_FF80
"""SYS #0, C7, C8, #0-3."""


def decode_at(instruction: int) -> tuple[int, Access, bool] | None:
    """(register with the address, access, made from EL0) of an AT instruction for stage 1; None for another one."""
    if instruction & _MASK != _BASE:
        return None
    return instruction & 0x1F, Access.WRITE if instruction & 0x20 else Access.READ, bool(instruction & 0x40)


def par_of(walk: Walk, mair: int, first_level: int) -> int:
    """PAR_EL1 after a walk.

    Args:
        walk: by both stages; what stage 2 says of the address that stage 1 answered does not matter.
        mair: MAIR_EL1.
        first_level: of the guest's root table, counted from 0 = smallest page.
    """
    result = walk.result
    stage_1 = [step for step in walk.steps if step.stage == 1]
    if isinstance(result, Mapped):
        gpa: int = result.gpa
    elif result.stage == 2 and not result.on_table:
        gpa = result.address
    else:
        kind, level = result.kind, result.level
        if result.stage == 2:
            # The refused table is the one after the last that was read.
            kind, level = FaultKind.TABLE_OUTSIDE_MEMORY, stage_1[-1].level - 1 if stage_1 else first_level
        return encode_failed(encode_status(kind, level))
    if not stage_1:
        return encode_translated(gpa, 0, 0)
    attributes = stage_1[-1].attributes
    index = (attributes & MEMORY_TYPE_MASK) >> MEMORY_TYPE_SHIFT
    return encode_translated(gpa, mair >> 8 * index & 0xFF, (attributes & SHAREABILITY_MASK) >> SHAREABILITY_SHIFT)
