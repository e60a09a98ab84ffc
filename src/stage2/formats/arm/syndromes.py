"""What ESR, FAR and HPFAR of an AArch64 exception say, and ESR values for exceptions that we deliver.

Arm ARM DDI 0487, D24.2 "ESR_EL2" (the layout of ESR_EL1 is the same), "FAR_EL2" and "HPFAR_EL2".
"""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import EncodingError, OutOfRangeError
from ...flags import Access
from ..outcome import FaultKind
from ..record import Format
from ..syndrome import FaultReport, Refusal
from . import instruction as instructions
from . import trapped
from .esr_fields import CLASSES, DABT_LOWER, DABT_SAME, IABT_LOWER, IABT_SAME, ISV, field_values
from .fault_status import ARM_LAST_LEVEL, EXTERNAL_ABORT, FAULT_STATUS, encode_status, fault_status, meaning

__all__ = [
    "ARM_LAST_LEVEL",
    "CLASSES",
    "DABT_LOWER",
    "DABT_SAME",
    "IABT_LOWER",
    "IABT_SAME",
    "encode_abort",
    "encode_esr",
    "esr_of",
    "hardware_report",
    "hpfar_of",
    "report",
]

MANUAL = "Arm ARM DDI 0487, D24.2 ESR_EL2"
_NAMING = frozenset({FaultKind.TRANSLATION, FaultKind.ACCESS_FLAG, FaultKind.ADDRESS_SIZE})
"""Kinds of stage-2 faults for which HPFAR_EL2 always holds the IPA (IPAValid)."""

_FIPA = 0x0000_0FFF_FFFF_FFF0
"""HPFAR_EL2.FIPA: IPA bits 51:12."""
_S1PTW, _WNR, _CM, _FNV, _IL = 1 << 7, 1 << 6, 1 << 8, 1 << 10, 1 << 25


def report(esr: int, far: int | None = None, hpfar: int | None = None, el: int | None = None) -> FaultReport:
    """What an exception's registers say.

    Args:
        esr: ESR of the exception level that took it.
        far: FAR of the same level.
        hpfar: HPFAR_EL2; giving it says that the exception went to EL2.
        el: the level whose registers these are (1 for ESR_EL1), None when it is not known.

    Raises:
        OutOfRangeError: a value is wider than 64 bits.
        EncodingError: there is no such level, or HPFAR_EL2 is given beside the registers of another one.
    """
    if el not in _UNTOLD and el != 1:
        raise EncodingError(f"EL{el} takes no exceptions: 1, 2 and 3 do")
    if hpfar is not None and el not in (None, 2):
        raise EncodingError(f"HPFAR_EL2 says nothing of an exception that EL{el} took")
    for name, value in (("ESR", esr), ("FAR", far), ("HPFAR", hpfar)):
        if value is not None and (value < 0 or value >> 64):
            raise OutOfRangeError(f"{name} has 64 bits; {value:#x} does not fit")
    code, iss = esr >> 26 & 0x3F, esr & 0x1FF_FFFF
    if code in (IABT_LOWER, IABT_SAME, DABT_LOWER, DABT_SAME):
        return _abort(esr, far, hpfar, 2 if hpfar is not None else el)
    title = CLASSES.get(code, f"reserved exception class {code:#x}")
    fields = tuple(field_values(esr, far, hpfar, named=False))
    return FaultReport("aarch64", title, (trapped.sentence(code, iss),), fields=fields, manual=MANUAL)


def encode_esr(
    kind: FaultKind,
    stage: int,
    level: int,
    access: Access,
    *,
    lower: bool,
    on_table: bool = False,
    cache_maintenance: bool = False,
    instruction: int | None = None,
) -> int:
    """ESR of a fault that a walk ended in, as hardware writes it.

    Args:
        kind: why. MISCONFIGURATION is a translation fault, TABLE_OUTSIDE_MEMORY an external abort on the walk.
        stage: 1 for an abort to EL1, 2 for one to EL2.
        level: where the walk ended, counted from 0 = smallest page.
        access: FETCH makes an instruction abort, the others a data abort; WRITE sets WnR.
        lower: from a lower exception level; False for the same one.
        on_table: stage 2 refused an access to a stage-1 table (S1PTW); `access` is the one that began the walk.
        cache_maintenance: a cache or AT instruction did it (CM); WnR is 1 then.
        instruction: the word of the load or store, None where it is not known: its syndrome (ISV) is told where
            hardware tells it, which is for the access's own faults at stage 2.

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
    esr = encode_abort(encode_status(kind, level), access, lower=lower) | (_S1PTW if on_table else 0)
    if cache_maintenance:
        return esr | _WNR | _CM
    # No external abort has one, nor a fault on the way to a stage-1 table (AArch64.FaultSyndrome).
    own = stage == 2 and not on_table and kind is not FaultKind.TABLE_OUTSIDE_MEMORY and access is not Access.FETCH
    return esr | (instructions.instruction_syndrome(instruction) if own and instruction is not None else 0)


def esr_of(code: int, iss: int, *, long: bool) -> int:
    """ESR from its parts, as some hypervisors print it: the exception class, the syndrome and IL."""
    return code << 26 | (_IL if long else 0) | iss


def encode_abort(status: int, access: Access, *, lower: bool) -> int:
    """ESR of an instruction or data abort with a fault status code, without instruction syndrome (ISV 0, IL 1).

    Args:
        status: IFSC or DFSC, such as `EXTERNAL_ABORT`.
        access: FETCH makes an instruction abort, the others a data abort; WRITE sets WnR.
        lower: from a lower exception level; False for the same one.
    """
    code = (IABT_LOWER if access is Access.FETCH else DABT_LOWER) | (0 if lower else 1)
    return code << 26 | _IL | status | (_WNR if access is Access.WRITE else 0)


def hardware_report(
    fmt: Format,
    fault: Refusal,
    access: Access,
    gva: int | None,
    gpa: int,
    allowed: int,
    instruction: int | None = None,
) -> dict[str, int]:
    """ESR_EL2, FAR_EL2 and HPFAR_EL2 of a refused access; see `Family.hardware_report`.

    HPFAR_EL2 always holds the page of the IPA. The architecture leaves it unknown after a permission fault of the
    access itself: hardware may write it then, and nobody must rely on it.
    """
    # An IPA beyond what VTCR_EL2.T0SZ leaves is refused before the first lookup, and reported as Arm's level 0 (D8.2).
    level = ARM_LAST_LEVEL if gpa >> fmt.input_bits else fault.level
    return {
        "ESR_EL2": encode_esr(
            fault.kind, 2, level, access, lower=True, on_table=fault.on_table, instruction=instruction
        ),
        "FAR_EL2": gva or 0,
        "HPFAR_EL2": hpfar_of(gpa),
    }


def _abort(esr: int, far: int | None, hpfar: int | None, el: int | None) -> FaultReport:
    code, status = esr >> 26 & 0x3F, esr & 0x3F
    fetch, lower = code in (IABT_LOWER, IABT_SAME), code in (IABT_LOWER, DABT_LOWER)
    kind, arm_level = fault_status(status)
    on_table = bool(esr & _S1PTW) and lower
    # HPFAR_EL2 is of stage 2 alone, whose aborts come from a lower exception level, and so is an instruction syndrome,
    # which ESR_EL1 never has (ISV). A crash of the hypervisor's own prints the HPFAR_EL2 of some earlier fault.
    told = lower and (hpfar is not None or (el != 1 and not fetch and bool(esr & ISV)))
    walked = told and kind is not None and kind is not FaultKind.TABLE_OUTSIDE_MEMORY
    # Of a table's faults, those that EL1 takes and those from the same level are stage 1's.
    stage = 2 if on_table or walked else 1 if kind is not None and (el == 1 or not lower) else None
    maintenance = not fetch and bool(esr & _CM)
    access = Access.FETCH if fetch else None if maintenance else Access.WRITE if esr & _WNR else Access.READ
    gva = None if far is None or (status == EXTERNAL_ABORT and esr & _FNV) else far
    # External aborts, and permission faults of the access itself, leave HPFAR_EL2 unknown (D24.2 "HPFAR_EL2").
    named = stage == 2 and (kind in _NAMING or (on_table and kind is FaultKind.PERMISSION))
    gpa = _ipa(hpfar, None if on_table else gva) if named and hpfar is not None else None

    what = FAULT_STATUS.get(status, f"reserved fault status {status:#04x}")
    did = "A cache or address translation instruction" if maintenance else _DID[access]
    where = f" of address {gva:#x}" if gva is not None else ""
    at = "" if stage is None else f" at stage {stage}"
    sentences = [f"{did}{where} failed{at}: {what}."]
    if arm_level is not None:
        ours = ARM_LAST_LEVEL - arm_level
        sentences.append(f"Arm's level {arm_level} is level {ours} counted from the smallest page.")
    if kind is not None:
        sentences.append(f"That means: {meaning(kind, arm_level)}.")
    if on_table:
        sentences.append("Stage 2 refused the hardware's own access to a stage-1 table, not the access itself.")
    if gpa is not None:
        sentences.append(f"The IPA is {gpa:#x}." if not on_table else f"The table is in the IPA page {gpa:#x}.")
    elif stage == 2 and hpfar is not None:
        sentences.append("HPFAR_EL2 is not defined for this fault; only FAR_EL2 says where it was.")
    if far is not None and gva is None:
        sentences.append("FAR is not valid (FnV).")
    refused = ", so stage 1 of that level refused it" if stage == 1 else ""
    if not lower:
        sentences.append(f"It came from the same exception level{refused}.")
    elif el == 1:
        sentences.append(f"EL1 took it, so it came from EL0{' and stage 1 of EL1&0 refused it' if refused else ''}.")
    elif kind is not None and stage is None:
        sentences.append(_UNTOLD[el])
    if not fetch and esr & ISV:
        sentences.append(instructions.describe(esr))
    return FaultReport(
        "aarch64",
        CLASSES[code],
        tuple(sentences),
        kind,
        stage,
        None if arm_level is None else ARM_LAST_LEVEL - arm_level,
        access,
        True if el == 1 and lower else None if lower else False,
        gva,
        gpa,
        on_table,
        tuple(field_values(esr, far, hpfar, named=named)),
        MANUAL,
    )


_UNTOLD: Mapping[int | None, str] = {
    None: "The registers given do not tell the stage: taken to EL1 it is 1, taken to EL2 mostly 2.",
    2: "EL2 took it: stage 2 refused it, or under HCR_EL2.TGE stage 1 of EL2&0.",
    3: "EL3 took it: the registers do not tell whose stage refused it.",
}
"""By exception level, where the stage cannot be told."""
_DID = {Access.READ: "A read", Access.WRITE: "A write", Access.FETCH: "An instruction fetch", None: "An access"}


def hpfar_of(gpa: int) -> int:
    """HPFAR_EL2 of an IPA: its bits 51:12 in FIPA."""
    return gpa >> 8 & _FIPA


def _ipa(hpfar: int, gva: int | None) -> int:
    """FIPA holds IPA bits 51:12; the offset in the page is that of the address."""
    page = (hpfar & _FIPA) << 8
    return page | (0 if gva is None else gva & 0xFFF)
