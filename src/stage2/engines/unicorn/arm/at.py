"""The AT S1E* instructions, answered by our walker: the CPU's own would look in the engine's physical memory.

Arm ARM, "AT S1E1R" and PAR_EL1. Stage 1 alone is asked for; its tables are read through stage 2.
"""

from __future__ import annotations

from ....flags import Access
from ....tables.explain import Walk
from ....tables.result import Mapped
from .aborts import EXTERNAL_ABORT_ON_TABLE, stage_1_status

_BASE, _MASK = 0xD508_7800, 0xFFFF_FF80
"""SYS #0, C7, C8, #0-3."""
_FAILED = 1
_ADDRESS = ((1 << 48) - 1) & ~0xFFF
_ALWAYS_ONE = 1 << 11
_NOT_SECURE = 1 << 9
_OUTER_SHAREABLE = 2


def decode_at(instruction: int) -> tuple[int, Access, bool] | None:
    """(register with the address, access, made from EL0) of an AT instruction for stage 1; None for another one."""
    if instruction & _MASK != _BASE:
        return None
    return instruction & 0x1F, Access.WRITE if instruction & 0x20 else Access.READ, bool(instruction & 0x40)


def par_of(walk: Walk, mair: int, last_level: int) -> int:
    """PAR_EL1 after a walk.

    Args:
        walk: by both stages; what stage 2 says of the address that stage 1 answered does not matter.
        mair: MAIR_EL1.
        last_level: Arm's number of the level with the smallest pages.
    """
    result = walk.result
    stage_1 = [step for step in walk.steps if step.stage == 1]
    if isinstance(result, Mapped):
        gpa: int = result.gpa
    elif result.stage == 2 and not result.on_table:
        gpa = result.address
    else:
        level = last_level - (stage_1[-1].level if stage_1 else last_level)
        if result.stage == 2:
            # The refused table is the one after the last that was read.
            status = EXTERNAL_ABORT_ON_TABLE + level + bool(stage_1)
        else:
            status = stage_1_status(result.kind, last_level - result.level)
        return _ALWAYS_ONE | status << 1 | _FAILED
    leaf = stage_1[-1].entry if stage_1 else 0
    attribute = mair >> 8 * (leaf >> 2 & 7) & 0xFF if stage_1 else 0
    # Device and non-cacheable memory is outer shareable whatever the entry says.
    shareable = _OUTER_SHAREABLE if not attribute & 0xF0 or attribute == 0x44 else leaf >> 8 & 3
    return attribute << 56 | gpa & _ADDRESS | _ALWAYS_ONE | _NOT_SECURE | shareable << 7
