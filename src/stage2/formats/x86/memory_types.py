"""The words for the memory types of EPT and IA32_PAT, and for the one that a leaf's attributes hold."""

from __future__ import annotations

from ...flags import MemoryType
from ..outcome import MEMORY_TYPE_MASK, MEMORY_TYPE_SHIFT
from ..record import Format
from . import ept
from .kinds import is_ept
from .longmode import PAT_MSR

TYPES = {
    0: MemoryType.UNCACHED.value,
    1: MemoryType.WRITE_COMBINING.value,
    4: MemoryType.WRITE_THROUGH.value,
    5: MemoryType.WRITE_PROTECTED.value,
    6: MemoryType.WRITE_BACK.value,
    7: "uncached-minus",
}
"""The encodings of EPT and of IA32_PAT (SDM Vol. 3A, table 13-10); the last one, UC-, is PAT's only."""
NAMES = {0: "UC", 1: "WC", 4: "WT", 5: "WP", 6: "WB", 7: "UC-"}
"""The same in the manuals' short names."""


def memory_type(fmt: Format, attributes: int, controls: int) -> tuple[str | None, str]:
    """EPT's type, or the entry of our `PAT_MSR` that PAT, PCD and PWT choose; and what that hangs on."""
    found = (attributes & MEMORY_TYPE_MASK) >> MEMORY_TYPE_SHIFT & 7
    if is_ept(fmt):
        alone = attributes & ept.IGNORE_PAT
        return TYPES.get(found), "The guest's PAT is ignored." if alone else "The guest's PAT combines with it."
    word = TYPES[PAT_MSR >> 8 * found & 7]
    if fmt.stage == 1:
        return word, f"That is entry {found} of IA32_PAT {PAT_MSR:#018x}; another PAT may differ."
    return word, (
        f"That is entry {found} of the host's IA32_PAT {PAT_MSR:#018x}; another PAT may differ. The guest's PAT and "
        "the MTRRs combine with it."
    )
