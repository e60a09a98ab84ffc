"""QEMU's AArch64 machine: a monitor at EL2 that lets a guest at EL1 and EL0 do one access at a time.

The guest has a window of 64 KiB that every stage-2 table must map: its two instructions, and tables for TTBR1 through
which it finds them while its stage 1 is on. TTBR0 is free for the tables that are looked at.

EL2's own regimes are looked at in the same way: EL2 does one access by their tables, or EL0 does under HCR_EL2.E2H and
TGE. Tables of the low half must map the monitor's image where it is, and for EL0 a second time; under those of
TTBR1_EL2 a small table in the window does that for TTBR0_EL2.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..address import Hpa, Range
from ..errors import EncodingError, MachineError
from ..formats import family_of
from ..formats.arm.formats import make
from ..formats.arm.layout import AF, LPA2, TABLE_OR_PAGE, VALID
from ..formats.arm.own import own_registers
from ..formats.arm.sizes import pa_bits
from ..formats.arm.stage1 import MAIR, ONE_PRIVILEGE, PAN, READ_ONLY, USER, WXN
from ..formats.arm.stage1_control import SCTLR_M, SCTLR_WXN, stage_1_registers
from ..formats.arm.stage2_control import HCR_RW
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
    "CODE", "SPSR of EL1", "SPSR of EL0", "TCR_EL2", "TTBR0_EL2", "TTBR1_EL2", "MAIR_EL2", "SCTLR_EL2",
)  # fmt: skip
"""The order of LOAD's registers. CODE is the guest's address of its window, or EL0's of `OwnInstruction.LDR`.

SCTLR_EL2 is 0 unless EL2's own tables are entered; then EL1 in the name of an SPSR means EL2, and of the registers of
EL1 and stage 2 HCR_EL2 alone is loaded."""


class OwnInstruction(IntEnum):
    """What a probe of EL2's own regimes executes, if it is no fetch: the `reserved` word of `mailbox.PROBE_ENTRY`.

    With HCR_EL2.E2H, AT S1E2R and S1E2W are of EL2&0. S1E1R and S1E1W are so with TGE too: here those that PSTATE.PAN
    counts for (FEAT_PAN2).
    """

    LDR = 0
    STR = 1
    LDTR = 2
    STTR = 3
    AT_S1E2R = 4
    AT_S1E2W = 5
    AT_S1E1RP = 6
    AT_S1E1WP = 7
    AT_S1E0R = 8
    AT_S1E0W = 9


OPERATIONS = (
    "TLBI IPAS2E1IS", "TLBI IPAS2LE1IS", "TLBI VMALLE1IS", "TLBI VMALLS12E1IS", "TLBI ALLE1IS", "TLBI VAE1IS",
    "TLBI VALE1IS", "TLBI VAAE1IS", "TLBI VAALE1IS", "TLBI ASIDE1IS",
)  # fmt: skip
"""The order of INVALIDATE's operations; operands are as the instructions take them."""

# TCR_EL1's half of TTBR1: granules of 4 KiB, and as few address bits as there can be.
_T1SZ, _TG1_4K = 39 << 16, 2 << 30
IMAGE = Range.sized(MONITOR, 0x1_0000)
"""The monitor's image: what tables of EL2's own low half must map where it is, readable and executable for EL2."""
IMAGE_OF_EL0 = MONITOR + 0x1_0000
"""Where tables of EL2&0's low half must map it too, readable and executable for EL0."""
_INSTRUCTIONS_AT = 0x40
"""Where in the image those are that probes of EL2's own regimes execute."""
_OWN_ROOT_AT = 0x3000
"""Where in the window the table is by which TTBR0_EL2 maps the monitor, while TTBR1_EL2's are looked at."""
OWN_LOW_BITS = 31
"""Width of the addresses that it translates."""
_ROOT_AT, _LEAVES_AT = 0x1000, 0x2000
"""Where in the window TTBR1's two tables are."""
_VECTORS_AT = 0x800
"""Where in the window VBAR_EL1 points; no instruction is ever executed there."""

# SCTLR_EL1: the bits that are always one, and caches on. SPAN is among them: exceptions leave PSTATE.PAN alone.
_SCTLR = 0x30D0_0800 | 1 << 2 | 1 << 12
# PSTATE: interrupts masked, one instruction at a time.
_EL1H, _EL0T, _DAIF, _SS, _PAN = 0b0101, 0b0000, 0xF << 6, 1 << 21, 1 << 22
_EL2H, _AIF = 0b1001, 0x7 << 6
"""EL2 steps itself, for which D must be clear."""


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
        # For TTBR0_EL2: the second gigabyte, where RAM begins, for EL2; before it the same for EL0.
        block = self.RAM.start | VALID | AF | READ_ONLY
        self.memory.store_u64(Hpa(WINDOW.start + _OWN_ROOT_AT), block | USER)
        self.memory.store_u64(Hpa(WINDOW.start + _OWN_ROOT_AT + 8), block)

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

    def enter_own(self, own: Regime) -> None:
        """Let the monitor itself, for one access at a time, run by these tables from now on, or EL0 under it.

        Args:
            own: of the EL2 regime (`stage1.ONE_PRIVILEGE`) or of EL2&0. In the low half it must map `IMAGE`, and of
                EL2&0 `IMAGE_OF_EL0`.

        Raises:
            EncodingError, MisalignedError, OutOfRangeError: no registers stand for the regime.
        """
        fmt, controls = own.format, own.controls
        halves, of_el0 = [(fmt, own.root, controls)], int(IMAGE_OF_EL0)
        if fmt.high_half and not controls & ONE_PRIVILEGE:
            low = make(1, 12, OWN_LOW_BITS, lpa2=bool(controls & LPA2))
            halves.append((low, WINDOW.start + _OWN_ROOT_AT, low.default_controls))
            of_el0 = MONITOR - self.RAM.start
        values = dict.fromkeys(REGISTERS, 0) | own_registers(halves)
        values["HCR_EL2"] |= HCR_RW
        values["CODE"] = of_el0 + _INSTRUCTIONS_AT
        values["SPSR of EL0"] = _EL0T | _DAIF | _SS
        values["SPSR of EL1"] = _EL2H | _AIF | _SS | (_PAN if controls & PAN else 0)
        self.load([values[name] for name in REGISTERS])

    def probe(self, probes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Make probes, one after the other.

        Args:
            probes: of `mailbox.PROBE_ENTRY`, `BATCH` at most. The value of a fetch is the HPA of its word, or 0: the
                word is stored back before, so that QEMU forgets what code it once found there.

        Returns:
            As many of `mailbox.RESULT_ENTRY`, the machine's own memory: valid until the next command. A translation's
            value is PAR_EL1, and it has no syndrome unless EL2 took an exception. Where EL2's own tables are entered,
            faults are `TAKEN_BY_EL2`, and a translation's outcome is as a guest's.

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
