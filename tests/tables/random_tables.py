"""Where tables of random entries are put, for comparing walks with each other."""

from __future__ import annotations

from stage2.address import SIZE_4K, Range
from stage2.formats.record import Format

# Three ranges, so that the rare path of further ranges is taken, with holes between them.
RANGES = (
    Range(0x8000_0000, 0x8004_0000),
    Range(0x8008_0000, 0x800C_0000),
    Range(0x1_0000_0000, 0x1_0004_0000),
)
FRAMES = [hpa for span in RANGES for hpa in range(span.start, span.end, SIZE_4K)]
OUTSIDE = (0, 0x7FFF_F000, 0x8004_0000, 0x800C_0000, 0x1_0004_0000, 0xF_FFFF_FFFF_F000)
"""Places next to memory, between its ranges, and far away."""


def switches_of(fmt: Format) -> list[int]:
    """Controls to walk under: the default, each switch of the format, and narrow addresses more often than others."""
    narrow = [name for name in fmt.switches if name == "pa36"]
    return [fmt.default_controls, *(fmt.controls_with(name) for name in (*fmt.switches, *narrow))]
