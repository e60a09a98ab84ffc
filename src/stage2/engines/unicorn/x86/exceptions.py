"""Exception vectors, and the error code of a page fault (Intel SDM Vol. 3A, 5.7 "Page-Fault Exceptions")."""

from __future__ import annotations

from ....flags import Access
from ....formats.outcome import FaultKind

INVALID_OPCODE, DOUBLE_FAULT, GENERAL_PROTECTION, PAGE_FAULT = 6, 8, 13, 14
PRESENT, WRITE, USER, RESERVED, FETCH = (1 << bit for bit in range(5))


def page_fault_code(kind: FaultKind, access: Access, *, user: bool, fetches_are_told: bool) -> int:
    """The error code.

    Args:
        kind: of the stage-1 fault.
        access: what was attempted.
        user: it was made with a user's rights.
        fetches_are_told: EFER.NXE or CR4.SMEP is set, else a fetch looks like a read.
    """
    code = 0 if kind is FaultKind.TRANSLATION else PRESENT
    if kind is FaultKind.MISCONFIGURATION:
        code |= RESERVED
    if access is Access.WRITE:
        code |= WRITE
    if access is Access.FETCH and fetches_are_told:
        code |= FETCH
    return code | (USER if user else 0)
