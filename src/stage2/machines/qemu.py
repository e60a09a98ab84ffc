"""QEMU as hardware: its RAM is ours, its CPU runs our monitor, and a doorbell wakes whoever waits.

RAM is a memory file without a name, handed over as /proc/self/fd/N, and the doorbell is one end of a socket pair: both
are gone with the processes, whatever ends them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Self

import numpy as np

from ..address import Range
from ..errors import MachineError
from ..memory.physical import PhysicalMemory
from . import mailbox
from .core import COMMAND_S, Core
from .emulator import OWN_QEMU, Emulator
from .mailbox import Command
from .process import Child, printed

_START_S = 120.0
_GONE_S = 5.0
"""How long a QEMU whose doors are closed may take until it has ended."""


class QemuMachine:
    """A machine whose CPUs run a monitor.

    Subclasses say which program, which arguments, where RAM is, and put their monitor into memory.

    Args:
        emulator: which QEMU.
        memory: its RAM, backed by a memory file; None for memory of its own.

    Raises:
        HostToolError: it is not there.
        MachineError: it does not come up.
    """

    PROGRAM: ClassVar[str]
    PACKAGE: ClassVar[str]
    RAM: ClassVar[Range]
    MAILBOX: ClassVar[int]
    """HPA of the mailbox page."""

    def __init__(self, emulator: Emulator = OWN_QEMU, memory: PhysicalMemory | None = None) -> None:
        self._program = emulator.program(self.PROGRAM, self.PACKAGE)
        self._owns_memory = memory is None
        self.memory = PhysicalMemory([self.RAM], backing="memfd") if memory is None else memory
        self._log = os.memfd_create("qemu-log", os.MFD_CLOEXEC)
        self._child: Child | None = None
        self.cores: list[Core] = []
        self._words = self.memory.words
        self._start()

    def _start(self) -> None:
        self.cores = self.make_cores()
        try:
            self.prepare()
            ram, bells = self.memory.fileno, [core.bell for core in self.cores]
            assert ram is not None
            data = [word for folder in self._program.share("qemu", "seabios") for word in ("-L", str(folder))]
            command = [*self._program.command, *data, *self.arguments(f"/proc/self/fd/{ram}", bells[0])]
            self._child = Child(command, keep=(ram, *bells, *self.descriptors()), log=self._log)
            for core in self.cores:
                core.hand_over()
            self.started()
        except BaseException:
            self.close()
            raise

    def started(self) -> None:
        """Wait until the machine is up.

        Raises:
            MachineError: it does not come up.
        """
        first = self.cores[0]
        first.wait(_START_S, "start")
        if first.word(mailbox.MAGIC) != mailbox.MAGIC_VALUE:
            raise MachineError(f"{self.PROGRAM}: the monitor speaks another protocol")

    def restart(self) -> None:
        """Start QEMU anew on the same RAM, for a subclass whose arguments have changed.

        Raises:
            MachineError: it does not come up; the machine is closed.
        """
        self._end()
        self._start()

    # --- for subclasses ------------------------------------------------------------------------------------

    def make_cores(self) -> list[Core]:
        """The machine's cores, none of which runs yet."""
        return [Core(0, self.memory, self.MAILBOX, self.PROGRAM, self.said, ended=self.ended)]

    def prepare(self) -> None:
        """Put the monitor, and whatever it needs, into memory; nothing runs yet."""
        raise NotImplementedError

    def arguments(self, ram: str, door: int) -> list[str]:
        """QEMU's arguments: `ram` is the path of the memory file, `door` the descriptor of the doorbell's socket."""
        raise NotImplementedError

    def descriptors(self) -> tuple[int, ...]:
        """What QEMU inherits besides memory and doorbells, under the same numbers."""
        return ()

    # --- commands --------------------------------------------------------------------------------------------

    def word(self, offset: int) -> int:
        """A word of the first core's mailbox."""
        return self.cores[0].word(offset)

    def command(self, command: Command, *, seconds: float = COMMAND_S, **words: int) -> None:
        """`Core.command` of the first core."""
        self.cores[0].command(command, seconds=seconds, **words)

    def load(self, registers: Sequence[int], *, keep_tlb: bool = False) -> None:
        """`Core.load` of the first core."""
        self.cores[0].load(registers, keep_tlb=keep_tlb)

    def said(self) -> str:
        """What QEMU has printed, for the end of a message."""
        return printed(self._log)

    def ended(self) -> str:
        """How QEMU ended, for the middle of a message."""
        return "ended" if self._child is None else self._child.how_it_ended(_GONE_S)

    # --- life ------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def version(self) -> str:
        """QEMU's version: `7.2.22`."""
        return self._program.version

    def kill(self) -> None:
        """End QEMU at once, from any thread; whoever waits for it gets a MachineError. Harmless when repeated."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """End QEMU and give everything back. Harmless when repeated."""
        self._end()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        self._words = np.empty(0, np.uint64)
        if self._owns_memory:
            self.memory.close()

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None
        for core in self.cores:
            core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
