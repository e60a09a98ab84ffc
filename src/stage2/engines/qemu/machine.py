"""A VM on a QEMU board: its vCPUs are cores of the board, and one thread answers what stops them.

What every architecture has in common: the loop over doorbells, refused accesses and what is done about them, and the
time that each exit took.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Generic, TypeVar

from ...errors import EngineError, MachineError
from ...flags import Access
from ...formats.invalidation import Operation
from ...hypervisor.clock import MonotonicClock
from ...hypervisor.time import NANOS_PER_SEC, TimeValue
from ...machines.board import Board
from ...machines.core import Core
from ...machines.mailbox import Command
from ...space.faults import FaultResult
from ...vm.exit_log import ExitLog
from ...vm.exits import Action, MemoryFault
from ...vm.vm import RunResult, Vm
from ..resting import Resting

ENGINE = "qemu"
_LOOK_S = 0.5
"""How long the thread waits before it looks again whether QEMU is there."""
_RUNG_S = 5.0
"""How long a core may take to ring after it was kicked."""

_ONES = (1 << 64) - 1
_KINDS = {Action.RETRY: "memory fault", Action.EMULATE: "device access"}
"""What an access that stage 2 refused is called in the log, by what is done about it."""

Ended = tuple[str, str]
"""How a run ended: "off", "stopped" and the like, and one sentence."""
AnyBoard = TypeVar("AnyBoard", bound=Board)


class QemuVm(ABC, Generic[AnyBoard]):
    """Runs one VM.

    Args:
        vm: it.
        board: the machine; whoever made it closes it.
        cores: its core for each vCPU.
        console: whether the board's serial port is this guest's.
    """

    ENGINE = ENGINE
    ARCH: ClassVar[str]

    def __init__(self, vm: Vm, board: AnyBoard, cores: Sequence[Core], *, console: bool) -> None:
        self.vm, self.board, self.cores = vm, board, tuple(cores)
        self.log = ExitLog(vm.name)
        self._kinds = ["start"] * len(self.cores)
        """Of each core, what its last exit was."""
        self._details: dict[str, object] = {}
        self._began = 0
        self._thread: int | None = None
        """Which thread serves the cores."""
        self._console = board.console if console else None
        self._off: str | None = None
        self._stop_exit: Ended | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = threading.Lock()
        self._resting = Resting(self._look)
        self._entered = False
        """The guest was entered; otherwise it begins at its entry."""
        vm.space.page_table.flush = self._owe
        vm.space.promoter.still = self._holds_still

    # --- running ---------------------------------------------------------------------------------------------

    def run(self) -> RunResult:
        """Run the guest until it powers off, is stopped, or `stop` is called: from its entry, or where it can be saved
        from where it is."""
        clock = MonotonicClock()
        began = clock.now()
        self._began = time.perf_counter_ns()
        self._thread = threading.get_ident()
        self._resting.begin()
        try:
            if self._entered:
                self._run_on()
            else:
                self._entered = True
                self._start()
            exit_, reason = self._loop()
            # How it ended stays so where QEMU is lost afterwards.
            with contextlib.suppress(MachineError):
                self._park()
        except MachineError as error:
            exit_, reason = self._stop_exit or ("error", str(error))
        finally:
            self._resting.end()
            self._stop_exit = None
        wall = clock.now().since(began).nanos / NANOS_PER_SEC
        return RunResult(exit=exit_, reason=reason, wall_s=wall, guest_faults=0, fills=0, exits=self.log.reports())

    def stop(self, exit_: str, reason: str) -> None:
        """End the run soon; callable from any thread, any time."""
        self._stop_exit = exit_, reason
        self._look()

    def _look(self) -> None:
        """Let the thread that serves the cores look what is wanted of it."""
        with self._closing:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def log_writes(self, interval: TimeValue) -> None:
        """Keep a dirty log.

        Raises:
            EngineError: there is none of this VM's.
        """
        raise EngineError(
            f"the qemu engine keeps no dirty log of {self.ARCH} guests: give --engine unicorn, if it runs them"
        )

    def close(self) -> None:
        """Let go of the VM. Harmless when repeated."""
        self.vm.space.page_table.flush = None
        self.vm.space.promoter.still = lambda: False
        with self._closing:
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    def power_off(self, reason: str) -> None:
        """The guest is done: "shutdown" or "reboot"."""
        self._off = reason

    def _loop(self) -> Ended:
        poll = select.poll()
        doors = {core.door.fileno(): core for core in self.cores}
        for descriptor in (*doors, self._wake):
            poll.register(descriptor, select.POLLIN)
        if self._console is not None:
            poll.register(self._console.fileno(), select.POLLIN)
        while True:
            if self._rest_wanted and self._comes_to_rest():
                self._do_due()
                self._resting.serve()
                if self._off is not None:
                    return "off", f"the guest asked for {self._off}"
                self._run_on()
            due = self._until_due()
            for descriptor, _ in poll.poll(1000 * (min(due, _LOOK_S) if due else _LOOK_S)):
                core = doors.get(descriptor)
                if core is None:
                    self._take_console()
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake)
                    continue
                if self._rest_wanted and self._let_go(core):
                    continue
                ended = self._answer(core)
                if ended is not None:
                    self._take_console()
                    return ended
            if self._stop_exit is not None:
                return self._stop_exit

    def _answer(self, core: Core) -> Ended | None:
        """Deal with an exit of a core; a result ends the run, otherwise the guest runs on."""
        seen = time.perf_counter_ns()
        number = self.cores.index(core)
        before, waited = self._kinds[number], core.waited
        self._details = {}
        ended = self._serve(core)
        self.log.note(seen - self._began, number, self._kinds[number], time.perf_counter_ns() - seen, **self._details)
        if before != "start":
            self.log.waited(before, waited * NANOS_PER_SEC // self.board.ticks_per_sec)
        if self._off is not None:
            return "off", f"the guest asked for {self._off}"
        return ended

    def _take_console(self) -> None:
        """Take what the guest has printed on the board's serial port."""
        while self._console is not None:
            try:
                text = self._console.recv(1 << 16)
            except (BlockingIOError, ConnectionError):
                return
            if not text:
                return
            self.vm.console.write(text)

    def _take_until_rung(self, core: Core) -> None:
        """Take what the guest prints until a core rings: QEMU stands still while nobody takes it.

        Raises:
            MachineError: it does not ring.
        """
        poll = select.poll()
        poll.register(core.door.fileno(), select.POLLIN)
        if self._console is not None:
            poll.register(self._console.fileno(), select.POLLIN)
        gives_up = time.monotonic() + _RUNG_S
        while time.monotonic() < gives_up:
            rung = [descriptor for descriptor, _ in poll.poll(_LOOK_S * 1000)]
            self._take_console()
            if core.door.fileno() in rung:
                return
        raise MachineError(f"{self.board.PROGRAM} did not answer within {_RUNG_S:g} s (park)")

    def _park(self) -> None:
        """Let the cores that wait for us rest. One that runs is ended with the board."""
        for core in self.cores:
            if core.waits:
                core.send(Command.PARK)

    def _owe(self, operations: Iterable[Operation]) -> None:
        """Let a core that waits for us do what an edit owes, for all of them.

        It does so now: what the edit freed may be given away next, other cores of the guest run meanwhile, and this one
        may never run on. What others owe than the thread that serves the cores is done when the next one runs on.
        """
        core = self._settler
        core.owe(operations)
        if core.waits and threading.get_ident() == self._thread:
            core.settle()

    def _holds_still(self) -> bool:
        """Whether memory may be copied: the one core waits while its exit is answered; several are not asked to."""
        return len(self.cores) == 1 and self.cores[0].waits and threading.get_ident() == self._thread

    @property
    def _settler(self) -> Core:
        """The core that does what edits owe: one that waits for us."""
        return next((core for core in self.cores if core.waits), self.cores[0])

    def _is(self, core: Core, kind: str, **details: object) -> None:
        """Say what an exit is, for the log."""
        self._kinds[self.cores.index(core)] = kind
        self._details = details

    # --- for those that can be saved: others are never asked to rest -------------------------------------------

    @property
    def _rest_wanted(self) -> bool:
        """Whether the cores are to wait for us."""
        return bool(self._resting.asked) or self._until_due() == 0

    def _until_due(self) -> float | None:
        """Seconds until something is to be done at rest; None where nothing is."""
        return None

    def _do_due(self) -> None:
        """At rest: do what is due."""

    def _comes_to_rest(self) -> bool:
        """Whether all cores wait for us; those that do not are made to."""
        return True

    def _let_go(self, core: Core) -> bool:
        """Take an exit of a core and do nothing about it, if the guest does the same again when it goes on."""
        return False

    def _run_on(self) -> None:
        """Let those cores run that are to."""

    # --- for architectures -------------------------------------------------------------------------------------

    @abstractmethod
    def _start(self) -> None:
        """Let the first vCPU begin at the VM's entry."""

    @abstractmethod
    def _serve(self, core: Core) -> Ended | None:
        """Deal with an exit, and let the core run on unless a result ends the run."""

    @abstractmethod
    def _operand(self, core: Core) -> tuple[int, int]:
        """Of an access whose instruction is known: how many bytes it is, and what a write stores (0 of a read)."""

    @abstractmethod
    def _complete(self, core: Core, value: int) -> None:
        """Such an access was made for the guest: a read gets a value, of which its width counts, and the instruction is
        over."""

    @abstractmethod
    def _inject(self, core: Core, fault: MemoryFault) -> None:
        """Give the guest its architecture's access fault."""

    def _refused(self, core: Core, fault: MemoryFault, *, known: bool) -> Ended | None:
        """Deal with an access that stage 2 refused; the caller lets the core run on where there is no result.

        Args:
            core: the core.
            fault: what it did.
            known: whether the instruction is one that can be made for the guest.
        """
        result = self.vm.space.handle_page_fault(fault.gpa, fault.access)
        action = self.vm.action_for(fault, result)
        self._is(core, _KINDS.get(action, "refused access"), gpa=fault.gpa, gva=fault.gva, pc=fault.pc,
                 access=fault.access.name.lower(), action=action.value)  # fmt: skip
        if action is Action.RETRY:
            return None
        if action in (Action.EMULATE, Action.DISCARD) and not known:
            # Nothing says which register it is about: a bus that answers with an error is all that is left.
            action = Action.INJECT
        if action is Action.EMULATE:
            width, value = self._operand(core)
            answer = self._on_bus(fault, result, width, value)
            if isinstance(answer, tuple):
                return answer
            self._complete(core, answer)
            return None
        self.vm.record_violation(fault, action, result)
        if action is Action.STOP:
            return self._stopped(fault, result)
        if action is Action.DISCARD:
            self._complete(core, _ONES)
        else:
            self._inject(core, fault)
        return None

    def _stopped(self, fault: MemoryFault, result: FaultResult) -> Ended:
        where = f"{result.region.label} {result.region.range}" if result.region else "no region"
        what = f"{fault.access.name.lower()} of GPA {fault.gpa:#x}"
        why = f"; {result.reason}" if result.reason else ""
        return "stopped", f"{what} ({result.resolution.value}: {where}) at PC {fault.pc:#x}{why}"

    def _on_bus(self, fault: MemoryFault, result: FaultResult, width: int, value: int) -> int | Ended:
        """Make an access on the device bus.

        Args:
            fault, result: the access.
            width: its bytes.
            value: what is written; of no matter for a read.

        Returns:
            What was read (0 for a write), or how the run ends where nobody answers.
        """
        ones = (1 << 8 * width) - 1
        if fault.access is Access.WRITE:
            answer = 0 if self.vm.bus.write(fault.gpa, width, value & ones, fault.vcpu) else None
        else:
            answer = self.vm.bus.read(fault.gpa, width, fault.vcpu)
        if answer is not None:
            return answer
        action = self.vm.unanswered(result)
        what = f"{fault.access.name.lower()} of GPA {fault.gpa:#x}"
        if action is Action.STOP:
            return "stopped", f"{what} (no device answers there) at PC {fault.pc:#x}"
        return ones
