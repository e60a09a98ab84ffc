"""A RISC-V machine on Unicorn: the harts of one VM taking turns on one thread, with their firmware and clock.

The harts share memory, so they never run at the same time: the library's atomics are atomic within one CPU only.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import time

from ...errors import EngineError
from ...vm.exits import Action, Hypercall
from ...vm.sbi import HartState, Sbi
from ...vm.vm import RunResult, Vm
from .clock import give_clock, take_clock
from .state import NEVER, TICK_SHIFT, Reason, Word
from .vcpu import Vcpu
from .windows import Windows

ENGINE = "unicorn"
TICKS_PER_SECOND = 10_000_000
"""Frequency of the `time` CSR, for the device tree."""
_SLICE = 1 << 18
"""Bytes of code a hart executes before the next gets its turn."""
_IDLE_S = 0.02
"""How long a machine without a timer or an interrupt in sight sleeps before it looks for a stop request."""


class UnicornMachine:
    """Runs one VM.

    Args:
        vm: a RISC-V VM whose images are loaded.

    Raises:
        EngineError: the VM is not of this architecture, or the library is not the known one.
    """

    def __init__(self, vm: Vm) -> None:
        if vm.arch != "riscv64":
            raise EngineError(f"the unicorn engine runs riscv64 guests; VM {vm.name} is {vm.arch}")
        self.vm = vm
        self.count = vm.cpu_count
        memory = vm.space.frames.memory
        pages = (memory.span >> 12) + 1
        self._page_state = mmap.mmap(
            -1, pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        )
        self._page_anchor = ctypes.c_char.from_buffer(self._page_state)
        self._clock = take_clock()
        self._windows = Windows(vm)
        address = ctypes.addressof(self._page_anchor)
        self._harts = [Vcpu(number, vm, self._clock, address, self._windows) for number in range(self.count)]
        self._peers = (ctypes.c_uint64 * (2 * self.count))(*[word for hart in self._harts for word in hart.peer])
        for hart in self._harts:
            hart.state[Word.PEERS] = ctypes.addressof(self._peers)
            hart.state[Word.PEER_COUNT] = self.count
        channels = None if vm.channels is None else (vm.channels, vm.id)
        self._sbi = Sbi(self, vm.memory, vm.console, channels)
        self._stop = threading.Event()
        self._stop_exit = ("stopped", "stopped on request")
        self._off: str | None = None
        self._closed = False
        self._current = self._harts[0]
        vm.space.page_table.flush = lambda _ranges: self.flush_all()

    # --- running -----------------------------------------------------------------------------------------

    def run(self) -> RunResult:
        """Run the guest from its entry until it powers off, is stopped, or `stop` is called.

        May be called once, from any thread.
        """
        began = time.perf_counter()
        self._harts[0].start(self.vm.boot.entry, self.vm.boot.device_tree or 0)
        try:
            exit_, reason = self._loop()
        except EngineError as error:
            exit_, reason = "error", str(error)
        return RunResult(
            exit=exit_,
            reason=reason,
            wall_s=time.perf_counter() - began,
            guest_faults=sum(hart.guest_faults for hart in self._harts),
            fills=sum(hart.state[Word.FILLS] for hart in self._harts),
        )

    def stop(self, exit_: str, reason: str) -> None:
        """End the run soon; callable from any thread, any time.

        Args:
            exit_: what the result is to say: "time limit", "interrupted", "stopped".
            reason: one sentence.
        """
        self._stop_exit = (exit_, reason)
        self._stop.set()
        for hart in self._harts:
            hart.state[Word.STOP] = 1

    def _loop(self) -> tuple[str, str]:
        turn = 0
        while True:
            if self._windows.failure is not None:
                raise self._windows.failure
            if self._windows.unanswered is not None:
                fault = self._windows.unanswered
                what = f"{fault.access.name.lower()} of GPA {fault.gpa:#x}"
                return "stopped", f"{what} (no device answers there) at PC {fault.pc:#x}"
            if self._off is not None:
                return "off", f"the guest asked for {self._off}"
            if self._stop.is_set():
                return self._stop_exit
            hart = self._next(turn)
            if hart is None:
                self._idle()
                continue
            turn = hart.number + 1
            self._current = hart
            alone = sum(other.running and not other.waiting for other in self._harts) == 1
            hart.state[Word.SLICE_END] = NEVER if alone else self._clock.now + _SLICE
            ended = self._serve(hart, hart.run())
            if ended is not None:
                return ended

    def _serve(self, hart: Vcpu, reason: Reason) -> tuple[str, str] | None:
        """Deal with the end of a hart's turn; a result ends the machine."""
        if reason is Reason.HYPERCALL:
            error, value = self._sbi.call(Hypercall(hart.number, hart.arguments))
            hart.set_register(10, error)
            if value is not None:
                hart.set_register(11, value)
        elif reason is Reason.FAULT:
            return self._fault(hart)
        elif reason is Reason.NOTHING:
            hart.waiting = not hart.has_interrupt
        elif reason is Reason.EXCEPTION:
            hart.inject_breakpoint()
        return None

    def _fault(self, hart: Vcpu) -> tuple[str, str] | None:
        if hart.pending is None:
            if self._windows.failure is None and not self._stop.is_set():
                hart.inject_stage_1_fault()
            return None
        action, fault, result = hart.pending
        fault = hart.exact(fault)
        self.vm.record_violation(fault, action, result, walk=lambda: hart.walk(fault))
        if action is Action.INJECT:
            hart.inject_access_fault(fault)
            return None
        where = f"{result.region.label} {result.region.range}" if result.region else "no region"
        what = f"{fault.access.name.lower()} of GPA {fault.gpa:#x}"
        why = f"; {result.reason}" if result.reason else ""
        return "stopped", f"{what} ({result.resolution.value}: {where}) at PC {fault.pc:#x}{why}"

    def _next(self, turn: int) -> Vcpu | None:
        """The next hart that can run, from `turn` on."""
        for offset in range(self.count):
            hart = self._harts[(turn + offset) % self.count]
            if hart.running and not hart.waiting:
                return hart
        return None

    def _idle(self) -> None:
        """Every hart waits: let virtual time jump to the next alarm, or wait for somebody to stop us."""
        waiting = [hart for hart in self._harts if hart.running]
        alarm = min((hart.alarm for hart in waiting), default=NEVER)
        if alarm == NEVER:
            self._stop.wait(_IDLE_S)
            return
        self._clock.now = max(self._clock.now, alarm)
        for hart in waiting:
            if hart.alarm <= self._clock.now:
                hart.ring()

    # --- what the firmware asks for (vm.sbi.Harts) -------------------------------------------------------

    def set_timer(self, hart: int, deadline: int) -> None:
        self._harts[hart].set_timer(deadline, TICK_SHIFT)

    def send_ipi(self, hart: int) -> None:
        self._harts[hart].raise_software()

    def flush(self, hart: int) -> None:
        self._harts[hart].flush()

    def flush_all(self) -> None:
        """Drop every hart's translations, as a stage-2 edit demands."""
        for hart in self._harts:
            hart.flush()

    def start(self, hart: int, address: int, opaque: int) -> None:
        self._harts[hart].start(address, opaque)

    def stop_hart(self, hart: int) -> None:
        self._harts[hart].running = False

    def state(self, hart: int) -> HartState:
        return HartState.STARTED if self._harts[hart].running else HartState.STOPPED

    def power_off(self, reason: str) -> None:
        self._off = reason

    def close(self) -> None:
        """Free the CPUs. Harmless when repeated; nothing may be running."""
        if self._closed:
            return
        self._closed = True
        self.vm.space.page_table.flush = None
        for hart in self._harts:
            hart.close()
        give_clock(self._clock)
