"""QEMU as hardware: its RAM is ours, its CPU runs our monitor, and a doorbell wakes whoever waits.

RAM is a memory file without a name, handed over as /proc/self/fd/N, and the doorbell is one end of a socket pair: both
are gone with the processes, whatever ends them.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Self

import numpy as np

from ..address import Hpa, Range
from ..errors import MachineError
from ..memory.physical import PhysicalMemory
from . import mailbox
from .emulator import OWN_QEMU, Emulator
from .mailbox import Command, Event
from .process import Child

_START_S = 120.0
_COMMAND_S = 120.0
_LOG_KEPT = 4096


class QemuMachine:
    """A machine with one CPU that runs a monitor.

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
        self._words = self.memory.words
        self._start()

    def _start(self) -> None:
        self._door, theirs = socket.socketpair()
        self._sequence = 0
        try:
            self.prepare()
            for offset in (mailbox.MAGIC, mailbox.SEQUENCE, mailbox.ACKNOWLEDGE):
                self.set_word(offset, 0)
            ram, bell = self.memory.fileno, theirs.fileno()
            assert ram is not None
            data = [word for folder in self._program.share("qemu", "seabios") for word in ("-L", str(folder))]
            command = [*self._program.command, *data, *self.arguments(f"/proc/self/fd/{ram}", bell)]
            self._child = Child(command, keep=(ram, bell, *self.descriptors()), log=self._log)
            theirs.close()
            self._wait(_START_S, "start")
            if self.word(mailbox.MAGIC) != mailbox.MAGIC_VALUE:
                raise MachineError(f"{self.PROGRAM}: the monitor speaks another protocol")
        except BaseException:
            theirs.close()
            self.close()
            raise

    def restart(self) -> None:
        """Start QEMU anew on the same RAM, for a subclass whose arguments have changed.

        Raises:
            MachineError: it does not come up; the machine is closed.
        """
        self._end()
        self._start()

    # --- for subclasses ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Put the monitor, and whatever it needs, into memory; nothing runs yet."""
        raise NotImplementedError

    def arguments(self, ram: str, door: int) -> list[str]:
        """QEMU's arguments: `ram` is the path of the memory file, `door` the descriptor of the doorbell's socket."""
        raise NotImplementedError

    def descriptors(self) -> tuple[int, ...]:
        """What QEMU inherits besides memory and doorbell, under the same numbers."""
        return ()

    # --- commands --------------------------------------------------------------------------------------------

    def word(self, offset: int) -> int:
        """A word of the mailbox."""
        return self.memory.load_u64(Hpa(self.MAILBOX + offset))

    def set_word(self, offset: int, value: int) -> None:
        self.memory.store_u64(Hpa(self.MAILBOX + offset), value & (1 << 64) - 1)

    def command(self, command: Command, *, seconds: float = _COMMAND_S, **words: int) -> None:
        """Let the monitor do a command and wait until it is done.

        Args:
            seconds: how long it may take.
            words: LIST, COUNT, RESULTS, FLAGS by name in lower case: `list`, `count`, `results`, `flags`.

        Raises:
            MachineError: it took too long, QEMU ended, or the monitor met an exception of its own.
        """
        offsets = {"list": mailbox.LIST, "count": mailbox.COUNT, "results": mailbox.RESULTS, "flags": mailbox.FLAGS}
        for name, offset in offsets.items():
            self.set_word(offset, words.get(name, 0))
        self.set_word(mailbox.COMMAND, command)
        self.set_word(mailbox.ACKNOWLEDGE, self._sequence)
        # When QEMU has ended, waiting for it says so.
        with contextlib.suppress(OSError):
            self._door.send(b".")
        self._wait(seconds, command.name.lower())

    def load(self, registers: Sequence[int], *, keep_tlb: bool = False) -> None:
        """Load the machine's registers, in its order."""
        for index, value in enumerate(registers):
            self.set_word(mailbox.REGISTERS + 8 * index, value)
        self.command(Command.LOAD, flags=int(keep_tlb))

    def _wait(self, seconds: float, what: str) -> None:
        self._door.settimeout(seconds)
        try:
            rung = self._door.recv(1)
        except ConnectionError:
            rung = b""
        except TimeoutError:
            raise MachineError(f"{self.PROGRAM} did not answer within {seconds:g} s ({what}){self._said()}") from None
        except OSError as error:
            raise MachineError(f"{self.PROGRAM}: {error.strerror}{self._said()}") from None
        if not rung:
            raise MachineError(f"{self.PROGRAM} ended ({what}){self._said()}")
        self._sequence = self.word(mailbox.SEQUENCE)
        if self.word(mailbox.EVENT) == Event.FAILED:
            info = " ".join(f"{self.word(mailbox.INFO + 8 * i):#x}" for i in range(6))
            raise MachineError(f"{self.PROGRAM}: the monitor met an exception ({what}): {info}")

    def _said(self) -> str:
        text = os.pread(self._log, _LOG_KEPT, 0).decode(errors="replace").strip()
        return f": {text}" if text else ""

    # --- life ------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def version(self) -> str:
        """QEMU's version: `7.2.22`."""
        return self._program.version

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
        self._door.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
