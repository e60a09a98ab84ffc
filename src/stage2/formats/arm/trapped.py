"""Exceptions that are no aborts, in a sentence each (Arm ARM DDI 0487, D24.2 "ESR_EL2")."""

from __future__ import annotations

from .esr_fields import CALLS, CLASSES, SYSREG, WFX


def sentence(code: int, iss: int) -> str:
    """What happened.

    Args:
        code: the exception class.
        iss: bits 24:0 of ESR.
    """
    if code == WFX:
        return f"{('WFI', 'WFE', 'WFIT', 'WFET')[iss & 3]} was trapped."
    if code in CALLS:
        return f"{CALLS[code]} #{iss & 0xFFFF:#x} was executed."
    if code == SYSREG:
        return _system_register(iss)
    if code in CLASSES:
        return f"The exception is no memory fault: {CLASSES[code]}."
    return f"Exception class {code:#x} is reserved: the value is damaged or of a newer architecture."


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
