"""A machine on Unicorn: the vCPUs of one VM on one thread. What every architecture's has in common."""

from __future__ import annotations

import ctypes
import mmap
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from ...errors import EngineError, SnapshotError
from ...hypervisor.clock import MonotonicClock
from ...hypervisor.cpus import Cpus
from ...hypervisor.current import working_for
from ...hypervisor.slab import NOTHING
from ...hypervisor.time import NANOS_PER_SEC, TimeValue
from ...vm.dirty_log import DirtyLog
from ...vm.exits import Action
from ...vm.snapshots.machine import MachineState
from ...vm.vm import RunResult, Vm
from ..resting import Resting
from .clock import EngineClock
from .state import NEVER, Reason, Word
from .vcpu import Vcpu
from .windows import Windows

ENGINE = "unicorn"
_IDLE_S = 0.02
"""How long a machine with nothing to do sleeps before it looks for a stop request."""

Cpu = TypeVar("Cpu", bound=Vcpu)
T = TypeVar("T")


class Machine(ABC, Generic[Cpu]):
    """Runs one VM.

    Its CPUs have their timers in host memory (`Vm.cpus`), by the machine's one clock. While it runs, the calls of
    `hypervisor.current` are about them.

    Args:
        vm: its images are loaded.

    Raises:
        EngineError: the VM is not of this architecture, has several CPUs where the engine runs one, or the library is
            not the known one.
    """

    ENGINE = ENGINE
    ARCH: ClassVar[str]
    SEVERAL_CPUS: ClassVar[bool] = False

    def __init__(self, vm: Vm) -> None:
        if vm.arch != self.ARCH:
            raise EngineError(f"this machine runs {self.ARCH} guests; VM {vm.name} is {vm.arch}")
        if vm.cpu_count != 1 and not self.SEVERAL_CPUS:
            raise EngineError(
                f"the unicorn engine runs {self.ARCH} guests with one CPU; VM {vm.name} has {vm.cpu_count}: "
                "write cpu_num = 1 in its file"
            )
        self.vm = vm
        self.clock = self._make_clock()
        pages = (vm.space.frames.memory.span >> 12) + 1
        self._page_state = mmap.mmap(
            -1, pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        )
        self._page_anchor = ctypes.c_char.from_buffer(self._page_state)
        self._windows = Windows(vm)
        address = ctypes.addressof(self._page_anchor)
        self._cpus = [self._make_cpu(number, address) for number in range(vm.cpu_count)]
        self._peers = (ctypes.c_uint64 * (2 * vm.cpu_count))(*[word for cpu in self._cpus for word in cpu.peer])
        for cpu in self._cpus:
            cpu.state[Word.PEERS] = ctypes.addressof(self._peers)
            cpu.state[Word.PEER_COUNT] = vm.cpu_count
            cpu.state[Word.CLOCK_AT] = self.clock.address
        self._slice_end = NEVER
        """Clock value at which it is another CPU's turn."""
        self._due, self._alarm = NOTHING, NEVER
        """When the next timer is due, in nanoseconds, and what the clock shows then."""
        self._stop = threading.Event()
        self._stop_exit = ("stopped", "stopped on request")
        self._off: str | None = None
        self._started = self._closed = False
        self._resting = Resting(self._leave)
        vm.cpus = Cpus(
            self.clock,
            vm.space.frames,
            count=vm.cpu_count,
            machine=vm.space.name,
            capacity=vm.timer_events,
            ticks_per_sec=vm.ticks_per_sec,
        )
        self.timers = vm.cpus.timers
        vm.space.page_table.flush = lambda _operations: self.flush_all()
        vm.machine = self

    def _make_clock(self) -> EngineClock:
        """The clock of this machine."""
        return EngineClock()

    @abstractmethod
    def _make_cpu(self, number: int, page_state: int) -> Cpu:
        """A vCPU of this machine."""

    # --- running -----------------------------------------------------------------------------------------

    def run(self) -> RunResult:
        """Run the guest until it powers off, is stopped, or `stop` is called: from its entry, or from where it is.

        May be called from any thread, by one at a time.
        """
        host_time = MonotonicClock()
        began = host_time.now()
        self._resting.begin()
        try:
            if not self._started:
                self._cpus[0].start(self.vm.boot.entry, self.vm.boot.device_tree or 0)
                self._started = True
            with working_for(self.timers):
                exit_, reason = self._loop()
        except EngineError as error:
            exit_, reason = "error", str(error)
        finally:
            self._resting.end()
        return RunResult(
            exit=exit_,
            reason=reason,
            wall_s=host_time.now().since(began).nanos / NANOS_PER_SEC,
            guest_faults=sum(cpu.guest_faults for cpu in self._cpus),
            fills=sum(cpu.state[Word.FILLS] for cpu in self._cpus),
        )

    def stop(self, exit_: str, reason: str) -> None:
        """End the run soon; callable from any thread, any time.

        Args:
            exit_: what the result is to say: "time limit", "interrupted", "stopped".
            reason: one sentence.
        """
        self._stop_exit = (exit_, reason)
        self._stop.set()
        self._leave()

    def _leave(self) -> None:
        """Let whatever CPU runs end its turn soon."""
        for cpu in self._cpus:
            cpu.leave()

    def _loop(self) -> tuple[str, str]:
        while True:
            if self._resting.asked:
                self._resting.serve()
            if self._windows.failure is not None:
                raise self._windows.failure
            if self._windows.unanswered is not None:
                fault = self._windows.unanswered
                what = f"{fault.access.name.lower()} of GPA {fault.gpa:#x}"
                return "stopped", f"{what} (no device answers there) at PC {fault.pc:#x}"
            if self._off is not None:
                return "off", f"the guest asked for {self._off}"
            if self._stop.is_set():
                self._stop.clear()
                return self._stop_exit
            if self.clock.code >= self._next_alarm():
                self._check_timers()
            cpu = self._next()
            if cpu is None:
                self._idle()
                continue
            cpu.state[Word.SLICE_END] = min(self._slice_end, self._next_alarm())
            if self._stop.is_set() or self._resting.asked:
                # Whoever stops us may have told the CPU to leave just before its end was set.
                continue
            if self.vm.enters(cpu.number):
                cpu.flush()
            ended = self._end_of_turn(cpu, self._turn_of(cpu))
            if ended is not None:
                return ended

    def _turn_of(self, cpu: Cpu) -> Reason:
        """Let a CPU run until its turn is over. A fault of the guest's own tables does not end it."""
        reason = cpu.run()
        while reason is Reason.FAULT and cpu.pending is None and self.clock.code < cpu.state[Word.SLICE_END]:
            cpu.inject_stage_1_fault()
            reason = cpu.run()
        return reason

    def _next(self) -> Cpu | None:
        """The CPU whose turn it is; None when all wait."""
        return self._cpus[0]

    def _next_alarm(self) -> int:
        """What the clock shows when the next timer of any CPU is due."""
        due = self.timers.next_nanos
        if due != self._due:
            self._due, self._alarm = due, NEVER if due == NOTHING else self.clock.code_at(due)
        return self._alarm

    def _check_timers(self) -> None:
        """Let the timers of each CPU that are due fire."""
        for number in range(len(self._cpus)):
            with self.timers.on_cpu(number):
                failures = self.timers.check_events().failures
            if failures:
                raise EngineError(f"a timer of CPU {number} failed: {failures[0].error}") from failures[0].error

    def _jump(self) -> None:
        """There is nothing to execute before the next timer: let time be then."""
        self.clock.advance_to(TimeValue(max(self.timers.next_nanos, self.clock.now().nanos)))

    def _idle(self) -> None:
        """There is nothing to execute: wait for somebody to stop us."""
        self._stop.wait(_IDLE_S)

    def _end_of_turn(self, cpu: Cpu, reason: Reason) -> tuple[str, str] | None:
        """Deal with what ended a CPU's turn; a result ends the machine."""
        if reason is Reason.FAULT:
            return self._fault(cpu)
        if reason is Reason.NOTHING:
            return self._wait(cpu)
        if reason is Reason.EXCEPTION:
            self._unexplained(cpu)
        elif reason is not Reason.SLICE:
            return self._serve(cpu, reason)
        return None

    def _unexplained(self, cpu: Cpu) -> None:
        """The library ended a turn without a word."""
        raise EngineError(f"unicorn stopped at PC {cpu.pc:#x} without a reason")

    def _wait(self, cpu: Cpu) -> tuple[str, str] | None:
        """A CPU waits for an interrupt; without interrupts, that is for ever. A result ends the machine."""
        self._idle()
        return None

    @abstractmethod
    def _serve(self, cpu: Cpu, reason: Reason) -> tuple[str, str] | None:
        """Deal with an end that has to do with the architecture; a result ends the machine."""

    def _fault(self, cpu: Cpu) -> tuple[str, str] | None:
        if cpu.pending is None:
            if self._windows.failure is None and not self._stop.is_set():
                cpu.inject_stage_1_fault()
            return None
        action, fault, result = cpu.pending
        fault = cpu.exact(fault)
        self.vm.record_violation(fault, action, result, walk=lambda: cpu.walk(fault), instruction=cpu.instruction)
        if action is Action.INJECT:
            cpu.inject_access_fault(fault)
            return None
        where = f"{result.region.label} {result.region.range}" if result.region else "no region"
        what = f"{fault.access.name.lower()} of GPA {fault.gpa:#x}"
        why = f"; {result.reason}" if result.reason else ""
        return "stopped", f"{what} ({result.resolution.value}: {where}) at PC {fault.pc:#x}{why}"

    def log_writes(self, interval: TimeValue) -> None:
        """Keep a dirty log while the guest runs, harvested at an interval of the machine's time.

        Raises:
            OutOfRangeError: the interval is nothing.
            EncodingError: the stage-2 format cannot take write permission away alone.
        """
        self.vm.dirty_log = DirtyLog(self.vm.written, self.timers.lists[0], interval)

    # --- saved and put back (vm.snapshots.machine.SavedMachine) ------------------------------------------

    def at_rest(self, work: Callable[[], T]) -> T:
        return self._resting.at_rest(work)

    def when(self, nanos: int, work: Callable[[], object]) -> None:
        self.timers.lists[0].register_timer(nanos, lambda _now: work())

    @property
    def unsaved(self) -> str | None:
        # The engine has no passed-through devices; nobody can have written to one.
        return None

    def save(self) -> MachineState:
        return MachineState(
            engine=ENGINE,
            nanos=self.clock.now().nanos,
            started=self._started,
            off=self._off,
            cpus=tuple(cpu.save() for cpu in self._cpus),
            more={"executed": self.clock.code, **self._save_more()},
        )

    def require(self, state: MachineState) -> None:
        if state.engine != ENGINE:
            raise SnapshotError(f"the snapshot is of a machine of the engine {state.engine}; this one is {ENGINE}'s")
        if len(state.cpus) != len(self._cpus):
            raise SnapshotError(f"the snapshot has {len(state.cpus)} CPUs; VM {self.vm.name} has {len(self._cpus)}")
        for cpu, values in zip(self._cpus, state.cpus, strict=True):
            try:
                cpu.require(values)
            except SnapshotError as error:
                raise SnapshotError(f"CPU {cpu.number}: {error}") from None
        executed = state.more.get("executed")
        if not isinstance(executed, int) or not 0 <= executed < NEVER >> 1:
            raise SnapshotError(f"the snapshot's clock cannot be at {executed!r}")
        self._require_more(state.more)

    def load(self, state: MachineState) -> None:
        self._windows.failure = self._windows.unanswered = None
        self._stop.clear()
        self._started, self._off = state.started, state.off
        # What is executed and what is written is found out anew, with translated code and TLBs dropped.
        self._page_state.madvise(mmap.MADV_DONTNEED)
        for cpu, values in zip(self._cpus, state.cpus, strict=True):
            cpu.load(values)
        self.clock.set(state.more["executed"])
        self._load_more(state.more)

    def _save_more(self) -> dict[str, Any]:
        """What the architecture's machine has beside registers, as JSON has it."""
        return {}

    def _require_more(self, more: Mapping[str, Any]) -> None:
        """Make sure that `_load_more` can put it back.

        Raises:
            SnapshotError: it cannot.
        """

    def _load_more(self, more: Mapping[str, Any]) -> None:
        """Put it back."""

    # --- the rest ----------------------------------------------------------------------------------------

    @property
    def flips(self) -> int:
        """How often a host page changed between executed and written."""
        return sum(cpu.state[Word.FLIPS] for cpu in self._cpus)

    def flush_all(self) -> None:
        """Drop every CPU's translations, as a stage-2 edit demands."""
        for cpu in self._cpus:
            cpu.flush()

    def power_off(self, reason: str) -> None:
        """The guest is done.

        Args:
            reason: what it asked for: "shutdown" or "reboot".
        """
        self._off = reason

    def close(self) -> None:
        """Free the CPUs. Harmless when repeated; nothing may be running."""
        if self._closed:
            return
        self._closed = True
        self.vm.space.page_table.flush = None
        self.vm.machine = None
        for cpu in self._cpus:
            cpu.close()
        self.vm.follow_no_more()
        if self.vm.dirty_log is not None:
            self.vm.dirty_log.close()
            self.vm.dirty_log = None
        if self.vm.cpus is not None:
            self.vm.cpus.close()
            self.vm.cpus = None
