"""What CPUID tells a guest: what the board's processor has, without what the guest is not given.

AMD APM Vol. 3, appendix E "Obtaining Processor Information Via the CPUID Instruction"; Intel SDM Vol. 2A, CPUID.
"""

from __future__ import annotations

from typing import NamedTuple

from ...formats.x86.paging import CR4_OSXSAVE

SIGNATURE = b"STAGE2\0\0\0\0\0\0"
"""Of the hypervisor, leaf 4000_0000."""
_FEATURES, _STRUCTURED, _HYPERVISOR, _EXTENDED, _SVM = 1, 7, 0x4000_0000, 0x8000_0001, 0x8000_000A
_MWAIT = 5
_OSXSAVE = 1 << 27
_HIDDEN_1_ECX = 1 << 3 | 1 << 5 | 1 << 21 | 1 << 24
"""MONITOR, VMX, x2APIC, and the local APIC's TSC deadline."""
_HIDDEN_1_EDX = 1 << 7 | 1 << 12 | 1 << 14
"""Machine checks, which are the host's, and MTRRs: memory types of a guest are its tables' and the nested tables'."""
_HYPERVISOR_PRESENT = 1 << 31
_HIDDEN_7_EBX = 1 << 2
"""SGX."""
_HIDDEN_7_ECX = 1 << 3 | 1 << 4 | 1 << 16
"""Protection keys and 57-bit addresses, for whose tables there is no walker here."""
_HIDDEN_EXTENDED_ECX = 1 << 2 | 1 << 10 | 1 << 12
"""SVM, instruction-based sampling, SKINIT."""
_SVM_LEAVES = frozenset({0x8000_000A, 0x8000_001B, 0x8000_001F, 0x8000_0025})


class Cpuid(NamedTuple):
    """The four registers."""

    eax: int
    ebx: int
    ecx: int
    edx: int


def shown(leaf: int, found: Cpuid, cr4: int) -> Cpuid:
    """What a guest is told.

    Args:
        leaf: EAX.
        found: what the processor answered.
        cr4: the guest's.
    """
    eax, ebx, ecx, edx = found
    if leaf == _FEATURES:
        ecx = ecx & ~(_HIDDEN_1_ECX | _OSXSAVE) | _HYPERVISOR_PRESENT
        ecx |= _OSXSAVE if cr4 & CR4_OSXSAVE else 0
        return Cpuid(eax, ebx, ecx, edx & ~_HIDDEN_1_EDX)
    if leaf == _STRUCTURED:
        return Cpuid(eax, ebx & ~_HIDDEN_7_EBX, ecx & ~_HIDDEN_7_ECX, edx)
    if leaf == _EXTENDED:
        return Cpuid(eax, ebx, ecx & ~_HIDDEN_EXTENDED_ECX, edx)
    if leaf == _HYPERVISOR:
        words = (int.from_bytes(SIGNATURE[at : at + 4], "little") for at in (0, 4, 8))
        return Cpuid(_HYPERVISOR, *words)
    if leaf == _MWAIT or leaf in _SVM_LEAVES or _HYPERVISOR < leaf < _HYPERVISOR + 0x1000_0000:
        return Cpuid(0, 0, 0, 0)
    return found
