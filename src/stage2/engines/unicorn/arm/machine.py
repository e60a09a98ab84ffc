"""An AArch64 machine on Unicorn: one vCPU with its firmware (PSCI), no interrupts."""

from __future__ import annotations

import ctypes
import mmap
import threading
import time

from ....errors import EngineError
from ....vm.exits import Action
from ....vm.vm import RunResult, Vm
from ..state import Word
from ..windows import Windows
from .psci import Psci
from .state import ArmReason, ArmWord
from .vcpu import ArmVcpu

_IDLE_S = 0.02
"""How long a waiting machine sleeps before it looks for a stop request."""


class ArmMachine:
    """Runs one VM.

    Args:
        vm: an AArch64 VM whose images are loaded.

    Raises:
        EngineError: the VM is not of this architecture, has several CPUs, or the library is not the known one.
    """

    def __init__(self, vm: Vm) -> None:
        if vm.arch != "aarch64":
            raise EngineError(f"this machine runs aarch64 guests; VM {vm.name} is {vm.arch}")
        if vm.cpu_count != 1:
            raise EngineError(
                f"the unicorn engine runs aarch64 guests with one CPU; VM {vm.name} has {vm.cpu_count}: "
                "write cpu_num = 1 in its file"
            )
        self.vm = vm
        pages = (vm.space.frames.memory.span >> 12) + 1
        self._page_state = mmap.mmap(
            -1, pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        )
        self._page_anchor = ctypes.c_char.from_buffer(self._page_state)
        self._windows = Windows(vm)
        self._cpu = ArmVcpu(0, vm, ctypes.addressof(self._page_anchor), self._windows)
        self._peers = (ctypes.c_uint64 * 2)(*self._cpu.peer)
        self._cpu.state[Word.PEERS] = ctypes.addressof(self._peers)
        self._cpu.state[Word.PEER_COUNT] = 1
        self._psci = Psci(self._power_off)
        self._stop = threading.Event()
        self._stop_exit = ("stopped", "stopped on request")
        self._off: str | None = None
        self._closed = False
        vm.space.page_table.flush = lambda _ranges: self._cpu.flush()

    def run(self) -> RunResult:
        """Run the guest from its entry until it powers off, is stopped, or `stop` is called.

        May be called once, from any thread.
        """
        began = time.perf_counter()
        self._cpu.start(self.vm.boot.entry, self.vm.boot.device_tree or 0)
        try:
            exit_, reason = self._loop()
        except EngineError as error:
            exit_, reason = "error", str(error)
        return RunResult(
            exit=exit_,
            reason=reason,
            wall_s=time.perf_counter() - began,
            guest_faults=self._cpu.guest_faults,
            fills=self._cpu.state[Word.FILLS],
        )

    @property
    def flips(self) -> int:
        """How often a host page changed between executed and written."""
        return self._cpu.state[Word.FLIPS]

    def stop(self, exit_: str, reason: str) -> None:
        """End the run soon; callable from any thread, any time.

        Args:
            exit_: what the result is to say: "time limit", "interrupted", "stopped".
            reason: one sentence.
        """
        self._stop_exit = (exit_, reason)
        self._stop.set()
        self._cpu.state[Word.STOP] = 1

    def _loop(self) -> tuple[str, str]:
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
            ended = self._serve(self._cpu.run())
            if ended is not None:
                return ended

    def _serve(self, reason: ArmReason) -> tuple[str, str] | None:
        """Deal with the end of a run; a result ends the machine."""
        cpu = self._cpu
        if reason is ArmReason.HYPERCALL:
            cpu.set_register(0, self._psci.call(cpu.arguments))
        elif reason is ArmReason.FAULT:
            return self._fault()
        elif reason is ArmReason.TRAP:
            if cpu.translate_for_guest():
                return None
            number = cpu.state[ArmWord.NUMBER]
            return "stopped", f"an exception to EL2 (number {number}, ESR {cpu.syndrome:#x}) at PC {cpu.pc:#x}"
        elif reason is ArmReason.NOTHING:
            # There is no interrupt that could end the wait.
            self._stop.wait(_IDLE_S)
        return None

    def _fault(self) -> tuple[str, str] | None:
        cpu = self._cpu
        if cpu.pending is None:
            if self._windows.failure is None and not self._stop.is_set():
                cpu.inject_stage_1_fault()
            return None
        action, fault, result = cpu.pending
        fault = cpu.exact(fault)
        self.vm.record_violation(fault, action, result, walk=lambda: cpu.walk(fault))
        if action is Action.INJECT:
            cpu.inject_access_fault(fault)
            return None
        where = f"{result.region.label} {result.region.range}" if result.region else "no region"
        what = f"{fault.access.name.lower()} of GPA {fault.gpa:#x}"
        why = f"; {result.reason}" if result.reason else ""
        return "stopped", f"{what} ({result.resolution.value}: {where}) at PC {fault.pc:#x}{why}"

    def _power_off(self, reason: str) -> None:
        self._off = reason

    def close(self) -> None:
        """Free the CPU. Harmless when repeated; it must not be running."""
        if self._closed:
            return
        self._closed = True
        self.vm.space.page_table.flush = None
        self._cpu.close()
