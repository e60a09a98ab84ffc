"""An AArch64 machine on Unicorn: one vCPU with its firmware (PSCI), no interrupts."""

from __future__ import annotations

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
        self._psci = Psci(self.power_off)

    def _make_cpu(self, number: int, page_state: int) -> ArmVcpu:
        return ArmVcpu(number, self.vm, page_state, self._windows)

    def _serve(self, cpu: ArmVcpu, reason: Reason) -> tuple[str, str] | None:
        if reason is Reason.HYPERCALL:
            cpu.set_register(0, self._psci.call(cpu.arguments))
        elif reason is Reason.TRAP and not cpu.translate_for_guest():
            number = cpu.state[Word.NUMBER]
            return "stopped", f"an exception to EL2 (number {number}, ESR {cpu.syndrome:#x}) at PC {cpu.pc:#x}"
        return None
