"""The memory type that both stages make together (Privileged, "Svpbmt" Extension for Page-Based Memory Types)."""

from __future__ import annotations

from dataclasses import replace

from ...errors import EncodingError
from ...flags import MemoryType
from ..effective import EffectiveType, Leaf, TypeSources
from .memory_types import IO, NC, PBMT_TYPES, PMA

MANUAL = 'RISC-V Privileged, "Svpbmt" Extension for Page-Based Memory Types'

_TEXTS = {
    NC: "NC: non-cacheable, idempotent, weakly ordered (RVWMO), as main memory",
    IO: "IO: non-cacheable, non-idempotent, strongly ordered, as I/O",
}
_NAMES = {PMA: "PMA", NC: "NC", IO: "IO"}


def combine(pma_type: MemoryType, vs_pbmt: int, g_pbmt: int) -> EffectiveType:
    """The effective memory type of an access that two stages translate.

    The G-stage's PBMT overrides the physical memory attributes, and the VS-stage's overrides the result; 0 (PMA) leaves
    what is there.

    Args:
        pma_type: what the physical memory attributes say of the address.
        vs_pbmt: bits 62:61 of the VS-stage leaf; 0 with vsatp Bare or without Svpbmt.
        g_pbmt: the same of the G-stage leaf.

    Raises:
        EncodingError: PBMT 3 is reserved, and there are no others.
    """
    for stage, pbmt in (("VS-stage", vs_pbmt), ("G-stage", g_pbmt)):
        if pbmt not in _NAMES:
            raise EncodingError(f"{stage} PBMT {pbmt} is reserved: 0 PMA, 1 NC and 2 IO are all there are")
    if vs_pbmt != PMA:
        winner, by = vs_pbmt, "the VS-stage leaf"
        if g_pbmt not in (PMA, vs_pbmt):
            by += f", which overrides the G-stage's {_NAMES[g_pbmt]}"
    elif g_pbmt != PMA:
        winner, by = g_pbmt, "the G-stage leaf"
    else:
        return EffectiveType(
            pma_type.value,
            f"Accesses are {pma_type.value}, as the physical memory attributes say: neither stage overrides them.",
            MANUAL,
        )
    text = f"Accesses are {_TEXTS[winner]}; that is from {by}"
    if (winner == IO) != (pma_type is MemoryType.DEVICE):
        # The manual's rule for aliases: such accesses take part in both kinds of ordering.
        text += f"; the memory itself is {pma_type.value}, so fences treat the access as both I/O and main memory"
    return EffectiveType(PBMT_TYPES[winner].value, text + ".", MANUAL)


def effective_type(stage_1: Leaf | None, stage_2: Leaf | None, sources: TypeSources) -> EffectiveType:
    """What an access gets.

    Args:
        stage_1: the VS-stage leaf; None with vsatp Bare.
        stage_2: the G-stage leaf; None with hgatp Bare.
        sources: the PMAs.

    Raises:
        EncodingError: a PBMT is reserved.
    """
    vs, g = (PMA if leaf is None else leaf.memory_type for leaf in (stage_1, stage_2))
    if sources.memory is not None:
        return combine(sources.memory, vs, g)
    found = combine(MemoryType.WRITE_BACK, vs, g)
    return replace(found, text=f"{found.text} The memory itself is taken to be {MemoryType.WRITE_BACK.value}.")
