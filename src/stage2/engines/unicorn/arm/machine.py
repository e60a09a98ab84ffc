"""An AArch64 machine on Unicorn: one vCPU with its firmware (PSCI), no interrupts."""

from __future__ import annotations

from collections.abc import Sequence

from ....vm.psci import Psci
from ....vm.vm import Vm
from ..machine import Machine
from ..state import Reason, Word
from .vcpu import ArmVcpu


class ArmMachine(Machine[ArmVcpu]):
    """Runs one AArch64 VM."""

    ARCH = "aarch64"

    def __init__(self, vm: Vm) -> None:
        super().__init__(vm)
        self._psci = Psci(self)

    def _make_cpu(self, number: int, page_state: int) -> ArmVcpu:
        return ArmVcpu(number, self.vm, page_state, self._windows)

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
