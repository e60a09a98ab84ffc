"""QEMU's AArch64 board as a whole machine: a guest at EL1 owns what its stage 2 maps, our monitor has EL2."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from tempfile import TemporaryDirectory

from ..address import Hpa, Range
from ..errors import EncodingError, MachineError
from ..formats.invalidation import Operation
from ..memory.physical import PhysicalMemory
from . import mailbox
from .aarch64 import OPERATIONS
from .emulator import OWN_QEMU, Emulator
from .mailbox import Command, Event
from .process import Child
from .qemu import QemuMachine

MONITOR = Hpa(0x4020_0000)
LIST = Range(0x4011_0000, 0x4020_0000)
"""Where lists of operations are put."""
OWN = Range(0x4000_0000, 0x4040_0000)
"""What of RAM is the hypervisor's: the board's own device tree, mailbox, lists and monitor."""
RAM_BASE = 0x4000_0000
REGISTERS = ("HCR_EL2", "VTCR_EL2", "VTTBR_EL2", "SCTLR_EL1")
"""The order of LOAD's registers."""
_TAKEN = 1
"""Bit of RUN's flags: EL1 takes an exception."""


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


_EXIT_S, _DUMP_S = 5.0, 30.0


@dataclass(frozen=True, slots=True)
class Exit:
    """Why a guest stopped.

    Args:
        esr, far, hpfar: of EL2.
        pc: the guest's.
        spsr: its state.
    """

    esr: int
    far: int
    hpfar: int
    pc: int
    spsr: int


class ArmBoard(QemuMachine):
    """The `virt` board with one CPU.

    Args:
        memory: its RAM, which begins at `RAM_BASE`.
        gic_version: 2 or 3.
        cpu: QEMU's name of the CPU.
        emulator: which QEMU.
    """

    PROGRAM = "qemu-system-aarch64"
    PACKAGE = "qemu-system-arm"
    MAILBOX = 0x4010_0000

    def __init__(
        self, memory: PhysicalMemory, *, gic_version: int = 3, cpu: str = "cortex-a72", emulator: Emulator = OWN_QEMU
    ) -> None:
        if memory.base != RAM_BASE or len(memory.ranges) != 1:
            raise EncodingError(f"this board's RAM is one range from {RAM_BASE:#x} on")
        self._gic_version, self._cpu = gic_version, cpu
        self.console, self._theirs = socket.socketpair()
        self.console.setblocking(False)
        self._pending: list[tuple[int, int]] = []
        self._flags = 0
        super().__init__(emulator, memory)
        self._theirs.close()

    def prepare(self) -> None:
        self.memory.write(MONITOR, (Path(__file__).parent / "monitors" / "run-aarch64.bin").read_bytes())

    def descriptors(self) -> tuple[int, ...]:
        return (self._theirs.fileno(),)

    def arguments(self, ram: str, door: int) -> list[str]:
        size = self.memory.span
        return [
            "-machine", f"virt,virtualization=on,gic-version={self._gic_version},memory-backend=ram",
            "-object", f"memory-backend-file,id=ram,size={size},mem-path={ram},share=on",
            "-m", str(size >> 20), "-smp", "1", "-cpu", self._cpu, "-accel", "tcg", "-no-reboot",
            "-nodefaults", "-display", "none", "-monitor", "none",
            "-chardev", f"socket,id=console,fd={self._theirs.fileno()}", "-serial", "chardev:console",
            "-chardev", f"socket,id=door,fd={door}", "-device", "pci-serial,chardev=door,addr=1",
            "-device", f"loader,addr={MONITOR:#x},cpu-num=0",
        ]  # fmt: skip

    # --- the guest ---------------------------------------------------------------------------------------------

    def guest(self, number: int) -> int:
        """A word of the guest's registers: x0 to x30."""
        return self.word(mailbox.GUEST + 8 * number)

    def set_guest(self, number: int, value: int) -> None:
        self.set_word(mailbox.GUEST + 8 * number, value)

    def context(self, which: Context) -> int:
        """Another word of the guest."""
        return self.guest(which)

    def set_context(self, which: Context, value: int) -> None:
        self.set_guest(which, value)

    def take_exception(self) -> None:
        """Let EL1 take the exception whose registers were set, when the guest runs on."""
        self._flags |= _TAKEN

    def owe(self, operations: Iterable[Operation]) -> None:
        """Note what edits owe: it is done before the guest runs on."""
        for operation in operations:
            if operation.name not in OPERATIONS:
                raise EncodingError(f"{operation.name} is none of {', '.join(OPERATIONS)}")
            number = OPERATIONS.index(operation.name)
            self._pending += [(number, operand) for operand in operation.operands()]

    def resume(self) -> None:
        """Let the guest run, after the operations that are owed."""
        count = min(len(self._pending), LIST.size // mailbox.OPERATION_ENTRY.itemsize)
        if count:
            at = LIST.start
            for number, operand in self._pending[:count]:
                self.memory.store_u64(Hpa(at), number)
                self.memory.store_u64(Hpa(at + 8), operand & (1 << 64) - 1)
                at += mailbox.OPERATION_ENTRY.itemsize
            del self._pending[:count]
        self.set_word(mailbox.LIST, LIST.start)
        self.set_word(mailbox.COUNT, count)
        self.set_word(mailbox.FLAGS, self._flags)
        self._flags = 0
        self.set_word(mailbox.COMMAND, Command.RUN)
        self.set_word(mailbox.ACKNOWLEDGE, self._sequence)

    def exit(self) -> Exit:
        """Take the event that the doorbell told of.

        Raises:
            MachineError: QEMU ended, or the monitor met an exception of its own.
        """
        self._wait(_EXIT_S, "run")
        if self.word(mailbox.EVENT) != Event.EXIT:
            raise MachineError(f"{self.PROGRAM}: the monitor answers with event {self.word(mailbox.EVENT)}")
        esr, far, hpfar = (self.word(mailbox.INFO + 8 * number) for number in range(3))
        return Exit(esr, far, hpfar, self.context(Context.PC), self.context(Context.SPSR))

    def ready(self, seconds: float, wake: int) -> tuple[bool, bytes]:
        """Wait for the doorbell, the console, or a descriptor that wakes us.

        Returns:
            Whether the door rang, and what was printed.
        """
        waiting: list[socket.socket | int] = [self._door, self.console, wake]
        found, _, _ = select.select(waiting, [], [], seconds)
        text = b""
        if self.console in found:
            try:
                text = self.console.recv(1 << 16)
            except BlockingIOError:
                text = b""
        return self._door in found, text

    def command(self, command: Command, *, seconds: float = 120.0, **words: int) -> None:
        for name, offset in {"list": mailbox.LIST, "count": mailbox.COUNT, "flags": mailbox.FLAGS}.items():
            self.set_word(offset, words.get(name, 0))
        self.set_word(mailbox.COMMAND, command)
        self.set_word(mailbox.ACKNOWLEDGE, self._sequence)
        self._wait(seconds, command.name.lower())


def board_tree(*, gic_version: int = 3, cpu: str = "cortex-a72", emulator: Emulator = OWN_QEMU) -> bytes:
    """The board's own device tree, as QEMU makes it.

    Raises:
        HostToolError: QEMU is not there.
        MachineError: it made none.
    """
    program = emulator.program(ArmBoard.PROGRAM, ArmBoard.PACKAGE)
    with TemporaryDirectory(prefix="stage2-") as folder:
        file = Path(folder) / "board.dtb"
        machine = f"virt,virtualization=on,gic-version={gic_version},dumpdtb={file}"
        command = [*program.command, "-machine", machine, "-cpu", cpu, "-nodefaults", "-display", "none"]
        child = Child(command)
        try:
            child.wait(_DUMP_S)
        finally:
            child.end()
        try:
            return file.read_bytes()
        except OSError:
            raise MachineError(f"{ArmBoard.PROGRAM} made no device tree") from None
