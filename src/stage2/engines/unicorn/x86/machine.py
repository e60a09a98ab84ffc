"""An x86-64 machine on Unicorn: one vCPU with its I/O ports, no interrupts from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import SnapshotError
from ....vm.pc_ports import Ports
from ....vm.vm import Vm
from ..machine import Machine
from ..state import Reason, Word
from .vcpu import X86Vcpu


class X86Machine(Machine[X86Vcpu]):
    """Runs one x86-64 VM. How a guest begins is with `X86Vcpu.start`, how it prints and ends with `ports`."""

    ARCH = "x86_64"

    def __init__(self, vm: Vm) -> None:
        self._ports = Ports(vm, self.power_off)
        super().__init__(vm)

    def _make_cpu(self, number: int, page_state: int) -> X86Vcpu:
        return X86Vcpu(number, self.vm, page_state, self._windows, self._ports)

    def _serve(self, cpu: X86Vcpu, reason: Reason) -> tuple[str, str] | None:
        """TRAP is all there is: a fault while an exception was being taken."""
        ended = self._fault(cpu)
        return self._shut_down(cpu) if ended is None and cpu.shut_down else ended

    def _wait(self, cpu: X86Vcpu) -> tuple[str, str] | None:
        # The library halts a CPU too that cannot even take a double fault.
        if cpu.state[Word.DELIVERING]:
            return self._shut_down(cpu)
        if self._off is not None:
            return None
        return "stopped", f"HLT before RIP {cpu.pc:#x}: there is no interrupt that could wake the guest"

    def _save_more(self) -> dict[str, Any]:
        return {"ports": self._ports.save()}

    def _require_more(self, more: Mapping[str, Any]) -> None:
        before = self._ports.save()
        try:
            self._ports.load(more["ports"])
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"the snapshot does not have the state of the ports: {error}") from None
        self._ports.load(before)

    def _load_more(self, more: Mapping[str, Any]) -> None:
        self._ports.is_off = self._off is not None
        self._ports.load(more["ports"])

    def _shut_down(self, cpu: X86Vcpu) -> tuple[str, str]:
        return "stopped", f"a triple fault at RIP {cpu.pc:#x}: the guest's IDT leads nowhere"
