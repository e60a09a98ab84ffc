"""satp, vsatp and hgatp: which format, which root, which address space (Privileged, "satp" and "hgatp").

Below them, every register that takes part in translation is told field by field.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...address import require_aligned
from ...errors import EncodingError, OutOfRangeError
from ..record import Field, Format
from ..register import Register
from . import formats

MODE_SHIFT = 60
PPN_MASK = (1 << 44) - 1

SATP_MODES = {0: formats.BARE_STAGE_1, 8: formats.SV39, 9: formats.SV48, 10: formats.SV57}
HGATP_MODES = {0: formats.BARE_STAGE_2, 8: formats.SV39X4, 9: formats.SV48X4, 10: formats.SV57X4}


@dataclass(frozen=True, slots=True)
class AddressTranslationRegister:
    """What satp, vsatp or hgatp says.

    Args:
        format: the format its MODE selects.
        identifier: ASID (satp, vsatp: 16 bits) or VMID (hgatp: 14 bits).
        root: address of the root table.
    """

    format: Format
    identifier: int
    root: int

    def value(self) -> int:
        """The register's 64 bits.

        Raises:
            MisalignedError: the root is not aligned to its size (hgatp: 16 KiB).
            OutOfRangeError: the identifier or the root is too wide.
            EncodingError: no MODE stands for the format.
        """
        g_stage = self.format.stage == 2
        identifier_bits = 14 if g_stage else 16
        if self.identifier >> identifier_bits:
            raise OutOfRangeError(
                f"{'VMID' if g_stage else 'ASID'} {self.identifier:#x} has more than {identifier_bits} bits"
            )
        modes = HGATP_MODES if g_stage else SATP_MODES
        mode = next((number for number, fmt in modes.items() if fmt is self.format), None)
        if mode is None:
            raise EncodingError(f"no MODE of {'hgatp' if g_stage else 'satp'} stands for {self.format.name}")
        if self.format.is_bare:
            return 0
        require_aligned("root table", self.root, self.format.root_size)
        if self.root >> 56:
            raise OutOfRangeError(f"root table {self.root:#x} is above 2^56")
        return mode << MODE_SHIFT | self.identifier << 44 | self.root >> 12


def decode_satp(value: int) -> AddressTranslationRegister:
    """Read satp or vsatp. Raises EncodingError for a reserved MODE."""
    return _decode("satp", value, SATP_MODES, 16, PPN_MASK)


def decode_hgatp(value: int) -> AddressTranslationRegister:
    """Read hgatp; the two low PPN bits read as zero, as the 16 KiB root demands."""
    return _decode("hgatp", value, HGATP_MODES, 14, PPN_MASK & ~3)


def stage_2_registers(fmt: Format, root: int, controls: int, identifier: int) -> dict[str, int]:
    """What to load for a stage-2 regime: hgatp, which holds the VMID too."""
    return {"hgatp": AddressTranslationRegister(fmt, identifier, root).value()}


def _decode(
    name: str, value: int, modes: dict[int, Format], identifier_bits: int, ppn_mask: int
) -> AddressTranslationRegister:
    mode = value >> MODE_SHIFT
    if mode not in modes:
        raise EncodingError(f"{name} {value:#x}: MODE {mode} is reserved; 0 Bare, 8, 9 and 10 are defined")
    identifier = (value >> 44) & ((1 << identifier_bits) - 1)
    return AddressTranslationRegister(modes[mode], identifier, (value & ppn_mask) << 12)


# --- the registers in words ---------------------------------------------------------------------------------------

_RESERVED = "reserved: reads as zero, and software writes zero (WPRI)"
_MODES = {
    0: "Bare: no translation, no protection",
    **dict.fromkeys((*range(1, 8), *range(11, 14)), "reserved"),
    14: "free for custom use",
    15: "free for custom use",
}
_SATP_MODES = _MODES | {8: "Sv39: three levels", 9: "Sv48: four levels", 10: "Sv57: five levels"}
_HGATP_MODES = _MODES | {8: "Sv39x4: three levels", 9: "Sv48x4: four levels", 10: "Sv57x4: five levels"}
_STATES = {0: "off", 1: "initial", 2: "clean", 3: "dirty"}
_WIDTHS = {1: "32 bits", 2: "64 bits"}


def _flag(bit: int, name: str, meaning: str, clear: str) -> Field:
    """A field of one bit with a sentence for either value."""
    return Field(bit, bit, name, meaning, {0: clear})


def _complete(*given: Field) -> tuple[Field, ...]:
    """The fields of 64 bits: those given, and reserved ones in the gaps between them."""
    found: list[Field] = []
    low = 0
    for field in (*sorted(given, key=lambda field: field.low), Field(64, 64, "", "")):
        if field.low > low:
            found.append(Field(field.low - 1, low, "WPRI", _RESERVED, reserved=True))
        found.append(field)
        low = field.high + 1
    return tuple(found[:-1])


def _satp_summary(value: int) -> dict[str, str]:
    return _translation(decode_satp(value), "ASID", value, "physical; for vsatp, a GPA")


def _hgatp_summary(value: int) -> dict[str, str]:
    facts = _translation(decode_hgatp(value), "VMID", value, "physical")
    if value & 3 and value >> MODE_SHIFT:
        facts["note"] = "the two low bits of PPN read as zero: the root is 16 KiB large and aligned"
    return facts


def _translation(register: AddressTranslationRegister, identifier: str, value: int, space: str) -> dict[str, str]:
    fmt = register.format
    if fmt.is_bare:
        facts = {"format": "Bare: no translation, no protection"}
        if value:
            facts["note"] = "with MODE Bare all other fields must be zero; what these do is unspecified"
        return facts
    return {
        "format": f"{fmt.name} ({fmt.title})",
        "root": f"{register.root:#x} ({space})",
        identifier: str(register.identifier),
    }


_COMMON_STATUS = (
    _flag(1, "SIE", "supervisor interrupts are enabled", "supervisor interrupts are disabled in supervisor mode"),
    _flag(5, "SPIE", "interrupts were enabled before the trap", "interrupts were disabled before the trap"),
    _flag(6, "UBE", "user-mode data accesses are big-endian", "user-mode data accesses are little-endian"),
    _flag(8, "SPP", "the trap came from supervisor mode", "the trap came from user mode"),
    Field(10, 9, "VS", "state of the vector unit", {n: f"vector unit: {state}" for n, state in _STATES.items()}),
    Field(14, 13, "FS", "state of the FPU", {n: f"floating-point unit: {state}" for n, state in _STATES.items()}),
    Field(16, 15, "XS", "state of other extensions", {0: "other extensions: off"}),
    _flag(
        18,
        "SUM",
        "supervisor loads and stores may use user pages; fetches never may",
        "supervisor loads and stores to user pages fault",
    ),
    _flag(
        19,
        "MXR",
        "loads may also read pages that are executable only; in vsstatus, as stage 1 sees it",
        "loads need a readable page",
    ),
    _flag(23, "SPELP", "a landing pad was expected when the trap came", "no landing pad was expected"),
    _flag(24, "SDT", "a further trap in supervisor mode is a double trap", "further traps are taken as usual"),
    Field(33, 32, "UXL", "register width in user mode", {n: f"user mode: {w}" for n, w in _WIDTHS.items()}),
    _flag(63, "SD", "FS, VS or XS is dirty", "FS, VS and XS are not dirty"),
)

_STATUS = _complete(*_COMMON_STATUS)
_MACHINE_STATUS = _complete(
    *_COMMON_STATUS,
    _flag(3, "MIE", "machine interrupts are enabled", "machine interrupts are disabled in machine mode"),
    _flag(7, "MPIE", "machine interrupts were enabled before the trap", "they were disabled before the trap"),
    Field(
        12,
        11,
        "MPP",
        "the mode that the trap to machine mode came from",
        {0: "user mode (or VU)", 1: "supervisor mode (or VS)", 2: "reserved", 3: "machine mode"},
    ),
    _flag(
        17,
        "MPRV",
        "machine-mode loads and stores are translated as in the mode that MPP and MPV name",
        "machine-mode loads and stores are not translated",
    ),
    _flag(20, "TVM", "supervisor use of satp, hgatp and the fences traps", "satp and the fences do not trap"),
    _flag(21, "TW", "a long WFI below machine mode traps", "WFI does not trap"),
    _flag(22, "TSR", "SRET in supervisor mode traps", "SRET does not trap"),
    Field(35, 34, "SXL", "register width in supervisor mode", {n: f"supervisor: {w}" for n, w in _WIDTHS.items()}),
    _flag(
        36,
        "SBE",
        "supervisor accesses, and those to page tables, are big-endian",
        "supervisor accesses, and those to page tables, are little-endian",
    ),
    _flag(37, "MBE", "machine-mode data accesses are big-endian", "machine-mode data accesses are little-endian"),
    _flag(38, "GVA", "mtval holds a guest virtual address", "mtval holds no guest virtual address"),
    _flag(39, "MPV", "the trap to machine mode came from a guest", "the trap to machine mode came from no guest"),
    _flag(41, "MPELP", "a landing pad was expected when the trap came", "no landing pad was expected"),
    _flag(42, "MDT", "a further trap in machine mode is a double trap", "further traps are taken as usual"),
)
_HYPERVISOR_STATUS = _complete(
    _flag(
        5,
        "VSBE",
        "the guest's accesses, and those to its page tables, are big-endian",
        "the guest's accesses, and those to its page tables, are little-endian",
    ),
    _flag(6, "GVA", "stval holds a guest virtual address", "stval holds no guest virtual address"),
    _flag(7, "SPV", "the trap came from a guest (V was 1)", "the trap came from no guest (V was 0)"),
    _flag(
        8,
        "SPVP",
        "the guest was in supervisor mode (VS); HLV and HSV act so too",
        "the guest was in user mode (VU); HLV and HSV act so too",
    ),
    _flag(9, "HU", "user mode may use HLV, HLVX and HSV", "user mode may not use HLV, HLVX and HSV"),
    Field(17, 12, "VGEIN", "the guest external interrupt source of VS mode", {0: "no guest external interrupt"}),
    _flag(20, "VTVM", "the guest's use of satp and SFENCE.VMA traps", "the guest may use satp and SFENCE.VMA"),
    _flag(21, "VTW", "a long WFI of the guest traps", "the guest's WFI does not trap"),
    _flag(22, "VTSR", "the guest's SRET traps", "the guest's SRET does not trap"),
    _flag(24, "HUKTE", "U-mode HLV and HSV may use only the lower half of addresses", "the check is off"),
    Field(33, 32, "VSXL", "register width in VS mode", {n: f"VS mode: {w}" for n, w in _WIDTHS.items()}),
    Field(
        49,
        48,
        "HUPMM",
        "pointer masking of HLV and HSV in user mode",
        {0: "no pointer masking", 1: "reserved", 2: "the top 7 bits are ignored", 3: "the top 16 bits are ignored"},
    ),
)
_ENVIRONMENT = _complete(
    _flag(0, "FIOM", "fences of I/O order memory too", "fences of I/O are as written"),
    _flag(2, "LPE", "landing pads are enforced", "landing pads are not enforced"),
    _flag(3, "SSE", "shadow stacks are available", "shadow stacks are not available"),
    Field(
        5,
        4,
        "CBIE",
        "what CBO.INVAL does",
        {0: "CBO.INVAL traps", 1: "CBO.INVAL flushes", 2: "reserved", 3: "CBO.INVAL invalidates"},
    ),
    _flag(6, "CBCFE", "CBO.CLEAN and CBO.FLUSH are allowed", "CBO.CLEAN and CBO.FLUSH trap"),
    _flag(7, "CBZE", "CBO.ZERO is allowed", "CBO.ZERO traps"),
    Field(
        33,
        32,
        "PMM",
        "pointer masking in the next mode below",
        {0: "no pointer masking", 1: "reserved", 2: "the top 7 bits are ignored", 3: "the top 16 bits are ignored"},
    ),
    _flag(59, "DTE", "double traps are detected (Ssdbltrp)", "double traps are not detected"),
    _flag(60, "CDE", "counters are delegated; menvcfg only, reserved in henvcfg", "counters are not delegated"),
    _flag(
        61,
        "ADUE",
        "hardware sets A and D in page table entries (Svadu)",
        "a clear A, or D for a write, is a page fault (Svade)",
    ),
    _flag(
        62,
        "PBMTE",
        "bits 62:61 of leaves are a memory type (Svpbmt)",
        "bits 62:61 of leaves are reserved and must be zero",
    ),
    _flag(63, "STCE", "stimecmp (or vstimecmp) is available", "stimecmp (or vstimecmp) is not available"),
)


def _status_summary(value: int) -> dict[str, str]:
    loads = "user pages too" if value >> 18 & 1 else "supervisor pages only"
    return {
        "supervisor loads and stores": loads,
        "loads from": "readable and executable pages" if value >> 19 & 1 else "readable pages",
    }


def _hypervisor_summary(value: int) -> dict[str, str]:
    if not value >> 7 & 1:
        return {"trap from": "the host (V = 0)"}
    mode = "VS" if value >> 8 & 1 else "VU"
    return {"trap from": f"a guest, in {mode} mode", "stval": "a GVA" if value >> 6 & 1 else "no GVA"}


def _environment_summary(value: int) -> dict[str, str]:
    return {
        "accessed and dirty bits": "set by hardware (Svadu)" if value >> 61 & 1 else "a fault when clear (Svade)",
        "memory types in entries": "yes (Svpbmt)" if value >> 62 & 1 else "no",
    }


REGISTERS = (
    Register(
        "satp",
        "supervisor address translation and protection",
        "riscv64",
        (
            Field(43, 0, "PPN", "page number of the root table: its address divided by 4 KiB"),
            Field(59, 44, "ASID", "address space identifier, which tags stage-1 TLB entries"),
            Field(63, 60, "MODE", "the format of the tables", _SATP_MODES),
        ),
        'RISC-V Privileged, "Supervisor Address Translation and Protection (satp) Register"',
        summary=_satp_summary,
        aliases=("vsatp",),
    ),
    Register(
        "hgatp",
        "hypervisor guest address translation and protection",
        "riscv64",
        (
            Field(43, 0, "PPN", "page number of the 16 KiB root table; the two low bits read as zero"),
            Field(57, 44, "VMID", "virtual machine identifier, which tags stage-2 TLB entries"),
            Field(59, 58, "0", "reserved: reads as zero", reserved=True),
            Field(63, 60, "MODE", "the format of the tables", _HGATP_MODES),
        ),
        'RISC-V Privileged, "Hypervisor Guest Address Translation and Protection (hgatp) Register"',
        summary=_hgatp_summary,
    ),
    Register(
        "sstatus",
        "supervisor status",
        "riscv64",
        _STATUS,
        'RISC-V Privileged, "Supervisor Status (sstatus) Register"',
        summary=_status_summary,
        aliases=("vsstatus",),
    ),
    Register(
        "mstatus",
        "machine status",
        "riscv64",
        _MACHINE_STATUS,
        'RISC-V Privileged, "Machine Status (mstatus and mstatush) Registers"',
        summary=_status_summary,
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
        "henvcfg",
        "environment of the modes below",
        "riscv64",
        _ENVIRONMENT,
        'RISC-V Privileged, "Hypervisor Environment Configuration (henvcfg) Register"',
        summary=_environment_summary,
        aliases=("menvcfg",),
    ),
)
