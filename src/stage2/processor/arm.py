"""Processors of AArch64.

The numbers of the named ones are their ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1 and ID_AA64MMFR2_EL1, as their reference
manuals and QEMU's models of them have these; a test reads the models' own.
"""

from __future__ import annotations

from .record import Feature, Number, Parts, Processor

PARTS = Parts(
    "aarch64",
    features={
        "pan": Feature("FEAT_PAN: PSTATE.PAN keeps EL1 from data of EL0", "ID_AA64MMFR1_EL1.PAN"),
        "hpds": Feature("FEAT_HPDS: TCR.HPD lets tables restrict nothing below them", "ID_AA64MMFR1_EL1.HPDS"),
        "ha": Feature("FEAT_HAFDBS: hardware sets the access flag", "ID_AA64MMFR1_EL1.HAFDBS"),
        "hd": Feature("FEAT_HAFDBS: hardware manages the dirty state", "ID_AA64MMFR1_EL1.HAFDBS"),
        "lva": Feature(
            "FEAT_LVA: input addresses of 52 bits with 64 KiB granules",
            "ID_AA64MMFR2_EL1.VARange",
            shown_to_guests=False,
        ),
        "lpa": Feature(
            "FEAT_LPA: output addresses of 52 bits with 64 KiB granules",
            "ID_AA64MMFR0_EL1.PARange",
            shown_to_guests=False,
        ),
        "lpa2": Feature(
            "FEAT_LPA2: 52-bit addresses with 4 and 16 KiB granules",
            "ID_AA64MMFR0_EL1.TGran4, TGran16",
            shown_to_guests=False,
        ),
        "ttst": Feature(
            "FEAT_TTST: input addresses of less than 25 bits", "ID_AA64MMFR2_EL1.ST", shown_to_guests=False
        ),
        "xnx": Feature("FEAT_XNX: stage 2 tells EL0's fetches from EL1's", "ID_AA64MMFR1_EL1.XNX"),
        "fwb": Feature("FEAT_S2FWB: stage 2 can override stage 1's memory type", "ID_AA64MMFR2_EL1.FWB"),
        "granule-4k": Feature("4 KiB granules", "ID_AA64MMFR0_EL1.TGran4, TGran4_2"),
        "granule-16k": Feature("16 KiB granules", "ID_AA64MMFR0_EL1.TGran16, TGran16_2"),
        "granule-64k": Feature("64 KiB granules", "ID_AA64MMFR0_EL1.TGran64, TGran64_2"),
    },
    numbers={
        "pa": Number("bits of a physical address", 32, 52, "ID_AA64MMFR0_EL1.PARange"),
        "vmid": Number("bits of a VMID", 8, 16, "ID_AA64MMFR1_EL1.VMIDBits"),
        "bbm": Number("level of FEAT_BBM, 0 for none", 0, 2, "ID_AA64MMFR2_EL1.BBM"),
    },
)
_ALL = frozenset(PARTS.features)
_4K_64K = frozenset({"granule-4k", "granule-64k"})
_GRANULES = _4K_64K | {"granule-16k"}
_V8_1 = frozenset({"pan", "hpds", "ha", "hd", "xnx"})
"""What came with Armv8.1 and 8.2, and is in all processors here that have any of it but the A64FX."""


def _processor(name: str, features: frozenset[str], pa: int, vmid: int, bbm: int, source: str) -> Processor:
    vendor = "fujitsu" if name == "a64fx" else "arm"
    return Processor(name, PARTS, vendor, features, {"pa": pa, "vmid": vmid, "bbm": bbm}, source)


PROCESSORS = (
    _processor("max", _ALL, 52, 16, 2, "everything that the manual has"),
    _processor("cortex-a35", _GRANULES, 40, 8, 0, "Arm Cortex-A35 TRM (100236), ID_AA64MMFR0_EL1"),
    _processor("cortex-a53", _4K_64K, 40, 8, 0, "Arm Cortex-A53 TRM (DDI 0500), ID_AA64MMFR0_EL1"),
    _processor("cortex-a55", _GRANULES | _V8_1, 40, 16, 0, "Arm Cortex-A55 TRM (100442), ID_AA64MMFR0_EL1 to 2"),
    _processor("cortex-a57", _4K_64K, 44, 8, 0, "Arm Cortex-A57 TRM (DDI 0488), ID_AA64MMFR0_EL1"),
    _processor("cortex-a72", _4K_64K, 44, 8, 0, "Arm Cortex-A72 TRM (100095), ID_AA64MMFR0_EL1"),
    _processor("cortex-a76", _GRANULES | _V8_1, 40, 16, 0, "Arm Cortex-A76 TRM (100798), ID_AA64MMFR0_EL1 to 2"),
    _processor(
        "cortex-a710", _GRANULES | _V8_1 | {"ttst", "fwb"}, 40, 16, 2,
        "Arm Cortex-A710 TRM (101800), ID_AA64MMFR0_EL1 to 2",
    ),
    _processor(
        "neoverse-n1", _GRANULES | _V8_1, 48, 16, 0, "Arm Neoverse N1 TRM (100616), ID_AA64MMFR0_EL1 to 2"
    ),
    _processor(
        "neoverse-n2", _GRANULES | _V8_1 | {"ttst", "fwb"}, 48, 16, 2,
        "Arm Neoverse N2 TRM (102099), ID_AA64MMFR0_EL1 to 2",
    ),
    _processor(
        "neoverse-v1", _GRANULES | _V8_1 | {"fwb"}, 48, 16, 2, "Arm Neoverse V1 TRM (101427), ID_AA64MMFR0_EL1 to 2"
    ),
    _processor("a64fx", _4K_64K | _V8_1 - {"ha", "hd"}, 40, 8, 0, "QEMU's model a64fx, ID_AA64MMFR0_EL1 to 2"),
)  # fmt: skip
