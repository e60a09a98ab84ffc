"""An AArch64 machine on Unicorn: one vCPU with its firmware (PSCI), and interrupts where its file gives it a GICv2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....errors import EngineError, SnapshotError
from ....hypervisor.time import TimeValue
from ....hypervisor.timers import LATEST
from ....vm.boot import TIMER_HZ
from ....vm.gic.bank import VIRTUAL_TIMER
from ....vm.gic.v2 import GicV2
from ....vm.psci import Psci
from ....vm.vm import Vm
from ..machine import Machine
from ..state import Reason, Word
from . import timer
from .vcpu import ArmVcpu


class ArmMachine(Machine[ArmVcpu]):
    """Runs one AArch64 VM.

    Raises:
        EngineError: as `Machine`, or its interrupt controller is one whose CPU interface is system registers.
    """

    ARCH = "aarch64"

    def __init__(self, vm: Vm) -> None:
        self._gic: GicV2 | None = None
        if vm.gic is not None:
            if not isinstance(vm.gic, GicV2) or vm.gic_place is None or vm.gic_place.cpus is None:
                raise EngineError(
                    f"VM {vm.name}: the unicorn engine serves a GICv2 with its CPU interface: declare an "
                    "InterruptController of 0x20000 bytes"
                )
            self._gic = vm.gic
        super().__init__(vm)
        self._psci = Psci(self)
        self._timer = (0, 0)
        """The virtual timer's registers when it was last looked at."""
        self._armed: tuple[int, TimeValue] | None = None
        """The token of its timer and when it is due, if it is set."""
        if self._gic is not None:
            self._gic.notify = self._tell

    def _make_cpu(self, number: int, page_state: int) -> ArmVcpu:
        return ArmVcpu(number, self.vm, page_state, self._windows)

    # --- interrupts ----------------------------------------------------------------------------------------------

    def _tell(self, number: int) -> None:
        """The interrupt controller has news for a CPU."""
        assert self._gic is not None, "nobody else calls this"
        self._cpus[number].interrupt(self._gic.interrupts(number)[0])

    def _next(self) -> ArmVcpu | None:
        """The CPU, if it can run; its virtual timer is looked at first."""
        cpu = self._cpus[0]
        if self._gic is None:
            return cpu
        if cpu.timer != self._timer:
            self._timer = cpu.timer
            self._set_timer(*cpu.timer)
        if cpu.waiting and cpu.interrupted:
            cpu.waiting = False
        return None if cpu.waiting else cpu

    def _set_timer(self, control: int, compare: int) -> None:
        assert self._gic is not None, "without it there is no timer"
        on = bool(control & timer.ENABLE and not control & timer.IMASK)
        due = TimeValue.of_ticks(compare, TIMER_HZ)
        met = on and due.nanos <= self.clock.now().nanos
        self._gic.set_level(0, VIRTUAL_TIMER, met)
        self._arm(due if on and not met and due.nanos <= LATEST else None)

    def _arm(self, due: TimeValue | None) -> None:
        """Let the virtual timer be due then, or not at all."""
        timers = self.timers.lists[0]
        if self._armed is not None:
            timers.cancel_timer(self._armed[0])
        self._armed = None if due is None else (timers.register_timer(due, self._ring), due)

    def _ring(self, _now: TimeValue) -> None:
        """The virtual timer is due."""
        assert self._gic is not None, "without it there is no timer"
        self._armed = None
        self._gic.set_level(0, VIRTUAL_TIMER, True)

    def _wait(self, cpu: ArmVcpu) -> tuple[str, str] | None:
        if self._gic is None:
            return super()._wait(cpu)
        cpu.waiting = not cpu.interrupted
        return None

    def _idle(self) -> None:
        """The CPU waits: let virtual time jump to the next timer, or wait for somebody to stop us."""
        if self._armed is not None:
            self._jump()
        else:
            super()._idle()

    # --- saved and put back --------------------------------------------------------------------------------------

    def _save_more(self) -> dict[str, Any]:
        (cpu,) = self._cpus
        return {
            "waiting": cpu.waiting,
            "interrupted": cpu.interrupted,
            "timer_seen": list(self._timer),
            "timer_ns": None if self._armed is None else self._armed[1].nanos,
        }

    def _require_more(self, more: Mapping[str, Any]) -> None:
        seen, due = more.get("timer_seen"), more.get("timer_ns")
        if not all(isinstance(more.get(name), bool) for name in ("waiting", "interrupted")):
            raise SnapshotError("the snapshot does not say whether the CPU waits and is interrupted")
        if not isinstance(seen, list) or [type(word) for word in seen] != [int, int]:
            raise SnapshotError(f"the snapshot says {seen!r} of the virtual timer")
        if due is not None and (not isinstance(due, int) or not 0 <= due <= LATEST):
            raise SnapshotError(f"the snapshot's virtual timer cannot be due at {due!r}")

    def _load_more(self, more: Mapping[str, Any]) -> None:
        (cpu,) = self._cpus
        cpu.waiting = more["waiting"]
        cpu.interrupt(more["interrupted"])
        control, compare = more["timer_seen"]
        self._timer = control, compare
        self._arm(None if more["timer_ns"] is None else TimeValue(more["timer_ns"]))

    # --- firmware ------------------------------------------------------------------------------------------------

    @property
    def affinities(self) -> Sequence[int]:
        """For PSCI: the one CPU."""
        return [0]

    def cpu_on(self, cpu: int, entry: int, context: int) -> None:
        """For PSCI: there is no CPU that is off."""

    def cpu_off(self, cpu: int) -> None:
        """For PSCI: the last CPU powers the machine off instead."""

    def _serve(self, cpu: ArmVcpu, reason: Reason) -> tuple[str, str] | None:
        if reason is Reason.HYPERCALL:
            answer = self._psci.call(cpu.arguments)
            if answer is not None:
                cpu.set_register(0, answer)
        elif reason is Reason.TRAP and not cpu.translate_for_guest():
            number = cpu.state[Word.NUMBER]
            return "stopped", f"an exception to EL2 (number {number}, ESR {cpu.syndrome:#x}) at PC {cpu.pc:#x}"
        return None
