"""QEMU's q35 as a whole machine with SVM: guests own what their nested tables map, our monitor is the host.

No firmware runs: `monitors/reset-x86_64.S` stands in its place, so nothing but the monitor ever writes to memory that
is not a guest's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from ..address import GIB, MIB, SIZE_1G, Hpa, Range
from ..errors import MachineError
from ..memory.physical import PhysicalMemory
from . import mailbox
from .board import Board
from .core import Core
from .emulator import OWN_QEMU, Emulator
from .mailbox import Command
from .vmcb import Vmcb

RAM = Range(0, 0xAFC0_0000)
"""All that the board has below its PCI registers, but for less than what makes it move RAM above 4 GiB."""
OWN = Range.sized(2 * GIB - 4 * MIB, 4 * MIB)
"""What of RAM is the hypervisor's, as in monitors/run-x86_64.inc."""
_MAILBOXES = OWN.start + 0x10_0000
_VMCBS = OWN.start + 0x11_0000
PORT_MAP, PORT_MAP_SIZE = OWN.start + 0x14_0000, 0x3000
"""I/O permission map (APM 15.10.1): a bit for each port, set for those that exit."""
MSR_MAP, MSR_MAP_SIZE = OWN.start + 0x14_4000, 0x2000
"""MSR permission map (15.11): two bits for each MSR, reads and writes that exit."""
_PML4, _PDPT = OWN.start + 0x15_0000, OWN.start + 0x15_1000
_CORES_MOST = 3
"""QEMU has four serial ports on ISA: the console's, and a doorbell for each core."""
_DOOR, _DOOR_SIZE = 0xE00, 8
DOORS = Range.sized(_DOOR, _CORES_MOST * _DOOR_SIZE)
"""Ports of the doorbells."""
LEGACY_HOLE = Range(0xA_0000, 0xC_0000)
"""Where the board has no RAM but a display adapter's window."""
FLUSH_BY_ASID = 1 << 6
"""Of CPUID 8000_000A EDX."""
_ROM_SIZE = 0x1_0000
_START_AT, _START = 0xF000, bytes.fromhex("ea 00ff 00f0")
"""Where in the ROM a core begins that another starts, and a jump to F000:FF00, where the reset's code is seen too."""
_START_S, _LOOK_S = 120.0, 0.001
_ASKED, _SENT = 1, 2
"""Of KICK: an exit is asked for; the NMI is on its way."""
_P, _RW, _PS = 1 << 0, 1 << 1, 1 << 7
_MSR_BANKS = {0x0000_0000: 0x0000, 0xC000_0000: 0x0800, 0xC001_0000: 0x1000}
"""First MSR of a bank of 8192 -> where its bits begin in the map."""
_MSR_BANK = 0x2000


class X86Board(Board):
    """The board.

    Args:
        memory: its RAM, which is `RAM`.
        cores: how many.
        cpu: QEMU's name of the CPU.
        emulator: which QEMU.
    """

    PROGRAM = "qemu-system-x86_64"
    PACKAGE = "qemu-system-x86"
    RAM = RAM
    CPU = "max"
    MAILBOX = _MAILBOXES
    MONITOR = OWN.start
    MONITOR_FILE = "run-x86_64.bin"
    LISTS = Range(OWN.start + 0x20_0000, OWN.end)
    OWN = OWN
    CORES_MOST = _CORES_MOST

    def __init__(
        self,
        memory: PhysicalMemory,
        *,
        cores: int = 1,
        cpu: str | None = None,
        emulator: Emulator = OWN_QEMU,
        sockets: Mapping[str, Path] | None = None,
    ) -> None:
        code = (Path(__file__).parent / "monitors" / "reset-x86_64.bin").read_bytes()
        self._rom = os.memfd_create("reset", os.MFD_CLOEXEC)
        os.pwrite(self._rom, code.rjust(_ROM_SIZE, b"\xff"), 0)
        os.pwrite(self._rom, _START, _START_AT)
        try:
            super().__init__(memory, cores=cores, cpu=cpu, emulator=emulator, sockets=sockets)
        finally:
            os.close(self._rom)

    def prepare(self) -> None:
        super().prepare()
        for offset in (mailbox.SEQUENCE, mailbox.ACKNOWLEDGE):
            self.memory.store_u64(Hpa(self.MAILBOX + self.core_count * mailbox.SIZE + offset), 0)
        store = self.memory.store_u64
        store(Hpa(_PML4), _PDPT | _P | _RW)
        for gigabyte in range(4):
            store(Hpa(_PDPT + 8 * gigabyte), gigabyte * SIZE_1G | _PS | _P | _RW)
        # No port and no MSR is the guest's until it is given to it.
        self.memory.write(Hpa(PORT_MAP), b"\xff" * PORT_MAP_SIZE)
        self.memory.write(Hpa(MSR_MAP), b"\xff" * MSR_MAP_SIZE)

    def descriptors(self) -> tuple[int, ...]:
        return (*super().descriptors(), self._rom)

    def arguments(self, ram: str, door: int) -> list[str]:
        return [
            "-machine", "q35,memory-backend=ram", "-vga", "none", "-bios", f"/proc/self/fd/{self._rom}",
            *self.common_arguments(ram),
        ]  # fmt: skip

    def processors(self) -> str:
        # One more than run guests: it watches (`kick`).
        return f"{self.core_count + 1},sockets={self.core_count + 1},cores=1,threads=1"

    def door(self, number: int) -> str:
        # Its interrupt is never enabled.
        port = _DOOR + _DOOR_SIZE * number
        return f"isa-serial,chardev=door{number},index={number + 1},iobase={port:#x},irq=3"

    # --- a guest -----------------------------------------------------------------------------------------------

    def vmcb(self, core: int) -> Vmcb:
        """The control block of a core's guest."""
        return Vmcb(self.memory, _VMCBS + 0x1000 * core)

    @property
    def svm_features(self) -> int:
        """CPUID 8000_000A EDX, as the monitor saw it at its start."""
        return self._features

    def started(self) -> None:
        super().started()
        self._features = self.cores[0].info(0)
        at = self.MAILBOX + self.core_count * mailbox.SIZE
        self._start_watcher(at)
        # All cores have begun: now RAM may be where the ROM was that they began in. None of them uses a device now,
        # for QEMU before 8.2 does not bear that its map of devices changes beside one that does.
        self.cores[0].command(Command.LOAD)
        self.memory.store_u64(Hpa(at + mailbox.COMMAND), Command.WATCH)
        self.memory.store_u64(Hpa(at + mailbox.ACKNOWLEDGE), 1)

    def _start_watcher(self, at: int) -> None:
        """Start the core behind the others, which has no doorbell: it is to watch for those that are to exit.

        Args:
            at: HPA of its mailbox.

        Raises:
            MachineError: it does not start.
        """
        self.cores[0].command(Command.START, flags=self.core_count)
        gives_up = time.monotonic() + _START_S
        while self.memory.load_u64(Hpa(at + mailbox.SEQUENCE)) != 1:
            if time.monotonic() > gives_up:
                raise MachineError(f"{self.PROGRAM}: core {self.core_count} did not start within {_START_S:g} s")
            time.sleep(_LOOK_S)

    def kick(self, core: Core) -> None:
        """Make a core's guest exit soon, by an NMI that its control block intercepts.

        It exits so once, also when it was kicked several times before, or has exited for another reason meanwhile.
        """
        if core.word(mailbox.KICK) == 0:
            core.set_word(mailbox.KICK, _ASKED)

    def was_kicked(self, core: Core) -> bool:
        """Whether the NMI for which a core exited was ours; the core may be kicked again then."""
        ours = core.word(mailbox.KICK) == _SENT
        if ours:
            core.set_word(mailbox.KICK, 0)
        return ours

    def allow_ports(self, span: Range) -> None:
        """Let the guest use ports without an exit."""
        for port in range(span.start, span.end):
            self._allow(PORT_MAP, port)

    def allow_msr(self, number: int, *, write: bool = True) -> None:
        """Let the guest read an MSR, and write it, without an exit."""
        bank = number & ~(_MSR_BANK - 1)
        bit = 2 * (number - bank)
        self._allow(MSR_MAP + _MSR_BANKS[bank], bit)
        if write:
            self._allow(MSR_MAP + _MSR_BANKS[bank], bit + 1)

    def _allow(self, base: int, bit: int) -> None:
        at = Hpa(base + bit // 8)
        self.memory.write(at, bytes([self.memory.read(at, 1)[0] & ~(1 << bit % 8)]))
