"""One core of an emulated machine, as Python sees it: a mailbox in RAM and a doorbell.

The protocol is `mailbox`'s. A guest that runs on a core is given orders through it: what its registers are, which
invalidations are owed, and that it may run.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..address import Hpa, Range
from ..errors import EncodingError, MachineError
from ..formats.invalidation import Operation
from ..formats.u64 import MASK_64
from ..memory.physical import PhysicalMemory
from . import mailbox
from .mailbox import Command, Event

COMMAND_S = 120.0
_EXIT_S = 5.0


class Core:
    """A core.

    Args:
        number: its number.
        memory: the machine's RAM.
        at: HPA of its mailbox.
        program: the emulator's name, for messages.
        said: what the emulator has printed, for messages.
        ended: how it ended, for messages.
        sleeps: whether the monitor sleeps until a byte comes back through the door; otherwise it watches ACKNOWLEDGE.
        operations: names of the invalidations that its monitor knows, in its order.
        lists: where lists of owed invalidations are put; None where a guest runs by none of ours.
    """

    def __init__(
        self,
        number: int,
        memory: PhysicalMemory,
        at: int,
        program: str,
        said: Callable[[], str],
        *,
        ended: Callable[[], str] = lambda: "ended",
        sleeps: bool = True,
        operations: Sequence[str] = (),
        lists: Range | None = None,
    ) -> None:
        self.number = number
        self._memory, self._at, self._program, self._said = memory, at, program, said
        self._ended = ended
        self._sleeps, self._operations, self._lists = sleeps, {name: n for n, name in enumerate(operations)}, lists
        self.door, self._bell = socket.socketpair()
        self._sequence = 0
        self.waits = False
        """Whether the monitor waits for a command."""
        self._owed: list[tuple[int, int]] = []
        self._flags = 0
        for offset in (mailbox.MAGIC, mailbox.SEQUENCE, mailbox.ACKNOWLEDGE):
            self.set_word(offset, 0)

    @property
    def bell(self) -> int:
        """Descriptor of the end of the door that the emulator gets."""
        return self._bell.fileno()

    def hand_over(self) -> None:
        """The emulator has its end of the door: from now on the door tells when it is gone."""
        self._bell.close()

    # --- words -----------------------------------------------------------------------------------------------

    def word(self, offset: int) -> int:
        """A word of the mailbox."""
        return self._memory.load_u64(Hpa(self._at + offset))

    def set_word(self, offset: int, value: int) -> None:
        self._memory.store_u64(Hpa(self._at + offset), value & MASK_64)

    def guest(self, number: int) -> int:
        """A word of the guest's registers, in the machine's order."""
        return self.word(mailbox.GUEST + 8 * number)

    def set_guest(self, number: int, value: int) -> None:
        self.set_word(mailbox.GUEST + 8 * number, value)

    def info(self, number: int) -> int:
        """A word of what the monitor told with its last event."""
        return self.word(mailbox.INFO + 8 * number)

    @property
    def waited(self) -> int:
        """Ticks of the core's counter that its monitor last waited for an answer."""
        return self.word(mailbox.WAITED)

    # --- commands --------------------------------------------------------------------------------------------

    def command(self, command: Command, *, seconds: float = COMMAND_S, **words: int) -> None:
        """Let the monitor do a command and wait until it is done.

        Args:
            seconds: how long it may take.
            words: LIST, COUNT, RESULTS, FLAGS by name in lower case: `list`, `count`, `results`, `flags`.

        Raises:
            MachineError: it took too long, the emulator ended, or the monitor met an exception of its own.
        """
        self.send(command, **words)
        self.wait(seconds, command.name.lower())

    def send(self, command: Command, **words: int) -> None:
        """Tell the monitor what to do, and do not wait."""
        offsets = {"list": mailbox.LIST, "count": mailbox.COUNT, "results": mailbox.RESULTS, "flags": mailbox.FLAGS}
        for name, offset in offsets.items():
            self.set_word(offset, words.get(name, 0))
        self.waits = False
        self.set_word(mailbox.COMMAND, command)
        self.set_word(mailbox.ACKNOWLEDGE, self._sequence)
        if self._sleeps:
            # When the emulator has ended, waiting for it says so.
            with contextlib.suppress(OSError):
                self.door.send(b".")

    def load(self, registers: Sequence[int], *, keep_tlb: bool = False) -> None:
        """Load the core's registers, in the machine's order."""
        for index, value in enumerate(registers):
            self.set_word(mailbox.REGISTERS + 8 * index, value)
        self.command(Command.LOAD, flags=int(keep_tlb))

    def wait(self, seconds: float, what: str) -> None:
        """Wait for the doorbell.

        Args:
            seconds: how long.
            what: for, in messages.

        Raises:
            MachineError: as `command`.
        """
        self.door.settimeout(seconds)
        try:
            rung = self.door.recv(1)
        except ConnectionError:
            rung = b""
        except TimeoutError:
            raise MachineError(f"{self._program} did not answer within {seconds:g} s ({what}){self._said()}") from None
        except OSError as error:
            raise MachineError(f"{self._program}: {error.strerror}{self._said()}") from None
        if not rung:
            raise MachineError(f"{self._program} {self._ended()} ({what}){self._said()}")
        self._sequence = self.word(mailbox.SEQUENCE)
        self.waits = True
        if self.word(mailbox.EVENT) == Event.FAILED:
            info = " ".join(f"{self.info(i):#x}" for i in range(6))
            raise MachineError(f"{self._program}: the monitor met an exception ({what}): {info}")

    # --- a guest ---------------------------------------------------------------------------------------------

    def owe(self, operations: Iterable[Operation]) -> None:
        """Note what edits owe: it is done before this core's guest runs on.

        Raises:
            EncodingError: the monitor knows no such operation.
        """
        for operation in operations:
            number = self._operations.get(operation.name)
            if number is None:
                raise EncodingError(f"{operation.name} is none of {', '.join(self._operations)}")
            self._owed += [(number, operand & MASK_64) for operand in operation.operands()]

    def flag(self, bits: int) -> None:
        """Set bits of FLAGS for when the guest runs on."""
        self._flags |= bits

    def resume(self) -> None:
        """Let the guest run, after the operations that are owed.

        Raises:
            MachineError: the machine is lost.
        """
        flags, self._flags = self._flags, 0
        while True:
            words = self._listed()
            if not self._owed:
                self.send(Command.RUN, flags=flags, **words)
                return
            self.command(Command.INVALIDATE, **words)

    def settle(self) -> None:
        """Let the monitor do all that is owed now; it waits for us.

        Raises:
            MachineError: the machine is lost.
        """
        while self._owed:
            self.command(Command.INVALIDATE, **self._listed())

    def _listed(self) -> dict[str, int]:
        """Put as many operations that are owed into the list as fit: the words that say so."""
        if not self._owed or self._lists is None:
            return {}
        now = self._owed[: self._lists.size // mailbox.OPERATION_ENTRY.itemsize]
        del self._owed[: len(now)]
        self._memory.write(Hpa(self._lists.start), np.array(now, mailbox.OPERATION_ENTRY))
        return {"list": self._lists.start, "count": len(now)}

    def renew(self, pages: Sequence[int]) -> None:
        """Let the emulator forget the code that it has translated from pages which Python has changed; it waits for us.

        Args:
            pages: their HPAs.

        Raises:
            MachineError: the machine is lost.
        """
        assert self._lists is not None, "only where a guest runs by lists of ours"
        most = self._lists.size // 8
        for first in range(0, len(pages), most):
            part = np.array(pages[first : first + most], np.uint64)
            self._memory.write(Hpa(self._lists.start), part)
            self.command(Command.RENEW, list=self._lists.start, count=len(part))

    def exit(self) -> None:
        """Take the event that the door told of: a guest's exit. INFO says what it was.

        Raises:
            MachineError: the emulator ended, or the monitor met an exception of its own.
        """
        self.wait(_EXIT_S, "run")
        event = self.word(mailbox.EVENT)
        if event != Event.EXIT:
            raise MachineError(f"{self._program}: the monitor answers with event {event}")

    def close(self) -> None:
        """Close the door. Harmless when repeated."""
        self._bell.close()
        self.door.close()
