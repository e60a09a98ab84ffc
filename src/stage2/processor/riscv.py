"""Processors of RISC-V with 64-bit registers, most of them with the hypervisor extension."""

from __future__ import annotations

from .record import Feature, Number, Parts, Processor

PARTS = Parts(
    "riscv64",
    features={
        "h": Feature("the hypervisor extension: a second stage (hgatp), and HLVX", "misa.H"),
        "sv48": Feature("satp and hgatp know Sv48 and Sv48x4", "satp.MODE and hgatp.MODE read back what was written"),
        "sv57": Feature("satp and hgatp know Sv57 and Sv57x4", "satp.MODE and hgatp.MODE read back what was written"),
        "svade": Feature(
            "a clear A, or D for a write, is a page fault; without this and Svadu hardware always sets them",
            'Privileged, "Svade"; the device tree names it',
            shown_to_guests=False,
        ),
        "svadu": Feature(
            "hardware can be told to set A and D (menvcfg.ADUE, henvcfg.ADUE), and otherwise does as under Svade",
            'Privileged, "Svadu"',
        ),
        "svnapot": Feature(
            "bit 63 of a leaf marks a group of 64 KiB",
            'Privileged, "Svnapot"; the device tree names it',
            shown_to_guests=False,
        ),
        "svpbmt": Feature(
            "bits 62:61 of a leaf can be a memory type (menvcfg.PBMTE, henvcfg.PBMTE)",
            'Privileged, "Svpbmt"',
            shown_to_guests=False,
        ),
    },
    numbers={
        "pa": Number("bits of a physical address", 32, 56, "the platform's devices and memory"),
        "asid": Number("bits of an ASID", 0, 16, "satp.ASID reads back what was written"),
        "vmid": Number("bits of a VMID", 0, 14, "hgatp.VMID reads back what was written"),
    },
)
_ALL = frozenset(PARTS.features)
_WIDEST = {"pa": 56, "asid": 16, "vmid": 14}

PROCESSORS = (
    Processor("max", PARTS, "risc-v", _ALL, _WIDEST, "everything that the manual has"),
    Processor(
        "kunminghu",
        PARTS,
        "openxiangshan",
        frozenset({"h", "sv48", "svade", "svnapot", "svpbmt"}),
        {"pa": 48, "asid": 16, "vmid": 14},
        'XiangShan Kunminghu V2 User Guide, "Instruction set" and "Virtual memory management"',
    ),
    Processor(
        "sifive-u54",
        PARTS,
        "sifive",
        frozenset({"svade"}),
        {"pa": 38, "asid": 0, "vmid": 0},
        'SiFive FU540-C000 Manual, "U54 RISC-V Application Cores": Sv39, 38-bit physical addresses, no hypervisor '
        "extension",
    ),
    Processor(
        "veyron-v1",
        PARTS,
        "ventana",
        frozenset({"h", "sv48", "svnapot", "svpbmt"}),
        _WIDEST,
        "QEMU 10's model of the Ventana Veyron V1",
    ),
    Processor(
        "tt-ascalon",
        PARTS,
        "tenstorrent",
        frozenset({"h", "sv48", "sv57", "svade", "svnapot", "svpbmt"}),
        _WIDEST,
        "QEMU 10's model of the Tenstorrent Ascalon",
    ),
    Processor(
        "qemu-7-rv64",
        PARTS,
        "qemu",
        frozenset({"h", "sv48", "sv57"}),
        _WIDEST,
        "QEMU 7.2's model rv64, which has h=on by itself; svnapot=on and svpbmt=on add to it",
    ),
    Processor(
        "qemu-10-rv64",
        PARTS,
        "qemu",
        frozenset({"h", "sv48", "sv57", "svadu"}),
        _WIDEST,
        "QEMU 10's model rv64; svnapot=on and svpbmt=on add to it",
    ),
)
