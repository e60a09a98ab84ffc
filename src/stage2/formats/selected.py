"""Which tables the registers of one CPU select: what each family's `roots` answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .effective import NOTHING_KNOWN, TypeSources
from .record import Format

Registers = Mapping[str, int]
"""Values by the manual's names, as far as they are known."""


@dataclass(frozen=True, slots=True)
class SelectedRoot:
    """Tables that a register points to.

    Args:
        register: which, by the manual's name: `TTBR1_EL1`.
        format: how the tables are laid out.
        root: address of the root table; a GPA where `below` names a register.
        controls: the format's control bits, as far as registers decide them.
        role: whose translation it is, in a few words.
        active: whether the CPU is translating by it; None where the registers do not tell.
        below: the register of the stage 2 that its addresses go through; empty for none.
        identifier: ASID, PCID, VMID or VPID.
        types: what beside its leaves decides memory types, as far as registers tell.
    """

    register: str
    format: Format
    root: int
    controls: int
    role: str
    active: bool | None = None
    below: str = ""
    identifier: int = 0
    types: TypeSources = NOTHING_KNOWN
