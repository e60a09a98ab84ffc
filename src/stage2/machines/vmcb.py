"""The virtual machine control block of AMD's SVM, in memory (AMD APM Vol. 2, appendix B "Layout of VMCB").

The processor reads and writes the page itself, so nothing is copied: a field is where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from ..address import SIZE_4K, Hpa
from ..memory.physical import PhysicalMemory


class Field(Enum):
    """A field: its offset and its bytes."""

    INTERCEPT_CR = 0x000, 4
    INTERCEPT_DR = 0x004, 4
    INTERCEPT_EXCEPTIONS = 0x008, 4
    INTERCEPTS = 0x00C, 4
    INTERCEPTS_2 = 0x010, 4
    IOPM_BASE = 0x040, 8
    MSRPM_BASE = 0x048, 8
    ASID = 0x058, 4
    TLB_CONTROL = 0x05C, 1
    V_INTERRUPT = 0x060, 8
    INTERRUPT_SHADOW = 0x068, 8
    EXITCODE = 0x070, 8
    EXITINFO1 = 0x078, 8
    EXITINFO2 = 0x080, 8
    EXITINTINFO = 0x088, 8
    NP_ENABLE = 0x090, 8
    EVENTINJ = 0x0A8, 8
    N_CR3 = 0x0B0, 8
    NEXT_RIP = 0x0C8, 8
    CPL = 0x4CB, 1
    EFER = 0x4D0, 8
    CR4 = 0x548, 8
    CR3 = 0x550, 8
    CR0 = 0x558, 8
    DR7 = 0x560, 8
    DR6 = 0x568, 8
    RFLAGS = 0x570, 8
    RIP = 0x578, 8
    RSP = 0x5D8, 8
    RAX = 0x5F8, 8
    CR2 = 0x640, 8
    G_PAT = 0x668, 8


class Segment(IntEnum):
    """Offsets of the segment registers: selector, attributes (packed), limit, base."""

    ES = 0x400
    CS = 0x410
    SS = 0x420
    DS = 0x430
    FS = 0x440
    GS = 0x450
    GDTR = 0x460
    LDTR = 0x470
    IDTR = 0x480
    TR = 0x490


class Exit(IntEnum):
    """Exit codes (appendix C)."""

    SMI = 0x62
    INIT = 0x63
    NMI = 0x61
    CPUID = 0x72
    INVD = 0x76
    HLT = 0x78
    SHUTDOWN = 0x7F
    IOIO = 0x7B
    MSR = 0x7C
    VMRUN = 0x80
    SKINIT = 0x86
    MONITOR = 0x8A
    MWAIT = 0x8B
    MWAIT_ARMED = 0x8C
    NPF = 0x400
    INVALID = (1 << 64) - 1


ATTRIBUTES, LIMIT, BASE = 2, 4, 8
"""Of a segment register, from its offset on."""
CODE_64, DATA, CODE_32 = 0xA9B, 0xC93, 0xC9B
"""Attributes of flat segments of CPL 0."""
LDT, TASK = 0x082, 0x08B

# Events of EVENTINJ and EXITINTINFO (15.20).
EVENT_VALID, EVENT_ERROR_VALID = 1 << 31, 1 << 11
EVENT_TYPE, EVENT_TYPE_SHIFT, EVENT_VECTOR = 7 << 8, 8, 0xFF
EXTERNAL, NMI, EXCEPTION, SOFTWARE = 0, 2, 3, 4


def intercepts(*codes: int) -> tuple[int, int]:
    """The words INTERCEPTS and INTERCEPTS_2 for exit codes from 0x60 on."""
    first = sum(1 << code - 0x60 for code in codes if code < 0x80)
    return first, sum(1 << code - 0x80 for code in codes if 0x80 <= code < 0xA0)


@dataclass(frozen=True, slots=True)
class Vmcb:
    """A control block.

    Args:
        memory: the machine's RAM.
        at: HPA of its page.
    """

    memory: PhysicalMemory
    at: int

    def get(self, field: Field) -> int:
        offset, size = field.value
        return int.from_bytes(self.memory.read(Hpa(self.at + offset), size), "little")

    def set(self, field: Field, value: int) -> None:
        offset, size = field.value
        self.memory.write(Hpa(self.at + offset), (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def base(self, segment: Segment) -> int:
        """The base of a segment register."""
        return self.memory.load_u64(Hpa(self.at + segment + BASE))

    def attributes(self, segment: Segment) -> int:
        """The attributes of a segment register, packed: bits 7:0 type, S, DPL and P; 11:8 AVL, L, D/B and G."""
        return int.from_bytes(self.memory.read(Hpa(self.at + segment + ATTRIBUTES), 2), "little")

    def set_segment(self, segment: Segment, selector: int, attributes: int, limit: int, base: int = 0) -> None:
        """Load a segment register."""
        words = ((selector, 2), (attributes, 2), (limit, 4), (base, 8))
        self.memory.write(Hpa(self.at + segment), b"".join(value.to_bytes(size, "little") for value, size in words))

    def clear(self) -> None:
        """Make all of it zero."""
        self.memory.write(Hpa(self.at), bytes(SIZE_4K))
