"""The generic timer of an AArch64 vCPU by the machine's virtual time (Arm DDI 0487, D11.2).

The library's own counter is the host's clock, and its timers never fire. So the registers get functions of ours: the
counter reads the machine's clock, and a write to the virtual timer ends the run, so that the machine sees to its timer
list.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ....formats.u64 import u64
from ....tables.compiled import callback, inlined, numba
from ....tables.raw import peek, poke
from ..state import TICK_SHIFT, Word
from . import abi

ENABLE, IMASK = 1 << 0, 1 << 1
"""CNTV_CTL_EL0; ISTATUS is bit 2."""
_CLOCK_AT, _SLICE_END = int(Word.CLOCK_AT), int(Word.SLICE_END)
_CVAL, _CTL, _OPAQUE = abi.ENV_CNTV_CVAL, abi.ENV_CNTV_CTL, abi.REGISTER_OPAQUE


def _state_of(register: int) -> int:
    """The vCPU's state block, which the register's record leads to."""
    return peek(register + u64(_OPAQUE), u64(0))


def _now(register: int) -> int:
    """The counter."""
    return peek(peek(_state_of(register), u64(_CLOCK_AT)), u64(0)) >> u64(TICK_SHIFT)


def _leave(register: int) -> None:
    """End the run at the next block."""
    poke(_state_of(register), u64(_SLICE_END), u64(0))


def _read_count(env: int, register: int) -> int:
    return _now(register)


def _read_control(env: int, register: int) -> int:
    control = peek(env + u64(_CTL), u64(0))
    met = control & u64(1) != u64(0) and _now(register) >= peek(env + u64(_CVAL), u64(0))
    return control | (u64(4) if met else u64(0))


def _write_control(env: int, register: int, value: int) -> None:
    poke(env + u64(_CTL), u64(0), value & u64(3))
    _leave(register)


def _write_compare(env: int, register: int, value: int) -> None:
    poke(env + u64(_CVAL), u64(0), value)
    _leave(register)


def _read_left(env: int, register: int) -> int:
    return (peek(env + u64(_CVAL), u64(0)) - _now(register)) & u64(0xFFFFFFFF)


def _write_left(env: int, register: int, value: int) -> None:
    left = value & u64(0xFFFFFFFF)
    if left >> u64(31) != u64(0):
        left |= u64(0xFFFFFFFF00000000)
    poke(env + u64(_CVAL), u64(0), _now(register) + left)
    _leave(register)


@cache
def _compiled() -> tuple[Any, ...]:
    for helper in (_state_of, _now, _leave):
        inlined(helper)
    types = numba().types
    word = types.uint64
    reads, writes = word(word, word), types.void(word, word, word)
    return (
        callback(reads, _read_count),
        callback(reads, _read_control),
        callback(writes, _write_control),
        callback(writes, _write_compare),
        callback(reads, _read_left),
        callback(writes, _write_left),
    )


def install_timer(cpu: abi.ArmAbi, state: int, hertz: int) -> None:
    """Let a CPU's counter and virtual timer go by the machine's clock.

    Args:
        cpu: it.
        state: address of its state block.
        hertz: what the counter's frequency register says.
    """
    count, read_control, write_control, write_compare, read_left, write_left = (one.address for one in _compiled())
    cpu.set_system(abi.CNTFRQ_EL0, hertz)
    for register, read, write in (
        (abi.CNTPCT_EL0, count, 0),
        (abi.CNTVCT_EL0, count, 0),
        (abi.CNTV_CTL_EL0, read_control, write_control),
        (abi.CNTV_CVAL_EL0, 0, write_compare),
        (abi.CNTV_TVAL_EL0, read_left, write_left),
    ):
        cpu.set_accessors(register, read, write, state)
