"""What an EPT violation, AMD's nested page fault and a guest's page fault say, and the numbers for those we deliver.

Intel SDM Vol. 3C, 29.2.1 "Basic VM-Exit Information" (exit qualification for EPT violations); AMD APM Vol. 2, 15.25.6
"Nested versus Guest Page Faults, Fault Ordering" and 15.36.10 "RMP and VMPL Access Checks"; SDM Vol. 3A, 5.7
"Page-Fault Exceptions".
"""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import EncodingError, OutOfRangeError
from ...flags import Access, MappingFlags
from ..describe import FieldValue
from ..outcome import FaultKind
from ..record import Field, Format
from ..syndrome import FaultReport, Refusal
from . import ept
from .syndrome_fields import EXITINFO1, PAGE_FAULT_ERROR, QUALIFICATION

_ADDRESS = "the address of the access"

# --- EPT violations -------------------------------------------------------------------------------------------------
MANUAL_EPT = 'Intel SDM Vol. 3C, 29.2.1 "Basic VM-Exit Information", exit qualification for EPT violations'
_EPT_READ, _EPT_WRITE, _EPT_FETCH = 1 << 0, 1 << 1, 1 << 2
_ALLOWED_SHIFT, _ALLOWED_USER_FETCH = 3, 1 << 6
_GLA_VALID, _FINAL = 1 << 7, 1 << 8
_USER_PAGE, _WRITABLE_PAGE, _NO_EXECUTE_PAGE = 1 << 9, 1 << 10, 1 << 11
_NMI, _EPT_SHADOW, _VERIFICATION, _ASYNCHRONOUS = 1 << 12, 1 << 13, 1 << 15, 1 << 16


def ept_violation(qualification: int, gpa: int | None = None, gva: int | None = None) -> FaultReport:
    """What the exit qualification of an EPT violation (exit reason 48) says.

    Args:
        qualification: the VMCS field "exit qualification".
        gpa: "guest-physical address".
        gva: "guest-linear address"; taken as given only if bit 7 says that it is valid.

    Raises:
        OutOfRangeError: a value is wider than 64 bits.
    """
    given: dict[str, int | None] = {"qualification": qualification, "GPA": gpa, "GVA": gva}
    _require(given)
    linear, final = bool(qualification & _GLA_VALID), bool(qualification & _FINAL)
    on_table = linear and not final
    access = _ept_access(qualification)
    kind, why = _ept_reason(qualification)
    known_gva = gva if linear else None
    if access is None:
        return FaultReport(
            "x86_64", "EPT violation", (why,), None, 2, gva=known_gva, gpa=gpa,
            fields=tuple(_fields(given, QUALIFICATION)), manual=MANUAL_EPT,
        )  # fmt: skip
    sentences = [_opening(_ept_did(qualification, access, on_table), known_gva, gpa), why]
    if on_table:
        sentences.append("It was not the instruction's own access: hardware walked the guest's tables, and EPT refused "
                         "the access to one of their entries.")  # fmt: skip
    if linear and final and qualification & (_USER_PAGE | _WRITABLE_PAGE | _NO_EXECUTE_PAGE):
        sentences.append(_guest_page(qualification))
    if not linear:
        sentences.append("No guest-linear address belongs to it: the processor was not translating one.")
    if qualification & _VERIFICATION:
        sentences.append("Guest-paging verification found a table that the guest must not use for this address.")
    if qualification & _EPT_SHADOW:
        sentences.append("It was a shadow-stack access.")
    if qualification & _ASYNCHRONOUS:
        sentences.append("No instruction made the access: it was trace output, PEBS, or a user interrupt.")
    if qualification & _NMI:
        sentences.append("NMIs were blocked before the IRET that caused it; the hypervisor has to block them again.")
    if gpa is None:
        sentences.append("The guest-physical address is not given: the VMCS has it in the field of that name.")
    return FaultReport(
        "x86_64", "EPT violation", tuple(sentences), kind, 2, None, access, None, known_gva, gpa, on_table,
        tuple(_fields(given, QUALIFICATION)), MANUAL_EPT,
    )  # fmt: skip


def encode_qualification(
    accesses: MappingFlags,
    allowed: MappingFlags,
    *,
    user_fetches: bool = False,
    linear: bool = True,
    on_table: bool = False,
    user_page: bool = False,
    writable_page: bool = False,
    no_execute_page: bool = False,
    nmi_unblocking: bool = False,
    shadow_stack: bool = False,
) -> int:
    """The exit qualification of an EPT violation, as hardware writes it.

    Args:
        accesses: READ, WRITE or EXECUTE; READ and WRITE for a read-modify-write, and for a read of the guest's tables
            while EPT tracks accessed and dirty flags.
        allowed: what all EPT entries on the way allow together; nothing where one is not present.
        user_fetches: they allow user-mode fetches, under mode-based execute control.
        linear: a guest-linear address was being translated.
        on_table: the access was to an entry of the guest's tables.
        user_page, writable_page, no_execute_page: the guest's tables' own permissions (advanced information).
        nmi_unblocking, shadow_stack: as the bits of these names say.

    Raises:
        EncodingError: hardware cannot report it.
    """
    wanted = int(accesses.permissions)
    if not wanted:
        raise EncodingError("an EPT violation needs an access: read, write or fetch")
    if on_table and not linear:
        raise EncodingError("the guest's tables are walked for a guest-linear address only")
    if on_table and accesses & MappingFlags.EXECUTE:
        raise EncodingError("an entry of the guest's tables is read or written, never fetched")
    if (on_table or not linear) and (user_page or writable_page or no_execute_page):
        raise EncodingError("the guest's own permissions are known for the final access only")
    found = wanted | int(allowed.permissions) << _ALLOWED_SHIFT | (_ALLOWED_USER_FETCH if user_fetches else 0)
    found |= (_GLA_VALID if linear else 0) | (_FINAL if linear and not on_table else 0)
    found |= (_USER_PAGE if user_page else 0) | (_WRITABLE_PAGE if writable_page else 0)
    found |= (_NO_EXECUTE_PAGE if no_execute_page else 0) | (_NMI if nmi_unblocking else 0)
    return found | (_EPT_SHADOW if shadow_stack else 0)


def _ept_access(qualification: int) -> Access | None:
    if qualification & _EPT_FETCH:
        return Access.FETCH
    if qualification & _EPT_WRITE:
        return Access.WRITE
    return Access.READ if qualification & _EPT_READ else None


def _ept_did(qualification: int, access: Access, on_table: bool) -> str:
    if access is Access.WRITE and qualification & _EPT_READ:
        return "A read that counts as a write" if on_table else "A read and write"
    return _DID[access]


def _ept_reason(qualification: int) -> tuple[FaultKind | None, str]:
    """The kind of fault, and the sentence on what the EPT entries allow."""
    wanted = qualification & 7
    allowed = qualification >> _ALLOWED_SHIFT & 7
    if not wanted:
        return None, (
            "Bits 2:0 record no access, so this is no qualification of an EPT violation: an EPT misconfiguration (exit "
            "reason 49) has none, only a guest-physical address."
        )
    if not allowed and not qualification & _ALLOWED_USER_FETCH:
        return FaultKind.TRANSLATION, "The EPT entries allow nothing: one on the way is not present."
    words = [word for bit, word in enumerate(("reads", "writes", "fetches")) if allowed >> bit & 1]
    if qualification & _ALLOWED_USER_FETCH:
        words.append("user-mode fetches (if mode-based execute control is on)")
    sentence = f"The EPT entries allow {_listed(words)}"
    missing = wanted & ~allowed
    if missing:
        return FaultKind.PERMISSION, f"{sentence} only."
    if wanted & _EPT_FETCH:
        cause = "it was a user-mode fetch under mode-based execute control, which bit 6 forbids"
    else:
        cause = "it was a shadow-stack or guest-paging verification check"
    return None, f"{sentence}, so they do not forbid it: {cause}, or the TLB held an older entry."


def _guest_page(qualification: int) -> str:
    owner = "a user page" if qualification & _USER_PAGE else "a supervisor page"
    writes = "writable" if qualification & _WRITABLE_PAGE else "read-only"
    fetches = "not executable" if qualification & _NO_EXECUTE_PAGE else "executable"
    return f"The guest's own tables make it {owner}, {writes} and {fetches}."


# --- AMD's nested page faults ---------------------------------------------------------------------------------------
MANUAL_NPF = 'AMD APM Vol. 2, 15.25.6 "Nested versus Guest Page Faults, Fault Ordering"'
_P, _W, _U, _RSVD, _I, _PK, _SS, _HLAT = (1 << bit for bit in range(8))
_SGX, _RMP = 1 << 15, 1 << 31
_NPF_FINAL, _NPF_TABLE = 1 << 32, 1 << 33


def nested_page_fault(exitinfo1: int, exitinfo2: int | None = None) -> FaultReport:
    """What EXITINFO1 and EXITINFO2 of a nested page fault (#VMEXIT(NPF), exit code 0x400) say.

    Args:
        exitinfo1: the error code.
        exitinfo2: the guest-physical address.

    Raises:
        OutOfRangeError: a value is wider than 64 bits.
    """
    given: dict[str, int | None] = {"EXITINFO1": exitinfo1, "EXITINFO2": exitinfo2}
    _require(given)
    access = _error_access(exitinfo1)
    final, on_table = bool(exitinfo1 & _NPF_FINAL), bool(exitinfo1 & _NPF_TABLE)
    kind = _error_kind(exitinfo1)
    sentences = [_opening(_DID[access], None, exitinfo2), _NPF_REASONS[kind]]
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
        on_table and not final, tuple(_fields(given, EXITINFO1)), MANUAL_NPF,
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
    fmt: Format, fault: Refusal, access: Access, gva: int | None, gpa: int, allowed: MappingFlags
) -> dict[str, int]:
    """Exit qualification and addresses of an EPT violation, or EXITINFO1 and 2; see `formats.hardware_report`.

    An EPT misconfiguration (exit reason 49) has the guest-physical address only.
    """
    # A guest-physical address that the tables have no bits for is as good as one that they do not map.
    kind = FaultKind.TRANSLATION if fault.kind is FaultKind.ADDRESS_SIZE else fault.kind
    if fmt.decode is not ept.decode:
        wanted = Access.WRITE if fault.on_table else access
        return {"EXITINFO1": encode_exitinfo1(kind, wanted, on_table=fault.on_table), "EXITINFO2": gpa}
    if kind is FaultKind.MISCONFIGURATION:
        return {"guest_physical_address": gpa}
    accesses = _FLAGS[access]
    if fault.on_table:
        accesses = MappingFlags.READ | (MappingFlags.WRITE if fault.on_mark else MappingFlags(0))
    qualification = encode_qualification(accesses, allowed, linear=gva is not None, on_table=fault.on_table)
    linear = {} if gva is None else {"guest_linear_address": gva}
    return {"exit_qualification": qualification, "guest_physical_address": gpa} | linear


# --- the guest's own page faults ------------------------------------------------------------------------------------
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
    _require(given)
    access, user = _error_access(error), bool(error & _U)
    kind = _error_kind(error)
    who = "user mode" if user else "the kernel"
    sentences = [f"{_opening(_DID[access], cr2, None)[:-1]}, from {who}.", _PF_REASONS[kind]]
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
        tuple(_fields(given, PAGE_FAULT_ERROR)), MANUAL_PF,
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

# --- what the error codes have in common ----------------------------------------------------------------------------
_DID = {
    Access.READ: "A read",
    Access.WRITE: "A write",
    Access.FETCH: "An instruction fetch",
}


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


def _opening(did: str, gva: int | None, gpa: int | None) -> str:
    where = f" of virtual address {gva:#x}" if gva is not None else ""
    if gpa is None:
        return f"{did}{where} faulted."
    return f"{did}{where} was stopped at guest-physical address {gpa:#x}."


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" and {words[-1]}"


def _require(given: dict[str, int | None]) -> None:
    for name, value in given.items():
        if value is not None and (value < 0 or value >> 64):
            raise OutOfRangeError(f"{name} has 64 bits; {value:#x} does not fit")


def _fields(given: dict[str, int | None], described: tuple[Field, ...]) -> Iterator[tuple[str, FieldValue]]:
    """Every field of the first number, reserved ones when they are set; the others are addresses."""
    first = next(iter(given))
    for name, value in given.items():
        if value is None:
            continue
        for field in described if name == first else (Field(63, 0, name, _ADDRESS),):
            number = field.extract(value)
            if number or not field.reserved:
                yield name, FieldValue(field.bits, field.name, number, field.explain(number), field.reserved)
