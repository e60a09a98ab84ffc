"""Which of the family's two kinds of entry a format has: EPT's, or long mode's (which AMD's nested tables share)."""

from __future__ import annotations

from ..record import Format

EPT = "EPT"
LONG_MODE = "long mode"


def is_ept(fmt: Format) -> bool:
    """Intel's extended page tables."""
    return fmt.rules.name == EPT


def is_nested(fmt: Format) -> bool:
    """AMD's nested page tables: entries of long mode at stage 2."""
    return fmt.rules.name == LONG_MODE and fmt.stage == 2
