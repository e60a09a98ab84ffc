"""One AArch64 vCPU on Unicorn: EL1 and EL0. See `..vcpu`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ....address import Gpa, Gva, align_down
from ....errors import EngineError
from ....flags import Access
from ....formats.arm import layout
from ....formats.arm.fault_status import EXTERNAL_ABORT, encode_status
from ....formats.arm.stage1_control import TCR_TBI_SHIFT
from ....formats.arm.stage2_control import HCR_IMO, HCR_RW, HCR_VI, HCR_VM, vtcr_el2
from ....formats.arm.syndromes import encode_abort
from ....formats.outcome import FaultKind
from ....tables.explain import Walk
from ....tables.regime import Regime
from ....tables.result import Fault, Mapped
from ....tables.walk import KIND_MASK, LEVEL_SHIFT
from ....vm.boot import TIMER_HZ
from ....vm.exits import Action, MemoryFault
from ....vm.vm import Vm
from ..abi import unicorn
from ..callbacks import block_callback
from ..registers import Register
from ..state import Reason, Word
from ..vcpu import Vcpu, fill_function, new_cpu
from ..windows import Windows
from . import abi
from .at import decode_at, par_of
from .callbacks import fill_callback, trap_callback
from .saved import cpu_registers
from .stage1 import granule_of, make_select, stage_1_format
from .timer import install_timer

_RETRIES = 64
"""An AT instruction touches at most 4 stage-1 tables; far beyond that something is wrong."""
_PAGE = 4096
_USUAL_GRANULE = 12
_FLAT = replace(stage_1_format(_USUAL_GRANULE), name="flat", levels=0, root_bits=0, top_leaf_level=0)
"""The MMU is off: output is input."""
_ZERO_REGISTER = 31
_SECURE_STATE = 1 << 10 | 1 << 8 | 1 << 0
"""SCR_EL3.RW, HCE and NS: EL2 is AArch64, HVC works, and the guest is not secure."""
_HYPERVISOR = HCR_RW | HCR_VM
"""HCR_EL2. The CPU's own stage 2 never translates an access, but without it an AT instruction would walk
the engine's physical memory, which holds every VM's."""
_NOWHERE = 0xFFF_FFFF_0000
"""VTTBR_EL2: a table where the engine has no memory, so that AT ends in an exception to EL2."""
_SMALL_STAGE_2 = vtcr_el2(_USUAL_GRANULE, 40, 3, pa_bits=40)


class ArmVcpu(Vcpu):
    """A CPU.

    Args:
        number: its number in the VM.
        vm: whose memory it sees.
        page_state: address of the page-state bytes of the VM.
        windows: the machine's device windows.
    """

    def __init__(self, number: int, vm: Vm, page_state: int, windows: Windows) -> None:
        package = unicorn()
        abi.check_exception_record()
        abi.check_exclusive_monitor()
        uc = new_cpu(package.UC_ARCH_ARM64, package.UC_MODE_ARM, page_size=_PAGE)
        self._cpu: abi.ArmAbi = abi.ArmAbi(uc)
        usual = fill_callback(stage_1_format(_USUAL_GRANULE), vm.space.format)
        callbacks = (usual, block_callback(), trap_callback())
        super().__init__(number, vm, uc, self._cpu, page_state, windows, callbacks)
        self._fills: dict[int, Callable[..., bool]] = {_USUAL_GRANULE: self._fill_again}
        for register, value in (
            (abi.SCR_EL3, _SECURE_STATE),
            (abi.VTCR_EL2, _SMALL_STAGE_2),
            (abi.VTTBR_EL2, _NOWHERE),
            (abi.HCR_EL2, _HYPERVISOR),
        ):
            self._cpu.set_system(register, value)
        if vm.gic is not None:
            install_timer(self._cpu, self.state.address, TIMER_HZ)
        self.interrupted = False
        """Whether its virtual interrupt is raised."""
        self.waiting = False

    def _change_walker(self, page: int) -> None:
        reason = Reason(self.state[Word.REASON])
        if reason is Reason.MODE:
            raise EngineError(f"the guest went to AArch32 state at PC {self.pc:#x}; this engine runs AArch64 only")
        if reason is not Reason.GRANULE:
            super()._change_walker(page)
        granule = granule_of(self._cpu.get(abi.ENV_TCR_EL1), page >> 55 & 1)
        if granule not in self._fills:
            compiled: Any = fill_callback(stage_1_format(granule), self._vm.space.format)
            self._callbacks.append(compiled)
            self._fills[granule] = fill_function(compiled)
        self._fill_again = self._fills[granule]

    def _walk(self, gva: int, access: Access, *, user: bool) -> Walk:
        regime = self.stage_1(gva)
        if regime is None:
            fault = Fault(FaultKind.TRANSLATION, 1, layout.ROOT_FAULT_LEVEL, gva, Gva(gva), access)
            return Walk(gva, access, fault, (), ())
        tcr = self._cpu.get(abi.ENV_TCR_EL1)
        if tcr >> TCR_TBI_SHIFT + (gva >> 55 & 1) & 1:
            # The tag is not part of the address; in the upper half, ones stand in its place.
            gva = gva & (1 << 56) - 1 | (0xFF << 56 if gva >> 55 & 1 and not regime.format.is_bare else 0)
        return self._vm.space.walk(gva, regime, access, user=user)

    # --- running -----------------------------------------------------------------------------------------

    def start(self, address: int, argument: int) -> None:
        """Begin at EL1 with the MMU off, x0 = `argument` and x1 to x3 = 0, as Linux and bare-metal images expect."""
        self._cpu.enter(abi.PSTATE_EL1H)
        self._cpu.set(abi.ENV_PC, address)
        for number, value in enumerate((argument, 0, 0, 0)):
            self.set_register(number, value)
        self._cpu.flush_tlb()

    def _registers(self) -> list[Register]:
        return cpu_registers(self._uc, self._cpu)

    def _settle(self) -> None:
        self._cpu.rebuild_flags()

    def inject_stage_1_fault(self) -> None:
        """Give the guest the abort that its own tables ask for."""
        self.guest_faults += 1
        status = self.state[Word.STATUS]
        code = encode_status(FaultKind(status & KIND_MASK), status >> LEVEL_SHIFT & 0xFF)
        self._abort(code, self._cpu.invalid_address)

    def inject_access_fault(self, fault: MemoryFault) -> None:
        """Give the guest a synchronous external abort, as from a bus that answers with an error."""
        code = EXTERNAL_ABORT
        if fault.fault.on_table:
            code = encode_status(FaultKind.TABLE_OUTSIDE_MEMORY, self.state[Word.TABLE_LEVEL])
        self._abort(code, fault.gva)

    def _abort(self, code: int, address: int) -> None:
        access = Access(self.state[Word.ACCESS])
        number = abi.PREFETCH_ABORT if access is Access.FETCH else abi.DATA_ABORT
        self._cpu.raise_abort(number, encode_abort(code, access, lower=self.exception_level == 0), address)

    def translate_for_guest(self) -> bool:
        """Carry out the AT instruction that ended the run.

        Returns:
            False when it was something else that did.
        """
        word = self.instruction()
        decoded = None if word is None else decode_at(word)
        if decoded is None:
            return False
        number, access, unprivileged = decoded
        address = 0 if number == _ZERO_REGISTER else self.register(number)
        walk = self._walk(address, access, user=unprivileged)
        for _ in range(_RETRIES):
            fault = walk.result
            if isinstance(fault, Mapped) or not fault.on_table:
                break
            kind = Access.WRITE if fault.on_mark else Access.READ
            refused = MemoryFault(self.number, Gpa(fault.address), Gva(address), kind, self.pc, fault)
            action, outcome = self._vm.memory_fault(refused)
            if action is not Action.RETRY:
                self._vm.record_violation(refused, action, outcome)
                break
            walk = self._walk(address, access, user=unprivileged)
        regime = self.stage_1(address)
        first_level = layout.ROOT_FAULT_LEVEL if regime is None else max(regime.format.levels, 1) - 1
        self._cpu.set_system(abi.PAR_EL1, par_of(walk, self._cpu.get(abi.ENV_MAIR_EL1), first_level))
        self._cpu.set(abi.ENV_PC, self.pc + 4)
        return True

    def instruction(self) -> int | None:
        memory = self._vm.space.frames.memory
        found = self._walk(self.pc, Access.FETCH, user=self.exception_level == 0).result
        if not isinstance(found, Mapped) or not memory.contains(found.hpa, 4):
            return None
        return int.from_bytes(memory.read(found.hpa, 4), "little")

    def interrupt(self, raised: bool) -> None:
        """Raise or lower the virtual IRQ (HCR_EL2.VI)."""
        if raised != self.interrupted:
            self.interrupted = raised
            self._cpu.set_system(abi.HCR_EL2, _HYPERVISOR | HCR_IMO | (HCR_VI if raised else 0))

    @property
    def timer(self) -> tuple[int, int]:
        """CNTV_CTL_EL0 without ISTATUS, and CNTV_CVAL_EL0."""
        return self._cpu.get(abi.ENV_CNTV_CTL), self._cpu.get(abi.ENV_CNTV_CVAL)

    # --- registers ---------------------------------------------------------------------------------------

    @property
    def pc(self) -> int:
        return self._cpu.get(abi.ENV_PC)

    @property
    def exception_level(self) -> int:
        return self._cpu.get(abi.ENV_PSTATE) >> abi.PSTATE_EL_SHIFT & 3

    def stage_1(self, gva: int) -> Regime | None:
        """The guest's own regime for an address; None where no table is for it."""
        cpu = self._cpu
        tcr, upper = cpu.get(abi.ENV_TCR_EL1), gva >> 55 & 1
        granule = granule_of(tcr, upper)
        status, _, root, levels, root_bits, controls = make_select(stage_1_format(granule))(
            gva, cpu.get(abi.ENV_SCTLR_EL1), tcr, cpu.get(abi.ENV_TTBR0_EL1), cpu.get(abi.ENV_TTBR1_EL1),
            cpu.get(abi.ENV_PSTATE),
        )  # fmt: skip
        if status:
            return None
        if not levels:
            return Regime(_FLAT, 0, 0)
        width = granule + (granule - 3) * (levels - 1) + root_bits
        fmt = stage_1_format(granule, width, upper=bool(upper))
        return Regime(fmt, align_down(root, fmt.root_alignment), controls)

    def register(self, number: int) -> int:
        """x0 to x30."""
        return self._cpu.get(abi.ENV_X + 8 * number)

    def set_register(self, number: int, value: int) -> None:
        """Write x0 to x30."""
        self._cpu.set(abi.ENV_X + 8 * number, value)

    @property
    def arguments(self) -> tuple[int, ...]:
        """x0 to x3, those of a firmware call."""
        return tuple(self.register(number) for number in range(4))

    @property
    def syndrome(self) -> int:
        """ESR of the exception that ended the run."""
        return self._cpu.syndrome
