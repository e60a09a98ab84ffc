"""The Arm registers of both stages in words, and the functions that compute those of stage 2.

Arm ARM DDI 0487, D24.2 "General system control registers". The fields one by one are in `register_fields`, the
arithmetic of stage 2 in `stage2_control`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ...address import format_size
from ...errors import EncodingError
from ..record import Field
from ..register import Layout, Register, Summary
from . import register_fields as fields
from .effective import describe_mair
from .esr_fields import ESR_EL2, syndrome_fields
from .fault_status import FAULT_STATUS
from .sizes import WIDEST_PA, pa_bits, parange, root_of
from .stage1_control import HCR_E2H, TCR_A1, Stage1Regime, half_of, output_bits
from .stage2_control import (
    HCR_DC,
    HCR_FWB,
    HCR_RW,
    HCR_TGE,
    HCR_VM,
    Stage2Control,
    decode_vtcr_el2,
    decode_vttbr_el2,
    sl0,
    stage_2_registers,
    start_level,
    vtcr_el2,
    vttbr_el2,
)
from .syndromes import report

__all__ = [
    "REGISTERS",
    "Stage2Control",
    "decode_vtcr_el2",
    "decode_vttbr_el2",
    "pa_bits",
    "parange",
    "sl0",
    "stage_2_registers",
    "start_level",
    "vtcr_el2",
    "vttbr_el2",
]


# --- what values amount to ------------------------------------------------------------------------------------------
def _vtcr_facts(value: int) -> Mapping[str, str]:
    control = decode_vtcr_el2(value)
    facts = {
        "format": control.format_name,
        "granule": format_size(1 << control.granule),
        "IPA bits": str(control.ipa_bits),
        "start level": f"{control.arm_start_level} in Arm's numbers, {control.levels - 1} counted from the pages",
        "levels": str(control.levels),
        "root tables": f"{control.root_tables} concatenated" if control.root_tables > 1 else "1",
        "root size": format_size(8 << control.root_bits),
        "PA bits": str(control.pa_bits),
        "VMID bits": str(control.vmid_bits),
    }
    if control.granule == 16 and control.pa_bits < WIDEST_PA:
        facts["with FEAT_LPA"] = "descriptor bits 15:12 are address bits 51:48, which are an address size fault if set"
    af, dirty = control.hardware_af, control.hardware_dirty
    facts["hardware sets"] = "access flag and dirty state" if dirty else "access flag" if af else "nothing"
    return facts


def _root_fact(value: int) -> str:
    """The root in a TTBR, which alone does not tell what its bits 5:2 are."""
    wide, narrow = root_of(value), root_of(value, wide=False)
    return f"{wide:#x}" if wide == narrow else f"{wide:#x} where addresses have 52 bits, {narrow:#x} where they have 48"


def _vttbr_facts(value: int) -> Mapping[str, str]:
    return {"root": f"HPA {_root_fact(value)}", "VMID": str(decode_vttbr_el2(value)[1])}


def _ttbr_facts(value: int) -> Mapping[str, str]:
    return {"root": _root_fact(value), "ASID": str(value >> 48)}


def _hcr_facts(value: int) -> Mapping[str, str]:
    """What E2H, TGE, DC and VM amount to together (D24.2 "HCR_EL2"; AArch64.S1Enabled, TranslationRegime)."""
    if value & HCR_TGE and value & HCR_E2H:
        stage_1, stage_2 = "EL1&0 is out of use: EL0 is in the EL2&0 regime (E2H, TGE)", False
    else:
        stage_2 = bool(value & (HCR_VM | HCR_DC))
        stage_1 = "as SCTLR_EL1.M says"
        if value & (HCR_DC | HCR_TGE):
            why = " and ".join(name for name, bit in (("DC", HCR_DC), ("TGE", HCR_TGE)) if value & bit)
            stage_1 = f"off, memory {'write-back' if value & HCR_DC else 'Device-nGnRnE'} ({why})"
    return {
        "stage 2": "on" if stage_2 else "off",
        "guest's EL1": "AArch64" if value & HCR_RW else "AArch32",
        "stage 1": stage_1,
        "stage-2 MemAttr": "overrides stage 1 (FWB)" if value & HCR_FWB else "combines with stage 1",
    }


def _halves(value: int, regime: Stage1Regime) -> dict[str, str]:
    """The halves of a stage-1 regime's addresses, one of which may be off."""
    facts: dict[str, str] = {}
    for name in ("0",) if regime is Stage1Regime.EL2 else ("0", "1"):
        made = half_of(value, regime, upper=name == "1")
        if made is None:
            facts[f"TTBR{name} format"] = f"none: EPD{name} forbids walks"
        else:
            facts |= {f"TTBR{name} format": made.name, f"TTBR{name} granule": format_size(made.page_size)}
    return facts | {"PA bits": str(output_bits(value, regime))}


def _tcr_facts(value: int) -> Mapping[str, str]:
    """TCR_EL1, and TCR_EL2 with HCR_EL2.E2H, which is laid out the same."""
    return _halves(value, Stage1Regime.EL1_0) | {"ASID from": "TTBR1" if value & TCR_A1 else "TTBR0"}


def _tcr_el2_facts(value: int) -> Mapping[str, str]:
    return _halves(value, Stage1Regime.EL2)


def _par_facts(value: int) -> Mapping[str, str]:
    if not value & 1:
        return {
            "translation": "succeeded",
            "output page": f"{value & 0x000F_FFFF_FFFF_F000:#x}",
            "memory type": _memory_type(value >> 56),
        }
    return {
        "translation": "failed",
        "fault": FAULT_STATUS.get(value >> 1 & 0x3F, "a reserved fault status"),
        "stage": "2" if value >> 9 & 1 else "1",
    }


def _par_fields(value: int) -> tuple[Field, ...]:
    return fields.PAR_EL1_FAULT if value & 1 else fields.PAR_EL1


def _mmfr0_facts(value: int) -> Mapping[str, str]:
    four, sixteen, sixty_four = value >> 28 & 15, value >> 20 & 15, value >> 24 & 15
    names = [
        name for name, there in (("4 KiB", four != 15), ("16 KiB", sixteen != 0), ("64 KiB", sixty_four != 15)) if there
    ]
    return {"PA bits": str(pa_bits(value & 15)), "stage-1 granules": ", ".join(names) or "none"}


def _sctlr_facts(value: int, flat: str) -> Mapping[str, str]:
    return {
        "stage 1": "on" if value & 1 else f"off: {flat}, data is Device-nGnRnE",
        "data cache": "as the tables say" if value & 4 else "off: Normal memory is Non-cacheable",
    }


_own_sctlr_facts = partial(_sctlr_facts, flat="HVA is HPA")


def _mair_facts(value: int) -> Mapping[str, str]:
    return {f"Attr{index}": _memory_type(value >> 8 * index & 0xFF) for index in range(8)}


def _memory_type(attribute: int) -> str:
    """A reserved attribute is an error only to a descriptor that uses it."""
    try:
        return describe_mair(attribute)
    except EncodingError:
        return f"reserved ({attribute:#04x})"


def _esr_facts(value: int, el: int) -> Mapping[str, str]:
    found = report(value, el=el)
    facts = {"exception": found.title, "says": found.sentences[0]}
    if found.stage is not None:
        facts["stage"] = str(found.stage)
    return facts


def _esr_fields(value: int) -> tuple[Field, ...]:
    """ESR with the syndrome of its exception class in place of ISS."""
    return (*syndrome_fields(value >> 26 & 0x3F, value & 0x1FF_FFFF), *ESR_EL2[1:])


def _far_facts(value: int) -> Mapping[str, str]:
    return {"GVA": f"{value:#x}"}


def _hpfar_facts(value: int) -> Mapping[str, str]:
    return {"IPA": f"page {(value & 0x0000_0FFF_FFFF_FFF0) << 8:#x}"}


def _register(
    name: str,
    title: str,
    described: tuple[Field, ...],
    summary: Summary,
    aliases: tuple[str, ...] = (),
    layout: Layout | None = None,
) -> Register:
    manual = f"Arm ARM DDI 0487, D24.2 {name.removesuffix('_VHE').removesuffix('_FAULT')}"
    return Register(name, title, "aarch64", described, manual, 64, summary, aliases, layout)


REGISTERS: tuple[Register, ...] = (
    _register("VTCR_EL2", "stage 2: granule, sizes and start level", fields.VTCR_EL2, _vtcr_facts),
    _register("VTTBR_EL2", "stage 2: root table and VMID", fields.VTTBR_EL2, _vttbr_facts),
    _register("HCR_EL2", "what the hypervisor switches on and traps", fields.HCR_EL2, _hcr_facts),
    _register("TCR_EL1", "stage 1 of EL1&0: granules and sizes of both halves", fields.TCR_EL1, _tcr_facts),
    _register("TCR_EL2", "stage 1 of EL2 with HCR_EL2.E2H 0", fields.TCR_EL2, _tcr_el2_facts),
    _register("TCR_EL2_VHE", "TCR_EL2 with HCR_EL2.E2H 1: stage 1 of EL2&0", fields.TCR_EL1, _tcr_facts),
    _register("TTBR0_EL1", "stage 1: root table of the low half", fields.TTBR, _ttbr_facts),
    _register("TTBR1_EL1", "stage 1: root table of the high half", fields.TTBR, _ttbr_facts, ("TTBR1_EL2",)),
    _register("TTBR0_EL2", "stage 1 of EL2: root table", fields.TTBR0_EL2, _ttbr_facts),
    _register("SCTLR_EL1", "stage 1 of EL1&0: on or off", fields.SCTLR_EL1, partial(_sctlr_facts, flat="GVA is IPA")),
    _register("SCTLR_EL2", "stage 1 of EL2 with HCR_EL2.E2H 0: on or off", fields.SCTLR_EL2, _own_sctlr_facts),
    _register("SCTLR_EL2_VHE", "SCTLR_EL2 with HCR_EL2.E2H 1", fields.SCTLR_EL2_VHE, _own_sctlr_facts),
    _register("MAIR_EL1", "the eight memory types of stage 1", fields.MAIR_EL1, _mair_facts, ("MAIR_EL2",)),
    _register("PAR_EL1", "result of an AT instruction", fields.PAR_EL1, _par_facts, layout=_par_fields),
    _register("PAR_EL1_FAULT", "result of an AT instruction that failed", fields.PAR_EL1_FAULT, _par_facts),
    _register("ID_AA64MMFR0_EL1", "which sizes and granules the CPU has", fields.ID_AA64MMFR0_EL1, _mmfr0_facts),
    _register("ESR_EL1", "syndrome of an exception that EL1 took", ESR_EL2, partial(_esr_facts, el=1), (), _esr_fields),
    _register("ESR_EL2", "syndrome of an exception that EL2 took", ESR_EL2, partial(_esr_facts, el=2), (), _esr_fields),
    _register("HPFAR_EL2", "IPA page that stage 2 refused", fields.HPFAR_EL2, _hpfar_facts),
    _register("FAR_EL2", "virtual address of a fault", fields.FAR_EL2, _far_facts, ("FAR_EL1",)),
)
