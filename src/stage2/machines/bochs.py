"""Bochs as hardware: its RAM is its own, so each batch crosses a disk, whose image is a memory file that we share.

Our monitor is the machine's ROM, so it runs 0.1 s after the start; no BIOS takes part. Files that Bochs wants (ROM,
disk, configuration) are memory files without names, handed over as /proc/self/fd/N. They are gone with the processes,
whatever ends them. While Bochs has nothing to do it is stopped by a signal: its CPU cannot wait without running.

The disk's first sectors are the mailbox of `machines.mailbox`; the words below are its additions. What follows on the
disk is the rest of the window of RAM that begins with the mailbox, so lists are given by their addresses in RAM.

| word | offset | who writes | what |
|---|---|---|---|
| SENT_SECTORS | 0x48 | Python | sectors to read before the command, the mailbox included |
| REPLY_SECTOR | 0x50 | Python | first sector of the reply |
| WORDS | 0x58 | Python | list of words of memory: address, value; afterwards with the values that they have then |
| WORD_COUNT | 0x60 | Python | its entries |
| SCAN_START, SCAN_END | 0x68, 0x70 | Python | where every word that is not zero is to be reported |
| FOUND | 0x78 | Python | where they are reported: address, value; the reply ends with them |
| FOUND_COUNT | 0xb8 | both | how many there is room for; afterwards how many there are |

The reserved word of a probe is, unless 0, the HPA of a word whose contents the result has as its value, if the access
was made.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from importlib.resources import files
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..address import GIB, MIB, SIZE_4K, Range, align_up
from ..errors import HostToolError, MachineError, OutOfRangeError
from ..memory.physical import PhysicalMemory
from . import mailbox
from .emulator import OWN_BOCHS, Emulator
from .mailbox import Command, Event
from .process import Child

PROGRAM, PACKAGE = "bochs-bin", "bochs-term"
PHYSICAL_BITS = 40
"""Of every CPU of Bochs, whatever the model."""
ENABLE_EPT, MODE_BASED_EXECUTE = 1 << 1, 1 << 22
"""Secondary controls."""
_NEEDED = 1 << 0 | 1 << 6 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 20 | 1 << 21 | 1 << 26
"""IA32_VMX_EPT_VPID_CAP: execute-only entries, 4 levels, write-back, blocks of both sizes, INVEPT of all, A/D flags."""

# RAM ends where the data does. No pointer into the tables leads to the monitor by the change of a single bit; from the
# data bit 30 does, but `memory` has nothing there, so nobody asks for accesses that are to arrive there.
TABLES = Range.sized(0x3600_0000, 16 * MIB)
DATA = Range.sized(0x4000_0000, GIB)
GUEST_CODE = 0x2100_0000
MAILBOX = 0x1800_0000
PROBES_AT_ONCE = 8192

CR0, CR4, EFER = 0x8000_0031, 0x2020, 0x500
"""PG, NE, ET and PE; VMXE and PAE; LMA and LME. WP, SMEP, SMAP and NXE are the caller's choice."""

EXITED, NO_ENTRY = 1 << 32, 1 << 33
"""A result's outcome, unless 0: this bit and the exit reason, or the other and the VM-instruction error."""
QUALIFICATION, GUEST_PHYSICAL, GUEST_LINEAR, INTERRUPTION, ERROR_CODE, GUEST_RIP = range(6)
"""The words of a result's syndrome."""

_SENT_SECTORS, _REPLY_SECTOR, _WORDS, _WORD_COUNT = 0x48, 0x50, 0x58, 0x60
_SCAN_START, _SCAN_END, _FOUND, _FOUND_COUNT = 0x68, 0x70, 0x78, 0xB8
_SECTOR = 512
_HEADS, _TRACK, _CYLINDERS = 16, 63, 128
_DISK = _CYLINDERS * _HEADS * _TRACK * _SECTOR
_ROM = 0x1_0000
_RESET = 0xFFF0
_FIVE_LEVELS = 0xFFF8
"""In the ROM: whether the monitor switches LA57 on."""
_JUMP = bytes([0xEA, 0x00, 0x00, 0x00, 0xF0])
"""At the reset vector: `ljmp $0xf000, $0`."""
_FOUND_ROOM = 1 << 16
_START_S, _COMMAND_S = 120.0, 120.0
_LOG_KEPT = 2048
_PAIR = np.dtype([("address", np.uint64), ("value", np.uint64)])

Words = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Guest:
    """The registers that translate, in the order of the mailbox.

    Args:
        eptp: EPT's root table and format.
        cr0, cr3, cr4, efer: the guest's own.
        code_kernel, code_user: GVAs of the guest's code, for CPL 0 and CPL 3.
        secondary: secondary processor-based VM-execution controls.
    """

    eptp: int
    cr0: int
    cr3: int
    cr4: int
    efer: int
    code_kernel: int
    code_user: int
    secondary: int = ENABLE_EPT


@dataclass(frozen=True, slots=True)
class Model:
    """A CPU of Bochs that is used.

    Args:
        name: as Bochs calls it.
        linear_bits: width of linear addresses; with 57 the monitor, and so its guests, have LA57 on.
    """

    name: str
    linear_bits: int


FOUR_LEVELS = Model("corei7_icelake_u", 48)
"""It has all that Bochs has of EPT, in Bochs 3 mode-based execute control too."""
FIVE_LEVELS = Model("sapphire_rapids", 57)
"""In Bochs 3 only. With CR0.WP clear it cannot write to read-only pages: Bochs ends, as if they were shadow stacks."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the processor says of itself.

    Args:
        ept_vpid: IA32_VMX_EPT_VPID_CAP.
        secondary: IA32_VMX_PROCBASED_CTLS2; the upper half are the controls that may be set.
        physical_bits: MAXPHYADDR.
        linear_bits: width of linear addresses.
    """

    ept_vpid: int
    secondary: int
    physical_bits: int
    linear_bits: int


class BochsMachine:
    """A machine with one CPU that runs our monitor; `memory` is what its RAM is to hold in a batch, or held after it.

    Raises:
        HostToolError: Bochs is not installed, or not its display for terminals.
        MachineError: it does not come up.
    """

    def __init__(self, emulator: Emulator = OWN_BOCHS) -> None:
        self._program = emulator.program(PROGRAM, PACKAGE)
        self.memory = PhysicalMemory([TABLES, DATA], backing="memfd")
        self._log = os.memfd_create("bochs-log", os.MFD_CLOEXEC)
        self._disk = os.memfd_create("bochs-disk", os.MFD_CLOEXEC)
        os.ftruncate(self._disk, _DISK)
        self._window = mmap.mmap(self._disk, _DISK)
        self._bell = -1
        self._child: Child | None = None
        self._start(FOUR_LEVELS)

    def _start(self, model: Model) -> None:
        self.model = model
        self._window[: mailbox.SIZE] = bytes(mailbox.SIZE)
        self._bell, theirs = os.pipe2(os.O_CLOEXEC)
        made = [_memory_file("bochs-rom", _rom(model)), _memory_file("bochs-no-vga-rom", bytes(2048))]
        try:
            rom, vga = made
            configuration = _configuration(model, rom, vga, self._disk, theirs)
            made.append(_memory_file("bochs-configuration", configuration.encode()))
            made.append(_memory_file("bochs-commands", b"continue\n"))
            command = ["env", "TERM=xterm", *self._program.command, "-q", "-f", _path(made[2]), "-rc", _path(made[3])]
            self._child = Child(command, keep=[*made, self._disk, theirs], log=self._log)
            os.close(theirs)
            theirs = -1
            self._wait(_START_S, "start")
            if self._word(mailbox.MAGIC) != mailbox.MAGIC_VALUE:
                raise MachineError(f"{PROGRAM}: the monitor speaks another protocol")
            self.capabilities = self._capabilities()
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in made:
                os.close(descriptor)
            if theirs >= 0:
                os.close(theirs)

    def be(self, model: Model) -> None:
        """Be a machine with this CPU: Bochs starts again if it is another than before.

        Raises:
            MachineError: it does not come up, as where Bochs has no such CPU; the machine is closed.
        """
        if model != self.model:
            self._end()
            self._start(model)

    def _capabilities(self) -> Capabilities:
        widths = self._word(mailbox.INFO + 16)
        found = Capabilities(self._word(mailbox.INFO), self._word(mailbox.INFO + 8), widths & 0xFF, widths >> 8 & 0xFF)
        known = (found.physical_bits, found.linear_bits) == (PHYSICAL_BITS, self.model.linear_bits)
        if not known or found.ept_vpid & _NEEDED != _NEEDED:
            raise MachineError(
                f"{PROGRAM}: CPU {self.model.name} is not as known: {found.physical_bits} physical, "
                f"{found.linear_bits} linear address bits, IA32_VMX_EPT_VPID_CAP {found.ept_vpid:#x}"
            )
        return found

    # --- batches -------------------------------------------------------------------------------------------

    def run(
        self,
        guest: Guest,
        addresses: npt.NDArray[np.uint64],
        values: npt.NDArray[np.uint64],
        kinds: npt.NDArray[np.uint64],
        *,
        shown: npt.NDArray[np.uint64],
        seconds: float = _COMMAND_S,
    ) -> npt.NDArray[Any]:
        """Take the memory over, make probes, and bring back what they left in it.

        Of `TABLES` all that precedes the end of the last page in use comes back; of the rest and of `DATA` the words
        that were not zero, and those that were shown.

        Args:
            guest: the registers.
            addresses, values, kinds: of the probes: GVA, what a write stores, and kind as the mailbox has it.
            shown: of each probe, the HPA of the word whose contents are its value once it was made; 0 for none.
            seconds: how long it may take.

        Returns:
            Results, one a probe, as `mailbox.RESULT_ENTRY`.

        Raises:
            OutOfRangeError: a word that is to be shown is not in memory.
            MachineError: the batch is too large, it took too long, or Bochs or the monitor failed.
        """
        words = self._words_to_send(shown[shown != 0])
        probes = np.zeros(len(addresses), mailbox.PROBE_ENTRY)
        probes["address"], probes["value"], probes["kind"], probes["reserved"] = addresses, values, kinds, shown
        # The window: mailbox, probes, words; results; words found. What is sent ends where results begin, and the reply
        # begins with the words.
        at_words = align_up(mailbox.SIZE + probes.nbytes, _SECTOR)
        at_results = align_up(at_words + words.nbytes, _SECTOR)
        at_found = at_results + len(probes) * mailbox.RESULT_ENTRY.itemsize
        if at_found + _FOUND_ROOM * _PAIR.itemsize > _DISK:
            raise MachineError(f"{len(probes)} probes and {len(words)} words of memory are more than the disk holds")
        for offset, value in {
            mailbox.COMMAND: Command.PROBE, mailbox.LIST: MAILBOX + mailbox.SIZE, mailbox.COUNT: len(probes),
            mailbox.RESULTS: MAILBOX + at_results, _SENT_SECTORS: at_results // _SECTOR,
            _REPLY_SECTOR: at_words // _SECTOR, _WORDS: MAILBOX + at_words, _WORD_COUNT: len(words),
            _SCAN_START: TABLES.start, _SCAN_END: _end_of_tables(words),
            _FOUND: MAILBOX + at_found, _FOUND_COUNT: _FOUND_ROOM,
        }.items():  # fmt: skip
            self._set_word(offset, value)
        for index, value in enumerate(astuple(guest)):
            self._set_word(mailbox.REGISTERS + 8 * index, value)
        self._window[mailbox.SIZE : mailbox.SIZE + probes.nbytes] = probes.tobytes()
        self._window[at_words : at_words + words.nbytes] = words.tobytes()
        self._command(seconds)
        results = self._array(at_results, len(probes), mailbox.RESULT_ENTRY)
        count = self._word(_FOUND_COUNT)
        if count >= _FOUND_ROOM:
            raise MachineError(f"{PROGRAM}: the probes left more words in the tables than there is room to report")
        self._take_back(self._array(at_words, len(words), _PAIR), self._array(at_found, count, _PAIR))
        return results

    def _words_to_send(self, others: npt.NDArray[np.uint64]) -> Words:
        """The words of memory that are not zero, and others."""
        inside = np.zeros(len(others), np.bool_)
        for part in self.memory.ranges:
            inside |= (others >= part.start) & (others < part.end)
        if not inside.all():
            raise OutOfRangeError(f"HPA {int(others[~inside][0]):#x} is in neither {TABLES} nor {DATA}")
        held = self.memory.words
        found = [((others - np.uint64(self.memory.base)) >> np.uint64(3)).astype(np.int64)]
        found.extend(np.flatnonzero(held[start:end]) + start for start, end in self._resident())
        indices = np.unique(np.concatenate(found))
        words = np.empty(len(indices), _PAIR)
        words["address"] = (indices.astype(np.uint64) << np.uint64(3)) + np.uint64(self.memory.base)
        words["value"] = held[indices]
        return words

    def _resident(self) -> Iterator[tuple[int, int]]:
        """Parts of the memory file that were ever touched, as indices of words."""
        assert self.memory.fileno is not None
        end = 0
        while True:
            try:
                start = os.lseek(self.memory.fileno, end, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but holes is left
                return
            end = os.lseek(self.memory.fileno, start, os.SEEK_HOLE)
            yield start >> 3, end >> 3

    def _take_back(self, words: Words, found: Words) -> None:
        """Make memory what the machine's RAM was."""
        for part in self.memory.ranges:
            self.memory.zero(part)
        for pairs in (words, found):
            indices = ((pairs["address"] - np.uint64(self.memory.base)) >> np.uint64(3)).astype(np.int64)
            filled = pairs["value"] != 0
            self.memory.words[indices[filled]] = pairs["value"][filled]

    # --- the mailbox -----------------------------------------------------------------------------------------

    def _word(self, offset: int) -> int:
        return int.from_bytes(self._window[offset : offset + 8], "little")

    def _set_word(self, offset: int, value: int) -> None:
        self._window[offset : offset + 8] = value.to_bytes(8, "little")

    def _array(self, offset: int, count: int, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        """A copy of a part of the disk."""
        return np.frombuffer(self._window[offset : offset + count * kind.itemsize], kind)

    def _command(self, seconds: float) -> None:
        self._set_word(mailbox.ACKNOWLEDGE, self._word(mailbox.SEQUENCE))
        if self._child is not None:
            os.kill(self._child.pid, signal.SIGCONT)
        self._wait(seconds, "batch")

    def _wait(self, seconds: float, what: str) -> None:
        """Wait for the monitor's byte, then stop Bochs."""
        ready, _, _ = select.select([self._bell], [], [], seconds)
        if not ready:
            raise MachineError(f"{PROGRAM} did not answer within {seconds:g} s ({what}){self._said()}")
        if not os.read(self._bell, 1) or self._child is None:
            said = self._said()
            if "display library" in said:
                raise HostToolError(f"{PROGRAM} has no display: install Debian's package {PACKAGE}")
            raise MachineError(f"{PROGRAM} ended ({what}){said}")
        os.kill(self._child.pid, signal.SIGSTOP)
        if self._word(mailbox.EVENT) == Event.FAILED:
            seen = " ".join(f"{self._word(mailbox.INFO + 8 * index):#x}" for index in range(6))
            raise MachineError(f"{PROGRAM}: the monitor met an exception (vector, stack, CR2: {seen})")

    def _said(self) -> str:
        """The end of what Bochs printed."""
        size = os.fstat(self._log).st_size
        text = os.pread(self._log, _LOG_KEPT, max(size - _LOG_KEPT, 0)).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip(" =\t")]
        return ": " + " / ".join(lines[-6:]) if lines else ""

    # --- life ------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def version(self) -> str:
        """Bochs' version: `2.7`."""
        return self._program.version

    def close(self) -> None:
        """End Bochs and give everything back. Harmless when repeated."""
        self._end()
        self._window.close()
        for name in ("_log", "_disk"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                os.close(descriptor)
                setattr(self, name, -1)
        self.memory.close()

    def _end(self) -> None:
        if self._child is not None:
            # It may be stopped, and then hears nothing but this.
            if self._child.ended is None:
                os.kill(self._child.pid, signal.SIGKILL)
            self._child.wait(_START_S)
            self._child.end()
            self._child = None
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1

    def __enter__(self) -> BochsMachine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end_of_tables(words: Words) -> int:
    """Where the last page of `TABLES` that is in use ends."""
    count = int(np.searchsorted(words["address"], np.uint64(TABLES.end)))
    return align_up(int(words["address"][count - 1]) + 1, SIZE_4K) if count else TABLES.start


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _memory_file(name: str, contents: bytes) -> int:
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    os.write(descriptor, contents)
    return descriptor


def _rom(model: Model) -> bytes:
    """The monitor, at the reset vector a jump to it, and whether it is to use five levels."""
    code = (files(__package__) / "monitors" / "vmx-x86_64.bin").read_bytes()
    end = _JUMP.ljust(_FIVE_LEVELS - _RESET, b"\0") + bytes([model.linear_bits == FIVE_LEVELS.linear_bits])
    return code.ljust(_RESET, b"\0") + end.ljust(_ROM - _RESET, b"\0")


def _configuration(cpu: Model, rom: int, vga: int, disk: int, bell: int) -> str:
    """Bochs' configuration: little hardware, nothing said, memory that costs nothing until it is touched."""
    size = DATA.end // MIB
    return f"""display_library: term
memory: guest={size}, host={size}
cpu: model={cpu.name}, count=1, ips=50000000, reset_on_triple_fault=0
romimage: file={_path(rom)}
vgaromimage: file={_path(vga)}
ata0-master: type=disk, mode=flat, path={_path(disk)}, cylinders={_CYLINDERS}, heads={_HEADS}, spt={_TRACK}
com1: enabled=1, mode=file, dev={_path(bell)}
boot: disk
pci: enabled=0
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
clock: sync=none
log: /dev/null
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"""
