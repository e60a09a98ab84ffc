"""Processors of AArch64."""

from __future__ import annotations

from .record import Feature, Number, Parts, Processor

PARTS = Parts(
    "aarch64",
    features={
        "pan": Feature("FEAT_PAN: PSTATE.PAN keeps EL1 from data of EL0", "ID_AA64MMFR1_EL1.PAN"),
        "ha": Feature("FEAT_HAFDBS: hardware sets the access flag", "ID_AA64MMFR1_EL1.HAFDBS"),
        "hd": Feature("FEAT_HAFDBS: hardware manages the dirty state", "ID_AA64MMFR1_EL1.HAFDBS"),
        "lva": Feature("FEAT_LVA: input addresses of 52 bits with 64 KiB granules", "ID_AA64MMFR2_EL1.VARange"),
        "lpa": Feature("FEAT_LPA: output addresses of 52 bits with 64 KiB granules", "ID_AA64MMFR0_EL1.PARange"),
        "lpa2": Feature("FEAT_LPA2: 52-bit addresses with 4 and 16 KiB granules", "ID_AA64MMFR0_EL1.TGRAN4, TGRAN16"),
        "ttst": Feature("FEAT_TTST: input addresses of less than 25 bits", "ID_AA64MMFR2_EL1.ST"),
        "xnx": Feature("FEAT_XNX: stage 2 tells EL0's fetches from EL1's", "ID_AA64MMFR1_EL1.XNX"),
        "fwb": Feature("FEAT_S2FWB: stage 2 can override stage 1's memory type", "ID_AA64MMFR2_EL1.FWB"),
        "granule-4k": Feature("4 KiB granules", "ID_AA64MMFR0_EL1.TGRAN4 and TGRAN4_2"),
        "granule-16k": Feature("16 KiB granules", "ID_AA64MMFR0_EL1.TGRAN16 and TGRAN16_2"),
        "granule-64k": Feature("64 KiB granules", "ID_AA64MMFR0_EL1.TGRAN64 and TGRAN64_2"),
    },
    numbers={
        "pa": Number("bits of a physical address", 32, 52, "ID_AA64MMFR0_EL1.PARange"),
        "vmid": Number("bits of a VMID", 8, 16, "ID_AA64MMFR1_EL1.VMIDBits"),
        "bbm": Number("level of FEAT_BBM, 0 for none", 0, 2, "ID_AA64MMFR2_EL1.BBM"),
    },
)
_ALL = frozenset(PARTS.features)

PROCESSORS = (Processor("max", PARTS, "arm", _ALL, {"pa": 52, "vmid": 16, "bbm": 2}, "everything that the manual has"),)
