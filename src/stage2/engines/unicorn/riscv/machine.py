"""A RISC-V machine on Unicorn: the harts of one VM taking turns on one thread, with their firmware and clock.

The harts share memory, so they never run at the same time: the library's atomics are atomic within one CPU only.
"""

from __future__ import annotations

from functools import partial

from ....hypervisor.time import TimeValue
from ....hypervisor.timers import LATEST
from ....vm.boot import TIMER_HZ
from ....vm.exits import Hypercall
from ....vm.sbi import HartState, Sbi
from ....vm.vm import Vm
from ..machine import Machine
from ..state import NEVER, Reason
from .clock import RiscvClock, give_clock, take_clock
from .vcpu import RiscvVcpu

_SLICE = 1 << 18
"""Bytes of code a hart executes before the next gets its turn."""


class RiscvMachine(Machine[RiscvVcpu]):
    """Runs one RISC-V VM."""

    ARCH = "riscv64"
    SEVERAL_CPUS = True

    def __init__(self, vm: Vm) -> None:
        self._time = take_clock()
        self._turn = 0
        self._armed: list[int | None] = [None] * vm.cpu_count
        """Of each hart the token of its timer, if it is set."""
        self.count = vm.cpu_count
        super().__init__(vm)
        channels = None if vm.channels is None else (vm.channels, vm.id)
        self._sbi = Sbi(self, vm.memory, vm.console, channels)
        if vm.plic is not None:
            vm.plic.notify = self._external

    def _make_clock(self) -> RiscvClock:
        return self._time

    def _make_cpu(self, number: int, page_state: int) -> RiscvVcpu:
        return RiscvVcpu(number, self.vm, self._time, page_state, self._windows)

    def _serve(self, cpu: RiscvVcpu, reason: Reason) -> tuple[str, str] | None:
        if reason is Reason.HYPERCALL:
            error, value = self._sbi.call(Hypercall(cpu.number, cpu.arguments))
            cpu.set_register(10, error)
            if value is not None:
                cpu.set_register(11, value)
        return None

    def _unexplained(self, cpu: RiscvVcpu) -> None:
        cpu.inject_breakpoint()

    def _external(self, hart: int) -> None:
        """A hart's external interrupt has changed, or may have."""
        assert self.vm.plic is not None
        self._cpus[hart].set_external(self.vm.plic.interrupts(hart))

    def _wait(self, cpu: RiscvVcpu) -> None:
        cpu.waiting = not cpu.has_interrupt

    def _next(self) -> RiscvVcpu | None:
        """The next hart that can run, for a slice if there are others."""
        ready = [hart for hart in self._cpus if hart.running and not hart.waiting]
        if not ready:
            return None
        hart = next((hart for hart in ready if hart.number >= self._turn), ready[0])
        self._turn = hart.number + 1
        self._slice_end = NEVER if len(ready) == 1 else self.clock.code + _SLICE
        return hart

    def _idle(self) -> None:
        """Every hart waits: let virtual time jump to the next timer, or wait for somebody to stop us."""
        if any(hart.running and self._armed[hart.number] is not None for hart in self._cpus):
            self._jump()
        else:
            # What else is timed wakes no hart.
            super()._idle()

    # --- what the firmware asks for (vm.sbi.Harts) -------------------------------------------------------

    def set_timer(self, hart: int, deadline: int) -> None:
        timers, armed = self.timers.lists[hart], self._armed[hart]
        if armed is not None:
            timers.cancel_timer(armed)
        self._cpus[hart].clear_timer()
        when = TimeValue.of_ticks(deadline, TIMER_HZ)
        # All ones stands for never (SBI, "Set Timer"); no clock comes to what an event does not hold.
        never = when.nanos > LATEST
        self._armed[hart] = None if never else timers.register_timer(when, partial(self._ring, hart))

    def _ring(self, hart: int, _now: TimeValue) -> None:
        """A hart's timer is due."""
        self._armed[hart] = None
        self._cpus[hart].raise_timer()

    def send_ipi(self, hart: int) -> None:
        self._cpus[hart].raise_software()

    def flush(self, hart: int) -> None:
        self._cpus[hart].flush()

    def start(self, hart: int, address: int, opaque: int) -> None:
        self._cpus[hart].start(address, opaque)

    def stop_hart(self, hart: int) -> None:
        self._cpus[hart].running = False

    def state(self, hart: int) -> HartState:
        return HartState.STARTED if self._cpus[hart].running else HartState.STOPPED

    def close(self) -> None:
        if not self._closed:
            super().close()
            give_clock(self._time)
