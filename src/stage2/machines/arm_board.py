"""QEMU's AArch64 board: a guest at EL1 owns what its stage 2 maps, our monitor has EL2."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import ClassVar

from ..address import MIB, Hpa, Range
from ..errors import MachineError
from ..images.fdt import MAGIC
from ..memory.physical import PhysicalMemory
from .aarch64 import OPERATIONS
from .board import Board
from .core import Core
from .emulator import OWN_QEMU, Emulator
from .process import Child, printed

REGISTERS = ("HCR_EL2", "VTCR_EL2", "VTTBR_EL2", "SCTLR_EL1", "VMPIDR_EL2")
"""The order of LOAD's registers."""
_DUMP_S = 30.0
_DUMP_RAM = 128 * MIB
_MAGIC_AND_SIZE = 8


class Context(IntEnum):
    """What stands behind the guest's x0 to x30, by the number of the word."""

    PC = 31
    SPSR = 32
    VBAR_EL1 = 33
    ESR_EL1 = 34
    FAR_EL1 = 35
    ELR_EL1 = 36
    SPSR_EL1 = 37
    SCTLR_EL1 = 38
    TCR_EL1 = 39
    TTBR0_EL1 = 40
    TTBR1_EL1 = 41
    MAIR_EL1 = 42


REST_AT = 0x600
"""Where in the mailbox what an exit leaves in the core is put by SAVE, and loaded from by RESTORE."""
REST = (
    "sp_el0", "sp_el1", "cpacr_el1", "contextidr_el1", "tpidr_el0", "tpidr_el1", "tpidrro_el0", "par_el1", "afsr0_el1",
    "afsr1_el1", "amair_el1", "cntkctl_el1", "cntv_ctl_el0", "cntv_cval_el0", "mdscr_el1", "csselr_el1", "fpcr", "fpsr",
    "actlr_el1", "cntvct_el0",
)  # fmt: skip
"""The registers, a word each; after them CNTVOFF_EL2, by which CNTVCT_EL0 is loaded, and q0 to q31, two words each."""
OFFSET_WORD = 20
VECTORS_WORD = 22


class RunFlag(IntFlag):
    """Bits of RUN's FLAGS."""

    TAKEN = 1
    """EL1 takes an exception: its ESR, FAR, ELR and SPSR are loaded."""
    INTERRUPT = 2
    """A virtual interrupt is pending (HCR_EL2.VI)."""
    FAST = 4
    """A virtual fast interrupt is pending (HCR_EL2.VF)."""
    DONE = 8
    """The guest has dealt with the interrupt of its timer: the physical one may come again."""


class Why(IntEnum):
    """Why a guest stopped."""

    EXCEPTION = 0
    TIMER = 1
    """Its virtual timer's interrupt."""
    KICKED = 2
    """It was asked to."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a guest stopped.

    Args:
        why: the reason.
        esr, far, hpfar: of EL2, where it is an exception.
        pc: the guest's.
        spsr: its state.
    """

    why: Why
    esr: int
    far: int
    hpfar: int
    pc: int
    spsr: int


def exit_of(core: Core) -> Exit:
    """Take the event that a core's door told of.

    Raises:
        MachineError: QEMU ended, or the monitor met an exception of its own.
    """
    core.exit()
    esr, far, hpfar, why = (core.info(number) for number in range(4))
    return Exit(Why(why), esr, far, hpfar, core.guest(Context.PC), core.guest(Context.SPSR))


class ArmBoard(Board):
    """The `virt` board.

    Args:
        memory: its RAM, which begins at 1 GiB.
        cores: how many.
        gic_version: 2 or 3.
        cpu: QEMU's name of the CPU.
        emulator: which QEMU.
    """

    PROGRAM = "qemu-system-aarch64"
    PACKAGE = "qemu-system-arm"
    CPU = "cortex-a72"
    RAM: ClassVar[Range] = Range(0x4000_0000, 1 << 40)
    MAILBOX = 0x4010_0000
    LISTS = Range(0x4011_0000, 0x4020_0000)
    MONITOR = 0x4020_0000
    MONITOR_FILE = "run-aarch64.bin"
    OWN = Range(0x4000_0000, 0x4040_0000)
    OPERATIONS = OPERATIONS[:5]

    def __init__(
        self,
        memory: PhysicalMemory,
        *,
        cores: int = 1,
        gic_version: int = 3,
        cpu: str | None = None,
        emulator: Emulator = OWN_QEMU,
        sockets: Mapping[str, Path] | None = None,
    ) -> None:
        self._gic_version = gic_version
        super().__init__(memory, cores=cores, cpu=cpu, emulator=emulator, sockets=sockets)

    def arguments(self, ram: str, door: int) -> list[str]:
        return [
            "-machine", f"{_machine(self._gic_version)},memory-backend=ram", *self.common_arguments(ram),
            "-device", f"loader,addr={self.MONITOR:#x},cpu-num=0",
        ]  # fmt: skip


def _machine(gic_version: int) -> str:
    # Without an ITS: it would write memory by itself for whoever has the interrupt controller.
    return f"virt,virtualization=on,its=off,gic-version={gic_version}"


def board_tree(
    *, cores: int = 1, gic_version: int = 3, cpu: str = ArmBoard.CPU, emulator: Emulator = OWN_QEMU
) -> bytes:
    """The board's own device tree, as QEMU makes it.

    Raises:
        HostToolError: QEMU is not there.
        MachineError: it made none.
    """
    program = emulator.program(ArmBoard.PROGRAM, ArmBoard.PACKAGE)
    # QEMU puts the tree to the beginning of RAM, before anything runs: nothing is left of it, whoever is killed.
    ours, theirs = socket.socketpair()
    log = os.memfd_create("qemu-log", os.MFD_CLOEXEC)
    with ours, PhysicalMemory([Range.sized(ArmBoard.RAM.start, _DUMP_RAM)], backing="memfd") as memory:
        assert memory.fileno is not None
        ram = f"memory-backend-file,id=ram,size={_DUMP_RAM},mem-path=/proc/self/fd/{memory.fileno},share=on"
        command = [
            *program.command, "-machine", f"{_machine(gic_version)},memory-backend=ram", "-object", ram,
            "-m", str(_DUMP_RAM >> 20), "-cpu", cpu, "-smp", str(cores), "-accel", "tcg", "-S", "-nodefaults",
            "-display", "none", "-chardev", f"socket,id=ask,fd={theirs.fileno()}", "-mon", "chardev=ask,mode=control",
        ]  # fmt: skip
        try:
            with theirs:
                child = Child(command, keep=(memory.fileno, theirs.fileno()), log=log)
            try:
                # It answers when the machine is made, and so the tree.
                with contextlib.suppress(OSError):
                    ours.sendall(b'{"execute": "qmp_capabilities"} {"execute": "quit"}')
                if child.wait(_DUMP_S) is None:
                    late = f"{ArmBoard.PROGRAM} did not answer within {_DUMP_S:g} s (device tree){printed(log)}"
                    raise MachineError(late)
            finally:
                child.end()
            header = memory.read(Hpa(memory.base), _MAGIC_AND_SIZE)
            if int.from_bytes(header[:4]) == MAGIC:
                return memory.read(Hpa(memory.base), int.from_bytes(header[4:8]))
            said = printed(log)
        finally:
            os.close(log)
    how = child.how_it_ended()
    raise MachineError(f"{ArmBoard.PROGRAM} {how} (device tree){said}")
