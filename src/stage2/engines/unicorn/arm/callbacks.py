"""The compiled callbacks of an AArch64 vCPU: its MMU, its traps. See `..callbacks`."""

from __future__ import annotations

from functools import cache
from typing import Any

from ....formats.arm.instruction import UNPRIVILEGED
from ....formats.arm.stage1_control import SCTLR_M
from ....formats.record import Format
from ....formats.u64 import u64
from ....tables.assembly import compiled_two_stage
from ....tables.compiled import callback, inlined, load
from ....tables.raw import call_1, peek, poke
from ..callbacks import (
    ACCESS_FETCH,
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
from . import abi
from .stage1 import WRONG_GRANULE, controls_of, granule_of, make_select

# Plain numbers, because compiled code folds globals but not members of an enumeration.
_HYPERCALL, _GRANULE, _MODE, _TRAP = (
    int(reason) for reason in (Reason.HYPERCALL, Reason.GRANULE, Reason.MODE, Reason.TRAP)
)
_ENV, _CPU, _DELIVER, _STOP_RUN, _REASON, _NUMBER, _TRAPS = (
    int(word) for word in (Word.ENV, Word.CPU, Word.DELIVER, Word.STOP_RUN, Word.REASON, Word.NUMBER, Word.TRAPS)
)
_PC, _PSTATE, _SCTLR, _TCR, _TTBR0, _TTBR1 = (
    abi.ENV_PC, abi.ENV_PSTATE, abi.ENV_SCTLR_EL1, abi.ENV_TCR_EL1, abi.ENV_TTBR0_EL1, abi.ENV_TTBR1_EL1,
)  # fmt: skip
_EXCEPTION_TARGET, _HVC, _SMC = abi.ENV_EXCEPTION + abi.EXCEPTION_TARGET, abi.HVC, abi.SMC
_UNPRIVILEGED_MASK, _UNPRIVILEGED = UNPRIVILEGED


@cache
def fill_callback(first: Format, second: Format) -> Any:
    """The MMU of a vCPU whose tables have the granule of `first`, see `fill_signature`."""
    define()
    translate = compiled_two_stage(first, second)
    select = inlined(make_select(first, inlined(granule_of), inlined(controls_of)))

    def fill(uc: int, gva: int, access: int, result: int, state: int) -> bool:
        count_fill(state)
        env = peek(state, u64(_ENV))
        pstate = peek(env + u64(_PSTATE), u64(0))
        sctlr = peek(env + u64(_SCTLR), u64(0))
        host, regime_2 = host_of(state), regime_2_of(state)
        if pstate >> u64(32) == u64(0):
            poke(state, u64(_REASON), u64(_MODE))
            return False
        user = (pstate >> u64(2)) & u64(3) == u64(0)
        # An access by LDTR or STTR has EL0's rights, and only the instruction tells.
        looking = access != ACCESS_FETCH and not user and sctlr & u64(SCTLR_M) != u64(0)
        target, need, write = gva, u64(0), u64(0)
        if looking:
            target = peek(env + u64(_PC), u64(0))
        while True:
            if not looking:
                need = need_of(access, user)
                write = u64(1) if access == ACCESS_WRITE else u64(0)
            status, address, root, levels, root_bits, controls = select(
                target, sctlr, peek(env + u64(_TCR), u64(0)), peek(env + u64(_TTBR0), u64(0)),
                peek(env + u64(_TTBR1), u64(0)), pstate,
            )  # fmt: skip
            hpa, granted, gpa, level = u64(0), u64(0), u64(0), u64(0)
            if status == u64(0):
                regime_1 = (root, levels, root_bits, controls)
                status, hpa, granted, gpa, level, _ = translate(host, regime_1, regime_2, address, need, write)
            if not looking:
                break
            looking = False
            if status == u64(0):
                status, word = load(host, hpa & ~u64(7))
                instruction = word >> ((hpa & u64(4)) << u64(3))
                if status == u64(0) and instruction & u64(_UNPRIVILEGED_MASK) == u64(_UNPRIVILEGED):
                    user = True
            target = gva
        if status == u64(0):
            return grant(state, result, hpa, gpa, granted, user, access)
        refuse(state, status, gva, gpa, level, user, access)
        if status == u64(WRONG_GRANULE):
            poke(state, u64(_REASON), u64(_GRANULE))
        return False

    return callback(fill_signature(), fill, first, second)


@cache
def trap_callback() -> Any:
    """Exceptions that the CPU finds by itself, see `trap_signature`: those to EL1 go to the guest's vectors."""
    define()

    def trap(uc: int, number: int, state: int) -> None:
        env = peek(state, u64(_ENV))
        poke(state, u64(_NUMBER), u64(number))
        if number in (_HVC, _SMC):
            poke(state, u64(_REASON), u64(_HYPERCALL))
            call_1(peek(state, u64(_STOP_RUN)), uc)
        elif peek(env + u64(_EXCEPTION_TARGET), u64(0)) & u64(0xFFFFFFFF) != u64(1):
            poke(state, u64(_REASON), u64(_TRAP))
            call_1(peek(state, u64(_STOP_RUN)), uc)
        else:
            poke(state, u64(_TRAPS), peek(state, u64(_TRAPS)) + u64(1))
            call_1(peek(state, u64(_DELIVER)), peek(state, u64(_CPU)))

    return callback(trap_signature(), trap)
