"""Input addresses as programs write them: with the bits above the width that a format demands.

Walks and kernels take addresses without those; RISC-V and x86 demand copies of the highest bit (Privileged Architecture
"Virtual-Memory System"; SDM 3A 4.5 "canonical"), Arm's upper half of addresses ones.
"""

from __future__ import annotations

import numpy as np

from ..address import ADDRESS_LIMIT
from ..formats.record import Format
from .mapping import U64Array


def outward(fmt: Format, address: int) -> int:
    """One address with the bits above the width."""
    upper = address >> fmt.input_bits - 1 if fmt.sign_extended else fmt.high_half
    return address | ADDRESS_LIMIT - (1 << fmt.input_bits) if upper else address


def outward_all(fmt: Format, addresses: U64Array) -> None:
    """An array of them, in place."""
    if fmt.sign_extended:
        high = addresses >> np.uint64(fmt.input_bits - 1) != 0
        addresses[high] |= np.uint64(ADDRESS_LIMIT - (1 << fmt.input_bits))
    elif fmt.high_half:
        addresses |= np.uint64(ADDRESS_LIMIT - (1 << fmt.input_bits))
