"""ESR_ELx field by field: exception classes, and the syndrome of each (Arm ARM DDI 0487, D24.2 "ESR_EL2")."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..describe import FieldValue
from ..outcome import FaultKind
from ..record import Field
from . import register_fields
from .fault_status import EXTERNAL_ABORTS, FAULT_STATUS, fault_status

# --- exception classes -------------------------------------------------------------------------------------------
IABT_LOWER, IABT_SAME, DABT_LOWER, DABT_SAME = 0x20, 0x21, 0x24, 0x25
WFX, SYSREG = 0x01, 0x18
CALLS = {0x11: "SVC", 0x12: "HVC", 0x13: "SMC", 0x15: "SVC", 0x16: "HVC", 0x17: "SMC"}

CLASSES = {
    0x00: "unknown reason, such as an undefined instruction",
    0x01: "trapped WFI or WFE",
    0x03: "trapped MCR or MRC of coprocessor 15",
    0x04: "trapped MCRR or MRRC of coprocessor 15",
    0x05: "trapped MCR or MRC of coprocessor 14",
    0x06: "trapped LDC or STC",
    0x07: "trapped SVE, SIMD or floating-point instruction",
    0x08: "trapped VMRS of an identification register",
    0x09: "trapped pointer authentication instruction",
    0x0A: "trapped LD64B, ST64B or similar instruction",
    0x0C: "trapped MRRC of coprocessor 14",
    0x0D: "branch target exception",
    0x0E: "illegal execution state",
    0x11: "SVC from AArch32",
    0x12: "HVC from AArch32",
    0x13: "SMC from AArch32",
    0x14: "trapped MSRR, MRRS or SYSP",
    0x15: "SVC from AArch64",
    0x16: "HVC from AArch64",
    0x17: "SMC from AArch64",
    0x18: "trapped MSR, MRS or system instruction",
    0x19: "trapped SVE instruction",
    0x1A: "trapped ERET",
    0x1B: "trapped TSTART",
    0x1C: "pointer authentication failure",
    0x1D: "trapped SME instruction",
    0x1E: "granule protection check exception",
    0x1F: "implementation defined exception to EL3",
    IABT_LOWER: "instruction abort from a lower exception level",
    IABT_SAME: "instruction abort from the same exception level",
    0x22: "PC alignment fault",
    DABT_LOWER: "data abort from a lower exception level",
    DABT_SAME: "data abort from the same exception level",
    0x26: "SP alignment fault",
    0x27: "memory copy or set exception",
    0x28: "floating-point exception from AArch32",
    0x2C: "floating-point exception from AArch64",
    0x2D: "guarded control stack exception",
    0x2F: "SError interrupt",
    0x30: "breakpoint from a lower exception level",
    0x31: "breakpoint from the same exception level",
    0x32: "software step from a lower exception level",
    0x33: "software step from the same exception level",
    0x34: "watchpoint from a lower exception level",
    0x35: "watchpoint from the same exception level",
    0x38: "BKPT from AArch32",
    0x3A: "vector catch from AArch32",
    0x3C: "BRK from AArch64",
    0x3D: "profiling exception",
}
"""Exception class -> what it is; classes not listed are reserved."""


# --- fields --------------------------------------------------------------------------------------------------------
def _flag(bit: int, name: str, zero: str, one: str) -> Field:
    return Field(bit, bit, name, one, {0: zero, 1: one})


def _reserved(high: int, low: int) -> Field:
    return Field(high, low, "RES0", "reserved, must be zero", reserved=True)


ESR_EL2 = (
    Field(24, 0, "ISS", "the syndrome, by exception class"),
    _flag(25, "IL", "the instruction had 16 bits", "the instruction had 32 bits, or its length does not matter"),
    Field(31, 26, "EC", "reserved exception class", CLASSES),
    Field(55, 32, "ISS2", "more of the syndrome, by exception class"),
    _reserved(63, 56),
)
_ISS = (ESR_EL2[0],)
ISV = 1 << 24
"""Of a data abort: bits 23:14 describe the instruction."""
_OF_64_BYTES = (FaultKind.TRANSLATION, FaultKind.ACCESS_FLAG, FaultKind.PERMISSION)
"""Faults after which bits 12:11 tell 64-byte loads and stores."""
_COMMON = (
    _flag(7, "S1PTW", "the fault was in the address itself", "stage 2 refused an access to a stage-1 table"),
    _flag(9, "EA", "external abort type 0", "external abort type 1, implementation defined"),
    _flag(10, "FnV", "FAR is valid", "FAR is not valid"),
)
_SET = Field(12, 11, "SET", "state of the CPU after an external abort",
             {0: "recoverable state", 1: "reserved", 2: "uncontainable", 3: "restartable"})  # fmt: skip
_LST = Field(12, 11, "LST", "type of a 64-byte load or store (FEAT_LS64)",
             {0: "no 64-byte load or store that is told", 1: "ST64BV", 2: "LD64B or ST64B", 3: "ST64BV0"})  # fmt: skip
_NO_STATE = _reserved(12, 11)
_IABT = (
    Field(5, 0, "IFSC", "reserved fault status", FAULT_STATUS),
    _reserved(6, 6),
    _reserved(8, 8),
    *_COMMON,
    _reserved(13, 13),
    _flag(14, "PFV", "PFAR_EL2 is not valid", "PFAR_EL2 is valid"),
    _reserved(20, 15),
    _flag(21, "TopLevel", "no fault by TopLevel", "a fault by TopLevel (FEAT_THE)"),
    _reserved(24, 22),
)
_DABT = (
    Field(5, 0, "DFSC", "reserved fault status", FAULT_STATUS),
    _flag(6, "WnR", "a read", "a write"),
    _flag(8, "CM", "no cache maintenance", "a cache maintenance or address translation instruction"),
    *_COMMON,
    _flag(13, "VNCR", "not by VNCR_EL2", "the access was redirected by VNCR_EL2"),
    _flag(24, "ISV", "bits 23:14 say nothing", "bits 23:14 describe the instruction"),
)
_INSTRUCTION = (
    _flag(14, "AR", "no acquire or release", "the instruction has acquire or release semantics"),
    _flag(15, "SF", "the register has 32 bits", "the register has 64 bits"),
    Field(20, 16, "SRT", "number of the register that is loaded or stored"),
    _flag(21, "SSE", "no sign extension", "the value is sign-extended"),
    Field(23, 22, "SAS", "size of the access", {0: "1 byte", 1: "2 bytes", 2: "4 bytes", 3: "8 bytes"}),
)
_NO_INSTRUCTION = (Field(23, 14, "ISS[23:14]", "say nothing of the instruction while ISV is 0"),)
_CALL = (Field(15, 0, "imm16", "the number in the instruction"), _reserved(24, 16))
_ISS_OF = {
    **dict.fromkeys(CALLS, _CALL),
    WFX: (
        Field(1, 0, "TI", "the instruction", {0: "WFI", 1: "WFE", 2: "WFIT", 3: "WFET"}),
        Field(24, 2, "ISS[24:2]", "condition of an AArch32 instruction, and the register of WFIT and WFET"),
    ),
    SYSREG: (
        _flag(0, "Direction", "a write, MSR or SYS", "a read, MRS or SYSL"),
        Field(4, 1, "CRm", "part of the register's number"),
        Field(9, 5, "Rt", "the general-purpose register"),
        Field(13, 10, "CRn", "part of the register's number"),
        Field(16, 14, "Op1", "part of the register's number"),
        Field(19, 17, "Op2", "part of the register's number"),
        Field(21, 20, "Op0", "part of the register's number"),
        _reserved(24, 22),
    ),
}


_UNNAMED = tuple(
    item if item.reserved else replace(item, meaning="not defined after this exception", values={})
    for item in register_fields.HPFAR_EL2
)
"""HPFAR_EL2's fields after an exception that leaves it unknown."""


def syndrome_fields(code: int, iss: int) -> tuple[Field, ...]:
    """The fields of ISS, bits 24:0 of ESR.

    Args:
        code: the exception class.
        iss: the bits, which decide what some others mean.
    """
    fetch = code in (IABT_LOWER, IABT_SAME)
    if not fetch and code not in (DABT_LOWER, DABT_SAME):
        return _ISS_OF.get(code, _ISS)
    kind = fault_status(iss & 0x3F)[0]
    # SET is of external aborts alone, on a table walk or not (AArch64.FaultSyndrome, IsExternalSyncAbort).
    if iss & 0x3F in EXTERNAL_ABORTS:
        state = _SET
    elif not fetch and kind in _OF_64_BYTES:
        state = _LST
    else:
        state = _NO_STATE
    if fetch:
        return (*_IABT, state)
    return (*_DABT, state, *(_INSTRUCTION if iss & ISV else _NO_INSTRUCTION))


def field_values(esr: int, far: int | None, hpfar: int | None, *, named: bool) -> Iterator[tuple[str, FieldValue]]:
    """Every field of the registers given, lowest first; reserved ones when they are set.

    Args:
        esr, far, hpfar: the registers, None where one is not given.
        named: HPFAR_EL2 is defined after this exception.
    """
    iss = syndrome_fields(esr >> 26 & 0x3F, esr & 0x1FF_FFFF)
    given = (("ESR", (*iss, *ESR_EL2[1:]), esr), ("FAR", register_fields.FAR_EL2, far),
             ("HPFAR", register_fields.HPFAR_EL2 if named else _UNNAMED, hpfar))  # fmt: skip
    for name, described, value in given:
        if value is None:
            continue
        for found in sorted(described, key=lambda field: field.low):
            number = found.extract(value)
            if number or not found.reserved:
                yield name, FieldValue(found.bits, found.name, number, found.explain(number), found.reserved)
