"""List registers: in them a hypervisor gives a guest interrupts, and the hardware's virtual CPU interface serves them.

ICH_LR<n>_EL2 (Arm IHI 0069, 12.4) and GICH_LR<n> (Arm IHI 0048, 5.3.10), for interrupts that are no physical ones (HW
is zero).
"""

from __future__ import annotations

from .gic import Listed

_V3_PRIORITY, _V3_GROUP, _V3_EOI, _V3_STATE = 48, 60, 41, 62
_V2_PRIORITY, _V2_GROUP, _V2_EOI, _V2_STATE, _V2_CPU = 23, 30, 19, 28, 10
_V2_ID = 0x3FF
_PENDING, _ACTIVE = 1, 2


def encode_ich_lr(listed: Listed) -> int:
    """ICH_LR<n>_EL2 for an interrupt."""
    return (
        listed.intid
        | listed.priority << _V3_PRIORITY
        | listed.group << _V3_GROUP
        | listed.resample << _V3_EOI
        | _state(listed) << _V3_STATE
    )


def decode_ich_lr(value: int) -> tuple[int, bool, bool] | None:
    """(INTID, pending, active) of ICH_LR<n>_EL2; None where it is inactive."""
    return _decoded(value & 0xFFFF_FFFF, value >> _V3_STATE & 3)


def encode_gich_lr(listed: Listed) -> int:
    """GICH_LR<n> for an interrupt; an SGI's has its sender (CPUID) in bits 12:10."""
    sender = listed.source << _V2_CPU if listed.intid < 16 else 0
    return (
        listed.intid
        | sender
        | listed.priority >> 3 << _V2_PRIORITY
        | listed.group << _V2_GROUP
        | listed.resample << _V2_EOI
        | _state(listed) << _V2_STATE
    )


def decode_gich_lr(value: int) -> tuple[int, bool, bool] | None:
    """(INTID, pending, active) of GICH_LR<n>; None where it is inactive."""
    return _decoded(value & _V2_ID, value >> _V2_STATE & 3)


def _state(listed: Listed) -> int:
    return (_PENDING if listed.pending else 0) | (_ACTIVE if listed.active else 0)


def _decoded(intid: int, state: int) -> tuple[int, bool, bool] | None:
    return None if not state else (intid, bool(state & _PENDING), bool(state & _ACTIVE))
