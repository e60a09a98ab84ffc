"""What the translation registers of a processing element select (Arm ARM DDI 0487, D8.1.2 "Translation regimes")."""

from __future__ import annotations

from ...errors import AddressError, EncodingError
from ..effective import TypeSources
from ..selected import Registers, SelectedRoot
from .registers import decode_vttbr_el2
from .sizes import wide_roots
from .stage1 import MAIR
from .stage1_control import HCR_E2H, SCTLR_M, Stage1Root, regimes
from .stage2 import FWB, PTW
from .stage2_control import HCR_DC, HCR_FWB, HCR_PTW, HCR_TGE, HCR_VM, decode_vtcr_el2

_EL_AT, _AARCH32 = 2, 1 << 4
"""PSTATE in SPSR form (C5.2.19): M[3:2] is the exception level, M[4] says AArch32."""


def roots(registers: Registers) -> tuple[tuple[SelectedRoot, ...], tuple[str, ...]]:
    """See `Family.roots`. `cpsr` is PSTATE; a register that is not known is left out with what hangs on it.

    A stage 2 is told of whether it is on or not: a host that stopped between two runs of its guest has HCR_EL2 of its
    own, and VTTBR_EL2 still the guest's.
    """
    problems: list[str] = []
    hcr = registers.get("HCR_EL2", 0)
    level = None
    if "cpsr" in registers and not registers["cpsr"] & _AARCH32:
        level = registers["cpsr"] >> _EL_AT & 3
    host = bool(hcr & HCR_E2H and hcr & HCR_TGE)
    found = _stage_2(registers, hcr, level, host, problems)
    under = "VTTBR_EL2" if found and hcr & (HCR_VM | HCR_DC) and not host else ""
    if not host:
        found += _stage_1(registers, 1, hcr, None if level is None else level < 2, under, problems)
    if "TTBR0_EL2" in registers and "TCR_EL2" in registers:
        runs = None if level is None else level == 2 or (level == 0 and host)
        found += _stage_1(registers, 2, hcr, runs, "", problems)
    return tuple(found), tuple(problems)


def _stage_2(registers: Registers, hcr: int, level: int | None, host: bool, problems: list[str]) -> list[SelectedRoot]:
    vtcr, vttbr = registers.get("VTCR_EL2", 0), registers.get("VTTBR_EL2", 0)
    if not vtcr or not vttbr:
        return []
    from .formats import by_name

    try:
        control = decode_vtcr_el2(vtcr)
        fmt = by_name(control.format_name)
        root, identifier = decode_vttbr_el2(vttbr, wide=wide_roots(fmt, control.pa_bits))
        controls = control.controls | (FWB if hcr & HCR_FWB else 0) | (PTW if hcr & HCR_PTW else 0)
    except (EncodingError, AddressError) as error:
        problems.append(str(error))
        return []
    if not root or root % fmt.root_alignment:
        problems.append(f"VTTBR_EL2 {vttbr:#x} points to no root of {fmt.name}")
        return []
    on = bool(hcr & HCR_VM) and not host
    active = None if level is None else on and level < 2
    role = "stage 2 of the guest" + ("" if on else " (off at this moment)")
    return [SelectedRoot("VTTBR_EL2", fmt, root, controls, role, active, identifier=identifier)]


def _stage_1(
    registers: Registers, level: int, hcr: int, active: bool | None, under: str, problems: list[str]
) -> list[SelectedRoot]:
    suffix = f"_EL{level}"
    if f"TCR{suffix}" not in registers or f"TTBR0{suffix}" not in registers:
        return []
    try:
        control = regimes(
            level, tcr=registers[f"TCR{suffix}"], ttbr0=registers[f"TTBR0{suffix}"],
            ttbr1=registers.get(f"TTBR1{suffix}", 0), sctlr=registers.get(f"SCTLR{suffix}", SCTLR_M),
            mair=registers.get(f"MAIR{suffix}", MAIR), hcr=hcr,
        )  # fmt: skip
    except (EncodingError, AddressError) as error:
        problems.append(f"{suffix.lstrip('_')}: {error}")
        return []
    halves: list[Stage1Root] = [half for half in (control.low, control.high) if half is not None and half.root]
    whose = "the hypervisor's own tables" if level == 2 else "the operating system's tables"
    return [
        SelectedRoot(
            half.register, half.format, half.root, half.controls,
            f"{whose}, {'high' if half.format.high_half else 'low'} addresses ({control.regime.value})",
            active, under, control.asid or 0, TypeSources(mair=registers.get(f"MAIR{suffix}")),
        )
        for half in halves
    ]  # fmt: skip
