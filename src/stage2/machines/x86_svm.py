"""QEMU's q35 with SVM: its processor walks nested tables, the monitor `svm-x86_64` makes one VMRUN for each probe.

AMD APM Vol. 2, chapter 15 "Secure Virtual Machine" and appendix B "Layout of VMCB".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..address import GIB, SIZE_1G, SIZE_4K, Hpa, Range
from . import mailbox
from .mailbox import Command
from .qemu import QemuMachine

Words = npt.NDArray[np.uint64]

PHYSICAL_BITS = 50
"""MAXPHYADDR of the processor: bits 51:50 of entries are reserved, GPAs may be wider than `npt4` translates."""

# --- the memory map, as in monitors/svm-x86_64.S -------------------------------------------------------------------
_VMCB_KERNEL, _VMCB_USER = 0x20_1000, 0x20_2000
_PORT_MAP, _PORT_MAP_SIZE = 0x20_4000, 0x3000
_MSR_MAP, _MSR_MAP_SIZE = 0x20_8000, 0x2000
_PML5, _PML4, _PDPT = 0x21_0000, 0x21_1000, 0x21_2000
GUEST_CODE = Range.sized(0x22_0000, 0x1_0000)
"""HPAs of the guest's code: a load and a store."""
LIST, RESULTS = Hpa(0x80_0000), Hpa(0x100_0000)
PROBES_AT_ONCE = 1 << 16
MONITOR = Range(0, 0x200_0000)
"""HPAs that belong to the firmware and the monitor."""

# --- registers -----------------------------------------------------------------------------------------------------
CR0 = 0x8000_0031
"""PG, NE, ET and PE; WP is the caller's choice."""
CR4 = 0x220
"""PAE and OSFXSR; LA57, SMEP and SMAP are the caller's choice."""
CR4_LA57 = 1 << 12
EFER = 0x1500
"""LME, LMA and SVME; NXE is the caller's choice."""

# --- exit codes (APM Vol. 2, appendix C) ---------------------------------------------------------------------------
EXIT_GP, EXIT_PF, EXIT_INTR, EXIT_NPF = 0x4D, 0x4E, 0x60, 0x400

# --- operations of INVALIDATE --------------------------------------------------------------------------------------
TLB_CONTROL, INVLPGA = 0, 1

_P, _RW = 1 << 0, 1 << 1
_PS = 1 << 7
_INTERCEPT_ALL = 0xFFFF_FFFF
_INTERCEPT_SVM = 0x3FFF
"""VMRUN, VMMCALL and the other instructions of the second word of intercepts."""
_V_INTR_MASKING = 1 << 24
_NP_ENABLE = 1
_PAT = 0x0007_0406_0007_0406


@dataclass(frozen=True, slots=True)
class Guest:
    """What a guest's probes run under.

    Args:
        cr0, cr3, cr4, efer: the guest's registers.
        nested_cr3, asid: of the VMCB.
        host_cr4, host_efer: of the monitor while it executes VMRUN: nested tables have 5 levels if its LA57 is set,
            and bit 63 if its NXE is (APM 15.25.3).
        code_kernel, code_user: GVAs at which the guest's code is mapped for CPL 0 and CPL 3.
    """

    cr0: int
    cr3: int
    cr4: int
    efer: int
    nested_cr3: int
    asid: int
    host_cr4: int
    host_efer: int
    code_kernel: int
    code_user: int

    def vmcb(self, *, user: bool) -> bytes:
        """The control block; the monitor fills in RIP and RAX."""
        block = bytearray(SIZE_4K)
        for offset, size, value in (*self._control(), *self._state(3 if user else 0)):
            block[offset : offset + size] = value.to_bytes(size, "little")
        return bytes(block)

    def _control(self) -> Iterator[tuple[int, int, int]]:
        yield from ((offset, 4, _INTERCEPT_ALL) for offset in (0x000, 0x004, 0x008, 0x00C))
        yield 0x010, 4, _INTERCEPT_SVM
        yield 0x040, 8, _PORT_MAP
        yield 0x048, 8, _MSR_MAP
        yield 0x058, 4, self.asid
        yield 0x060, 8, _V_INTR_MASKING
        yield 0x090, 8, _NP_ENABLE
        yield 0x0B0, 8, self.nested_cr3

    def _state(self, cpl: int) -> Iterator[tuple[int, int, int]]:
        # Attributes in the VMCB's packed form: flat segments of 64-bit mode; only CS and SS matter.
        code, data = 0xA9B | cpl << 5, 0xC93 | cpl << 5
        for offset, selector, attributes in (
            (0x400, 0x18, data), (0x410, 0x10, code), (0x420, 0x18, data), (0x430, 0x18, data), (0x440, 0x18, data),
            (0x450, 0x18, data), (0x470, 0, 0x082), (0x490, 0x20, 0x08B),
        ):  # fmt: skip
            yield offset, 2, selector | (cpl if selector else 0)
            yield offset + 2, 2, attributes
            yield offset + 4, 4, 0xFFFF_FFFF
        yield 0x4CB, 1, cpl
        yield 0x4D0, 8, self.efer
        yield 0x548, 8, self.cr4
        yield 0x550, 8, self.cr3
        yield 0x558, 8, self.cr0
        yield 0x560, 8, 0x400
        yield 0x568, 8, 0xFFFF_0FF0
        yield 0x570, 8, 0x2
        yield 0x668, 8, _PAT


class X86SvmMachine(QemuMachine):
    """An emulated AMD processor with 2 GiB of RAM from 0.

    LOAD's registers are the last four of `Guest`. Outcomes of probes are exit codes, 0 for VMMCALL; syndromes are
    EXITINFO1, EXITINFO2, EXITINTINFO, CR2 and RIP. A fetch's value is the HPA it is expected at, or 0: the monitor
    stores the word there anew, for QEMU keeps code that it has translated and does not see that Python changed it.
    """

    PROGRAM = "qemu-system-x86_64"
    PACKAGE = "qemu-system-x86"
    RAM = Range(0, 2 * GIB)
    MAILBOX = 0x20_0000

    def prepare(self) -> None:
        store = self.memory.store_u64
        store(Hpa(_PML5), _PML4 | _P | _RW)
        store(Hpa(_PML4), _PDPT | _P | _RW)
        for gigabyte in range(4):
            store(Hpa(_PDPT + 8 * gigabyte), gigabyte * SIZE_1G | _PS | _P | _RW)
        # No port and no MSR is the guest's.
        self.memory.write(Hpa(_PORT_MAP), b"\xff" * _PORT_MAP_SIZE)
        self.memory.write(Hpa(_MSR_MAP), b"\xff" * _MSR_MAP_SIZE)

    def arguments(self, ram: str, door: int) -> list[str]:
        monitor = Path(__file__).parent / "monitors" / "svm-x86_64.bin"
        size = self.RAM.size
        return [
            "-machine", "q35,memory-backend=ram", "-accel", "tcg", "-cpu", f"max,phys-bits={PHYSICAL_BITS}",
            "-object", f"memory-backend-file,id=ram,size={size},mem-path={ram},share=on", "-m", f"{size >> 20}M",
            "-smp", "1", "-nodefaults", "-display", "none", "-monitor", "none", "-vga", "none", "-no-reboot",
            "-chardev", f"socket,id=door,fd={door}", "-serial", "chardev:door", "-kernel", str(monitor),
        ]  # fmt: skip

    def enter(self, guest: Guest, *, keep_tlb: bool = False) -> None:
        """Make the guest the one that probes run in, with no cached translation unless `keep_tlb` is set."""
        self.memory.write(Hpa(_VMCB_KERNEL), guest.vmcb(user=False))
        self.memory.write(Hpa(_VMCB_USER), guest.vmcb(user=True))
        self.load([guest.host_efer, guest.host_cr4, guest.code_kernel, guest.code_user], keep_tlb=keep_tlb)

    def probe(self, addresses: Words, values: Words, kinds: Words) -> npt.NDArray[Any]:
        """Make probes, as many as there are.

        Args:
            addresses: GVAs.
            values: what writes store; of fetches see above.
            kinds: the access, and `mailbox.UNPRIVILEGED`.

        Returns:
            An array of `mailbox.RESULT_ENTRY`.
        """
        entries = np.zeros(len(addresses), mailbox.PROBE_ENTRY)
        entries["address"], entries["value"], entries["kind"] = addresses, values, kinds
        results = np.empty(len(entries), mailbox.RESULT_ENTRY)
        for first in range(0, len(entries), PROBES_AT_ONCE):
            part = slice(first, min(first + PROBES_AT_ONCE, len(entries)))
            count = part.stop - first
            self.memory.write(LIST, entries[part])
            self.command(Command.PROBE, list=LIST, count=count, results=RESULTS)
            found = self.memory.read(RESULTS, count * results.itemsize)
            results[part] = np.frombuffer(found, mailbox.RESULT_ENTRY)
        return results

    def invalidate(self, *operations: tuple[int, int]) -> None:
        """Do operations, a number and an operand each: TLB_CONTROL of the next VMRUN, or INVLPGA of a GVA."""
        self.memory.write(LIST, np.array(list(operations), mailbox.OPERATION_ENTRY))
        self.command(Command.INVALIDATE, list=LIST, count=len(operations))

    def features(self) -> tuple[int, ...]:
        """EAX and EDX of CPUID 8000000A, EAX of 80000008, EBX and ECX of 7, as the monitor saw them at its start."""
        return tuple(self.word(mailbox.INFO + 8 * index) for index in range(5))
