"""The registers of a hart on QEMU's board as values: what a guest has of it, and nothing that is the monitor's."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import Stage2Error
from ...formats.riscv.registers import decode_satp
from ...machines.core import Core
from ...machines.riscv_board import PENDING, Context
from .saved import registers_problem

SPP = 1 << 8
FLOATING_POINT = 3 << 13
"""sstatus.FS: dirty. A guest's own vsstatus.FS has the last word."""
UXL_64 = 2 << 32
SPV, SPVP, VSXL_64 = 1 << 7, 1 << 8, 2 << 32
"""hstatus: sret goes to the guest; in its supervisor mode; of 64 bits."""
INTERRUPTS = 1 << 2 | 1 << 6 | 1 << 10
"""Of hvip: the guest's software, timer and external interrupts."""
_ENABLED = 1 << 1 | 1 << 5 | 1 << 9
"""The same of vsie."""
_OURS = (Context.SSTATUS, Context.HSTATUS, Context.F0, Context.DELTA)
_NAMES = {
    **{f"x{number}": number for number in range(1, 32)},
    **{f"f{number}": Context.F0 + number for number in range(32)},
    **{which.name.lower(): int(which) for which in Context if which not in _OURS},
}
"""Registers by their names, and the words that hold them."""


def enter(core: Core, *, user: bool) -> None:
    """Let a hart go to the guest when it runs.

    Args:
        core: it.
        user: to its user mode, otherwise to its supervisor mode.
    """
    core.set_guest(Context.SSTATUS, FLOATING_POINT | UXL_64 | (0 if user else SPP))
    core.set_guest(Context.HSTATUS, SPV | VSXL_64 | (0 if user else SPVP))


def registers_of(core: Core) -> dict[str, int]:
    """The registers of a hart that rests, as of `riscv_board.save_rest`."""
    values = {name: core.guest(word) for name, word in _NAMES.items()}
    values["hvip"] |= core.word(PENDING) & INTERRUPTS
    return values | {"user": int(not core.guest(Context.SSTATUS) & SPP)}


def problem_of(values: Mapping[str, int]) -> str | None:
    """What is wrong with registers that a hart is to get; None for nothing."""
    problem = registers_problem(values, {*_NAMES, "user"})
    if problem is not None:
        return problem
    for name, allowed in (("hvip", INTERRUPTS), ("vsie", _ENABLED), ("user", 1)):
        if values[name] & ~allowed:
            return f"{name} cannot be {values[name]:#x}"
    try:
        decode_satp(values["vsatp"], "vsatp")
    except Stage2Error as error:
        return str(error)
    return None


def put(core: Core, values: Mapping[str, int]) -> None:
    """Give registers that have no problem to a hart that rests; `riscv_board.load_rest` completes it."""
    for name, word in _NAMES.items():
        core.set_guest(word, values[name])
    core.set_word(PENDING, 0)
    enter(core, user=bool(values["user"]))
