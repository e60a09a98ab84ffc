"""satp, vsatp and hgatp: which format, which root, which address space (Privileged, "satp" and "hgatp")."""

from __future__ import annotations

from dataclasses import dataclass

from ...address import require_aligned
from ...errors import EncodingError, OutOfRangeError
from ..record import Format
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
