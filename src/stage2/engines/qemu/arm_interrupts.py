"""Interrupts of a guest whose controller is emulated: its model decides, and HCR_EL2 tells the guest.

The guest has the CPU's own virtual timer (DDI 0487, chapter D12). Its physical interrupt comes to the hypervisor, is
told to the model as its line, and is deactivated once the guest has dealt with it: until then it cannot come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from ...formats.arm.stage2_control import HCR_FMO, HCR_IMO
from ...machines import mailbox
from ...machines.arm_board import RunFlag
from ...machines.core import Core
from ...vm.gic.bank import VIRTUAL_TIMER
from ...vm.gic.v2 import GicV2

HYPERVISOR = HCR_IMO | HCR_FMO
"""HCR_EL2: physical interrupts come to us, and VI and VF are the guest's."""


class _Timer(Enum):
    """How far a CPU is with the interrupt of its timer."""

    QUIET = 0
    RAISED = 1
    ANSWERED = 2


class ArmInterrupts:
    """Between the model of an interrupt controller and the cores of its VM.

    Args:
        gic: the model.
        cores: of each vCPU its core.
    """

    def __init__(self, gic: GicV2, cores: Sequence[Core]) -> None:
        self._gic, self._cores = gic, cores
        self._timers = [_Timer.QUIET] * len(cores)
        self._touched: set[int] = set()
        gic.notify = self._notify

    def timer_fired(self, cpu: int) -> None:
        """The physical interrupt of a CPU's virtual timer has come."""
        self._timers[cpu] = _Timer.RAISED
        self._gic.set_level(cpu, VIRTUAL_TIMER, True)

    def before_entry(self, cpu: int) -> None:
        """Tell a core what its guest is interrupted by, and others that they have to look again."""
        core = self._cores[cpu]
        core.set_word(mailbox.KICK, 0)
        self._follow_timer(cpu)
        normal, fast = self._gic.interrupts(cpu)
        core.flag((RunFlag.INTERRUPT if normal else 0) | (RunFlag.FAST if fast else 0))
        others = [self._cores[other] for other in self._touched - {cpu}]
        self._touched.clear()
        core.set_word(mailbox.SEND, sum(1 << other.number for other in others if not other.waits))

    def begin_anew(self) -> None:
        """The model was put to another state. A timer that still wants something fires again."""
        for cpu, timer in enumerate(self._timers):
            self._gic.set_level(cpu, VIRTUAL_TIMER, False)
            if timer is not _Timer.QUIET:
                self._timers[cpu] = _Timer.QUIET
                self._cores[cpu].flag(RunFlag.DONE)

    def _follow_timer(self, cpu: int) -> None:
        """The line is down as soon as the guest has answered; if the timer still wants something, it fires again."""
        active = self._gic.is_active(cpu, VIRTUAL_TIMER)
        if self._timers[cpu] is _Timer.RAISED and active:
            self._gic.set_level(cpu, VIRTUAL_TIMER, False)
            self._timers[cpu] = _Timer.ANSWERED
        elif self._timers[cpu] is _Timer.ANSWERED and not active:
            self._timers[cpu] = _Timer.QUIET
            self._cores[cpu].flag(RunFlag.DONE)

    def _notify(self, cpu: int) -> None:
        """Something changed that a CPU may have to be told of; whoever is served now tells it when it goes on."""
        self._touched.add(cpu)
