"""scause, stval, htval and htinst in words (Privileged, "Supervisor Cause (scause) Register" and the hypervisor
extension's "Trap Cause Codes", "Hypervisor Trap Value (htval)", "Hypervisor Trap Instruction (htinst)")."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import EncodingError, OutOfRangeError
from ...flags import Access, MappingFlags
from ..describe import FieldValue
from ..outcome import FaultKind
from ..record import Format
from ..syndrome import FaultReport, Refusal

INTERRUPT = 1 << 63
MANUAL = 'RISC-V Privileged, "Supervisor Cause (scause) Register" and "Hypervisor Trap Value (htval) Register"'

ACCESS_FAULTS = {Access.FETCH: 1, Access.READ: 5, Access.WRITE: 7}
PAGE_FAULTS = {Access.FETCH: 12, Access.READ: 13, Access.WRITE: 15}
GUEST_PAGE_FAULTS = {Access.FETCH: 20, Access.READ: 21, Access.WRITE: 23}

_IMPLICIT_READ, _IMPLICIT_WRITE = 0x3000, 0x3020
WALK_READS = frozenset({0x2000, _IMPLICIT_READ})
WALK_WRITES = frozenset({0x2020, _IMPLICIT_WRITE})
"""htinst's pseudoinstructions: hardware itself read or wrote a VS-stage page table entry of 32 or 64 bits."""


@dataclass(frozen=True, slots=True)
class _Cause:
    """An exception: its title, a sentence, and what it says of memory."""

    title: str
    sentence: str
    access: Access | None = None
    stage: int | None = None
    user: bool | None = None


_TABLES = "The tables do not say why: an entry is not present, reserved, not accessed or dirty, or forbids the access."
_PAGE = "Stage 1 does not translate the address, or does not allow the access. " + _TABLES
_GUEST = "Stage 2 does not translate the guest physical address, or does not allow the access. " + _TABLES
_PHYSICAL = "Physical memory (PMA or PMP) does not allow the access, or that to a page table on its way."
_ALIGNED = "The address is not a multiple of what the instruction needs."

_CAUSES = {
    0: _Cause("instruction address misaligned", _ALIGNED, Access.FETCH),
    1: _Cause("instruction access fault", _PHYSICAL, Access.FETCH),
    2: _Cause("illegal instruction", "The instruction does not exist, or this mode may not use it."),
    3: _Cause("breakpoint", "An EBREAK or a debug trigger was reached."),
    4: _Cause("load address misaligned", _ALIGNED, Access.READ),
    5: _Cause("load access fault", _PHYSICAL, Access.READ),
    6: _Cause("store/AMO address misaligned", _ALIGNED, Access.WRITE),
    7: _Cause("store/AMO access fault", _PHYSICAL, Access.WRITE),
    8: _Cause("environment call from U or VU mode", "A program called its operating system.", user=True),
    9: _Cause("environment call from HS mode", "The supervisor called the machine's firmware (SBI).", user=False),
    10: _Cause("environment call from VS mode", "The guest's kernel called the hypervisor (SBI).", user=False),
    11: _Cause("environment call from M mode", "The machine's firmware called itself.", user=False),
    12: _Cause("instruction page fault", _PAGE, Access.FETCH, 1),
    13: _Cause("load page fault", _PAGE, Access.READ, 1),
    14: _Cause("reserved", "This cause is reserved."),
    15: _Cause("store/AMO page fault", _PAGE, Access.WRITE, 1),
    16: _Cause("double trap", "A trap came while another one was being taken (Ssdbltrp)."),
    17: _Cause("reserved", "This cause is reserved."),
    18: _Cause("software check", "A landing pad or a shadow stack did not match (Zicfilp, Zicfiss)."),
    19: _Cause("hardware error", "The hardware found an error, such as corrupted data."),
    20: _Cause("instruction guest-page fault", _GUEST, Access.FETCH, 2),
    21: _Cause("load guest-page fault", _GUEST, Access.READ, 2),
    22: _Cause("virtual instruction", "The guest used an instruction or a CSR that the hypervisor must emulate."),
    23: _Cause("store/AMO guest-page fault", _GUEST, Access.WRITE, 2),
}
_INTERRUPTS = {
    1: "supervisor software interrupt",
    2: "virtual supervisor software interrupt",
    3: "machine software interrupt",
    5: "supervisor timer interrupt",
    6: "virtual supervisor timer interrupt",
    7: "machine timer interrupt",
    9: "supervisor external interrupt",
    10: "virtual supervisor external interrupt",
    11: "machine external interrupt",
    12: "supervisor guest external interrupt",
    13: "counter overflow interrupt",
}


def encode_scause(kind: FaultKind, stage: int, access: Access) -> int:
    """The scause of a failed translation.

    RISC-V has one page fault per stage and access, whatever the reason; an access fault where a table is outside
    memory.

    Args:
        kind: why it failed.
        stage: 1, or 2 for a guest-page fault.
        access: what the instruction wanted, also when hardware's own access to a table failed.

    Raises:
        EncodingError: there is no such stage.
    """
    if stage not in (1, 2):
        raise EncodingError(f"there is no stage {stage}: 1 and 2 are all there are")
    if kind is FaultKind.TABLE_OUTSIDE_MEMORY:
        return ACCESS_FAULTS[access]
    return PAGE_FAULTS[access] if stage == 1 else GUEST_PAGE_FAULTS[access]


def hardware_report(
    fmt: Format, fault: Refusal, access: Access, gva: int | None, gpa: int, allowed: MappingFlags
) -> dict[str, int]:
    """scause, stval, htval and htinst of a refused access; see `formats.hardware_report`.

    stval holds the guest's own address, htval the guest physical one, shifted right by 2 (0 after an access fault).
    htinst is a pseudoinstruction when hardware's own access to a VS-stage table was refused, and 0 otherwise, which
    hardware may always write.
    """
    guest_page_fault = fault.kind is not FaultKind.TABLE_OUTSIDE_MEMORY
    implicit = _IMPLICIT_WRITE if fault.on_mark else _IMPLICIT_READ
    return {
        "scause": encode_scause(fault.kind, 2, access),
        "stval": gva or 0,
        "htval": gpa >> 2 if guest_page_fault else 0,
        "htinst": implicit if fault.on_table and guest_page_fault else 0,
    }


def report(scause: int, stval: int | None = None, htval: int | None = None, htinst: int | None = None) -> FaultReport:
    """What the trap registers of a supervisor or hypervisor say; mcause, mtval, mtval2 and mtinst read the same.

    Args:
        scause, stval, htval, htinst: the registers; None where one is not known.

    Raises:
        OutOfRangeError: a value has more than 64 bits.
    """
    given = {"scause": scause, "stval": stval, "htval": htval, "htinst": htinst}
    for name, value in given.items():
        if value is not None and (value < 0 or value >> 64):
            raise OutOfRangeError(f"{name} has 64 bits; {value:#x} does not fit")
    code = scause & ~INTERRUPT
    if scause & INTERRUPT:
        return _interrupt(code, given)
    cause = _CAUSES.get(code)
    if cause is None:
        title = "custom exception" if 24 <= code <= 31 or 48 <= code <= 63 else "reserved exception"
        return FaultReport(
            "riscv64",
            title,
            (f"Cause {code} is not one that the manual defines.",),
            fields=_fields(given),
            manual=MANUAL,
        )
    sentences = [cause.sentence]
    on_table = cause.stage == 2 and htinst is not None and htinst in WALK_READS | WALK_WRITES
    gpa = _gpa(stval, htval, on_table) if cause.stage == 2 else None
    gva = stval if cause.access is not None and stval else None
    if cause.access is not None:
        sentences.insert(0, _opening(cause, gva, gpa))
    if on_table:
        done = "wrote" if htinst in WALK_WRITES else "read"
        why = " (to set A or D)" if htinst in WALK_WRITES else ""
        sentences.append(
            f"It was not the instruction's own access: hardware {done} a page table entry of the guest's stage 1{why},"
            " and stage 2 refused that."
        )
    if cause.stage == 2 and gpa is None:
        sentences.append(
            "The guest physical address is not known: "
            + ("htval is 0, which means that hardware did not write it." if htval == 0 else "htval is not given.")
        )
    if cause.stage == 2 and gva is not None:
        sentences.append("stval is the guest's virtual address; with vsatp Bare it equals the guest physical one.")
    if stval == 0 and cause.access is not None:
        sentences.append("stval is 0: the address is 0, or hardware did not write it.")
    return FaultReport(
        arch="riscv64",
        title=cause.title,
        sentences=tuple(sentences),
        stage=cause.stage,
        access=cause.access,
        user=cause.user,
        gva=gva,
        gpa=gpa,
        on_table=on_table,
        fields=_fields(given),
        manual=MANUAL,
    )


def _gpa(stval: int | None, htval: int | None, on_table: bool) -> int | None:
    """htval holds the address without its two low bits. They are stval's, unless hardware accessed a table entry."""
    if not htval:
        return None
    low = 0 if on_table or stval is None else stval & 3
    return htval << 2 | low


def _opening(cause: _Cause, gva: int | None, gpa: int | None) -> str:
    assert cause.access is not None
    what = {Access.FETCH: "A fetch", Access.READ: "A load", Access.WRITE: "A store or atomic access"}[cause.access]
    where = f" at virtual address {gva:#x}" if gva is not None and cause.stage else f" at {gva:#x}" if gva else ""
    stopped = f" was stopped at guest physical address {gpa:#x}" if gpa is not None else " faulted"
    return f"{what}{where}{stopped}" + (f", by stage {cause.stage}." if cause.stage else ".")


def _interrupt(code: int, given: dict[str, int | None]) -> FaultReport:
    name = _INTERRUPTS.get(code, "custom or platform interrupt" if code >= 16 else "reserved interrupt")
    return FaultReport(
        "riscv64",
        name,
        (f"Interrupt {code}: no instruction caused it, and no memory access failed.",),
        fields=_fields(given),
        manual=MANUAL,
    )


def _fields(given: dict[str, int | None]) -> tuple[tuple[str, FieldValue], ...]:
    found: list[tuple[str, FieldValue]] = []
    for name, value in given.items():
        if value is None:
            continue
        if name == "scause":
            code, interrupt = value & ~INTERRUPT, value >> 63
            cause = _CAUSES.get(code)
            title = _INTERRUPTS.get(code, "not defined") if interrupt else cause.title if cause else "not defined"
            what = "an interrupt" if interrupt else "an exception"
            found.append((name, FieldValue("62:0", "code", code, title, title in ("reserved", "not defined"))))
            found.append((name, FieldValue("63", "interrupt", interrupt, what)))
        else:
            meaning = (
                _htinst(value) if name == "htinst" else _VALUES[name] if value else f"{name} was not written, or is 0"
            )
            found.append((name, FieldValue("63:0", name, value, meaning)))
    return tuple(found)


_VALUES = {
    "stval": "the address of the access, or the instruction, or 0, as the cause says",
    "htval": "the guest physical address, shifted right by 2",
}


def _htinst(value: int) -> str:
    """What htinst holds; the manual tells its kinds apart by the two low bits."""
    if value == 0:
        return "nothing: hardware gives no information on the instruction"
    if value in WALK_READS | WALK_WRITES:
        done = "write" if value in WALK_WRITES else "read"
        bits = 64 if value & 0x1000 else 32
        return f"pseudoinstruction: an implicit {bits}-bit {done} for the VS-stage walk"
    if value & 1:
        short = "" if value & 2 else ", which was a compressed one"
        return f"the trapping instruction, transformed{short}"
    return "a custom value" if value & 2 else "a pseudoinstruction that the manual does not define"
