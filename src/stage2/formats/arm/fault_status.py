"""The fault status codes that ESR_ELx and PAR_EL1 share (Arm ARM DDI 0487, D24.2 "ESR_EL2", DFSC; EncodeLDFSC)."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import EncodingError
from ..outcome import FaultKind

ARM_LAST_LEVEL = 3
"""Arm's number of the level of the smallest pages."""
EXTERNAL_ABORT = 0b010000
"""Synchronous external abort, not on a table walk."""
EXTERNAL_ABORTS = frozenset({0b010000, *range(0b010010, 0b011000), 0b011000, *range(0b011011, 0b100000)})
"""Synchronous external aborts and memory errors, on a table walk or not (IsExternalSyncAbort)."""
_BASES = {
    FaultKind.ADDRESS_SIZE: 0b000000,
    FaultKind.TRANSLATION: 0b000100,
    FaultKind.ACCESS_FLAG: 0b001000,
    FaultKind.PERMISSION: 0b001100,
    FaultKind.TABLE_OUTSIDE_MEMORY: 0b010100,
}
"""Kind -> code of level 0. A table that is not in memory is an external abort on the walk."""
_MINUS_ONE = {
    FaultKind.ADDRESS_SIZE: 0b101001,
    FaultKind.TRANSLATION: 0b101011,
    FaultKind.TABLE_OUTSIDE_MEMORY: 0b010011,
}
"""Kind -> code of level -1 (FEAT_LPA2)."""
_MINUS_TWO = {
    0b101010: FaultKind.TRANSLATION,
    0b101100: FaultKind.ADDRESS_SIZE,
    0b010010: FaultKind.TABLE_OUTSIDE_MEMORY,
}


def _statuses() -> Mapping[int, str]:
    """The fault status codes that ESR_ELx and PAR_EL1 share ("ESR_EL2", DFSC)."""
    found: dict[int, str] = {}
    for base, what in (
        (0b000000, "address size fault"), (0b000100, "translation fault"), (0b001000, "access flag fault"),
        (0b001100, "permission fault"), (0b010100, "external abort on a table walk"),
        (0b011100, "parity or ECC error on a table walk"), (0b100100, "granule protection fault on a table walk"),
    ):  # fmt: skip
        found |= {base | level: f"{what}, level {level}" for level in range(4)}
    found[0b000000] += ", or the address of the root table"
    return found | {
        0b010000: "external abort, not on a table walk",
        0b010001: "tag check fault",
        0b010010: "external abort on a table walk, level -2",
        0b010011: "external abort on a table walk, level -1",
        0b011000: "parity or ECC error, not on a table walk",
        0b011011: "parity or ECC error on a table walk, level -1",
        0b100001: "alignment fault",
        0b100010: "granule protection fault on a table walk, level -2",
        0b100011: "granule protection fault on a table walk, level -1",
        0b101000: "granule protection fault, not on a table walk",
        0b101001: "address size fault, level -1",
        0b101010: "translation fault, level -2",
        0b101011: "translation fault, level -1",
        0b101100: "address size fault, level -2",
        0b110000: "TLB conflict abort",
        0b110001: "unsupported atomic hardware update of a descriptor",
        0b110100: "implementation defined fault (lockdown)",
        0b110101: "implementation defined fault (unsupported exclusive or atomic access)",
    }


FAULT_STATUS = _statuses()
"""Fault status code -> what it says; codes not listed are reserved."""


def encode_status(kind: FaultKind, level: int) -> int:
    """The code of a fault.

    Args:
        kind: why. MISCONFIGURATION is a translation fault, TABLE_OUTSIDE_MEMORY an external abort on the walk.
        level: where the walk ended, counted from 0 = smallest page.

    Raises:
        EncodingError: hardware cannot report it.
    """
    meant = FaultKind.TRANSLATION if kind is FaultKind.MISCONFIGURATION else kind
    arm_level = ARM_LAST_LEVEL - level
    if arm_level == -1 and meant in _MINUS_ONE:
        return _MINUS_ONE[meant]
    if 0 <= arm_level <= ARM_LAST_LEVEL:
        return _BASES[meant] | arm_level
    raise EncodingError(f"no fault status stands for {kind.name.lower().replace('_', ' ')} at level {arm_level}")


def fault_status(status: int) -> tuple[FaultKind | None, int | None]:
    """Kind and Arm's level that DFSC, IFSC or FST stand for; (None, None) for what is no fault of a table."""
    for kind, code in _MINUS_ONE.items():
        if status == code:
            return kind, -1
    if status in _MINUS_TWO:
        return _MINUS_TWO[status], -2
    for kind, base in _BASES.items():
        if status & 0b111100 == base:
            return kind, status & 3
    return None, None


def meaning(kind: FaultKind, arm_level: int | None) -> str:
    """What a fault means to Arm, in a clause."""
    if kind is FaultKind.ADDRESS_SIZE:
        whose = " or the root table's address" if arm_level == 0 else ""
        return f"an output address in a descriptor{whose} is wider than PS or IPS allows"
    if kind is FaultKind.ACCESS_FLAG:
        return "the access flag (AF) of the descriptor is clear and hardware is not to set it"
    if kind is FaultKind.TRANSLATION and arm_level == 0:
        return f"{kind.meaning}; or the address is wider than T0SZ or T1SZ leaves"
    return kind.meaning
