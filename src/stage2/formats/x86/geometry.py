"""What the rules of x86-64 entries take for granted of a format's geometry."""

from __future__ import annotations

from ..record import Format


def x86_geometry(fmt: Format) -> str | None:
    """4 KiB pages, 9 index bits a level, 4 or 5 levels (SDM Vol. 3A, 5.5; Vol. 3C, 30.3.2; APM Vol. 2, 5.3)."""
    if fmt.page_shift != 12 or fmt.bits != 9 or fmt.root_bits != 9:
        return "x86-64 has pages of 4 KiB and 9 index bits at every level, the root's included"
    if fmt.levels not in (4, 5):
        return f"x86-64 has 4 or 5 levels, not {fmt.levels}: the others have entries of 32 bits, or a root of 4 entries"
    if fmt.top_leaf_level > 2:
        return "x86-64 has no leaf above 1 GiB"
    return None
