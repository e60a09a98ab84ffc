"""The compiled callbacks of an AArch64 vCPU: its MMU, its stop flag, its traps. See `..callbacks`."""

from __future__ import annotations

from functools import cache
from typing import Any

from ....formats.arm.stage1_control import SCTLR_M
from ....formats.outcome import USER_SHIFT
from ....formats.record import Format
from ....formats.u64 import u64
from ....tables.batch import two_stage_translation
from ....tables.compiled import callback, inlined, load, numba, peek, poke
from ..callbacks import (
    ACCESS_FETCH,
    ACCESS_READ,
    ACCESS_WRITE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    _define,
    allow_page,
    call_1,
)
from ..state import Word
from . import abi
from .stage1 import WRONG_GRANULE, controls_of, granule_of, make_select
from .state import ArmReason, ArmWord

# Plain numbers, because compiled code folds globals but not members of an enumeration.
_FAULT, _HYPERCALL, _STOP, _GRANULE, _AARCH32, _TRAP, _DEVICE = (
    int(reason)
    for reason in (
        ArmReason.FAULT, ArmReason.HYPERCALL, ArmReason.STOP, ArmReason.GRANULE, ArmReason.AARCH32, ArmReason.TRAP,
        ArmReason.DEVICE,
    )
)  # fmt: skip
(
    _HOST_DELTA, _HOST_START, _HOST_END, _HOST_FURTHER, _HOST_COUNT, _HOST_BASE, _ROOT, _LEVELS, _ROOT_BITS, _CONTROLS,
    _ENV, _CPU, _DELIVER, _STOP_RUN, _REASON, _STATUS, _ADDRESS, _GPA, _ACCESS, _STOP_FLAG, _FILLS, _TRAPS,
) = (
    int(word)
    for word in (
        Word.HOST_DELTA, Word.HOST_START, Word.HOST_END, Word.HOST_FURTHER, Word.HOST_COUNT, Word.HOST_BASE,
        Word.ROOT, Word.LEVELS, Word.ROOT_BITS, Word.CONTROLS, Word.ENV, Word.CPU, Word.DELIVER, Word.STOP_RUN,
        Word.REASON, Word.STATUS, Word.ADDRESS, Word.GPA, Word.ACCESS, Word.STOP, Word.FILLS, Word.TRAPS,
    )
)  # fmt: skip
_TABLE_LEVEL, _UNPRIVILEGED, _NUMBER = (int(word) for word in ArmWord)
_PC, _PSTATE, _SCTLR, _TCR, _TTBR0, _TTBR1 = (
    abi.ENV_PC, abi.ENV_PSTATE, abi.ENV_SCTLR_EL1, abi.ENV_TCR_EL1, abi.ENV_TTBR0_EL1, abi.ENV_TTBR1_EL1,
)  # fmt: skip
_EXCEPTION_TARGET, _HVC, _SMC = abi.ENV_EXCEPTION + abi.EXCEPTION_TARGET, abi.HVC, abi.SMC
UNPRIVILEGED_MASK, UNPRIVILEGED = 0x3F20_0C00, 0x3800_0800
"""LDTR, STTR and their kin (Arm ARM C4.1, "Load/store register (unprivileged)")."""


@cache
def fill_callback(first: Format, second: Format) -> Any:
    """bool fill(uc, page of a GVA, access, result, state): the MMU of a vCPU whose tables have the granule of `first`.

    `result` takes the engine's physical address and the permissions. False: refused, the state says why.
    """
    _define()
    translate = two_stage_translation(first, second)
    select = inlined(make_select(first, inlined(granule_of), inlined(controls_of)))
    inlined(allow_page)

    def fill(uc: int, gva: int, access: int, result: int, state: int) -> bool:
        poke(state, u64(_FILLS), peek(state, u64(_FILLS)) + u64(1))
        env = peek(state, u64(_ENV))
        pstate = peek(env + u64(_PSTATE), u64(0))
        sctlr = peek(env + u64(_SCTLR), u64(0))
        host = (
            peek(state, u64(_HOST_DELTA)),
            peek(state, u64(_HOST_START)),
            peek(state, u64(_HOST_END)),
            peek(state, u64(_HOST_FURTHER)),
            peek(state, u64(_HOST_COUNT)),
        )
        regime_2 = (
            peek(state, u64(_ROOT)),
            peek(state, u64(_LEVELS)),
            peek(state, u64(_ROOT_BITS)),
            peek(state, u64(_CONTROLS)),
        )
        if pstate >> u64(32) == u64(0):
            poke(state, u64(_REASON), u64(_AARCH32))
            return False
        user = (pstate >> u64(2)) & u64(3) == u64(0)
        # An access by LDTR or STTR has EL0's rights, and only the instruction tells.
        looking = access != ACCESS_FETCH and not user and sctlr & u64(SCTLR_M) != u64(0)
        target, need, write = gva, u64(0), u64(0)
        if looking:
            target = peek(env + u64(_PC), u64(0))
        while True:
            if not looking:
                need = u64(PROT_READ)
                if access == ACCESS_WRITE:
                    need = u64(PROT_WRITE)
                    write = u64(1)
                elif access == ACCESS_FETCH:
                    need = u64(PROT_EXEC)
                if user:
                    need <<= u64(USER_SHIFT)
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
                if status == u64(0) and instruction & u64(UNPRIVILEGED_MASK) == u64(UNPRIVILEGED):
                    user = True
            target = gva
        if status == u64(0):
            if user:
                granted >>= u64(USER_SHIFT)
            granted &= u64(PROT_READ | PROT_WRITE | PROT_EXEC)
            page = hpa & ~u64(0xFFF)
            status, _ = load(host, page)
            if status != u64(0):
                poke(state, u64(_REASON), u64(_DEVICE))
                poke(state, u64(_GPA), gpa)
                return False
            poke(result, u64(0), page - peek(state, u64(_HOST_BASE)))
            poke(result, u64(1), allow_page(state, page, granted, access))
            return True
        reason = u64(_FAULT)
        if status == u64(WRONG_GRANULE):
            reason = u64(_GRANULE)
        poke(state, u64(_REASON), reason)
        poke(state, u64(_STATUS), status)
        poke(state, u64(_ADDRESS), gva)
        poke(state, u64(_GPA), gpa)
        poke(state, u64(_ACCESS), u64(access - ACCESS_READ))
        poke(state, u64(_TABLE_LEVEL), level)
        poke(state, u64(_UNPRIVILEGED), u64(1) if user else u64(0))
        return False

    types = numba().types
    signature = types.boolean(types.uint64, types.uint64, types.int32, types.uint64, types.uint64)
    return callback(signature, fill, first, second)


@cache
def block_callback() -> Any:
    """void block(uc, address, size, state): leave the guest before a block when it is to be stopped."""
    _define()

    def block(uc: int, address: int, size: int, state: int) -> None:
        if peek(state, u64(_STOP_FLAG)) != u64(0):
            poke(state, u64(_REASON), u64(_STOP))
            call_1(peek(state, u64(_STOP_RUN)), uc)

    types = numba().types
    return callback(types.void(types.uint64, types.uint64, types.uint32, types.uint64), block)


@cache
def trap_callback() -> Any:
    """void trap(uc, number, state): exceptions that the CPU finds by itself; those to EL1 go to the guest's vectors."""
    _define()

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

    types = numba().types
    return callback(types.void(types.uint64, types.uint32, types.uint64), trap)
