"""Processors of x86-64."""

from __future__ import annotations

from .record import Feature, Number, Parts, Processor

INTEL, AMD, ANY = "intel", "amd", "any"
"""Vendors: Intel's have EPT, AMD's nested paging and their own reserved bits; one of any vendor has both."""

PARTS = Parts(
    "x86_64",
    features={
        "nx": Feature("bit 63 of an entry can forbid fetches (EFER.NXE)", "CPUID 80000001H:EDX bit 20"),
        "la57": Feature("CR4.LA57: five levels of long mode and of nested tables", "CPUID 7:ECX bit 16"),
        "gib-pages": Feature("long mode and nested tables have leaves of 1 GiB", "CPUID 80000001H:EDX bit 26"),
        "ept-5level": Feature("EPT may have five levels", "IA32_VMX_EPT_VPID_CAP bit 7"),
        "ept-gib-pages": Feature("EPT has leaves of 1 GiB", "IA32_VMX_EPT_VPID_CAP bit 17"),
        "ept-execute-only": Feature("EPT entries may allow fetches alone", "IA32_VMX_EPT_VPID_CAP bit 0"),
        "ept-ad": Feature("EPTP bit 6: EPT has accessed and dirty flags", "IA32_VMX_EPT_VPID_CAP bit 21"),
        "mbec": Feature(
            "mode-based execute control: EPT tells user fetches from supervisor ones",
            "IA32_VMX_PROCBASED_CTLS2 bit 54",
        ),
    },
    numbers={
        "pa": Number("bits of a physical address", 32, 52, "CPUID 80000008H:EAX bits 7:0"),
        "c-bit": Number(
            "the bit of an entry that SEV or SME takes from its address, 0 while they are off",
            0,
            51,
            "CPUID 8000001FH:EBX bits 5:0; bits 11:6 say by how much they shorten addresses",
        ),
    },
)
_ALL = frozenset(PARTS.features)
_EPT_OF_2017 = frozenset({"nx", "gib-pages", "ept-gib-pages", "ept-execute-only", "ept-ad", "mbec"})
_ZEN = frozenset({"nx", "gib-pages"})

PROCESSORS = (
    Processor("max", PARTS, ANY, _ALL, {"pa": 52, "c-bit": 0}, "everything that the manuals have"),
    Processor(
        "coffee-lake",
        PARTS,
        INTEL,
        _EPT_OF_2017,
        {"pa": 39, "c-bit": 0},
        "/proc/cpuinfo of Core i7-9750H and i7-9700K: 39 bits physical; ept_x_only ept_ad ept_1gb ept_mode_based_exec",
    ),
    Processor(
        "meteor-lake",
        PARTS,
        INTEL,
        _EPT_OF_2017,
        {"pa": 46, "c-bit": 0},
        "/proc/cpuinfo of Core Ultra 7 155H: 46 bits physical, 48 virtual; ept_x_only ept_ad ept_1gb "
        "ept_mode_based_exec",
    ),
    Processor(
        "zen1",
        PARTS,
        AMD,
        _ZEN,
        {"pa": 48, "c-bit": 0},
        "/proc/cpuinfo of EPYC 7001 with memory encryption off: 48 bits physical, pdpe1gb",
    ),
    Processor(
        "zen1-sev",
        PARTS,
        AMD,
        _ZEN,
        {"pa": 43, "c-bit": 47},
        "the same with SME or SEV on: 43 bits physical; C-bit 47 (CPUID 8000001FH:EBX)",
    ),
    Processor(
        "zen4",
        PARTS,
        AMD,
        _ZEN | {"la57"},
        {"pa": 52, "c-bit": 0},
        "CPUID of EPYC 9004 with memory encryption off: 52 bits physical, la57",
    ),
)
