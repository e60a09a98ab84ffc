"""What the VMCS says of an EPT violation and an EPT misconfiguration, and the numbers for those we deliver.

Intel SDM Vol. 3C, 26.9.1 (exit reason) and 29.2.1 "Basic VM-Exit Information", table 29-7 (exit qualification for EPT
violations).
"""

from __future__ import annotations

from dataclasses import replace

from ...errors import EncodingError, OutOfRangeError
from ...flags import Access, MappingFlags
from ..outcome import FaultKind
from ..syndrome import FaultReport
from .fault_words import DID, fields, listed, opening, require
from .syndrome_fields import EXIT_REASON, QUALIFICATION

_GPA_MISSING = "The guest-physical address is not given: the VMCS has it in the field of that name."
MANUAL_EPT = 'Intel SDM Vol. 3C, 29.2.1 "Basic VM-Exit Information", exit qualification for EPT violations'
MANUAL_MISCONFIGURATION = 'Intel SDM Vol. 3C, 30.3.3.1 "EPT Misconfigurations"; 29.2.1 "Basic VM-Exit Information"'
VIOLATION_EXIT, MISCONFIGURATION_EXIT = 48, 49
"""Basic exit reasons (SDM Vol. 3D, appendix C)."""
_EPT_READ, _EPT_WRITE, _EPT_FETCH = 1 << 0, 1 << 1, 1 << 2
_ALLOWED_SHIFT, _ALLOWED_USER_FETCH = 3, 1 << 6
_GLA_VALID, _FINAL = 1 << 7, 1 << 8
_USER_PAGE, _WRITABLE_PAGE, _NO_EXECUTE_PAGE = 1 << 9, 1 << 10, 1 << 11
_NMI, _EPT_SHADOW, _VERIFICATION, _ASYNCHRONOUS = 1 << 12, 1 << 13, 1 << 15, 1 << 16


def ept_fault(
    qualification: int | None = None, gpa: int | None = None, gva: int | None = None, exit_reason: int | None = None
) -> FaultReport:
    """What the VMCS says of a fault of EPT: of a violation (exit reason 48), or a misconfiguration (49).

    Args:
        qualification: the VMCS field "exit qualification"; undefined, and not looked at, for a misconfiguration.
        gpa: "guest-physical address".
        gva: "guest-linear address".
        exit_reason: "exit reason"; None for a violation.

    Raises:
        EncodingError: another exit reason, or a violation without its qualification.
        OutOfRangeError: a value is wider than its field.
    """
    if exit_reason is not None:
        if exit_reason < 0 or exit_reason >> 32:
            raise OutOfRangeError(f"the exit reason has 32 bits; {exit_reason:#x} does not fit")
        basic = exit_reason & 0xFFFF
        if basic == MISCONFIGURATION_EXIT:
            return _ept_misconfiguration(exit_reason, gpa)
        if basic != VIOLATION_EXIT:
            raise EncodingError(
                f"exit reason {basic} is no fault of EPT: {VIOLATION_EXIT} is a violation, {MISCONFIGURATION_EXIT} a "
                "misconfiguration"
            )
    if qualification is None:
        raise EncodingError(f"exit reason {VIOLATION_EXIT} is an EPT violation: give its exit qualification too")
    found = ept_violation(qualification, gpa, gva)
    if exit_reason is None:
        return found
    return replace(found, fields=(*fields({"exit reason": exit_reason}, EXIT_REASON), *found.fields))


def _ept_misconfiguration(exit_reason: int, gpa: int | None) -> FaultReport:
    given: dict[str, int | None] = {"exit reason": exit_reason, "GPA": gpa}
    require(given)
    where = f" on the way to guest-physical address {gpa:#x}" if gpa is not None else ""
    sentences = [
        f"An EPT entry{where} is misconfigured: it has a reserved bit, a reserved memory type, or permissions that no "
        "entry may have.",
        "The exit qualification and the guest-linear address are undefined for it: nothing says which access it was.",
    ]
    if gpa is None:
        sentences.append(_GPA_MISSING)
    return FaultReport(
        "x86_64", "EPT misconfiguration", tuple(sentences), FaultKind.MISCONFIGURATION, 2, gpa=gpa,
        fields=tuple(fields(given, EXIT_REASON)), manual=MANUAL_MISCONFIGURATION,
    )  # fmt: skip


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
    require(given)
    linear, final = bool(qualification & _GLA_VALID), bool(qualification & _FINAL)
    on_table = linear and not final
    access = _ept_access(qualification)
    kind, why = _ept_reason(qualification)
    known_gva = gva if linear else None
    if access is None:
        return FaultReport(
            "x86_64", "EPT violation", (why,), None, 2, gva=known_gva, gpa=gpa,
            fields=tuple(fields(given, QUALIFICATION)), manual=MANUAL_EPT,
        )  # fmt: skip
    sentences = [opening(_ept_did(qualification, access, on_table), known_gva, gpa), why]
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
        sentences.append(_GPA_MISSING)
    return FaultReport(
        "x86_64", "EPT violation", tuple(sentences), kind, 2, None, access, None, known_gva, gpa, on_table,
        tuple(fields(given, QUALIFICATION)), MANUAL_EPT,
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
        allowed: what all EPT entries on the way allow together; nothing where one is not present, or where each
            forbids what the others allow.
        user_fetches: bit 10 of all of them is set; hardware tells under mode-based execute control only.
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
    return DID[access]


def _ept_reason(qualification: int) -> tuple[FaultKind | None, str]:
    """The kind of fault, and the sentence on what the EPT entries allow together (bits 6:3 are an AND over them)."""
    wanted = qualification & 7
    allowed = qualification >> _ALLOWED_SHIFT & 7
    if not wanted:
        return None, (
            "Bits 2:0 record no access, so this is no qualification of an EPT violation: an EPT misconfiguration (exit "
            "reason 49) leaves it undefined."
        )
    user_fetch = bool(qualification & _ALLOWED_USER_FETCH)
    if not allowed:
        # The qualification does not say whether mode-based execute control is on, which alone gives bit 6 a meaning.
        nothing = "one on the way is not present, or each forbids what the others allow."
        if not user_fetch:
            return None, f"The EPT entries together allow nothing: {nothing}"
        return None, (
            "If mode-based execute control is on, the EPT entries together allow user-mode fetches only; if it is off, "
            f"nothing: {nothing}"
        )
    words = [word for bit, word in enumerate(("reads", "writes", "fetches")) if allowed >> bit & 1]
    if user_fetch:
        words.append("user-mode fetches (if mode-based execute control is on)")
    sentence = f"The EPT entries together allow {listed(words)}"
    if wanted & ~allowed:
        # Bits 6:3 would be clear if an entry were not present.
        return FaultKind.PERMISSION, f"{sentence} only."
    if not wanted & _EPT_FETCH:
        cause = "it was a shadow-stack or guest-paging verification check, or "
    elif user_fetch:
        cause = ""
    else:
        cause = "it was a user-mode fetch under mode-based execute control, which bit 6 forbids, or "
    return None, f"{sentence}, so they do not forbid it: {cause}the TLB held an older entry."


def _guest_page(qualification: int) -> str:
    owner = "a user page" if qualification & _USER_PAGE else "a supervisor page"
    writes = "writable" if qualification & _WRITABLE_PAGE else "read-only"
    fetches = "not executable" if qualification & _NO_EXECUTE_PAGE else "executable"
    return f"The guest's own tables make it {owner}, {writes} and {fetches}."
