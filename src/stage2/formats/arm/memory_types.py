"""The word for the memory type that a leaf's attributes hold."""

from __future__ import annotations

from ...flags import MemoryType
from ..outcome import MEMORY_TYPE_MASK, MEMORY_TYPE_SHIFT
from ..record import Format
from .stage1 import ATTR_INDEX, MAIR
from .stage2 import FWB

DEVICE = MemoryType.DEVICE.value
BACK, THROUGH, NON_CACHEABLE = MemoryType.WRITE_BACK.value, MemoryType.WRITE_THROUGH.value, MemoryType.UNCACHED.value
_ATTRIBUTES = {1: NON_CACHEABLE, 2: THROUGH, 3: BACK}
"""MemAttr[3:2], the outer attribute, where it is not Device (D8.6.5)."""
_FORCED = {0b0101: NON_CACHEABLE, 0b0110: BACK}
_LEFT_TO_STAGE_1 = 0b0111
"""MemAttr with FEAT_S2FWB, where it is not Device (D8.6.6)."""


def memory_type(fmt: Format, attributes: int, controls: int) -> tuple[str | None, str]:
    """The outer cacheability as a word, and what that hangs on.

    None where stage 2 leaves the type to stage 1, the value is reserved, or a stage-1 index is beyond our MAIR.
    """
    found = (attributes & MEMORY_TYPE_MASK) >> MEMORY_TYPE_SHIFT
    if fmt.stage == 1:
        index = found & 7
        if index not in ATTR_INDEX.values():
            return None, f"Attribute {index} of MAIR decides the memory type."
        outer = MAIR >> 8 * index + 4 & 0xF
        word = DEVICE if not outer else NON_CACHEABLE if outer == 0b0100 else BACK if outer & 0b0100 else THROUGH
        return word, f"That is attribute {index} of MAIR {MAIR:#x}; another MAIR may differ."
    if controls & FWB:
        if found == _LEFT_TO_STAGE_1:
            return None, "Stage 1 decides the memory type."
        forced = _FORCED.get(found) if found & 0b0100 else DEVICE
        return forced, "" if forced else f"MemAttr {found:#06b} is reserved under HCR_EL2.FWB."
    if found >> 2 and not found & 3:
        return None, f"MemAttr {found:#06b} is reserved."
    return _ATTRIBUTES.get(found >> 2, DEVICE), "Stage 1's type combines with it; the one that caches less holds."
