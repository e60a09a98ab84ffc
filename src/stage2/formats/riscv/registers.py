"""satp, vsatp and hgatp: which format, which root, which address space (Privileged, "satp" and "hgatp").

Below them, every register that takes part in translation is told field by field; see `status` for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...address import require_aligned
from ...errors import EncodingError, OutOfRangeError
from ..record import Field, Format
from ..register import Register
from ..u64 import u64
from . import formats
from .status import STATUS_REGISTERS, controls_of

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


def decode_satp(value: int, name: str = "satp") -> AddressTranslationRegister:
    """Read satp, or vsatp if it is called so. Raises EncodingError for a reserved MODE."""
    return _decode(name, value, SATP_MODES, 16, PPN_MASK)


def decode_hgatp(value: int) -> AddressTranslationRegister:
    """Read hgatp; the two low PPN bits read as zero, as the 16 KiB root demands."""
    return _decode("hgatp", value, HGATP_MODES, 14, PPN_MASK & ~3)


def stage_1_numbers(satp: int, status: int) -> tuple[int, int, int, int]:
    """Root, levels, root index bits and controls of stage 1, from satp and sstatus as the hart has them.

    In the compilable subset, for an engine's MMU: `decode_satp` without words. MODE 8 to 10 have 3 to 5 levels; a hart
    holds no other but Bare.
    """
    mode = satp >> u64(MODE_SHIFT)
    levels = u64(0)
    if mode >= u64(8):
        levels = mode - u64(5)
    return (satp & u64(PPN_MASK)) << u64(12), levels, u64(9), controls_of(status)


def own_registers(halves: Sequence[tuple[Format, int, int]]) -> dict[str, int]:
    """What a hypervisor loads for its own tables: satp, with ASID 0 (Privileged, "Supervisor Address Translation and
    Protection (satp) Register")."""
    ((fmt, root, _),) = halves
    return {"satp": AddressTranslationRegister(fmt, 0, root).value()}


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

_MODES = {
    0: "Bare: no translation, no protection",
    **dict.fromkeys((*range(1, 8), *range(11, 14)), "reserved"),
    14: "free for custom use",
    15: "free for custom use",
}
_SATP_MODES = _MODES | {8: "Sv39: three levels", 9: "Sv48: four levels", 10: "Sv57: five levels"}
_HGATP_MODES = _MODES | {8: "Sv39x4: three levels", 9: "Sv48x4: four levels", 10: "Sv57x4: five levels"}


def _satp_summary(value: int) -> dict[str, str]:
    return _translation(decode_satp(value), "stage 1 of the host (HS- and U-mode)", "ASID", value, "physical")


def _vsatp_summary(value: int) -> dict[str, str]:
    return _translation(decode_satp(value, "vsatp"), "stage 1 of a guest (VS-stage)", "ASID", value, "a GPA")


def _hgatp_summary(value: int) -> dict[str, str]:
    facts = _translation(decode_hgatp(value), "stage 2 of guests (G-stage)", "VMID", value, "physical")
    if value & 3 and value >> MODE_SHIFT:
        facts["note"] = "the two low bits of PPN read as zero: the root is 16 KiB large and aligned"
    return facts


def _translation(
    register: AddressTranslationRegister, governs: str, identifier: str, value: int, space: str
) -> dict[str, str]:
    fmt, facts = register.format, {"governs": governs}
    if fmt.is_bare:
        facts["format"] = "Bare: no translation, no protection"
        if value:
            facts["note"] = "with MODE Bare all other fields must be zero; what these do is unspecified"
        return facts
    return facts | {
        "format": f"{fmt.name} ({fmt.title})",
        "root": f"{register.root:#x} ({space})",
        identifier: str(register.identifier),
    }


def _stage_1_fields(identifier: str) -> tuple[Field, ...]:
    return (
        Field(43, 0, "PPN", "page number of the root table: its address divided by 4 KiB"),
        Field(59, 44, "ASID", identifier),
        Field(63, 60, "MODE", "the format of the tables", _SATP_MODES),
    )


REGISTERS = (
    Register(
        "satp",
        "supervisor address translation and protection",
        "riscv64",
        _stage_1_fields("address space identifier, which tags stage-1 TLB entries"),
        'RISC-V Privileged, "Supervisor Address Translation and Protection (satp) Register"',
        summary=_satp_summary,
    ),
    Register(
        "vsatp",
        "virtual supervisor address translation and protection: a guest's satp",
        "riscv64",
        _stage_1_fields("address space identifier, which tags stage-1 TLB entries together with hgatp.VMID"),
        'RISC-V Privileged, "Virtual Supervisor Address Translation and Protection (vsatp) Register"',
        summary=_vsatp_summary,
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
    *STATUS_REGISTERS,
)
