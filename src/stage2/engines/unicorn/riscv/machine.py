"""A RISC-V machine on Unicorn: the harts of one VM taking turns on one thread, with their firmware and clock.

The harts share memory, so they never run at the same time: the library's atomics are atomic within one CPU only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ....errors import SnapshotError
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
        self._unfinished: int | None = None
        """The hart whose slice was interrupted, by a timer or by somebody who wanted the machine at rest."""
        self._armed: list[tuple[int, TimeValue] | None] = [None] * vm.cpu_count
        """Of each hart the token of its timer and when it is due, if it is set."""
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
        """The next hart that can run, for a slice if there are others. A slice that was interrupted goes on, so that
        what the harts do does not hang on who looked at them when."""
        ready = [hart for hart in self._cpus if hart.running and not hart.waiting]
        if not ready:
            return None
        if self._unfinished is not None and len(ready) > 1:
            hart = self._cpus[self._unfinished]
            if hart in ready:
                return hart
        hart = next((hart for hart in ready if hart.number >= self._turn), ready[0])
        self._turn = hart.number + 1
        self._slice_end = NEVER if len(ready) == 1 else self.clock.code + _SLICE
        return hart

    def _end_of_turn(self, cpu: RiscvVcpu, reason: Reason) -> tuple[str, str] | None:
        interrupted = reason in (Reason.SLICE, Reason.FAULT) and self.clock.code < self._slice_end != NEVER
        self._unfinished = cpu.number if interrupted else None
        return super()._end_of_turn(cpu, reason)

    def _idle(self) -> None:
        """Every hart waits: let virtual time jump to the next timer, or wait for somebody to stop us."""
        if any(hart.running and self._armed[hart.number] is not None for hart in self._cpus):
            self._jump()
        else:
            # What else is timed wakes no hart.
            super()._idle()

    # --- what the firmware asks for (vm.sbi.Harts) -------------------------------------------------------

    def set_timer(self, hart: int, deadline: int) -> None:
        self._cpus[hart].clear_timer()
        when = TimeValue.of_ticks(deadline, TIMER_HZ)
        # All ones stands for never (SBI, "Set Timer"); no clock comes to what an event does not hold.
        self._arm(hart, None if when.nanos > LATEST else when)

    def _arm(self, hart: int, when: TimeValue | None) -> None:
        """Let a hart's timer be due then, or not at all."""
        timers, armed = self.timers.lists[hart], self._armed[hart]
        if armed is not None:
            timers.cancel_timer(armed[0])
        self._armed[hart] = None if when is None else (timers.register_timer(when, partial(self._ring, hart)), when)

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

    # --- saved and put back ------------------------------------------------------------------------------

    def _save_more(self) -> dict[str, Any]:
        harts = [
            {"running": hart.running, "waiting": hart.waiting, "timer_ns": None if armed is None else armed[1].nanos}
            for hart, armed in zip(self._cpus, self._armed, strict=True)
        ]
        return {"turn": self._turn, "unfinished": self._unfinished, "slice_end": self._slice_end, "harts": harts}

    def _require_more(self, more: Mapping[str, Any]) -> None:
        harts, unfinished = more.get("harts"), more.get("unfinished")
        if not isinstance(harts, list) or len(harts) != self.count:
            raise SnapshotError(f"the snapshot says {harts!r} of the harts")
        known = unfinished is None or (isinstance(unfinished, int) and 0 <= unfinished < self.count)
        if not known or not all(isinstance(more.get(name), int) for name in ("turn", "slice_end")):
            raise SnapshotError("the snapshot does not say whose turn it is")
        for hart in harts:
            due = hart.get("timer_ns", -1) if isinstance(hart, dict) else -1
            flags = [hart.get(name) for name in ("running", "waiting")] if isinstance(hart, dict) else []
            if not all(isinstance(flag, bool) for flag in flags) or not (due is None or _is_time(due)):
                raise SnapshotError(f"the snapshot says {hart!r} of a hart")

    def _load_more(self, more: Mapping[str, Any]) -> None:
        self._turn, self._unfinished, self._slice_end = more["turn"], more["unfinished"], more["slice_end"]
        for number, saved in enumerate(more["harts"]):
            hart, due = self._cpus[number], saved["timer_ns"]
            hart.running, hart.waiting = saved["running"], saved["waiting"]
            self._arm(number, None if due is None else TimeValue(due))

    def close(self) -> None:
        if not self._closed:
            super().close()
            give_clock(self._time)


def _is_time(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= LATEST
