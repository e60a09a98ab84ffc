"""QEMU's RISC-V board: a guest in VS-mode owns what its G-stage maps, our monitor has HS-mode, OpenSBI machine mode."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import ClassVar

from ..address import GIB, MIB, Range
from .board import Board
from .core import Core
from .mailbox import Command

OPERATIONS = ("HFENCE.GVMA x0, vmid", "HFENCE.GVMA gpa, vmid", "HFENCE.VVMA x0, x0", "FENCE.I")
"""What the monitor does on all harts of a guest, in its order; the VMID is that in hgatp."""
PENDING = 0x60
"""Word of the mailbox: bits of hvip that the monitor is to set while the guest runs."""
_TREE_SIZE = 2 * MIB
_TREE_BELOW = 3 * GIB
"""QEMU puts the board's own device tree at the end of RAM, at most here (before QEMU 8, hw/riscv/boot.c)."""


class Context(IntEnum):
    """What stands behind the guest's x0 to x31, by the number of the word."""

    PC = 32
    SSTATUS = 33
    HSTATUS = 34
    VSSTATUS = 35
    VSTVEC = 36
    VSEPC = 37
    VSCAUSE = 38
    VSTVAL = 39
    VSATP = 40
    VSSCRATCH = 41
    VSIE = 42
    HVIP = 43
    SCOUNTEREN = 44
    SENVCFG = 45
    CLOCK = 48
    """When its timer interrupts next, in ticks; all ones for never."""
    F0 = 49
    """f0 to f31, as of `save_rest`."""
    FCSR = 81
    TIME = 82
    """What it reads as time, as of `save_rest`,"""
    DELTA = 83
    """and by how much that is ahead of the board's clock."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Why a guest stopped.

    Args:
        scause, stval, htval, htinst: the trap's registers.
        instruction: of a refused load or store that htinst does not tell, the instruction; 0 where it is not known.
        pc: the guest's.
    """

    scause: int
    stval: int
    htval: int
    htinst: int
    instruction: int
    pc: int


def exit_of(core: Core) -> Exit:
    """Take the event that a core's door told of.

    Raises:
        MachineError: QEMU ended, or the monitor met an exception of its own.
    """
    core.exit()
    scause, stval, htval, htinst, instruction = (core.info(number) for number in range(5))
    return Exit(scause, stval, htval, htinst, instruction, core.guest(Context.PC))


def save_rest(core: Core) -> None:
    """Have the rest of a guest's registers in the mailbox too, while its core waits for us.

    Raises:
        MachineError: the machine is lost.
    """
    core.command(Command.SAVE)


def load_rest(core: Core) -> None:
    """Put the rest of a guest's registers back from the mailbox, and drop all of the core's translations.

    Raises:
        MachineError: the machine is lost.
    """
    core.command(Command.RESTORE)


class RiscvBoard(Board):
    """The `virt` board."""

    PROGRAM = "qemu-system-riscv64"
    PACKAGE = "qemu-system-misc"
    CPU = "rv64,h=on"
    RAM: ClassVar[Range] = Range(0x8000_0000, 1 << 40)
    MAILBOX = 0x8010_0000
    LISTS = Range(0x8011_0000, 0x8020_0000)
    MONITOR = 0x8020_0000
    MONITOR_FILE = "run-riscv64.bin"
    OWN = Range(0x8000_0000, 0x8040_0000)
    OPERATIONS = OPERATIONS
    SERIAL = "null"
    """No guest owns the serial port; only the firmware prints there, of itself."""

    def arguments(self, ram: str, door: int) -> list[str]:
        monitor = Path(__file__).parent / "monitors" / self.MONITOR_FILE
        # The firmware goes on where the kernel is: QEMU tells it only of one that it has loaded itself.
        return [
            "-machine", "virt,memory-backend=ram", *self.common_arguments(ram), "-bios", "default",
            "-kernel", str(monitor),
        ]  # fmt: skip

    def started(self) -> None:
        super().started()
        self.has_timer = bool(self.cores[0].info(1))
        """Whether guests have a timer of their own (Sstc)."""

    @staticmethod
    def tree_places(ram: Range) -> tuple[Range, ...]:
        """Where in RAM the board's own device tree may be put, at every start."""
        ends = {ram.end, min(ram.end, _TREE_BELOW)}
        return tuple(Range(end - _TREE_SIZE, end) for end in sorted(ends))
