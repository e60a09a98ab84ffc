"""What registers made for tables hold, and what a hypervisor still adds to them before it loads them."""

from __future__ import annotations

DUTIES = {
    # RISC-V Privileged, "Hypervisor Guest Address Translation and Protection (hgatp) Register".
    "hgatp": "whole; after it is written HFENCE.GVMA, if tables or VMIDs were in use before",
    "satp": "whole; with ASID 0",
    # Arm ARM DDI 0487, D24.2.
    "VTCR_EL2": "whole: granule, sizes, start level, walks that are write-back and Inner Shareable, RES1 bits",
    "VTTBR_EL2": "root and VMID; CnP (bit 0) is the hypervisor's, where all CPUs share the tables",
    "HCR_EL2": (
        "VM, SWIO, RW and what the tables hang on; traps and routing are the hypervisor's (IMO, FMO, AMO, TWI, TSC), "
        "and so are E2H and TGE"
    ),
    "TTBR0_EL2": "root with ASID 0; CnP (bit 0) is the hypervisor's",
    "TTBR1_EL2": "root with ASID 0; CnP (bit 0) is the hypervisor's",
    "TCR_EL2": "whole: granules, sizes, walks that are write-back and Inner Shareable, RES1 bits",
    "MAIR_EL2": "whole: the tables' attributes are indices into it",
    "SCTLR_EL2": "M, C, I and the RES1 bits; alignment checks and traps (A, SA, WXN) are the hypervisor's",
    # Intel SDM Vol. 3C, 26.6.2 and 26.6.11; Vol. 3A, 2.5.
    "EPTP": "whole; goes into the VMCS, with 'enable EPT' set in the secondary processor-based controls",
    "VPID": "whole; goes into the VMCS, with 'enable VPID' set there",
    "CR3": "root with PCID 0; PWT, PCD and the PCID are the hypervisor's",
    "CR0": "PE, PG and what the tables need; NE, MP, ET and others are the hypervisor's",
    "CR4": "PAE and what the tables need; VMXE, OSFXSR, PCIDE and others are the hypervisor's",
    "EFER": "LME, LMA and what the tables need; SCE and SVME are the hypervisor's",
    # AMD APM Vol. 2, 15.25.3 "Enabling Nested Paging", appendix B.
    "N_CR3": "whole; goes into the VMCB at offset 0xb0",
    "ASID": "whole; goes into the VMCB at offset 0x58",
    "NP_ENABLE": "bit 0 of the VMCB's quadword at offset 0x90; its other bits (SEV, GMET) are the hypervisor's",
}
"""By the manual's name, a sentence's worth each."""
