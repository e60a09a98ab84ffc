"""scause, stval, htval and htinst made and told in words (Privileged, "Supervisor Cause (scause) Register" and the
hypervisor extension's "Trap Cause Codes", "Hypervisor Trap Value (htval)", "Hypervisor Trap Instruction (htinst)"),
and their machine-mode and guest counterparts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...errors import EncodingError, OutOfRangeError
from ...flags import Access
from ..describe import FieldValue
from ..outcome import FaultKind
from ..record import Format
from ..syndrome import FaultReport, Refusal

INTERRUPT = 1 << 63
ILLEGAL_INSTRUCTION, BREAKPOINT, VIRTUAL_INSTRUCTION = 2, 3, 22
USER_CALL, SUPERVISOR_CALL, GUEST_CALL, MACHINE_CALL = 8, 9, 10, 11
"""Environment calls: from U or VU mode, from HS (or S) mode, from VS mode, from M mode."""
SOFTWARE_INTERRUPT, TIMER_INTERRUPT, EXTERNAL_INTERRUPT = 1, 5, 9
"""Interrupts of the supervisor: bit numbers in mip, mie and mideleg, too."""
ACCESS_FAULTS = {Access.FETCH: 1, Access.READ: 5, Access.WRITE: 7}
PAGE_FAULTS = {Access.FETCH: 12, Access.READ: 13, Access.WRITE: 15}
GUEST_PAGE_FAULTS = {Access.FETCH: 20, Access.READ: 21, Access.WRITE: 23}

_IMPLICIT_READ, _IMPLICIT_WRITE = 0x3000, 0x3020
WALK_READS = frozenset({0x2000, _IMPLICIT_READ})
WALK_WRITES = frozenset({0x2020, _IMPLICIT_WRITE})
"""htinst's pseudoinstructions: hardware itself read or wrote a VS-stage page table entry of 32 or 64 bits."""


@dataclass(frozen=True, slots=True)
class _Registers:
    """The registers that one mode's traps write, by their names; None for those that the mode does not have."""

    cause: str
    value: str
    gpa: str | None
    instruction: str | None
    manual: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.cause, self.value, self.gpa, self.instruction) if name is not None)


_OF_SUPERVISOR = _Registers(
    "scause",
    "stval",
    "htval",
    "htinst",
    'RISC-V Privileged, "Supervisor Cause (scause) Register" and "Hypervisor Trap Value (htval) Register"',
)
_OF_MACHINE = _Registers(
    "mcause",
    "mtval",
    "mtval2",
    "mtinst",
    'RISC-V Privileged, "Machine Cause (mcause) Register" and "Machine Second Trap Value (mtval2) Register"',
)
_OF_GUEST = _Registers(
    "vscause", "vstval", None, None, 'RISC-V Privileged, "Virtual Supervisor Cause (vscause) Register"'
)


@dataclass(frozen=True, slots=True)
class _Cause:
    """An exception: its title, a sentence, and what it says of memory."""

    title: str
    sentence: str
    access: Access | None = None
    stage: int | None = None
    user: bool | None = None


_TABLES = (
    "The registers do not say why: an entry is not present, reserved, not accessed or dirty, or forbids the access."
)
_PAGE = "Stage 1 does not translate the address, or does not allow the access. " + _TABLES
_GUEST = "Stage 2 does not translate the guest physical address, or does not allow the access. " + _TABLES
_PHYSICAL = (
    "Physical memory (PMA or PMP) does not allow the access, or that to a page table on its way; where there is "
    "nothing, or no such address, it allows none."
)
_ALIGNED = "The address is not a multiple of what the instruction needs."

_CAUSES = {
    0: _Cause("instruction address misaligned", _ALIGNED, Access.FETCH),
    1: _Cause("instruction access fault", _PHYSICAL, Access.FETCH),
    ILLEGAL_INSTRUCTION: _Cause("illegal instruction", "The instruction does not exist, or this mode may not use it."),
    BREAKPOINT: _Cause("breakpoint", "An EBREAK or a debug trigger was reached."),
    4: _Cause("load address misaligned", _ALIGNED, Access.READ),
    5: _Cause("load access fault", _PHYSICAL, Access.READ),
    6: _Cause("store/AMO address misaligned", _ALIGNED, Access.WRITE),
    7: _Cause("store/AMO access fault", _PHYSICAL, Access.WRITE),
    USER_CALL: _Cause("environment call from U or VU mode", "A program called its operating system.", user=True),
    SUPERVISOR_CALL: _Cause(
        "environment call from HS mode", "The supervisor called the machine's firmware (SBI).", user=False
    ),
    GUEST_CALL: _Cause("environment call from VS mode", "The guest's kernel called the hypervisor (SBI).", user=False),
    MACHINE_CALL: _Cause("environment call from M mode", "The machine's firmware called itself.", user=False),
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
    VIRTUAL_INSTRUCTION: _Cause(
        "virtual instruction", "The guest used an instruction or a CSR that the hypervisor must emulate."
    ),
    23: _Cause("store/AMO guest-page fault", _GUEST, Access.WRITE, 2),
}


def is_cause(code: int) -> bool:
    """Whether the manual defines this exception code, or interrupt if the top bit is set."""
    return code & ~INTERRUPT in (_INTERRUPTS if code & INTERRUPT else _CAUSES)


def cause_of(title: str) -> int | None:
    """The exception code of a cause's name, as firmware prints it; None for one that the manual does not name."""
    words = title.strip().lower().replace("/amo", "")
    return next((code for code, cause in _CAUSES.items() if cause.title.replace("/AMO", "") == words), None)


_INTERRUPTS = {
    SOFTWARE_INTERRUPT: "supervisor software interrupt",
    2: "virtual supervisor software interrupt",
    3: "machine software interrupt",
    TIMER_INTERRUPT: "supervisor timer interrupt",
    6: "virtual supervisor timer interrupt",
    7: "machine timer interrupt",
    EXTERNAL_INTERRUPT: "supervisor external interrupt",
    10: "virtual supervisor external interrupt",
    11: "machine external interrupt",
    12: "supervisor guest external interrupt",
    13: "counter overflow interrupt",
}


def encode_scause(kind: FaultKind, stage: int, access: Access, *, bare: bool = False) -> int:
    """The scause of a failed translation.

    RISC-V has one page fault per stage and access, whatever the reason. Where a table is outside memory it is an access
    fault, and so is all that a Bare stage refuses: an address that physical memory is not wide enough for, since only
    Sv39x4 and its kin know a guest-page fault for wide ones ("Guest Physical Address Translation").

    Args:
        kind: why it failed.
        stage: 1, or 2 for a guest-page fault.
        access: what the instruction wanted, also when hardware's own access to a table failed.
        bare: the stage translates nothing.

    Raises:
        EncodingError: there is no such stage.
    """
    if stage not in (1, 2):
        raise EncodingError(f"there is no stage {stage}: 1 and 2 are all there are")
    if bare or kind is FaultKind.TABLE_OUTSIDE_MEMORY:
        return ACCESS_FAULTS[access]
    return PAGE_FAULTS[access] if stage == 1 else GUEST_PAGE_FAULTS[access]


def hardware_report(
    fmt: Format, fault: Refusal, access: Access, gva: int | None, gpa: int, allowed: int
) -> dict[str, int]:
    """scause, stval, htval and htinst of a refused access; see `formats.hardware_report`.

    stval holds the guest's own address, htval the guest physical one, shifted right by 2 (0 after an access fault).
    htinst is a pseudoinstruction when hardware's own access to a VS-stage table was refused and htval is not 0
    ("Transformed Instruction or Pseudoinstruction"), and otherwise 0, which hardware may always write.
    """
    scause = encode_scause(fault.kind, fmt.stage, access, bare=fmt.is_bare)
    htval = htval_of(gpa) if scause in GUEST_PAGE_FAULTS.values() else 0
    implicit = _IMPLICIT_WRITE if fault.on_mark else _IMPLICIT_READ
    return {
        "scause": scause,
        "stval": gva or 0,
        "htval": htval,
        "htinst": implicit if fault.on_table and htval else 0,
    }


def htval_of(gpa: int) -> int:
    """htval, or mtval2, of a GPA: shifted right by 2."""
    return gpa >> 2


def report(scause: int, stval: int | None = None, htval: int | None = None, htinst: int | None = None) -> FaultReport:
    """What the trap registers of a supervisor or hypervisor say.

    Args:
        scause, stval, htval, htinst: the registers; None where one is not known.

    Raises:
        OutOfRangeError: a value has more than 64 bits.
    """
    return _report(_OF_SUPERVISOR, (scause, stval, htval, htinst))


def machine_report(
    mcause: int, mtval: int | None = None, mtval2: int | None = None, mtinst: int | None = None
) -> FaultReport:
    """The same of machine mode's trap registers (Privileged, "Machine-Level CSRs" of the hypervisor extension)."""
    return _report(_OF_MACHINE, (mcause, mtval, mtval2, mtinst))


def guest_report(vscause: int, vstval: int | None = None) -> FaultReport:
    """The same of a guest's trap registers, as its hypervisor sees them (Privileged, "Virtual Supervisor Cause")."""
    return _report(_OF_GUEST, (vscause, vstval))


def _report(registers: _Registers, values: Sequence[int | None]) -> FaultReport:
    given = dict(zip(registers.names, values, strict=True))
    for name, value in given.items():
        if value is not None and (value < 0 or value >> 64):
            raise OutOfRangeError(f"{name} has 64 bits; {value:#x} does not fit")
    number, address, shifted, instruction = (*values, None, None)[:4]
    assert number is not None
    code = number & ~INTERRUPT
    fields = _fields(registers, given)
    if number & INTERRUPT:
        name = _INTERRUPTS.get(code, "custom or platform interrupt" if code >= 16 else "reserved interrupt")
        text = f"Interrupt {code}: no instruction caused it, and no memory access failed."
        return FaultReport("riscv64", name, (text,), fields=fields, manual=registers.manual)
    cause = _CAUSES.get(code)
    if cause is None:
        title = "custom exception" if 24 <= code <= 31 or 48 <= code <= 63 else "reserved exception"
        text = f"Cause {code} is not one that the manual defines."
        return FaultReport("riscv64", title, (text,), fields=fields, manual=registers.manual)
    on_table = cause.stage == 2 and instruction in WALK_READS | WALK_WRITES
    gpa = _gpa(address, shifted, on_table) if cause.stage == 2 else None
    gva = address if cause.access is not None and address else None
    return FaultReport(
        arch="riscv64",
        title=cause.title,
        sentences=tuple(_sentences(registers, cause, values, gva, gpa, on_table)),
        stage=cause.stage,
        access=cause.access,
        user=cause.user,
        gva=gva,
        gpa=gpa,
        on_table=on_table,
        fields=fields,
        manual=registers.manual,
    )


def _gpa(address: int | None, shifted: int | None, on_table: bool) -> int | None:
    """htval holds the GPA without its two low bits. They are stval's, unless hardware accessed a table entry."""
    if not shifted:
        return None
    low = 0 if on_table or address is None else address & 3
    return shifted << 2 | low


def _sentences(
    registers: _Registers,
    cause: _Cause,
    values: Sequence[int | None],
    gva: int | None,
    gpa: int | None,
    on_table: bool,
) -> Iterator[str]:
    """What an exception's registers say, most important first."""
    _, address, shifted, instruction = (*values, None, None)[:4]
    if cause.access is not None:
        yield _opening(cause, gva, gpa)
    yield cause.sentence
    if on_table:
        done = "wrote" if instruction in WALK_WRITES else "read"
        why = " (to set A or D)" if instruction in WALK_WRITES else ""
        yield (
            f"It was not the instruction's own access: hardware {done} a page table entry of the guest's stage 1{why},"
            " and stage 2 refused that."
        )
    if cause.stage == 2 and gpa is None:
        yield _no_gpa(registers, shifted)
    if cause.stage == 2 and gva is not None:
        yield (f"{registers.value} is the guest's virtual address; with vsatp Bare it equals the guest physical one.")
    if address == 0 and cause.access is not None:
        yield f"{registers.value} is 0: the address is 0, or hardware did not write it."


def _no_gpa(registers: _Registers, shifted: int | None) -> str:
    if registers.gpa is None:
        return "The guest physical address is not known: a guest has no register for it."
    if shifted is None:
        return f"The guest physical address is not known: {registers.gpa} is not given."
    return (
        f"The guest physical address is not known: {registers.gpa} is 0, which means that it is 0 to 3, or that "
        "hardware did not write it. Whether the access was hardware's own, to a table, is not told then either."
    )


def _opening(cause: _Cause, gva: int | None, gpa: int | None) -> str:
    assert cause.access is not None
    what = {Access.FETCH: "A fetch", Access.READ: "A load", Access.WRITE: "A store or atomic access"}[cause.access]
    where = f" at virtual address {gva:#x}" if gva is not None and cause.stage else f" at {gva:#x}" if gva else ""
    stopped = f" was stopped at guest physical address {gpa:#x}" if gpa is not None else " faulted"
    return f"{what}{where}{stopped}" + (f", by stage {cause.stage}." if cause.stage else ".")


def _fields(registers: _Registers, given: Mapping[str, int | None]) -> tuple[tuple[str, FieldValue], ...]:
    found: list[tuple[str, FieldValue]] = []
    for name, value in given.items():
        if value is None:
            continue
        if name == registers.cause:
            code, interrupt = value & ~INTERRUPT, value >> 63
            cause = _CAUSES.get(code)
            title = _INTERRUPTS.get(code, "not defined") if interrupt else cause.title if cause else "not defined"
            what = "an interrupt" if interrupt else "an exception"
            found.append((name, FieldValue("62:0", "code", code, title, title in ("reserved", "not defined"))))
            found.append((name, FieldValue("63", "interrupt", interrupt, what)))
            continue
        if name == registers.instruction:
            meaning = _instruction(value)
        elif name == registers.gpa:
            meaning = "the guest physical address, shifted right by 2" if value else "0 to 3, or not written"
        elif value:
            meaning = "the address of the access, or the instruction, or 0, as the cause says"
        else:
            meaning = "the address is 0, or not written"
        found.append((name, FieldValue("63:0", name, value, meaning)))
    return tuple(found)


def _instruction(value: int) -> str:
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
