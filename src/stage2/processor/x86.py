"""Processors of x86-64."""

from __future__ import annotations

from .record import Feature, Number, Parts, Processor

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
        "c-bit": Number("the bit of an entry that SEV takes from its address, 0 for none", 0, 51, "CPUID 8000001FH"),
    },
)
_ALL = frozenset(PARTS.features)

PROCESSORS = (Processor("max", PARTS, "intel", _ALL, {"pa": 52, "c-bit": 0}, "everything that the manuals have"),)
