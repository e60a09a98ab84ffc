"""What CR3, EPTP and N_CR3 select (Intel SDM Vol. 3A, 5.1.1; Vol. 3C, 25.6.11; AMD APM Vol. 2, 15.25).

How wide addresses are is a matter of the processor, which no register here tells: they may have all 52 bits.
"""

from __future__ import annotations

from ...errors import EncodingError
from ..selected import Registers, SelectedRoot
from . import longmode
from .paging import (
    CR0_PG,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    EFER_LMA,
    EFER_NXE,
    FLAT,
    LONG,
    ROOT,
    controls_of,
    levels_of,
    mode_of,
)
from .registers import decode_cr3, decode_eptp

_PCIDE = 1 << 17
"""CR4.PCIDE."""


def roots(registers: Registers) -> tuple[tuple[SelectedRoot, ...], tuple[str, ...]]:
    """See `Family.roots`.

    Without EFER a CPU that pages with PAE is taken to be in long mode with NXE, as every 64-bit system is. N_CR3 does
    not tell its levels: they are the host's (APM 15.25.3, "hCR4"), so CR4.LA57 decides, where it is known.
    """
    found: list[SelectedRoot] = []
    problems: list[str] = []
    cr4 = registers.get("CR4", CR4_PAE)
    if registers.get("EPTP"):
        try:
            pointer = decode_eptp(registers["EPTP"])
            controls = pointer.format.controls_with(*(["ad"] if pointer.accessed_dirty else []))
            found.append(SelectedRoot("EPTP", pointer.format, pointer.root, controls, "stage 2 of the guest (EPT)"))
        except EncodingError as error:
            problems.append(str(error))
    nested = registers.get("N_CR3", 0) & ROOT
    if nested:
        fmt = longmode.NPT5 if cr4 & CR4_LA57 else longmode.NPT4
        found.append(SelectedRoot("N_CR3", fmt, nested, fmt.default_controls, "stage 2 of the guest (nested paging)"))
    if "CR3" in registers:
        cr0 = registers.get("CR0", CR0_PG)
        efer = registers.get("EFER", EFER_LMA | EFER_NXE if cr4 & CR4_PAE else 0)
        mode = mode_of(cr0, cr4 & ~CR4_PKE, efer)
        if mode == LONG:
            fmt = longmode.X86_5LEVEL if levels_of(cr4) == longmode.X86_5LEVEL.levels else longmode.X86_4LEVEL
            width = fmt.default_controls & 0x3F << longmode.MAXPHYADDR_SHIFT
            base = decode_cr3(registers["CR3"], pcid_enabled=bool(cr4 & _PCIDE))
            root = registers["CR3"] & ROOT
            controls = controls_of(cr0, cr4, efer, 0, width)
            found.append(
                SelectedRoot("CR3", fmt, root, controls, "the tables of the running process", True, "", base.pcid)
            )
        elif mode != FLAT:
            problems.append("CR3: 32-bit paging, or PAE paging outside long mode, is not read")
    return tuple(found), tuple(problems)
