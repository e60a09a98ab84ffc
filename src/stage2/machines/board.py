"""QEMU's board as a whole machine: guests own what their tables map, and our monitor has what is above them.

Every core has its own mailbox, its own doorbell, and runs one guest CPU. The doorbell is a 16550 on PCI whose registers
no guest is given: a guest cannot ring it, nor ask the host for anything, as it could with semihosting. While Python
deals with an exit the core watches ACKNOWLEDGE; a guest that waits for an interrupt sleeps in QEMU.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ..address import Range
from ..errors import EncodingError
from ..memory.physical import PhysicalMemory
from . import mailbox
from .core import COMMAND_S, Core
from .emulator import OWN_QEMU, Emulator
from .mailbox import Command
from .qemu import QemuMachine

_TICKS_INFO = 2
"""The word of INFO in which a monitor that has started says how fast its counter is, in Hz."""


class Board(QemuMachine):
    """A board.

    Args:
        memory: its RAM, one range that begins where the board's does, backed by a memory file.
        cores: how many.
        cpu: QEMU's name of the CPU; None for the board's default.
        emulator: which QEMU.
        sockets: Unix sockets on which QEMU listens to whoever looks in from outside, by its option: "qmp", "gdb".

    Raises:
        EncodingError: the memory is not the board's, or it has no so many cores.
        HostToolError: QEMU is not there.
        MachineError: it does not come up.
    """

    CPU: ClassVar[str]
    """QEMU's name of the CPU where none is asked for."""
    OPERATIONS: ClassVar[tuple[str, ...]] = ()
    """Invalidations that the monitor knows, in its order."""
    MONITOR: ClassVar[int]
    """HPA where the monitor is put."""
    MONITOR_FILE: ClassVar[str]
    LISTS: ClassVar[Range]
    """Where lists of operations are put, an equal part for each of `CORES_MOST`."""
    OWN: ClassVar[Range]
    """What of RAM is the hypervisor's: mailboxes, lists and monitor, and what the board itself puts there."""
    CORES_MOST: ClassVar[int] = 8
    SERIAL: ClassVar[str] = "chardev:console"
    """QEMU's argument for the board's serial port."""

    def __init__(
        self,
        memory: PhysicalMemory,
        *,
        cores: int = 1,
        cpu: str | None = None,
        emulator: Emulator = OWN_QEMU,
        sockets: Mapping[str, Path] | None = None,
    ) -> None:
        if memory.base != self.RAM.start or len(memory.ranges) != 1:
            raise EncodingError(f"this board's RAM is one range from {self.RAM.start:#x} on")
        if not 1 <= cores <= self.CORES_MOST:
            raise EncodingError(f"this board has 1 to {self.CORES_MOST} cores, not {cores}")
        self.core_count, self._cpu = cores, cpu or self.CPU
        self._sockets = dict(sockets or {})
        self.console, self._theirs = socket.socketpair()
        """Our end of the serial port that a guest may own."""
        self.console.setblocking(False)
        super().__init__(emulator, memory)
        self._theirs.close()

    def make_cores(self) -> list[Core]:
        share = self.LISTS.size // self.CORES_MOST
        return [
            Core(
                number,
                self.memory,
                self.MAILBOX + number * mailbox.SIZE,
                self.PROGRAM,
                self.said,
                ended=self.ended,
                sleeps=False,
                operations=self.OPERATIONS,
                lists=Range.sized(self.LISTS.start + number * share, share),
            )
            for number in range(self.core_count)
        ]

    def prepare(self) -> None:
        self.memory.write(self.MONITOR, (Path(__file__).parent / "monitors" / self.MONITOR_FILE).read_bytes())  # type: ignore[arg-type]

    def descriptors(self) -> tuple[int, ...]:
        return (self._theirs.fileno(),)

    def started(self) -> None:
        super().started()
        self.ticks_per_sec = self.cores[0].info(_TICKS_INFO)
        """Of the counter in which monitors measure how long a guest waited."""
        for core in self.cores[1:]:
            self.cores[0].command(Command.START, flags=core.number)
            core.wait(COMMAND_S, f"start of core {core.number}")

    def common_arguments(self, ram: str) -> list[str]:
        """Arguments of every board: RAM, cores, doors and console."""
        size = self.memory.span
        doors = [
            word
            for core in self.cores
            for word in (
                "-chardev", f"socket,id=door{core.number},fd={core.bell}",
                "-device", self.door(core.number),
            )
        ]  # fmt: skip
        return [
            "-object", f"memory-backend-file,id=ram,size={size},mem-path={ram},share=on",
            "-m", str(size >> 20), "-smp", self.processors(), "-cpu", self._cpu, "-accel", "tcg", "-no-reboot",
            "-nodefaults", "-display", "none", "-monitor", "none",
            "-chardev", f"socket,id=console,fd={self._theirs.fileno()}", "-serial", self.SERIAL, *doors,
            *[word for option, path in self._sockets.items() for word in (f"-{option}", _listening(path))],
        ]  # fmt: skip

    def processors(self) -> str:
        """QEMU's argument for how many CPUs there are."""
        return str(self.core_count)

    def door(self, number: int) -> str:
        """The device that is a core's doorbell, whose chardev is `door` and the core's number."""
        return f"pci-serial,chardev=door{number},addr={number + 1:#x}"

    def close(self) -> None:
        super().close()
        self.console.close()


def _listening(path: Path) -> str:
    """QEMU's words for a Unix socket that it listens on; a comma in an argument is written twice."""
    return f"unix:{str(path).replace(',', ',,')},server=on,wait=off"
