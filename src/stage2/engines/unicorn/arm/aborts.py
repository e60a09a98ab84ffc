"""Syndromes of aborts taken to EL1 (Arm ARM, ESR_EL1, "ISS encoding for an exception from a Data Abort")."""

from __future__ import annotations

from ....flags import Access
from ....formats.outcome import ACCESS_FLAG, ADDRESS_SIZE, PERMISSION, TRANSLATION, FaultKind

IL = 1 << 25
WNR = 1 << 6
INSTRUCTION_ABORT, DATA_ABORT = 0x20, 0x24
"""Exception classes of aborts from a lower level; one more from the same level."""
EXTERNAL_ABORT, EXTERNAL_ABORT_ON_TABLE = 0x10, 0x14
_STATUS = {ADDRESS_SIZE: 0x00, TRANSLATION: 0x04, ACCESS_FLAG: 0x08, PERMISSION: 0x0C}
"""Fault status codes of level 0."""


def stage_1_status(kind: FaultKind, level: int) -> int:
    """IFSC or DFSC of a stage-1 fault.

    Args:
        kind: of the fault.
        level: in Arm's counting, 3 being the last.
    """
    return _STATUS.get(kind, _STATUS[TRANSLATION]) + level


def abort_syndrome(access: Access, status: int, *, from_el0: bool) -> int:
    """ESR_EL1 of an abort.

    Args:
        access: what was attempted.
        status: IFSC or DFSC.
        from_el0: the guest was at EL0 (not: the access had EL0's rights).
    """
    exception_class = INSTRUCTION_ABORT if access is Access.FETCH else DATA_ABORT
    if not from_el0:
        exception_class += 1
    return exception_class << 26 | IL | (WNR if access is Access.WRITE else 0) | status
