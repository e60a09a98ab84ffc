"""The regime that an x86 guest's own control registers select."""

from __future__ import annotations

from dataclasses import replace

from ..formats.x86 import longmode
from ..formats.x86.paging import EFLAGS_AC, FLAT, ROOT, controls_of, levels_of, mode_of
from ..tables.regime import Regime

FLAT_FORMAT = replace(longmode.X86_4LEVEL, name="flat", levels=0, root_bits=0, top_leaf_level=0)
"""Paging is off: output is input."""


def regime_of(*, cr0: int, cr3: int, cr4: int, efer: int, eflags: int, processor: int) -> Regime:
    """The regime of registers that select long mode or no paging (`paging.mode_of`).

    Args:
        cr0, cr3, cr4, efer, eflags: the registers; EFLAGS.AC exempts from SMAP.
        processor: the control bits that the processor decides (`paging.controls_of`).
    """
    if mode_of(cr0, cr4, efer) == FLAT:
        return Regime(FLAT_FORMAT, 0, 0)
    fmt = longmode.X86_5LEVEL if levels_of(cr4) == longmode.X86_5LEVEL.levels else longmode.X86_4LEVEL
    return Regime(fmt, cr3 & ROOT, controls_of(cr0, cr4, efer, eflags & EFLAGS_AC, processor))
