"""PBMT, the memory type that a leaf's attributes hold, as a word."""

from __future__ import annotations

from ...flags import MemoryType
from ..outcome import MEMORY_TYPE_MASK, MEMORY_TYPE_SHIFT
from ..record import Format

PMA, NC, IO = 0, 1, 2
PBMT_TYPES = {NC: MemoryType.UNCACHED, IO: MemoryType.DEVICE}
"""What a PBMT makes of memory, whatever its PMAs say."""


def memory_type(fmt: Format, attributes: int, controls: int) -> tuple[str | None, str]:
    """PBMT as a word, and what that hangs on; None where the entry leaves it to the physical memory attributes."""
    found = PBMT_TYPES.get((attributes & MEMORY_TYPE_MASK) >> MEMORY_TYPE_SHIFT)
    if found is None:
        return None, "The physical memory attributes (PMAs) decide the memory type."
    return found.value, "It overrides the physical memory attributes (PMAs)."
