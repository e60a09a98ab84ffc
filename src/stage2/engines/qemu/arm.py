"""An AArch64 VM on QEMU's board: its vCPUs at EL1, our monitor at EL2, and Python where an access is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...address import Gpa, Gva
from ...errors import EngineError
from ...flags import Access
from ...formats.arm.esr_fields import DABT_LOWER, IABT_LOWER
from ...formats.arm.fault_status import ARM_LAST_LEVEL, EXTERNAL_ABORT, encode_status, fault_status
from ...formats.arm.instruction import LoadStore, load_store
from ...formats.arm.stage1_control import SCTLR_RES1
from ...formats.arm.stage2_control import HCR_TSC, stage_2_registers
from ...formats.arm.syndromes import encode_abort, report
from ...formats.outcome import FaultKind
from ...machines.arm_board import ArmBoard, Context, Exit, RunFlag, Why, exit_of
from ...machines.core import Core
from ...machines.mailbox import Command
from ...space.faults import FaultResult
from ...tables.result import Fault
from ...vm.exits import MemoryFault
from ...vm.gic.v2 import GicV2
from ...vm.psci import Psci
from ...vm.vm import Vm
from . import arm_interrupts
from .arm_interrupts import ArmInterrupts
from .arm_saved import problem_of, put, registers_of, virtual_offset
from .machine import Ended
from .saved import SavedQemuVm

_EL1H_MASKED = 0x3C5
"""PSTATE of EL1 with its own stack pointer, and all interrupts masked."""
_DEVICE_TREE = 0
"""The register that holds the device tree's address (Linux, arch/arm64/booting)."""
_HVC, _SMC = 0x16, 0x17
_S1PTW, _WNR = 1 << 7, 1 << 6
_FIPA = 0xFF_FFFF_FFFF_F0
_ZERO_REGISTER = 31
_VECTORS = range(0, 0x800, 0x80)
"""Where the entries of a vector table are (DDI 0487 D1.3, "Exception vectors")."""
_MPIDR_RES1 = 1 << 31


def unhandled(exit_: Exit) -> str:
    """An exception that the engine does not deal with, in a sentence with its registers."""
    said = report(exit_.esr, exit_.far, exit_.hpfar)
    registers = f"ESR_EL2 {exit_.esr:#x}, FAR_EL2 {exit_.far:#x}, HPFAR_EL2 {exit_.hpfar:#x}"
    return f"{said.title} at PC {exit_.pc:#x} ({registers}): {said.sentences[0]}"


class ArmQemu(SavedQemuVm[ArmBoard]):
    """Runs one AArch64 VM.

    Args:
        vm, board, cores, console: as of every VM on QEMU.
        owns_controller: whether the board's interrupt controller is this guest's: interrupts go to it, and none to us.
    """

    ARCH = "aarch64"
    TIME = "cntvct_el0"

    def __init__(self, vm: Vm, board: ArmBoard, cores: Sequence[Core], *, console: bool, owns_controller: bool) -> None:
        if vm.gic is not None and not isinstance(vm.gic, GicV2):
            raise EngineError(
                f"VM {vm.name} has an emulated GICv3, which the qemu engine does not drive: emulate a GICv2, or pass "
                "the board's through"
            )
        super().__init__(vm, board, cores, console=console)
        self._owns_controller = owns_controller
        vm.machine = self
        self._psci = Psci(self)
        self._interrupts = ArmInterrupts(vm.gic, self.cores) if isinstance(vm.gic, GicV2) else None
        self._exit: Exit

    def _start(self) -> None:
        for core in self.cores:
            self._load(core)
        self._begin(self.cores[0], self.vm.boot.entry, self.vm.boot.device_tree or 0)

    def _load(self, core: Core) -> None:
        # Affinity is the core's own: what a guest knows a CPU by is what its interrupt controller sends to.
        space = self.vm.space
        values = stage_2_registers(space.format, space.regime.root, space.regime.controls, space.regime.identifier)
        affinity = _MPIDR_RES1 | core.number
        # SMC comes to us too: QEMU's own firmware is none of a guest's.
        hypervisor = HCR_TSC | (0 if self._owns_controller else arm_interrupts.HYPERVISOR)
        core.load([values["HCR_EL2"] | hypervisor, values["VTCR_EL2"], values["VTTBR_EL2"], SCTLR_RES1, affinity])

    def _begin(self, core: Core, entry: int, argument: int) -> None:
        """Let a vCPU start, as PSCI's CPU_ON has it and Linux's first CPU too."""
        for number in range(31):
            core.set_guest(number, 0)
        core.set_guest(_DEVICE_TREE, argument)
        core.set_guest(Context.PC, entry)
        core.set_guest(Context.SPSR, _EL1H_MASKED)
        self._go_on(core)

    def _go_on(self, core: Core) -> None:
        if self._interrupts is not None:
            self._interrupts.before_entry(self.cores.index(core))
        core.resume()

    def _serve(self, core: Core) -> Ended | None:
        self._exit = exit_ = exit_of(core)
        code = exit_.esr >> 26
        if exit_.why is not Why.EXCEPTION:
            self._is(core, exit_.why.name.lower())
            if exit_.why is Why.TIMER and self._interrupts is not None:
                self._interrupts.timer_fired(self.cores.index(core))
        elif code in (DABT_LOWER, IABT_LOWER):
            ended = self._abort(core, exit_)
            if ended is not None:
                return ended
        elif code in (_HVC, _SMC):
            if not self._call(core, exit_, by_smc=code == _SMC):
                return None
        else:
            self._is(core, "exception", esr=exit_.esr, pc=exit_.pc)
            return "stopped", unhandled(exit_)
        self._go_on(core)
        return None

    # --- firmware ----------------------------------------------------------------------------------------------

    def _call(self, core: Core, exit_: Exit, *, by_smc: bool) -> bool:
        """Answer a call; whether it returns."""
        arguments = tuple(core.guest(number) for number in range(4))
        self._is(core, "hypercall", function=arguments[0], pc=exit_.pc)
        if by_smc:
            # ELR_EL2 is the SMC itself, where a trap brought it here (DDI 0487 D1.3, "preferred return address").
            core.set_guest(Context.PC, exit_.pc + 4)
        answer = self._psci.call(arguments, self.cores.index(core))
        if answer is not None:
            core.set_guest(0, answer)
        return answer is not None and self._off is None

    @property
    def affinities(self) -> Sequence[int]:
        """For PSCI: what each vCPU is known by."""
        return [core.number for core in self.cores]

    def cpu_on(self, cpu: int, entry: int, context: int) -> None:
        """For PSCI: let a vCPU start."""
        core = self.cores[cpu]
        self._load(core)
        self._begin(core, entry, context)

    def cpu_off(self, cpu: int) -> None:
        """For PSCI: a vCPU has gone; its core waits for us until it is wanted again."""

    # --- saved and put back (saved.SavedQemuVm) --------------------------------------------------------------------

    @property
    def _unstoppable(self) -> str | None:
        if not self._owns_controller:
            return None
        return (
            "it owns the board's interrupt controller, and nothing else could interrupt it; emulate one (emu_devices)"
        )

    def _let_go(self, core: Core) -> bool:
        exit_ = exit_of(core)
        if exit_.why is Why.TIMER and self._interrupts is not None:
            self._interrupts.timer_fired(self.cores.index(core))
        elif exit_.why is Why.EXCEPTION and exit_.esr >> 26 == _HVC:
            # The call is made again; it would return behind itself (DDI 0487 D1.3, "preferred return address").
            core.set_guest(Context.PC, exit_.pc - 4)
        return True

    @property
    def _running(self) -> Sequence[bool]:
        return [cpu in self._psci.on for cpu in range(len(self.cores))]

    def _registers_of(self, core: Core) -> dict[str, int]:
        return registers_of(core)

    def _problem_of(self, values: Mapping[str, int]) -> str | None:
        return problem_of(values)

    def _put(self, cpus: Sequence[Mapping[str, int]], running: list[bool]) -> None:
        self._psci.on = {cpu for cpu, runs in enumerate(running) if runs}
        first = self.cores[0]
        # The same on all cores, whose counters are one.
        offset = self._saved(first)[self.TIME] + virtual_offset(first) - cpus[0][self.TIME]
        for core, values in zip(self.cores, cpus, strict=True):
            self._load(core)
            put(core, values, offset)
            core.command(Command.RESTORE)
        if self._interrupts is not None:
            self._interrupts.begin_anew()

    # --- exceptions of its own ---

    def _stopped(self, fault: MemoryFault, result: FaultResult) -> Ended:
        exit_, reason = super()._stopped(fault, result)
        core = self.cores[fault.vcpu]
        vectors = core.guest(Context.VBAR_EL1)
        if fault.access is Access.FETCH and fault.pc - vectors in _VECTORS:
            # What it is about happened before: the guest has no handler, as an image that is none of a kernel.
            esr, far, pc = (core.guest(one) for one in (Context.ESR_EL1, Context.FAR_EL1, Context.ELR_EL1))
            said = report(esr, far, el=1)
            reason += (
                f", the guest's own exception vector (VBAR_EL1 {vectors:#x}), after {said.title} at PC {pc:#x}"
                f" (ESR_EL1 {esr:#x}, FAR_EL1 {far:#x}): {said.sentences[0]}"
            )
        return exit_, reason

    # --- refused accesses --------------------------------------------------------------------------------------

    def _abort(self, core: Core, exit_: Exit) -> Ended | None:
        if core.info(4):
            # Stage 1 leads nowhere any more: another vCPU has changed it, and the access will say so itself.
            self._is(core, "stale fault", gva=exit_.far, pc=exit_.pc)
            return None
        on_table = bool(exit_.esr & _S1PTW)
        access = Access.FETCH
        if exit_.esr >> 26 == DABT_LOWER:
            access = Access.WRITE if exit_.esr & _WNR and not on_table else Access.READ
        gpa = (exit_.hpfar & _FIPA) << 8 | (0 if on_table else exit_.far & 0xFFF)
        kind, arm_level = fault_status(exit_.esr & 0x3F)
        level = 0 if arm_level is None else max(ARM_LAST_LEVEL - arm_level, 0)
        fault = Fault(kind or FaultKind.TRANSLATION, 2, level, gpa, Gva(exit_.far), access, on_table)
        refused = MemoryFault(self.cores.index(core), Gpa(gpa), Gva(exit_.far), access, exit_.pc, fault)
        return self._refused(core, refused, known=load_store(exit_.esr) is not None)

    def _operand(self, core: Core) -> tuple[int, int]:
        access = self._access()
        stored = access.write and access.register != _ZERO_REGISTER
        return access.width, core.guest(access.register) if stored else 0

    def _complete(self, core: Core, value: int) -> None:
        access = self._access()
        if not access.write and access.register != _ZERO_REGISTER:
            core.set_guest(access.register, access.extended(value & (1 << 8 * access.width) - 1))
        core.set_guest(Context.PC, self._exit.pc + 4)

    def _access(self) -> LoadStore:
        access = load_store(self._exit.esr)
        assert access is not None, "the base asks for known ones only"
        return access

    def _inject(self, core: Core, fault: MemoryFault) -> None:
        """Give the guest a synchronous external abort (DDI 0487 D1.3, "Exception entry")."""
        exit_ = self._exit
        status = encode_status(FaultKind.TABLE_OUTSIDE_MEMORY, 0) if fault.fault.on_table else EXTERNAL_ABORT
        lower = exit_.spsr & 0xF == 0
        core.set_guest(Context.ESR_EL1, encode_abort(status, fault.access, lower=lower))
        core.set_guest(Context.FAR_EL1, exit_.far)
        core.set_guest(Context.ELR_EL1, exit_.pc)
        core.set_guest(Context.SPSR_EL1, exit_.spsr)
        offset = 0x400 if lower else 0x200 if exit_.spsr & 1 else 0
        core.set_guest(Context.PC, core.guest(Context.VBAR_EL1) + offset)
        core.set_guest(Context.SPSR, _EL1H_MASKED)
        core.flag(RunFlag.TAKEN)
