"""The registers of an AArch64 core on QEMU's board as values: what a guest has, and nothing that is the monitor's."""

from __future__ import annotations

from collections.abc import Mapping

from ...machines.arm_board import OFFSET_WORD, REST, REST_AT, VECTORS_WORD, Context
from ...machines.core import Core
from .saved import registers_problem

_MODES = (0b0000, 0b0100, 0b0101)
"""PSTATE.M of EL0 and EL1 in AArch64 state (DDI 0487 C5.2.18)."""
_CONTEXT = {
    **{f"x{number}": number for number in range(31)},
    **{which.name.lower(): int(which) for which in Context},
}
"""Registers of the guest's part of the mailbox by their names, and their words."""
_VECTORS = {
    f"v{number}_{half}": VECTORS_WORD + 2 * number + high
    for number in range(32)
    for high, half in enumerate(("low", "high"))
}
_REST = {name: word for word, name in enumerate(REST)} | _VECTORS
NAMES = {*_CONTEXT, *_REST}


def registers_of(core: Core) -> dict[str, int]:
    """The registers of a core whose rest was saved."""
    values = {name: core.guest(word) for name, word in _CONTEXT.items()}
    return values | {name: core.word(REST_AT + 8 * word) for name, word in _REST.items()}


def virtual_offset(core: Core) -> int:
    """CNTVOFF_EL2 of a core whose rest was saved."""
    return core.word(REST_AT + 8 * OFFSET_WORD)


def problem_of(values: Mapping[str, int]) -> str | None:
    """What is wrong with registers that a core is to get; None for nothing."""
    problem = registers_problem(values, NAMES)
    if problem is not None:
        return problem
    state = values["spsr"]
    if state & 0x1F not in _MODES:
        return f"PSTATE {state:#x} is none of EL0 or EL1 in AArch64 state"
    return None


def put(core: Core, values: Mapping[str, int], offset: int) -> None:
    """Give registers that have no problem to a core that rests; RESTORE loads them.

    Args:
        core: it.
        values: the registers.
        offset: CNTVOFF_EL2, by which its virtual time goes on from the value that it had.
    """
    for name, word in _CONTEXT.items():
        core.set_guest(word, values[name])
    for name, word in _REST.items():
        core.set_word(REST_AT + 8 * word, values[name])
    core.set_word(REST_AT + 8 * OFFSET_WORD, offset)
