"""An AArch64 VM on QEMU's board: Linux at EL1, our monitor at EL2, and Python where an access is refused."""

from __future__ import annotations

import os
import threading

from ...address import Gpa, Gva
from ...errors import EngineError, MachineError
from ...flags import Access
from ...formats.arm.esr_fields import DABT_LOWER, IABT_LOWER
from ...formats.arm.fault_status import ARM_LAST_LEVEL, EXTERNAL_ABORT, encode_status, fault_status
from ...formats.arm.instruction import LoadStore, load_store
from ...formats.arm.stage2_control import stage_2_registers
from ...formats.arm.syndromes import encode_abort, report
from ...formats.outcome import FaultKind
from ...hypervisor.clock import MonotonicClock
from ...hypervisor.time import NANOS_PER_SEC, TimeValue
from ...machines.arm_board import ArmBoard, Context, Exit
from ...tables.result import Fault
from ...vm.exits import Action, MemoryFault
from ...vm.psci import Psci
from ...vm.vm import RunResult, Vm
from .board import gic_version

ENGINE = "qemu"
_TSC = 1 << 19
"""HCR_EL2.TSC: SMC comes to us; QEMU's own firmware is none of a guest's."""
_SCTLR = 0x30D0_0800
"""SCTLR_EL1 with the MMU off: the bits that are always one."""
_EL1H_MASKED = 0x3C5
"""PSTATE of EL1 with its own stack pointer, and all interrupts masked."""
_DEVICE_TREE = 0
"""The register that holds the device tree's address (Linux, arch/arm64/booting)."""
_HVC, _SMC = 0x16, 0x17
_S1PTW, _WNR = 1 << 7, 1 << 6
_FIPA = 0xFF_FFFF_FFFF_F0
_LOOK_S = 0.5
_ZERO_REGISTER = 31


class ArmQemu:
    """Runs one AArch64 VM.

    Args:
        vm: it; its host's memory is a memory file that begins where the board's RAM does.

    Raises:
        EngineError: QEMU is not there, or cannot run this VM.
    """

    ENGINE = ENGINE

    def __init__(self, vm: Vm) -> None:
        if vm.arch != "aarch64":
            raise EngineError(f"this machine runs aarch64 guests; VM {vm.name} is {vm.arch}")
        if vm.cpu_count != 1:
            raise EngineError(f"the qemu engine runs VMs with one CPU; VM {vm.name} has {vm.cpu_count}")
        self.vm = vm
        self._off: str | None = None
        self._stop_exit: tuple[str, str] | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = threading.Lock()
        try:
            self._board = ArmBoard(vm.space.frames.memory, gic_version=gic_version([vm.space.memory_regions]))
        except MachineError as error:
            os.close(self._wake)
            raise EngineError(f"VM {vm.name}: {error}") from None
        self._psci = Psci(self._power_off)
        self.exits = 0
        vm.space.page_table.flush = self._board.owe

    # --- running ---------------------------------------------------------------------------------------------

    def run(self) -> RunResult:
        """Run the guest from its entry until it powers off, is stopped, or `stop` is called. May be called once."""
        clock = MonotonicClock()
        began = clock.now()
        try:
            self._start()
            exit_, reason = self._loop()
        except MachineError as error:
            exit_, reason = "error", str(error)
        finally:
            self._board.close()
        wall = clock.now().since(began).nanos / NANOS_PER_SEC
        return RunResult(exit=exit_, reason=reason, wall_s=wall, guest_faults=0, fills=0)

    def stop(self, exit_: str, reason: str) -> None:
        """End the run soon; callable from any thread, any time."""
        self._stop_exit = exit_, reason
        with self._closing:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def log_writes(self, interval: TimeValue) -> None:
        """Keep a dirty log.

        Raises:
            EngineError: this engine has none yet.
        """
        raise EngineError("the qemu engine keeps no dirty log yet")

    def close(self) -> None:
        """End QEMU. Harmless when repeated."""
        self.vm.space.page_table.flush = None
        self._board.close()
        with self._closing:
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    def _start(self) -> None:
        space, board = self.vm.space, self._board
        values = stage_2_registers(space.format, space.regime.root, space.regime.controls, space.regime.identifier)
        board.load([values["HCR_EL2"] | _TSC, values["VTCR_EL2"], values["VTTBR_EL2"], _SCTLR])
        for number in range(31):
            board.set_guest(number, 0)
        board.set_guest(_DEVICE_TREE, self.vm.boot.device_tree or 0)
        board.set_context(Context.PC, self.vm.boot.entry)
        board.set_context(Context.SPSR, _EL1H_MASKED)
        board.resume()

    def _loop(self) -> tuple[str, str]:
        while True:
            rang, printed = self._board.ready(_LOOK_S, self._wake)
            if printed:
                self.vm.console.write(printed)
            if self._stop_exit is not None:
                return self._stop_exit
            if not rang:
                continue
            ended = self._serve(self._board.exit())
            if ended is not None:
                self._drain()
                return ended

    def _drain(self) -> None:
        """Take what the guest printed before it ended."""
        while True:
            _, printed = self._board.ready(0, self._wake)
            if not printed:
                return
            self.vm.console.write(printed)

    def _serve(self, exit_: Exit) -> tuple[str, str] | None:
        """Deal with an exit; a result ends the run, otherwise the guest runs on."""
        self.exits += 1
        code = exit_.esr >> 26
        if code in (DABT_LOWER, IABT_LOWER):
            return self._abort(exit_)
        if code in (_HVC, _SMC):
            arguments = tuple(self._board.guest(number) for number in range(4))
            self._board.set_guest(0, self._psci.call(arguments))
            if code == _SMC:
                # ELR_EL2 is the SMC itself, where a trap brought it here (DDI 0487 D1.3, "preferred return address").
                self._board.set_context(Context.PC, exit_.pc + 4)
            if self._off is not None:
                return "off", f"the guest asked for {self._off}"
            self._board.resume()
            return None
        said = report(exit_.esr, exit_.far, exit_.hpfar)
        return "stopped", f"{said.title} (ESR_EL2 {exit_.esr:#x}) at PC {exit_.pc:#x}: {said.sentences[0]}"

    def _power_off(self, reason: str) -> None:
        self._off = reason

    # --- refused accesses --------------------------------------------------------------------------------------

    def _abort(self, exit_: Exit) -> tuple[str, str] | None:
        on_table = bool(exit_.esr & _S1PTW)
        access = Access.FETCH
        if exit_.esr >> 26 == DABT_LOWER:
            access = Access.WRITE if exit_.esr & _WNR and not on_table else Access.READ
        gpa = (exit_.hpfar & _FIPA) << 8 | (0 if on_table else exit_.far & 0xFFF)
        result = self.vm.space.handle_page_fault(gpa, access)
        if result.retry:
            self._board.resume()
            return None
        kind, arm_level = fault_status(exit_.esr & 0x3F)
        level = 0 if arm_level is None else max(ARM_LAST_LEVEL - arm_level, 0)
        fault = Fault(kind or FaultKind.TRANSLATION, 2, level, gpa, Gva(exit_.far), access, on_table)
        refused = MemoryFault(0, Gpa(gpa), Gva(exit_.far), access, exit_.pc, fault)
        action = self.vm.action_for(refused, result)
        syndrome = load_store(exit_.esr)
        if action in (Action.EMULATE, Action.DISCARD) and syndrome is None:
            # Nothing says which register it is about: a bus that answers with an error is all that is left.
            action = Action.INJECT
        if action is Action.EMULATE and syndrome is not None:
            return self._emulate(refused, syndrome)
        self.vm.record_violation(refused, action, result)
        if action is Action.DISCARD and syndrome is not None:
            if not syndrome.write:
                self._load(syndrome, (1 << 8 * syndrome.width) - 1)
            self._board.set_context(Context.PC, exit_.pc + 4)
        elif action is Action.INJECT:
            self._inject(refused, exit_)
        else:
            where = f"{result.region.label} {result.region.range}" if result.region else "no region"
            what = f"{access.name.lower()} of GPA {gpa:#x}"
            return "stopped", f"{what} ({result.resolution.value}: {where}) at PC {exit_.pc:#x}"
        self._board.resume()
        return None

    def _emulate(self, fault: MemoryFault, access: LoadStore) -> tuple[str, str] | None:
        """Let the device bus make an access."""
        bus = self.vm.bus
        if access.write:
            value = 0 if access.register == _ZERO_REGISTER else self._board.guest(access.register)
            answered = bus.write(fault.gpa, access.width, value & (1 << 8 * access.width) - 1)
        else:
            found = bus.read(fault.gpa, access.width)
            answered = found is not None
            self._load(access, (1 << 8 * access.width) - 1 if found is None else found)
        if not answered:
            return "stopped", f"{fault.access.name.lower()} of GPA {fault.gpa:#x} (no device answers there)"
        self._board.set_context(Context.PC, fault.pc + 4)
        self._board.resume()
        return None

    def _load(self, access: LoadStore, value: int) -> None:
        """Put a loaded value into its register, extended as the instruction says."""
        if access.register != _ZERO_REGISTER:
            self._board.set_guest(access.register, access.extended(value))

    def _inject(self, fault: MemoryFault, exit_: Exit) -> None:
        """Give the guest a synchronous external abort (DDI 0487 D1.3, "Exception entry")."""
        status = EXTERNAL_ABORT
        if fault.fault.on_table:
            status = encode_status(FaultKind.TABLE_OUTSIDE_MEMORY, 0)
        board, lower = self._board, exit_.spsr & 0xF == 0
        board.set_context(Context.ESR_EL1, encode_abort(status, fault.access, lower=lower))
        board.set_context(Context.FAR_EL1, exit_.far)
        board.set_context(Context.ELR_EL1, exit_.pc)
        board.set_context(Context.SPSR_EL1, exit_.spsr)
        offset = 0x400 if lower else 0x200 if exit_.spsr & 1 else 0
        board.set_context(Context.PC, board.context(Context.VBAR_EL1) + offset)
        board.set_context(Context.SPSR, _EL1H_MASKED)
        board.take_exception()
