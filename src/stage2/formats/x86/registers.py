"""The EPT pointer (Intel SDM Vol. 3C, 26.6.11)."""

from __future__ import annotations

from ...address import require_aligned
from ...errors import OutOfRangeError
from ..record import Format
from . import ept


def eptp(fmt: Format, root: int, *, accessed_dirty: bool = False) -> int:
    """The EPTP: write-back walks, walk length minus one, A/D enable, root address.

    Raises:
        MisalignedError: the root is no multiple of 4 KiB.
        OutOfRangeError: the root is above 2^52.
    """
    require_aligned("root table", root, fmt.root_size)
    if root >> fmt.output_bits:
        raise OutOfRangeError(f"root table {root:#x} is above 2^{fmt.output_bits}")
    return root | (1 << 6 if accessed_dirty else 0) | (fmt.levels - 1) << 3 | 6


def stage_2_registers(fmt: Format, root: int, controls: int, identifier: int) -> dict[str, int]:
    """What to load for a stage-2 regime: the EPTP, and the VPID in its own VMCS field."""
    return {"EPTP": eptp(fmt, root, accessed_dirty=bool(controls & ept.AD_ENABLED)), "VPID": identifier}
