"""The compiled callbacks of an x86-64 vCPU: its MMU, its traps. See `..callbacks`."""

from __future__ import annotations

from functools import cache
from typing import Any

from ....formats.record import Format
from ....formats.u64 import u64
from ....formats.x86.longmode import X86_4LEVEL
from ....formats.x86.paging import EFLAGS_AC, FLAT, LONG, ROOT, controls_of, levels_of, mode_of
from ....tables.assembly import compiled_two_stage
from ....tables.compiled import callback, inlined, numba
from ....tables.raw import call_1, call_3, peek, poke
from ..callbacks import (
    ACCESS_FETCH,
    ACCESS_WRITE,
    block_signature,
    count_fill,
    define,
    fill_signature,
    grant,
    host_of,
    need_of,
    pass_time,
    refuse,
    regime_2_of,
    trap_signature,
)
from ..state import Reason, Word
from . import abi

# Plain numbers, because compiled code folds globals but not members of an enumeration.
_FAULT, _TRAP, _MODE = (int(reason) for reason in (Reason.FAULT, Reason.TRAP, Reason.MODE))
_ENV, _CPU, _DELIVER, _STOP_RUN, _RAISE, _REASON, _DELIVERING, _VECTOR, _ERROR_CODE, _TRAPS = (
    int(word)
    for word in (
        Word.ENV, Word.CPU, Word.DELIVER, Word.STOP_RUN, Word.RAISE, Word.REASON, Word.DELIVERING,
        Word.VECTOR, Word.ERROR_CODE, Word.TRAPS,
    )
)  # fmt: skip
_EFLAGS, _HFLAGS, _CR0, _CR3, _CR4, _EFER = (
    abi.ENV_EFLAGS, abi.ENV_HFLAGS, abi.ENV_CR0, abi.ENV_CR3, abi.ENV_CR4, abi.ENV_EFER,
)  # fmt: skip


def take(state: int, env: int) -> None:
    """Leave the callback for the taking of the exception that is to come before the next instruction."""
    vector = peek(state, u64(_VECTOR)) - u64(1)
    poke(state, u64(_VECTOR), u64(0))
    call_3(peek(state, u64(_RAISE)), env, vector, peek(state, u64(_ERROR_CODE)))


@cache
def fill_callback(second: Format, processor: int) -> Any:
    """The MMU of a vCPU over a stage-2 format, see `fill_signature`.

    Args:
        second: the stage-2 format.
        processor: what of the guest's own controls its processor decides, see `controls_of`.
    """
    define()
    # Four and five levels are one set of rules; CR4.LA57 says how many.
    translate = compiled_two_stage(X86_4LEVEL, second)
    inlined(mode_of)
    inlined(levels_of)
    inlined(controls_of)
    inlined(take)

    def fill(uc: int, gva: int, access: int, result: int, state: int) -> bool:
        count_fill(state)
        env = peek(state, u64(_ENV))
        if access == ACCESS_FETCH and peek(state, u64(_VECTOR)) != u64(0):
            # The code at RIP may be what cannot be fetched; then there is no block to take the exception in.
            take(state, env)
        cr0, cr4, efer = peek(env + u64(_CR0), u64(0)), peek(env + u64(_CR4), u64(0)), peek(env + u64(_EFER), u64(0))
        # The CPU's own accesses to IDT, GDT, TSS and stack while it takes an exception are a supervisor's (SDM 5.6).
        implicit = peek(state, u64(_DELIVERING)) != u64(0)
        user = peek(env + u64(_HFLAGS), u64(0)) & u64(3) == u64(3) and not implicit
        mode = mode_of(cr0, cr4, efer)
        root, levels, controls = u64(0), u64(0), u64(0)
        if mode == u64(LONG):
            root, levels = peek(env + u64(_CR3), u64(0)) & u64(ROOT), levels_of(cr4)
            exempt = u64(0) if implicit else peek(env + u64(_EFLAGS), u64(0)) & u64(EFLAGS_AC)
            controls = controls_of(cr0, cr4, efer, exempt, u64(processor))
        elif mode == u64(FLAT):
            gva &= u64(0xFFFFFFFF)
        else:
            poke(state, u64(_REASON), u64(_MODE))
            return False
        write = u64(1) if access == ACCESS_WRITE else u64(0)
        status, hpa, granted, gpa, level, _ = translate(
            host_of(state), (root, levels, u64(9), controls), regime_2_of(state), gva, need_of(access, user), write
        )
        if status != u64(0):
            return refuse(state, status, gva, gpa, level, user, access)
        return grant(state, result, hpa, gpa, granted, user, access)

    return callback(fill_signature(), fill, second)


@cache
def block_callback() -> Any:
    """Let time pass with a block, or take an exception that is to come before it."""
    define()
    inlined(take)

    def block(uc: int, address: int, size: int, state: int) -> None:
        if pass_time(uc, size, state) and peek(state, u64(_VECTOR)) != u64(0):
            take(state, peek(state, u64(_ENV)))

    return callback(block_signature(), block)


def deliver(uc: int, state: int) -> None:
    """Let the CPU take an exception.

    That reads and writes the guest's memory. If an access is refused, the library leaves the callback and comes back
    with the same exception; then the run ends with TRAP.
    """
    if peek(state, u64(_DELIVERING)) != u64(0) and peek(state, u64(_REASON)) == u64(_FAULT):
        poke(state, u64(_REASON), u64(_TRAP))
        call_1(peek(state, u64(_STOP_RUN)), uc)
        return
    poke(state, u64(_TRAPS), peek(state, u64(_TRAPS)) + u64(1))
    poke(state, u64(_DELIVERING), u64(1))
    call_1(peek(state, u64(_DELIVER)), peek(state, u64(_CPU)))
    poke(state, u64(_DELIVERING), u64(0))


@cache
def trap_callback() -> Any:
    """Exceptions and INT instructions, see `trap_signature`: all of them go to the guest's IDT."""
    define()
    inlined(deliver)

    def trap(uc: int, number: int, state: int) -> None:
        deliver(uc, state)

    return callback(trap_signature(), trap)


@cache
def invalid_callback() -> Any:
    """bool invalid(uc, state): the invalid opcode, the one exception that the library has a hook of its own for."""
    define()
    inlined(deliver)

    def invalid(uc: int, state: int) -> bool:
        deliver(uc, state)
        return True

    types = numba().types
    return callback(types.boolean(types.uint64, types.uint64), invalid)
