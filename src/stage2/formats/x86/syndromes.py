"""What AMD's nested page fault and a guest's page fault say, and the numbers for those we deliver; EPT's: `ept_faults`.

AMD APM Vol. 2, 15.25.6 "Nested versus Guest Page Faults, Fault Ordering" and 15.36.10 "RMP and VMPL Access Checks";
Intel SDM Vol. 3A, 5.7 "Page-Fault Exceptions".
"""

from __future__ import annotations

from ...errors import EncodingError
from ...flags import RWX, Access, MappingFlags
from ..outcome import USER_SHIFT, FaultKind
from ..record import Format
from ..syndrome import FaultReport, Refusal
from . import ept, longmode
from .ept_faults import MISCONFIGURATION_EXIT, encode_qualification
from .ept_faults import ept_fault as ept_fault
from .fault_words import DID, fields, opening, require
from .kinds import is_ept
from .syndrome_fields import EXITINFO1, PAGE_FAULT_ERROR

# --- AMD's nested page faults ---------------------------------------------------------------------------------------
MANUAL_NPF = 'AMD APM Vol. 2, 15.25.6 "Nested versus Guest Page Faults, Fault Ordering"'
_P, _W, _U, _RSVD, _I, _PK, _SS, _HLAT = (1 << bit for bit in range(8))
_SGX, _RMP = 1 << 15, 1 << 31
_NPF_FINAL, _NPF_TABLE = 1 << 32, 1 << 33
NPF_FINAL_OR_TABLE = _NPF_FINAL | _NPF_TABLE
"""EXITINFO1 of a nested page fault always has one of them; no exit qualification of EPT does."""


def nested_page_fault(exitinfo1: int, exitinfo2: int | None = None) -> FaultReport:
    """What EXITINFO1 and EXITINFO2 of a nested page fault (#VMEXIT(NPF), exit code 0x400) say.

    Args:
        exitinfo1: the error code.
        exitinfo2: the guest-physical address.

    Raises:
        OutOfRangeError: a value is wider than 64 bits.
    """
    given: dict[str, int | None] = {"EXITINFO1": exitinfo1, "EXITINFO2": exitinfo2}
    require(given)
    access = _error_access(exitinfo1)
    final, on_table = bool(exitinfo1 & _NPF_FINAL), bool(exitinfo1 & _NPF_TABLE)
    kind = _error_kind(exitinfo1)
    sentences = [opening(DID[access], None, exitinfo2), _NPF_REASONS[kind]]
    if exitinfo1 & _RMP:
        kind = FaultKind.PERMISSION
        sentences[1] = "The reverse map table of SEV-SNP refused it: the page is not the guest's, or not as it says."
    if exitinfo1 & _RSVD and not exitinfo1 & _P:
        sentences.append("RSV without P contradicts itself: an entry that is not present has no reserved bits.")
    if final and on_table:
        sentences.append("Bits 32 and 33 are both set, which contradicts itself: one access is final or to a table.")
    elif on_table:
        sentences.append("It was not the instruction's own access: hardware walked the guest's tables, and the nested "
                         "tables refused the access to one of their entries, which counts as a write.")  # fmt: skip
    elif not final:
        sentences.append("Neither bit 32 nor 33 is set: it does not say whether the guest's tables were being walked.")
    if not exitinfo1 & _U:
        sentences.append("US is clear, though every access of a guest is a user access to the nested tables, unless a "
                         "feature such as GMET says otherwise.")  # fmt: skip
    if exitinfo1 & _SS:
        sentences.append("It was a shadow-stack access.")
    if exitinfo2 is None:
        sentences.append("The guest-physical address is not given: it is in EXITINFO2.")
    return FaultReport(
        "x86_64", "nested page fault", tuple(sentences), kind, 2, None, access, None, None, exitinfo2,
        on_table and not final, tuple(fields(given, EXITINFO1)), MANUAL_NPF,
    )  # fmt: skip


def encode_exitinfo1(kind: FaultKind, access: Access, *, on_table: bool = False, shadow_stack: bool = False) -> int:
    """EXITINFO1 of a nested page fault, as hardware writes it.

    Args:
        kind: TRANSLATION, PERMISSION or MISCONFIGURATION.
        access: to the nested tables; WRITE for an access to the guest's tables.
        on_table: the access was to an entry of the guest's tables.
        shadow_stack: it was a shadow-stack access.

    Raises:
        EncodingError: hardware cannot report it.
    """
    if on_table and access is not Access.WRITE:
        raise EncodingError("an access to the guest's tables counts as a write in the nested tables (APM 15.25.5)")
    return (
        _error(kind, access, "nested page fault")
        | _U
        | (_SS if shadow_stack else 0)
        | (_NPF_TABLE if on_table else _NPF_FINAL)
    )


_NPF_REASONS = {
    FaultKind.TRANSLATION: "A nested entry on the way is not present.",
    FaultKind.PERMISSION: "The nested entries are present, and do not allow it.",
    FaultKind.MISCONFIGURATION: "A nested entry on the way has a reserved bit set.",
}

# --- either, by the format ------------------------------------------------------------------------------------------
_FLAGS = {Access.READ: MappingFlags.READ, Access.WRITE: MappingFlags.WRITE, Access.FETCH: MappingFlags.EXECUTE}


def hardware_report(
    fmt: Format, fault: Refusal, access: Access, gva: int | None, gpa: int, allowed: int, controls: int | None = None
) -> dict[str, int]:
    """Exit qualification and addresses of an EPT violation, or EXITINFO1 and 2; see `Family.hardware_report`.

    An EPT misconfiguration has the guest-physical address only; its exit reason says that it is one.
    """
    # A guest-physical address that the tables have no bits for is as good as one that they do not map.
    kind = FaultKind.TRANSLATION if fault.kind is FaultKind.ADDRESS_SIZE else fault.kind
    if not is_ept(fmt):
        wanted = Access.WRITE if fault.on_table else access
        return {"EXITINFO1": encode_exitinfo1(kind, wanted, on_table=fault.on_table), "EXITINFO2": gpa}
    if kind is FaultKind.MISCONFIGURATION:
        return {"exit_reason": MISCONFIGURATION_EXIT, "guest_physical_address": gpa}
    accesses = _FLAGS[access]
    if fault.on_table:
        # Writing a mark is a read and a write. With EPT's accessed and dirty flags both bits are set (SDM 29.2.1, table
        # 29-7, note 1); without them a processor may leave bit 0 clear, as of any read-modify-write.
        accesses = MappingFlags.READ | (MappingFlags.WRITE if fault.on_mark else MappingFlags(0))
    mode_based = (fmt.default_controls if controls is None else controls) & ept.MODE_BASED_EXECUTE
    qualification = encode_qualification(
        accesses,
        MappingFlags(allowed & RWX),
        user_fetches=bool(mode_based and allowed >> USER_SHIFT & MappingFlags.EXECUTE),
        linear=gva is not None,
        on_table=fault.on_table,
    )
    linear = {} if gva is None else {"guest_linear_address": gva}
    return {"exit_qualification": qualification, "guest_physical_address": gpa} | linear


# --- the guest's own page faults ------------------------------------------------------------------------------------
INVALID_OPCODE, DOUBLE_FAULT, GENERAL_PROTECTION, PAGE_FAULT = 6, 8, 13, 14
"""Exception vectors (SDM Vol. 3A, 7.3 "Sources of Interrupts", table 7-1)."""
MANUAL_PF = 'Intel SDM Vol. 3A, 5.7 "Page-Fault Exceptions"; AMD APM Vol. 2, 8.4.2 "Page-Fault Error Code"'


def page_fault(error: int, cr2: int | None = None) -> FaultReport:
    """What the error code of a page fault (vector 14) and CR2 say.

    Args:
        error: the error code.
        cr2: CR2, the address.

    Raises:
        OutOfRangeError: a value is wider than 64 bits.
    """
    given: dict[str, int | None] = {"error code": error, "CR2": cr2}
    require(given)
    access, user = _error_access(error), bool(error & _U)
    kind = _error_kind(error)
    who = "user mode" if user else "the kernel"
    sentences = [f"{opening(DID[access], cr2, None)[:-1]}, from {who}.", _PF_REASONS[kind]]
    for bit, cause in _PF_CAUSES.items():
        if error & bit:
            kind = FaultKind.PERMISSION
            sentences[1] = cause
    if error & _RSVD and not error & _P:
        sentences.append("RSVD without P contradicts itself: an entry that is not present has no reserved bits.")
    if kind is FaultKind.PERMISSION and not error & (_SGX | _RMP | _PK | _SS):
        sentences.append(_PF_FORBIDDEN[access, user])
    if error & _SS:
        sentences.append("It was a shadow-stack access.")
    if error & _HLAT:
        sentences.append("The walk was one by HLAT paging, on the hypervisor's tables.")
    if cr2 is None:
        sentences.append("The address is not given: it is in CR2.")
    return FaultReport(
        "x86_64", "page fault", tuple(sentences), kind, 1, None, access, user, cr2, None, False,
        tuple(fields(given, PAGE_FAULT_ERROR)), MANUAL_PF,
    )  # fmt: skip


def encode_page_fault_error(
    kind: FaultKind,
    access: Access,
    *,
    user: bool,
    fetches_told: bool = True,
    protection_key: bool = False,
    shadow_stack: bool = False,
    hlat: bool = False,
    sgx: bool = False,
) -> int:
    """The error code of a page fault, as hardware pushes it.

    Args:
        kind: TRANSLATION, PERMISSION or MISCONFIGURATION.
        access: what was attempted.
        user: from user mode.
        fetches_told: EFER.NXE or CR4.SMEP is set; without them a fetch reads like a data read.
        protection_key, shadow_stack, hlat, sgx: as the bits PK, SS, HLAT and SGX say.

    Raises:
        EncodingError: hardware cannot report it.
    """
    if (protection_key or sgx) and kind is not FaultKind.PERMISSION:
        raise EncodingError("protection keys and SGX refuse what is present: that is a permission fault")
    if protection_key and access is Access.FETCH:
        raise EncodingError("protection keys do not apply to fetches")
    if shadow_stack and access is Access.FETCH:
        raise EncodingError("a shadow-stack access is a read or a write")
    found = _error(kind, access, "page fault") | (_U if user else 0)
    if not fetches_told:
        found &= ~_I
    found |= (_PK if protection_key else 0) | (_SS if shadow_stack else 0) | (_HLAT if hlat else 0)
    return found | (_SGX if sgx else 0)


def encode_guest_exception(kind: FaultKind, access: Access, *, user: bool, controls: int) -> tuple[int, int]:
    """Vector and error code of the exception that a guest's own tables, in long mode, raise.

    An address that is not canonical never gets as far as the tables: #GP(0) (SDM Vol. 1, 3.3.7.1). No exception reports
    a table where there is no memory: reads that nothing answers are all ones, which is an entry with reserved bits set.

    Args:
        kind: of the stage-1 fault.
        access: what was attempted.
        user: with a user's rights.
        controls: long mode's.

    Raises:
        EncodingError: hardware cannot report it.
    """
    if kind is FaultKind.ADDRESS_SIZE:
        return GENERAL_PROTECTION, 0
    if kind is FaultKind.TABLE_OUTSIDE_MEMORY:
        kind = FaultKind.MISCONFIGURATION
    told = bool(controls & longmode.FETCHES_TOLD)
    return PAGE_FAULT, encode_page_fault_error(kind, access, user=user, fetches_told=told)


_PF_REASONS = {
    FaultKind.TRANSLATION: "An entry on the way is not present.",
    FaultKind.PERMISSION: "The entries are present, and do not allow it.",
    FaultKind.MISCONFIGURATION: "An entry on the way has a reserved bit set.",
}
_PF_FORBIDDEN = {
    (Access.READ, True): "A read from user mode is forbidden by an entry with U/S clear: it is a supervisor page.",
    (Access.WRITE, True): "A write from user mode is forbidden by an entry with U/S or R/W clear.",
    (Access.FETCH, True): "A fetch from user mode is forbidden by an entry with U/S clear or NX set.",
    (Access.READ, False): "A read of the kernel is forbidden by CR4.SMAP only: it is a user page.",
    (Access.WRITE, False): "A write of the kernel is forbidden by an entry with R/W clear while CR0.WP is set, or by "
    "CR4.SMAP: then it is a user page.",
    (Access.FETCH, False): "A fetch of the kernel is forbidden by an entry with NX set, or by CR4.SMEP: then it is a "
    "user page.",
}
"""What forbids an access to what is present (SDM 5.6 "Access Rights")."""
_PF_CAUSES = {
    _PK: "The page's protection key refuses it (PKRU, or IA32_PKRS).",
    _SGX: "SGX's access control refused it; the tables allow it.",
    _RMP: "The reverse map table of SEV-SNP refused it; the tables allow it.",
}


def error_of_words(words: str) -> int:
    """The error code that FreeBSD spells out: `supervisor write data, page not present`."""
    bits = {"user": _U, "write": _W, "instruction": _I, "protection violation": _P, "reserved bits": _P | _RSVD}
    return sum(bit for word, bit in bits.items() if word in words)


# --- what the error codes have in common ----------------------------------------------------------------------------
def _error(kind: FaultKind, access: Access, what: str) -> int:
    """P, W, RSVD and I of an error code."""
    if kind not in (FaultKind.TRANSLATION, FaultKind.PERMISSION, FaultKind.MISCONFIGURATION):
        raise EncodingError(f"no {what} reports {kind.name.lower().replace('_', ' ')}")
    found = 0 if kind is FaultKind.TRANSLATION else _P
    found |= _RSVD if kind is FaultKind.MISCONFIGURATION else 0
    return found | (_W if access is Access.WRITE else 0) | (_I if access is Access.FETCH else 0)


def _error_access(error: int) -> Access:
    return Access.FETCH if error & _I else Access.WRITE if error & _W else Access.READ


def _error_kind(error: int) -> FaultKind:
    if error & _RSVD:
        return FaultKind.MISCONFIGURATION
    return FaultKind.PERMISSION if error & _P else FaultKind.TRANSLATION
