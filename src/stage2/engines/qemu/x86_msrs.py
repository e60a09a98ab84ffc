"""A guest's model-specific registers: which it has for itself, and what the others answer.

AMD APM Vol. 2, appendix A "MSR Cross-Reference" and 15.11 "MSR Intercepts".
"""

from __future__ import annotations

from ...formats.x86 import paging
from ...formats.x86.paging import CR0_PG, EFER_LMA, EFER_LME
from ...machines.vmcb import Field, Vmcb

OWN = (
    0x174, 0x175, 0x176,  # SYSENTER
    0xDA0,  # XSS
    0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084,  # STAR, LSTAR, CSTAR, SFMASK
    0xC000_0100, 0xC000_0101, 0xC000_0102, 0xC000_0103,  # FS.base, GS.base, KernelGSbase, TSC_AUX
)  # fmt: skip
"""What the processor keeps for the guest: VMLOAD and VMSAVE swap it, or the monitor uses none of it."""
READ_ONLY = (0x10,)
"""The time-stamp counter, which measures the monitor's waits too."""
_APIC_BASE, _TSC, _TSC_ADJUST, _PAT, _EXTENDED_FEATURES = 0x1B, 0x10, 0x3B, 0x277, 0xC000_0080
"""Numbers of MSRs; the last is EFER's."""
_EFER_FREE = paging.EFER_SCE | paging.EFER_LME | paging.EFER_NXE | paging.EFER_FFXSR
"""SCE, LME, NXE and FFXSR."""
_APIC_BASE_VALUE, _FIRST_CPU = 0xFEE0_0000 | 1 << 11, 1 << 8
"""Enabled: where the board has it, which a guest cannot change."""
_PLAIN = {0x17: 0, 0x8B: 0, 0xCE: 0, 0x1A0: 1, 0xC001_0015: 0, 0xC001_001F: 0, 0xC001_0055: 0}
"""Platform, microcode, MISC_ENABLE (fast strings), HWCR, NB_CFG, IntPend: what they read as; writes are dropped."""


class Msrs:
    """The registers of a guest that exit.

    Args:
        vmcb: its control block.
        first: it is the guest's first CPU.
    """

    def __init__(self, vmcb: Vmcb, *, first: bool) -> None:
        self._vmcb = vmcb
        self._apic_base = _APIC_BASE_VALUE | (_FIRST_CPU if first else 0)

    def read(self, number: int) -> int | None:
        """The value; None where RDMSR is to fail."""
        if number == _EXTENDED_FEATURES:
            return self._vmcb.get(Field.EFER) & ~paging.EFER_SVME
        if number == _PAT:
            return self._vmcb.get(Field.G_PAT)
        if number == _APIC_BASE:
            return self._apic_base
        return _PLAIN.get(number)

    def write(self, number: int, value: int) -> bool:
        """Whether WRMSR may do it."""
        if number == _EXTENDED_FEATURES:
            translates = self._vmcb.get(Field.CR0) & CR0_PG
            if value & ~(_EFER_FREE | EFER_LMA) or (translates and (value ^ self._vmcb.get(Field.EFER)) & EFER_LME):
                return False
            # LMA is the processor's to set; without SVME VMRUN would refuse the guest.
            self._vmcb.set(Field.EFER, value & _EFER_FREE | self._vmcb.get(Field.EFER) & EFER_LMA | paging.EFER_SVME)
            return True
        if number == _PAT:
            if any(kind in (2, 3) or kind > 7 for kind in value.to_bytes(8, "little")):
                return False
            self._vmcb.set(Field.G_PAT, value)
            return True
        if number == _APIC_BASE:
            return value == self._apic_base
        return number in _PLAIN
