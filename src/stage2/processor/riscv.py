"""Processors of RISC-V with 64-bit registers and the hypervisor extension."""

from __future__ import annotations

from .record import Feature, Number, Parts, Processor

PARTS = Parts(
    "riscv64",
    features={
        "sv48": Feature("satp and hgatp know Sv48 and Sv48x4", "satp.MODE and hgatp.MODE read back what was written"),
        "sv57": Feature("satp and hgatp know Sv57 and Sv57x4", "satp.MODE and hgatp.MODE read back what was written"),
        "svadu": Feature("hardware can set A and D (menvcfg.ADUE, henvcfg.ADUE)", 'Privileged, "Svadu"'),
        "svnapot": Feature("bit 63 of a leaf marks a group of 64 KiB", 'Privileged, "Svnapot"'),
        "svpbmt": Feature("bits 62:61 of a leaf can be a memory type (menvcfg.PBMTE)", 'Privileged, "Svpbmt"'),
    },
    numbers={
        "pa": Number("bits of a physical address", 32, 56, "the platform's devices and memory"),
        "asid": Number("bits of an ASID", 0, 16, "satp.ASID reads back what was written"),
        "vmid": Number("bits of a VMID", 0, 14, "hgatp.VMID reads back what was written"),
    },
)
_ALL = frozenset(PARTS.features)

PROCESSORS = (
    Processor("max", PARTS, "risc-v", _ALL, {"pa": 56, "asid": 16, "vmid": 14}, "everything that the manual has"),
)
