"""sstatus, vsstatus, mstatus, hstatus, menvcfg and henvcfg, field by field (Privileged, by the registers' names).

What two registers share is written once, with the words of the mode that each is for: sstatus is the host's, vsstatus a
guest's; menvcfg is for the host's stage 1 and for the G-stage, henvcfg for the VS-stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..record import Field
from ..register import Register
from ..u64 import u64
from .entry import MXR, SUM

SUM_BIT, MXR_BIT = 18, 19
"""In sstatus, vsstatus and mstatus; they stand side by side in our controls too."""

_RESERVED = "reserved: reads as zero, and software writes zero (WPRI)"
_STATES = {0: "off", 1: "initial", 2: "clean", 3: "dirty"}
_WIDTHS = {1: "32 bits", 2: "64 bits"}
_MASKING = {0: "no pointer masking", 1: "reserved", 2: "the top 7 bits are ignored", 3: "the top 16 bits are ignored"}


def controls_of(status: int) -> int:
    """SUM and MXR of sstatus, vsstatus or mstatus as control bits of stage 1; in the compilable subset."""
    return (status >> u64(SUM_BIT)) & u64(SUM | MXR)


def status_of(controls: int) -> int:
    """The bits of sstatus, vsstatus or mstatus that stand for SUM and MXR in control bits."""
    return (controls & (SUM | MXR)) << SUM_BIT


def flag(bit: int, name: str, meaning: str, clear: str) -> Field:
    """A field of one bit with a sentence for either value."""
    return Field(bit, bit, name, meaning, {0: clear})


def complete(*given: Field) -> tuple[Field, ...]:
    """The fields of 64 bits: those given, and reserved ones in the gaps between them."""
    found: list[Field] = []
    low = 0
    for field in (*sorted(given, key=lambda field: field.low), Field(64, 64, "", "")):
        if field.low > low:
            found.append(Field(field.low - 1, low, "WPRI", _RESERVED, reserved=True))
        found.append(field)
        low = field.high + 1
    return tuple(found[:-1])


@dataclass(frozen=True, slots=True)
class _Modes:
    """The words for one world's modes.

    Args:
        supervisor, user: the modes.
        readable: what MXR makes readable, in a sentence.
        governs: whose translation SUM and MXR are about.
    """

    supervisor: str
    user: str
    readable: str
    governs: str


_HOST = _Modes(
    "supervisor mode",
    "user mode",
    "loads may also read pages that are executable only; of a guest's loads at both stages",
    "stage 1 of the host (satp); MXR bears on both stages of a guest too",
)
_GUEST = _Modes(
    "VS mode",
    "VU mode",
    "loads may also read pages that stage 1 makes executable only; stage 2 must make them readable",
    "stage 1 of a guest (vsatp), and nothing at stage 2",
)


def _status(modes: _Modes) -> tuple[Field, ...]:
    """What sstatus, vsstatus and mstatus have in common."""
    supervisor, user = modes.supervisor, modes.user
    return (
        flag(1, "SIE", "supervisor interrupts are enabled", f"supervisor interrupts are disabled in {supervisor}"),
        flag(5, "SPIE", "interrupts were enabled before the trap", "interrupts were disabled before the trap"),
        flag(6, "UBE", f"{user} data accesses are big-endian", f"{user} data accesses are little-endian"),
        flag(8, "SPP", f"the trap came from {supervisor}", f"the trap came from {user}"),
        Field(10, 9, "VS", "state of the vector unit", {n: f"vector unit: {state}" for n, state in _STATES.items()}),
        Field(14, 13, "FS", "state of the FPU", {n: f"floating-point unit: {state}" for n, state in _STATES.items()}),
        Field(16, 15, "XS", "state of other extensions", {0: "other extensions: off"}),
        flag(
            SUM_BIT,
            "SUM",
            f"{supervisor} loads and stores may use user pages; fetches never may",
            f"{supervisor} loads and stores to user pages fault",
        ),
        flag(
            MXR_BIT,
            "MXR",
            modes.readable + "; hardware's own reads of tables are no loads",
            "loads need a readable page",
        ),
        flag(23, "SPELP", "a landing pad was expected when the trap came", "no landing pad was expected"),
        flag(24, "SDT", f"a further trap in {supervisor} is a double trap", "further traps are taken as usual"),
        Field(33, 32, "UXL", f"register width in {user}", {n: f"{user}: {w}" for n, w in _WIDTHS.items()}),
        flag(63, "SD", "FS, VS or XS is dirty", "FS, VS and XS are not dirty"),
    )


_MACHINE_STATUS = complete(
    *_status(_HOST),
    flag(3, "MIE", "machine interrupts are enabled", "machine interrupts are disabled in machine mode"),
    flag(7, "MPIE", "machine interrupts were enabled before the trap", "they were disabled before the trap"),
    Field(
        12,
        11,
        "MPP",
        "the mode that the trap to machine mode came from",
        {0: "user mode (or VU)", 1: "supervisor mode (or VS)", 2: "reserved", 3: "machine mode"},
    ),
    flag(
        17,
        "MPRV",
        "machine-mode loads and stores are translated as in the mode that MPP and MPV name",
        "machine-mode loads and stores are not translated",
    ),
    flag(20, "TVM", "supervisor use of satp, hgatp and the fences traps", "satp and the fences do not trap"),
    flag(21, "TW", "a long WFI below machine mode traps", "WFI does not trap"),
    flag(22, "TSR", "SRET in supervisor mode traps", "SRET does not trap"),
    Field(35, 34, "SXL", "register width in supervisor mode", {n: f"supervisor: {w}" for n, w in _WIDTHS.items()}),
    flag(
        36,
        "SBE",
        "supervisor accesses, and those to page tables, are big-endian",
        "supervisor accesses, and those to page tables, are little-endian",
    ),
    flag(37, "MBE", "machine-mode data accesses are big-endian", "machine-mode data accesses are little-endian"),
    flag(38, "GVA", "mtval holds a guest virtual address", "mtval holds no guest virtual address"),
    flag(39, "MPV", "the trap to machine mode came from a guest", "the trap to machine mode came from no guest"),
    flag(41, "MPELP", "a landing pad was expected when the trap came", "no landing pad was expected"),
    flag(42, "MDT", "a further trap in machine mode is a double trap", "further traps are taken as usual"),
)
_HYPERVISOR_STATUS = complete(
    flag(
        5,
        "VSBE",
        "the guest's accesses, and those to its page tables, are big-endian",
        "the guest's accesses, and those to its page tables, are little-endian",
    ),
    flag(6, "GVA", "stval holds a guest virtual address", "stval holds no guest virtual address"),
    flag(7, "SPV", "the trap came from a guest (V was 1)", "the trap came from no guest (V was 0)"),
    flag(
        8,
        "SPVP",
        "the guest was in supervisor mode (VS); HLV, HLVX and HSV act so too",
        "the guest was in user mode (VU); HLV, HLVX and HSV act so too",
    ),
    flag(9, "HU", "user mode may use HLV, HLVX and HSV", "user mode may not use HLV, HLVX and HSV"),
    Field(17, 12, "VGEIN", "the guest external interrupt source of VS mode", {0: "no guest external interrupt"}),
    flag(20, "VTVM", "the guest's use of satp and SFENCE.VMA traps", "the guest may use satp and SFENCE.VMA"),
    flag(21, "VTW", "a long WFI of the guest traps", "the guest's WFI does not trap"),
    flag(22, "VTSR", "the guest's SRET traps", "the guest's SRET does not trap"),
    flag(24, "HUKTE", "U-mode HLV and HSV may use only the lower half of addresses", "the check is off"),
    Field(33, 32, "VSXL", "register width in VS mode", {n: f"VS mode: {w}" for n, w in _WIDTHS.items()}),
    Field(49, 48, "HUPMM", "pointer masking of HLV and HSV in user mode", _MASKING),
)


def _environment(below: str, masked: str, stages: str, compare: str, *more: Field) -> tuple[Field, ...]:
    """What menvcfg and henvcfg have in common.

    Args:
        below: the modes that it is the environment of.
        masked: the mode whose pointers PMM masks, whose landing pads and double traps it enables.
        stages: the stages that ADUE and PBMTE are about.
        compare: the timer's register that STCE makes available.
        more: what only the one has.
    """
    return complete(
        flag(0, "FIOM", f"fences of I/O order memory too, {below}", "fences of I/O are as written"),
        flag(2, "LPE", f"landing pads are enforced in {masked}", f"landing pads are not enforced in {masked}"),
        flag(3, "SSE", f"shadow stacks are available {below}", f"shadow stacks are not available {below}"),
        Field(
            5,
            4,
            "CBIE",
            f"what CBO.INVAL does {below}",
            {0: "CBO.INVAL traps", 1: "CBO.INVAL flushes", 2: "reserved", 3: "CBO.INVAL invalidates"},
        ),
        flag(6, "CBCFE", f"CBO.CLEAN and CBO.FLUSH are allowed {below}", "CBO.CLEAN and CBO.FLUSH trap"),
        flag(7, "CBZE", f"CBO.ZERO is allowed {below}", "CBO.ZERO traps"),
        Field(33, 32, "PMM", f"pointer masking in {masked}", _MASKING),
        flag(59, "DTE", f"double traps are detected in {masked} (Ssdbltrp)", "double traps are not detected"),
        flag(
            61,
            "ADUE",
            f"hardware sets A and D in the entries of {stages} (Svadu)",
            f"a clear A, or D for a write, is a page fault at {stages} (Svade)",
        ),
        flag(
            62,
            "PBMTE",
            f"bits 62:61 of leaves are a memory type at {stages} (Svpbmt)",
            f"bits 62:61 of leaves are reserved and must be zero at {stages}",
        ),
        flag(63, "STCE", f"{compare} is available", f"{compare} is not available"),
        *more,
    )


_HOST_STAGES = "the host's stage 1 (satp) and stage 2 (hgatp)"
_GUEST_STAGES = "a guest's stage 1 (vsatp)"


def _status_summary(modes: _Modes) -> Callable[[int], Mapping[str, str]]:
    def summary(value: int) -> Mapping[str, str]:
        return {
            "governs": modes.governs,
            "supervisor loads and stores": "user pages too" if value >> SUM_BIT & 1 else "supervisor pages only",
            "loads from": "readable and executable pages" if value >> MXR_BIT & 1 else "readable pages",
        }

    return summary


def _hypervisor_summary(value: int) -> dict[str, str]:
    if not value >> 7 & 1:
        return {"trap from": "the host (V = 0)"}
    mode = "VS" if value >> 8 & 1 else "VU"
    return {"trap from": f"a guest, in {mode} mode", "stval": "a GVA" if value >> 6 & 1 else "no GVA"}


def _environment_summary(stages: str) -> Callable[[int], Mapping[str, str]]:
    def summary(value: int) -> Mapping[str, str]:
        return {
            "governs": stages,
            "accessed and dirty bits": "set by hardware (Svadu)" if value >> 61 & 1 else "a fault when clear (Svade)",
            "memory types in entries": "yes (Svpbmt)" if value >> 62 & 1 else "no",
        }

    return summary


STATUS_REGISTERS = (
    Register(
        "sstatus",
        "supervisor status",
        "riscv64",
        complete(*_status(_HOST)),
        'RISC-V Privileged, "Supervisor Status (sstatus) Register"',
        summary=_status_summary(_HOST),
    ),
    Register(
        "vsstatus",
        "virtual supervisor status: a guest's sstatus",
        "riscv64",
        complete(*_status(_GUEST)),
        'RISC-V Privileged, "Virtual Supervisor Status (vsstatus) Register"',
        summary=_status_summary(_GUEST),
    ),
    Register(
        "mstatus",
        "machine status",
        "riscv64",
        _MACHINE_STATUS,
        'RISC-V Privileged, "Machine Status (mstatus and mstatush) Registers"',
        summary=_status_summary(_HOST),
    ),
    Register(
        "hstatus",
        "hypervisor status",
        "riscv64",
        _HYPERVISOR_STATUS,
        'RISC-V Privileged, "Hypervisor Status (hstatus) Register"',
        summary=_hypervisor_summary,
    ),
    Register(
        "menvcfg",
        "environment of the modes below machine mode",
        "riscv64",
        _environment(
            "below machine mode",
            "supervisor mode",
            _HOST_STAGES,
            "stimecmp",
            flag(60, "CDE", "counters are delegated to supervisor mode", "counters are not delegated"),
        ),
        'RISC-V Privileged, "Machine Environment Configuration (menvcfg) Register"',
        summary=_environment_summary(_HOST_STAGES),
    ),
    Register(
        "henvcfg",
        "environment of guests",
        "riscv64",
        _environment("in a guest", "VS mode", _GUEST_STAGES, "vstimecmp"),
        'RISC-V Privileged, "Hypervisor Environment Configuration Register (henvcfg)"',
        summary=_environment_summary(_GUEST_STAGES),
    ),
)
