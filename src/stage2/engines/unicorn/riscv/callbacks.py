"""The compiled callbacks of a RISC-V vCPU: its MMU, its traps. See `..callbacks`."""

from __future__ import annotations

from functools import cache
from typing import Any

from ....formats.record import Format
from ....formats.riscv.entry import HARDWARE_AD
from ....formats.riscv.formats import SV39
from ....formats.riscv.registers import stage_1_numbers
from ....formats.riscv.syndromes import USER_CALL
from ....formats.u64 import u64
from ....tables.assembly import compiled_two_stage
from ....tables.compiled import Callback, callback, inlined
from ....tables.raw import call_1, peek, poke
from ..callbacks import (
    ACCESS_WRITE,
    count_fill,
    define,
    fill_signature,
    grant,
    host_of,
    need_of,
    refuse,
    regime_2_of,
    trap_signature,
)
from ..state import Reason, Word
from .abi import ENV_MSTATUS, ENV_PC, ENV_PRIV, ENV_SATP, PRIV_MACHINE, PRIV_SUPERVISOR, PRIV_USER

ECALL = USER_CALL
"""Every ecall reaches the interrupt hook under this number."""

# Plain numbers, because compiled code folds globals but not members of an enumeration.
_HYPERCALL = int(Reason.HYPERCALL)
_ENV, _CPU, _DELIVER, _STOP_RUN, _REASON, _TRAPS = (
    int(word) for word in (Word.ENV, Word.CPU, Word.DELIVER, Word.STOP_RUN, Word.REASON, Word.TRAPS)
)


@cache
def fill_callback(second: Format) -> Callback:
    """The MMU of a vCPU over a stage-2 format, see `fill_signature`."""
    define()
    # Sv39, Sv48, Sv57 and Bare are one set of rules with different numbers of levels; satp says how many.
    translate = compiled_two_stage(SV39, second)
    inlined(stage_1_numbers)

    def fill(uc: int, gva: int, access: int, result: int, state: int) -> bool:
        count_fill(state)
        env = peek(state, u64(_ENV))
        privilege = peek(env + u64(ENV_PRIV), u64(0))
        satp = u64(0)
        if privilege != u64(PRIV_MACHINE):
            satp = peek(env + u64(ENV_SATP), u64(0))
        root, levels, root_bits, controls = stage_1_numbers(satp, peek(env + u64(ENV_MSTATUS), u64(0)))
        user = privilege == u64(PRIV_USER)
        write = u64(1) if access == ACCESS_WRITE else u64(0)
        regime_1 = (root, levels, root_bits, controls | u64(HARDWARE_AD))
        status, hpa, granted, gpa, level, _ = translate(
            host_of(state), regime_1, regime_2_of(state), gva, need_of(access, user), write
        )
        if status != u64(0):
            return refuse(state, status, gva, gpa, level, user, access)
        return grant(state, result, hpa, gpa, granted, user, access)

    return Callback(fill_signature, fill, second)


@cache
def trap_callback() -> Any:
    """void trap(uc, number, state): synchronous exceptions of the guest; a supervisor's ecall is for us."""
    define()

    def trap(uc: int, number: int, state: int) -> None:
        env = peek(state, u64(_ENV))
        if number == ECALL and peek(env + u64(ENV_PRIV), u64(0)) == u64(PRIV_SUPERVISOR):
            poke(state, u64(_REASON), u64(_HYPERCALL))
            call_1(peek(state, u64(_STOP_RUN)), uc)
            return
        # The hook sees the PC four bytes after the instruction, whatever its length.
        poke(env + u64(ENV_PC), u64(0), peek(env + u64(ENV_PC), u64(0)) - u64(4))
        poke(state, u64(_TRAPS), peek(state, u64(_TRAPS)) + u64(1))
        call_1(peek(state, u64(_DELIVER)), peek(state, u64(_CPU)))

    return callback(trap_signature(), trap)
