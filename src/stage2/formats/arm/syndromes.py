"""What ESR, FAR and HPFAR of an AArch64 exception say, and ESR values for exceptions that we deliver.

Arm ARM DDI 0487, D24.2 "ESR_EL2" (the layout of ESR_EL1 is the same), "FAR_EL2" and "HPFAR_EL2".
"""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import EncodingError, OutOfRangeError
from ...flags import Access
from ..describe import FieldValue
from ..outcome import FaultKind
from ..record import Field, Format
from ..syndrome import FaultReport, Refusal
from . import register_fields

MANUAL = "Arm ARM DDI 0487, D24.2 ESR_EL2"
ARM_LAST_LEVEL = 3

# --- exception classes -------------------------------------------------------------------------------------------
IABT_LOWER, IABT_SAME, DABT_LOWER, DABT_SAME = 0x20, 0x21, 0x24, 0x25
_WFX, _SYSREG = 0x01, 0x18
_CALLS = {0x11: "SVC", 0x12: "HVC", 0x13: "SMC", 0x15: "SVC", 0x16: "HVC", 0x17: "SMC"}

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

# --- fault status codes ------------------------------------------------------------------------------------------
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
_EXTERNAL_ABORT = 0b010000
_NAMING = frozenset({FaultKind.TRANSLATION, FaultKind.ACCESS_FLAG, FaultKind.ADDRESS_SIZE})
"""Kinds of stage-2 faults for which HPFAR_EL2 always holds the IPA."""

_FIPA = 0x0000_0FFF_FFFF_FFF0
"""HPFAR_EL2.FIPA: IPA bits 51:12."""
_S1PTW, _WNR, _CM, _FNV, _ISV, _IL = 1 << 7, 1 << 6, 1 << 8, 1 << 10, 1 << 24, 1 << 25


def report(esr: int, far: int | None = None, hpfar: int | None = None) -> FaultReport:
    """What an exception's registers say.

    Args:
        esr: ESR_EL2 or ESR_EL1.
        far: FAR of the same level.
        hpfar: HPFAR_EL2; giving it says that the exception went to EL2.

    Raises:
        OutOfRangeError: a value is wider than 64 bits.
    """
    for name, value in (("ESR", esr), ("FAR", far), ("HPFAR", hpfar)):
        if value is not None and (value < 0 or value >> 64):
            raise OutOfRangeError(f"{name} has 64 bits; {value:#x} does not fit")
    code, iss = esr >> 26 & 0x3F, esr & 0x1FF_FFFF
    if code in (IABT_LOWER, IABT_SAME, DABT_LOWER, DABT_SAME):
        return _abort(esr, far, hpfar)
    title = CLASSES.get(code, f"reserved exception class {code:#x}")
    if code == _WFX:
        first = f"{('WFI', 'WFE', 'WFIT', 'WFET')[iss & 3]} was trapped."
    elif code in _CALLS:
        first = f"{_CALLS[code]} #{iss & 0xFFFF:#x} was executed."
    elif code == _SYSREG:
        first = _system_register(iss)
    elif code in CLASSES:
        first = f"The exception is no memory fault: {title}."
    else:
        first = f"Exception class {code:#x} is reserved: the value is damaged or of a newer architecture."
    return FaultReport(
        "aarch64", title, (first,), fields=tuple(_fields(esr, far, hpfar, _ISS_OF.get(code, _ISS))), manual=MANUAL
    )


def encode_esr(
    kind: FaultKind,
    stage: int,
    level: int,
    access: Access,
    *,
    lower: bool,
    on_table: bool = False,
    cache_maintenance: bool = False,
) -> int:
    """ESR of an abort, as hardware writes it, without instruction syndrome (ISV 0, IL 1).

    Args:
        kind: why. MISCONFIGURATION is a translation fault, TABLE_OUTSIDE_MEMORY an external abort on the walk.
        stage: 1 for an abort to EL1, 2 for one to EL2.
        level: where the walk ended, counted from 0 = smallest page.
        access: FETCH makes an instruction abort, the others a data abort; WRITE sets WnR.
        lower: from a lower exception level; False for the same one.
        on_table: stage 2 refused an access to a stage-1 table (S1PTW); `access` is the one that began the walk.
        cache_maintenance: a cache or AT instruction did it (CM); WnR is 1 then.

    Raises:
        EncodingError: hardware cannot report it.
    """
    if stage not in (1, 2):
        raise EncodingError(f"there is no stage {stage}: 1 and 2 are all there are")
    if stage == 2 and not lower:
        raise EncodingError("a stage-2 abort always comes from a lower exception level")
    if on_table and stage != 2:
        raise EncodingError("S1PTW, a refused access to a stage-1 table, is stage 2's to report")
    if cache_maintenance and access is Access.FETCH:
        raise EncodingError("a cache maintenance instruction makes data aborts, no instruction aborts")
    meant = FaultKind.TRANSLATION if kind is FaultKind.MISCONFIGURATION else kind
    arm_level = ARM_LAST_LEVEL - level
    if arm_level == -1 and meant in _MINUS_ONE:
        status = _MINUS_ONE[meant]
    elif 0 <= arm_level <= ARM_LAST_LEVEL:
        status = _BASES[meant] | arm_level
    else:
        raise EncodingError(f"no fault status stands for {kind.name.lower().replace('_', ' ')} at level {arm_level}")
    fetch = access is Access.FETCH
    code = (IABT_LOWER if fetch else DABT_LOWER) | (0 if lower else 1)
    esr = code << 26 | _IL | status | (_S1PTW if on_table else 0)
    return esr | (_WNR if access is Access.WRITE or cache_maintenance else 0) | (_CM if cache_maintenance else 0)


def hardware_report(
    fmt: Format, fault: Refusal, access: Access, gva: int | None, gpa: int, allowed: int
) -> dict[str, int]:
    """ESR_EL2, FAR_EL2 and HPFAR_EL2 of a refused access; see `formats.hardware_report`.

    HPFAR_EL2 always holds the page of the IPA. The architecture leaves it unknown after a permission fault of the
    access itself: hardware may write it then, and nobody must rely on it.
    """
    # An IPA beyond what VTCR_EL2.T0SZ leaves is refused before the first lookup, and reported as Arm's level 0 (D8.2).
    level = ARM_LAST_LEVEL if gpa >> fmt.input_bits else fault.level
    return {
        "ESR_EL2": encode_esr(fault.kind, 2, level, access, lower=True, on_table=fault.on_table),
        "FAR_EL2": gva or 0,
        "HPFAR_EL2": gpa >> 8 & _FIPA,
    }


def _abort(esr: int, far: int | None, hpfar: int | None) -> FaultReport:
    code, status = esr >> 26 & 0x3F, esr & 0x3F
    fetch, lower = code in (IABT_LOWER, IABT_SAME), code in (IABT_LOWER, DABT_LOWER)
    kind, arm_level = fault_status(status)
    on_table = bool(esr & _S1PTW) and lower
    walked = hpfar is not None and kind is not None and kind is not FaultKind.TABLE_OUTSIDE_MEMORY
    stage = 2 if on_table else 1 if not lower else 2 if walked else None
    maintenance = not fetch and bool(esr & _CM)
    access = Access.FETCH if fetch else None if maintenance else Access.WRITE if esr & _WNR else Access.READ
    gva = None if far is None or (status == _EXTERNAL_ABORT and esr & _FNV) else far
    # External aborts, and permission faults of the access itself, leave HPFAR_EL2 unknown (D24.2 "HPFAR_EL2").
    named = stage == 2 and (kind in _NAMING or (on_table and kind is FaultKind.PERMISSION))
    gpa = _ipa(hpfar, None if on_table else gva) if named and hpfar is not None else None

    what = register_fields.FAULT_STATUS.get(status, f"reserved fault status {status:#04x}")
    did = "A cache or address translation instruction" if maintenance else _DID[access]
    where = f" of address {gva:#x}" if gva is not None else ""
    at = "" if stage is None else f" at stage {stage}"
    sentences = [f"{did}{where} failed{at}: {what}."]
    if arm_level is not None:
        ours = ARM_LAST_LEVEL - arm_level
        sentences.append(f"Arm's level {arm_level} is level {ours} counted from the smallest page.")
    if kind is not None:
        sentences.append(f"That means: {kind.meaning}.")
    if on_table:
        sentences.append("Stage 2 refused the hardware's own access to a stage-1 table, not the access itself.")
    if gpa is not None:
        sentences.append(f"The IPA is {gpa:#x}." if not on_table else f"The table is in the IPA page {gpa:#x}.")
    elif stage == 2 and hpfar is not None:
        sentences.append("HPFAR_EL2 is not defined for this fault; only FAR_EL2 says where it was.")
    if far is not None and gva is None:
        sentences.append("FAR is not valid (FnV).")
    if not lower:
        sentences.append("It came from the same exception level, so stage 1 of that level refused it.")
    if stage is None and lower:
        sentences.append("The registers given do not tell the stage: taken to EL1 it is 1, taken to EL2 mostly 2.")
    if not fetch and esr & _ISV:
        sentences.append(_instruction(esr))
    return FaultReport(
        "aarch64",
        CLASSES[code],
        tuple(sentences),
        kind,
        stage,
        None if arm_level is None else ARM_LAST_LEVEL - arm_level,
        access,
        None if lower else False,
        gva,
        gpa,
        on_table,
        tuple(_fields(esr, far, hpfar, _IABT if fetch else _DABT if esr & _ISV else _DABT_PLAIN)),
        MANUAL,
    )


_DID = {Access.READ: "A read", Access.WRITE: "A write", Access.FETCH: "An instruction fetch", None: "An access"}


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


def _ipa(hpfar: int, gva: int | None) -> int:
    """FIPA holds IPA bits 51:12; the offset in the page is that of the address."""
    page = (hpfar & _FIPA) << 8
    return page | (0 if gva is None else gva & 0xFFF)


def _instruction(esr: int) -> str:
    """The instruction syndrome of a data abort (ISV)."""
    size, register = 1 << (esr >> 22 & 3), esr >> 16 & 31
    wide = esr >> 15 & 1
    name = ("xzr" if wide else "wzr") if register == 31 else f"{'x' if wide else 'w'}{register}"
    if esr & _WNR:
        return f"The instruction stores {size} byte{'s' if size > 1 else ''} of {name}."
    signed = " and extends the sign" if esr >> 21 & 1 else ""
    return f"The instruction loads {size} byte{'s' if size > 1 else ''} into {name}{signed}."


_NAMES = {
    (3, 0, 1, 0, 0): "SCTLR_EL1", (3, 0, 1, 0, 1): "ACTLR_EL1", (3, 0, 1, 0, 2): "CPACR_EL1",
    (3, 0, 2, 0, 0): "TTBR0_EL1", (3, 0, 2, 0, 1): "TTBR1_EL1", (3, 0, 2, 0, 2): "TCR_EL1",
    (3, 0, 5, 1, 0): "AFSR0_EL1", (3, 0, 5, 1, 1): "AFSR1_EL1", (3, 0, 5, 2, 0): "ESR_EL1",
    (3, 0, 6, 0, 0): "FAR_EL1", (3, 0, 7, 4, 0): "PAR_EL1", (3, 0, 10, 2, 0): "MAIR_EL1",
    (3, 0, 10, 3, 0): "AMAIR_EL1", (3, 0, 12, 0, 0): "VBAR_EL1", (3, 0, 13, 0, 1): "CONTEXTIDR_EL1",
    (3, 0, 0, 0, 0): "MIDR_EL1", (3, 0, 0, 0, 5): "MPIDR_EL1", (3, 0, 0, 7, 0): "ID_AA64MMFR0_EL1",
    (3, 0, 12, 11, 5): "ICC_SGI1R_EL1", (3, 3, 14, 2, 1): "CNTP_CTL_EL0", (3, 3, 14, 2, 2): "CNTP_CVAL_EL0",
}  # fmt: skip
"""(op0, op1, CRn, CRm, op2) -> name, of registers a hypervisor traps."""


def _system_register(iss: int) -> str:
    op0, op2, op1 = iss >> 20 & 3, iss >> 17 & 7, iss >> 14 & 7
    crn, register, crm = iss >> 10 & 15, iss >> 5 & 31, iss >> 1 & 15
    target = "xzr" if register == 31 else f"x{register}"
    if op0 == 1:
        form = "SYSL" if iss & 1 else "SYS"
        return f"The system instruction {form} #{op1}, C{crn}, C{crm}, #{op2} with {target} was trapped."
    name = f"S{op0}_{op1}_C{crn}_C{crm}_{op2}"
    known = _NAMES.get((op0, op1, crn, crm, op2))
    name += f" ({known})" if known else ""
    return f"A read of {name} into {target} was trapped." if iss & 1 else f"A write of {target} to {name} was trapped."


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
_FSC = register_fields.FAULT_STATUS
_COMMON = (
    _flag(7, "S1PTW", "the fault was in the address itself", "stage 2 refused an access to a stage-1 table"),
    _flag(9, "EA", "external abort type 0", "external abort type 1, implementation defined"),
    _flag(10, "FnV", "FAR is valid", "FAR is not valid"),
    Field(12, 11, "SET", "state of the CPU after an external abort",
          {0: "recoverable state", 1: "reserved", 2: "uncontainable", 3: "restartable"}),
)  # fmt: skip
_IABT = (
    Field(5, 0, "IFSC", "reserved fault status", _FSC),
    _reserved(6, 6),
    _reserved(8, 8),
    *_COMMON,
    _reserved(13, 13),
    _flag(14, "PFV", "PFAR_EL2 is not valid", "PFAR_EL2 is valid"),
    _reserved(20, 15),
    _flag(21, "TopLevel", "no fault by TopLevel", "a fault by TopLevel (FEAT_THE)"),
    _reserved(24, 22),
)
_DABT_COMMON = (
    Field(5, 0, "DFSC", "reserved fault status", _FSC),
    _flag(6, "WnR", "a read", "a write"),
    _flag(8, "CM", "no cache maintenance", "a cache maintenance or address translation instruction"),
    *_COMMON,
    _flag(13, "VNCR", "not by VNCR_EL2", "the access was redirected by VNCR_EL2"),
)
_DABT = (
    *_DABT_COMMON,
    _flag(14, "AR", "no acquire or release", "the instruction has acquire or release semantics"),
    _flag(15, "SF", "the register has 32 bits", "the register has 64 bits"),
    Field(20, 16, "SRT", "number of the register that is loaded or stored"),
    _flag(21, "SSE", "no sign extension", "the value is sign-extended"),
    Field(23, 22, "SAS", "size of the access", {0: "1 byte", 1: "2 bytes", 2: "4 bytes", 3: "8 bytes"}),
    _flag(24, "ISV", "bits 23:14 say nothing", "bits 23:14 describe the instruction"),
)
_DABT_PLAIN = (*_DABT_COMMON, Field(23, 14, "ISS[23:14]", "say nothing of the instruction while ISV is 0"), _DABT[-1])
_CALL = (Field(15, 0, "imm16", "the number in the instruction"), _reserved(24, 16))
_ISS_OF = {
    **dict.fromkeys(_CALLS, _CALL),
    _WFX: (
        Field(1, 0, "TI", "the instruction", {0: "WFI", 1: "WFE", 2: "WFIT", 3: "WFET"}),
        Field(24, 2, "ISS[24:2]", "condition of an AArch32 instruction, and the register of WFIT and WFET"),
    ),
    _SYSREG: (
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


def _fields(esr: int, far: int | None, hpfar: int | None, iss: tuple[Field, ...]) -> Iterable[tuple[str, FieldValue]]:
    """Every field of the registers given, lowest first; reserved ones when they are set."""
    given = (("ESR", (*iss, *ESR_EL2[1:]), esr), ("FAR", register_fields.FAR_EL2, far),
             ("HPFAR", register_fields.HPFAR_EL2, hpfar))  # fmt: skip
    for name, described, value in given:
        if value is None:
            continue
        for found in sorted(described, key=lambda field: field.low):
            number = found.extract(value)
            if number or not found.reserved:
                yield name, FieldValue(found.bits, found.name, number, found.explain(number), found.reserved)
