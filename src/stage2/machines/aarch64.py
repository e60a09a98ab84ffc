"""QEMU's AArch64 machine: a monitor at EL2 that lets a guest at EL1 and EL0 do one access at a time.

The guest has a window of 64 KiB that every stage-2 table must map: its two instructions, and tables for TTBR1 through
which it finds them while its stage 1 is on. TTBR0 is free for the tables that are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..address import Hpa, Range
from ..errors import EncodingError, MachineError
from ..formats import family_of
from ..formats.arm.layout import AF, TABLE_OR_PAGE, VALID
from ..formats.arm.sizes import pa_bits
from ..formats.arm.stage1 import MAIR, PAN, READ_ONLY, USER, WXN
from ..formats.arm.stage1_control import SCTLR_M, SCTLR_WXN, stage_1_registers
from ..formats.invalidation import Operation
from ..tables.regime import Regime
from . import mailbox
from .emulator import OWN_QEMU, Emulator
from .mailbox import Command
from .qemu import QemuMachine

MONITOR = Hpa(0x4020_0000)
WINDOW = Range.sized(0x4030_0000, 0x1_0000)
"""The guest's window: HPAs."""
WINDOW_GPA = 0x7_ABCD_0000
"""Where every stage-2 table must map the window, readable and executable for EL1 and EL0."""
HIGH = Range(0xFFFF_FFFF_FE00_0000, 1 << 64)
"""The GVAs that TTBR1 serves while stage 1 is on; the window's first page is at its start."""
LISTS = Range(0x4040_0000, 0x4060_0000)
"""Where lists of probes and operations are put."""
RESULTS = Range(0x4080_0000, 0x40C0_0000)
OWN = Range(0x4000_0000, 0x4200_0000)
"""What of RAM is the monitor's; all the rest is free."""

BATCH = LISTS.size // mailbox.PROBE_ENTRY.itemsize
"""Probes at once."""

MADE, TAKEN_BY_EL1, TAKEN_BY_EL2, STRANGE = range(4)
"""Outcomes of a real access: made; a fault that EL1 would take; one that EL2 takes; another exception than a fault.

Of a translation: made; PAR_EL1 says it failed; it raised an exception at EL2, as for an external abort.
"""
ESR_EL2, FAR_EL2, HPFAR_EL2, ELR_EL2, ESR_EL1, FAR_EL1 = range(6)
"""The order of a result's syndrome."""

REGISTERS = (
    "HCR_EL2", "VTCR_EL2", "VTTBR_EL2", "SCTLR_EL1", "TCR_EL1", "TTBR0_EL1", "TTBR1_EL1", "MAIR_EL1", "VBAR_EL1",
    "CODE", "SPSR of EL1", "SPSR of EL0",
)  # fmt: skip
"""The order of LOAD's registers. CODE is the guest's address of its window."""

OPERATIONS = (
    "TLBI IPAS2E1IS", "TLBI IPAS2LE1IS", "TLBI VMALLE1IS", "TLBI VMALLS12E1IS", "TLBI ALLE1IS", "TLBI VAE1IS",
    "TLBI VALE1IS", "TLBI VAAE1IS", "TLBI VAALE1IS", "TLBI ASIDE1IS",
)  # fmt: skip
"""The order of INVALIDATE's operations; operands are as the instructions take them."""

# TCR_EL1's half of TTBR1: granules of 4 KiB, and as few address bits as there can be.
_T1SZ, _TG1_4K = 39 << 16, 2 << 30
_ROOT_AT, _LEAVES_AT = 0x1000, 0x2000
"""Where in the window TTBR1's two tables are."""
_VECTORS_AT = 0x800
"""Where in the window VBAR_EL1 points; no instruction is ever executed there."""

# SCTLR_EL1: the bits that are always one, and caches on. SPAN is among them: exceptions leave PSTATE.PAN alone.
_SCTLR = 0x30D0_0800 | 1 << 2 | 1 << 12
# PSTATE: interrupts masked, one instruction at a time.
_EL1H, _EL0T, _DAIF, _SS, _PAN = 0b0101, 0b0000, 0xF << 6, 1 << 21, 1 << 22


class AArch64Machine(QemuMachine):
    """The `virt` machine with one CPU.

    Args:
        emulator: which QEMU.
        gic_version: 2 or 3.
    """

    PROGRAM = "qemu-system-aarch64"
    PACKAGE = "qemu-system-arm"
    RAM = Range(0x4000_0000, 0xC000_0000)
    MAILBOX = 0x4010_0000
    CPU: ClassVar[str] = "max"
    """QEMU's name of the CPU."""

    def __init__(self, emulator: Emulator = OWN_QEMU, *, gic_version: int = 2) -> None:
        if gic_version not in (2, 3):
            raise EncodingError(f"there is no GICv{gic_version} in this machine: 2 and 3 are")
        self._gic_version = gic_version
        super().__init__(emulator)
        self.mmfr0, self.mmfr1, self.mmfr2 = (self.word(mailbox.INFO + 8 * index) for index in range(3))
        """ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1."""

    def prepare(self) -> None:
        self.memory.write(MONITOR, (Path(__file__).parent / "monitors" / "el2-aarch64.bin").read_bytes())
        # Everybody may execute, nobody write, so that no WXN or PAN takes the instructions away. SH is left 0, because
        # under TCR_EL1.DS its bits are address bits.
        leaf = WINDOW_GPA | VALID | TABLE_OR_PAGE | AF | USER | READ_ONLY
        self.memory.store_u64(Hpa(WINDOW.start + _ROOT_AT), WINDOW_GPA + _LEAVES_AT | VALID | TABLE_OR_PAGE)
        self.memory.store_u64(Hpa(WINDOW.start + _LEAVES_AT), leaf)

    def arguments(self, ram: str, door: int) -> list[str]:
        size = self.RAM.size
        return [
            "-machine", f"virt,virtualization=on,gic-version={self._gic_version},memory-backend=ram",
            "-object", f"memory-backend-file,id=ram,size={size},mem-path={ram},share=on",
            "-m", str(size >> 20), "-smp", "1", "-cpu", self.CPU, "-accel", "tcg",
            "-nodefaults", "-display", "none", "-monitor", "none", "-serial", "none",
            "-chardev", f"socket,id=door,fd={door}",
            "-semihosting-config", "enable=on,target=native,chardev=door",
            "-device", f"loader,addr={MONITOR:#x},cpu-num=0",
        ]  # fmt: skip

    @property
    def pa_bits(self) -> int:
        """Width of a physical address of this CPU."""
        return pa_bits(self.mmfr0 & 0xF)

    def enter(self, stage_1: Regime | None, stage_2: Regime, *, mair: int = MAIR, keep_tlb: bool = False) -> None:
        """Let guests run by these tables from now on.

        Args:
            stage_1: the tables of TTBR0; None switches stage 1 off.
            stage_2: must map the window.
            mair: MAIR_EL1.
            keep_tlb: leave cached translations as they are.

        Raises:
            EncodingError, MisalignedError, OutOfRangeError: no registers stand for the regimes.
        """
        values = dict.fromkeys(REGISTERS, 0)
        values |= family_of(stage_2.format).stage_2_registers(
            stage_2.format, stage_2.root, stage_2.controls, stage_2.identifier
        )
        values["SCTLR_EL1"], values["MAIR_EL1"], values["CODE"] = _SCTLR, mair, WINDOW_GPA
        controls = 0
        if stage_1 is not None:
            controls = stage_1.controls
            values |= stage_1_registers(stage_1.format, stage_1.root, controls, stage_1.identifier)
            values["TCR_EL1"] |= _T1SZ | _TG1_4K
            values["TTBR1_EL1"] = WINDOW_GPA + _ROOT_AT
            values["SCTLR_EL1"] |= SCTLR_M | (SCTLR_WXN if controls & WXN else 0)
            values["CODE"] = HIGH.start
        values["VBAR_EL1"] = values["CODE"] + _VECTORS_AT
        values["SPSR of EL0"] = _EL0T | _DAIF | _SS
        values["SPSR of EL1"] = _EL1H | _DAIF | _SS | (_PAN if controls & PAN else 0)
        self.load([values[name] for name in REGISTERS], keep_tlb=keep_tlb)

    def probe(self, probes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Make probes, one after the other.

        Args:
            probes: of `mailbox.PROBE_ENTRY`, `BATCH` at most. The value of a fetch is the HPA of its word, or 0: the
                word is stored back before, so that QEMU forgets what code it once found there.

        Returns:
            As many of `mailbox.RESULT_ENTRY`, the machine's own memory: valid until the next command. A translation's
            value is PAR_EL1, and it has no syndrome unless EL2 took an exception.

        Raises:
            MachineError: too many at once, or the machine is lost.
        """
        if len(probes) > BATCH:
            raise MachineError(f"{len(probes)} probes at once: {BATCH} is the most")
        self._view(LISTS, mailbox.PROBE_ENTRY, len(probes))[:] = probes
        self.command(Command.PROBE, list=LISTS.start, count=len(probes), results=RESULTS.start)
        return self._view(RESULTS, mailbox.RESULT_ENTRY, len(probes))

    def invalidate(self, operations: Iterable[Operation]) -> None:
        """Do what edits owe: `PageTable(..., flush=machine.invalidate)`.

        A VMID or an ASID in an operation is that of the registers, as the instructions have it.

        Raises:
            EncodingError: an operation is none of EL1&0's.
            MachineError: the machine is lost.
        """
        listed: list[tuple[int, int]] = []
        for operation in operations:
            if operation.name not in OPERATIONS:
                raise EncodingError(f"{operation.name} is none of {', '.join(OPERATIONS)}")
            number = OPERATIONS.index(operation.name)
            listed += [(number, operand) for operand in operation.operands()]
        most = LISTS.size // mailbox.OPERATION_ENTRY.itemsize
        for first in range(0, len(listed), most):
            part = np.array(listed[first : first + most], mailbox.OPERATION_ENTRY)
            self._view(LISTS, mailbox.OPERATION_ENTRY, len(part))[:] = part
            self.command(Command.INVALIDATE, list=LISTS.start, count=len(part))

    def _view(self, place: Range, kind: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        start = place.start - self.RAM.start >> 3
        return self.memory.words[start : start + count * kind.itemsize // 8].view(kind)
