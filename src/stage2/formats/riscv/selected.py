"""What satp, vsatp and hgatp of a hart select (Privileged, "satp", "vsatp" and "hgatp").

Where nothing says what a hart implements, bits that an extension gave a meaning are taken to have it (Svpbmt, Svnapot):
a hart without them would fault, so no system would set them.
"""

from __future__ import annotations

from ...errors import EncodingError
from ..record import Format
from ..selected import Registers, SelectedRoot
from . import entry, formats
from .registers import AddressTranslationRegister, decode_hgatp, decode_satp
from .status import controls_of

USUAL = entry.SVPBMT | entry.SVNAPOT
"""Extensions that foreign tables may use."""


def roots(registers: Registers) -> tuple[tuple[SelectedRoot, ...], tuple[str, ...]]:
    """See `Family.roots`. `virt` is 1 while the hart runs a guest.

    While a guest runs, vsatp stands in for satp (Privileged, "Virtual Supervisor Address Translation and Protection
    (vsatp) Register"): a `satp` that was read then is the guest's, and the host's is not known.
    """
    found: list[SelectedRoot] = []
    problems: list[str] = []

    def take(name: str, value: int, stage_2: bool) -> AddressTranslationRegister | None:
        try:
            read = decode_hgatp(value) if stage_2 else decode_satp(value, name)
        except EncodingError as error:
            problems.append(str(error))
            return None
        return None if read.format.is_bare else read

    virtual = registers.get("virt")
    below = ""
    if "hgatp" in registers and (read := take("hgatp", registers["hgatp"], True)) is not None:
        below = "hgatp"
        controls = read.format.default_controls | USUAL
        active = None if virtual is None else bool(virtual)
        role = "stage 2 of the guest (G-stage)"
        found.append(SelectedRoot("hgatp", read.format, read.root, controls, role, active, identifier=read.identifier))
    guests = "satp" if virtual else "vsatp"
    names = [(guests, "the guest's own tables (VS-stage)", below, "vsstatus", virtual)]
    if not virtual:
        runs_host = None if virtual is None else 1
        names.append(("satp", "the host's own tables", "", "sstatus", runs_host))
    for name, role, under, status, runs in names:
        if name in registers and (read := take(name, registers[name], False)) is not None:
            told = registers.get(status, registers.get("mstatus", 0))
            found.append(
                SelectedRoot(
                    name, read.format, read.root, controls_of(told) | USUAL, role,
                    None if runs is None else bool(runs), under, read.identifier,
                )
            )  # fmt: skip
    return tuple(found), tuple(problems)


def searched() -> tuple[tuple[Format, int], ...]:
    """See `Family.searched`."""
    return tuple((fmt, fmt.default_controls | USUAL) for fmt in formats.FORMATS if not fmt.is_bare)
