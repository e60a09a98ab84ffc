"""One AArch64 vCPU on Unicorn: EL1 and EL0 of a CPU whose MMU is our compiled walker."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ....address import Gpa, Gva, align_down
from ....errors import EngineError
from ....flags import Access
from ....formats.arm.stage1_control import TCR_TBI_SHIFT
from ....formats.outcome import FaultKind
from ....tables.compiled import host_memory
from ....tables.explain import Walk
from ....tables.regime import Regime
from ....tables.result import Fault, Mapped, fault_from_status
from ....tables.walk import AT_STAGE_2, KIND_MASK, LEVEL_SHIFT
from ....vm.exits import Action, MemoryFault
from ....vm.vm import Vm
from ..abi import library, symbol, unicorn
from ..state import Word
from ..windows import Windows
from . import abi
from .aborts import EXTERNAL_ABORT, EXTERNAL_ABORT_ON_TABLE, abort_syndrome, stage_1_status
from .at import decode_at, par_of
from .callbacks import block_callback, fill_callback, trap_callback
from .stage1 import granule_of, make_select, stage_1_format
from .state import ArmReason, ArmState, ArmWord

_RETRIES = 64
"""A translation touches at most 4 stage-1 tables and a page, and one more for the instruction that makes it."""
_TCG_BUFFER = 32 << 20
_PAGE = 4096
_LAST_LEVEL = 3
_USUAL_GRANULE = 12
_FLAT = replace(stage_1_format(_USUAL_GRANULE), name="flat", levels=0, root_bits=0, top_leaf_level=0)
"""The MMU is off: output is input."""
_ZERO_REGISTER = 31
_SECURE_STATE = 1 << 10 | 1 << 8 | 1 << 0
"""SCR_EL3.RW, HCE and NS: EL2 is AArch64, HVC works, and the guest is not secure."""
_HYPERVISOR = 1 << 31 | 1 << 0
"""HCR_EL2.RW and VM. The CPU's own stage 2 never translates an access, but without it an AT instruction would walk
the engine's physical memory, which holds every VM's."""
_NOWHERE = 0xFFF_FFFF_0000
"""VTTBR_EL2: a table where the engine has no memory, so that AT ends in an exception to EL2."""
_SMALL_STAGE_2 = 2 << 16 | 1 << 6 | 24
"""VTCR_EL2: 40-bit input, first level 1, 40-bit output."""


class ArmVcpu:
    """A CPU.

    Args:
        number: its number in the VM.
        vm: whose memory it sees.
        page_state: address of the page-state bytes of the VM.
        windows: the machine's device windows.
    """

    def __init__(self, number: int, vm: Vm, page_state: int, windows: Windows) -> None:
        package = unicorn()
        constants: Any = package.unicorn_const
        abi.check_exception_record()
        self.number, self._vm, self._windows, self._unicorn = number, vm, windows, package
        self.state = ArmState()
        self.guest_faults = 0
        self.pending: tuple[Action, MemoryFault, Any] | None = None
        self._uc: Any = package.Uc(package.UC_ARCH_ARM64, package.UC_MODE_ARM)
        uc = self._uc
        uc.ctl_set_page_size(_PAGE)
        uc.ctl_set_tcg_buffer_size(_TCG_BUFFER)
        uc.ctl_set_tlb_mode(constants.UC_TLB_VIRTUAL)
        self._abi = abi.ArmAbi(uc)
        memory = vm.space.frames.memory
        uc.mem_map_ptr(0, memory.span, package.UC_PROT_ALL, memory.hva)
        handler: Any = self
        windows.install(uc, handler)
        self._fill_state(page_state)
        self._fills: dict[int, Callable[..., bool]] = {}
        self._install_hooks()
        for register, value in (
            (abi.SCR_EL3, _SECURE_STATE),
            (abi.VTCR_EL2, _SMALL_STAGE_2),
            (abi.VTTBR_EL2, _NOWHERE),
            (abi.HCR_EL2, _HYPERVISOR),
        ):
            self._abi.set_system(register, value)
        uc.ctl_exits_enabled(True)
        uc.ctl_set_exits([])

    def _fill_state(self, page_state: int) -> None:
        state, space, cpu = self.state, self._vm.space, self._abi
        memory = space.frames.memory
        host = (int(number) for number in host_memory(memory))
        words = (Word.HOST_DELTA, Word.HOST_START, Word.HOST_END, Word.HOST_FURTHER, Word.HOST_COUNT)
        for word, value in zip(words, host, strict=True):
            state[word] = value
        regime = zip((Word.ROOT, Word.LEVELS, Word.ROOT_BITS, Word.CONTROLS), space.regime.numbers, strict=True)
        for word, value in regime:
            state[word] = value
        state[Word.HOST_BASE] = memory.base
        state[Word.ENV], state[Word.CPU], state[Word.UC] = cpu.env, cpu.cpu, cpu.uc
        state[Word.FLUSH_TLB] = symbol(abi.FLUSH_TLB)
        state[Word.FORGET_CODE] = symbol(abi.FORGET_CODE)
        state[Word.DELIVER] = symbol(abi.DELIVER)
        state[Word.STOP_RUN] = symbol("uc_emu_stop")
        state[Word.PAGE_STATE] = page_state

    def _install_hooks(self) -> None:
        constants = self._unicorn.unicorn_const
        self._callbacks = [self._compiled_fill(_USUAL_GRANULE), block_callback(), trap_callback()]
        kinds = (constants.UC_HOOK_TLB_FILL, constants.UC_HOOK_BLOCK, constants.UC_HOOK_INTR)
        for kind, compiled in zip(kinds, self._callbacks, strict=True):
            handle = ctypes.c_size_t()
            error = library().uc_hook_add(
                self._uc._uch, ctypes.byref(handle), kind, ctypes.c_void_p(compiled.address),
                ctypes.c_void_p(self.state.address), ctypes.c_uint64(1), ctypes.c_uint64(0),
            )  # fmt: skip
            if error:
                raise EngineError(f"unicorn refused a hook: error {error}")
        # Runs only when the compiled fill has refused.
        self._uc.hook_add(constants.UC_HOOK_TLB_FILL, self._refused)

    def _compiled_fill(self, page_shift: int) -> Any:
        """The compiled MMU for a granule, also as a function for `_fills`."""
        compiled = fill_callback(stage_1_format(page_shift), self._vm.space.format)
        kind = ctypes.CFUNCTYPE(
            ctypes.c_bool, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint64
        )
        self._fills[page_shift] = kind(compiled.address)
        return compiled

    # --- faults ------------------------------------------------------------------------------------------

    def _refused(self, uc: Any, page: int, access: int, result: Any, _user: Any) -> bool:
        """The compiled walker could not translate: let the VM resolve what stage 2 refused, then walk again."""
        try:
            resolved = self._resolve(page, access, result)
            if resolved:
                # The refusal is settled: whatever ends the run later has its own reason.
                self.state[Word.REASON] = ArmReason.NOTHING
            return resolved
        except BaseException as error:  # noqa: BLE001  # it must not pass through the library's frames
            self._windows.failure = error
            self.state[Word.STOP] = 1
            return False

    def _resolve(self, page: int, access: int, result: Any) -> bool:
        state = self.state
        granule = _USUAL_GRANULE
        for _ in range(_RETRIES):
            reason = ArmReason(state[Word.REASON])
            if reason is ArmReason.GRANULE:
                granule = granule_of(self._abi.get(abi.ENV_TCR_EL1), page >> 55 & 1)
                if granule not in self._fills:
                    self._callbacks.append(self._compiled_fill(granule))
            elif reason is not ArmReason.FAULT or not state[Word.STATUS] & AT_STAGE_2:
                self._require_possible(reason)
                return False
            else:
                fault = self._memory_fault(page)
                action, outcome = self._vm.memory_fault(fault)
                if action in (Action.EMULATE, Action.DISCARD):
                    result.paddr, result.perms = self._windows.open(fault, action, outcome)
                    return True
                if action is not Action.RETRY:
                    self.pending = (action, fault, outcome)
                    return False
            if self._fills[granule](0, page, access, ctypes.addressof(result), state.address):
                return True
        raise EngineError(f"the page at {page:#x} keeps faulting after it was populated")

    def _require_possible(self, reason: ArmReason) -> None:
        if reason is ArmReason.AARCH32:
            raise EngineError(f"the guest went to AArch32 state at PC {self.pc:#x}; this engine runs AArch64 only")
        if reason is ArmReason.DEVICE:
            gpa = self.state[Word.GPA]
            raise EngineError(f"GPA {gpa:#x} is a passed-through device, which this engine does not have")

    def _memory_fault(self, gva: int) -> MemoryFault:
        state = self.state
        access = Access(state[Word.ACCESS])
        gpa = state[Word.GPA]
        fault = fault_from_status(state[Word.STATUS], gpa, stage=2, gva=Gva(gva), access=access)
        if fault.on_table:
            access = Access.WRITE if fault.on_mark else Access.READ
        return MemoryFault(self.number, Gpa(gpa), Gva(gva), access, self.pc, fault)

    def exact(self, fault: MemoryFault) -> MemoryFault:
        """The fault with the exact address, known once the run has ended."""
        address = self._abi.invalid_address
        if address >> 12 != fault.gva >> 12:
            return fault
        gpa = fault.gpa if fault.fault.on_table else Gpa(fault.gpa & ~0xFFF | address & 0xFFF)
        return replace(fault, gpa=gpa, gva=Gva(address))

    def walk(self, fault: MemoryFault) -> Walk:
        """The explained walk of a fault, under the guest's present registers."""
        access = Access(self.state[Word.ACCESS])
        return self._walk(fault.gva, access, unprivileged=bool(self.state[ArmWord.UNPRIVILEGED]))

    def _walk(self, gva: int, access: Access, *, unprivileged: bool) -> Walk:
        regime = self.stage_1(gva)
        if regime is None:
            fault = Fault(FaultKind.TRANSLATION, 1, _LAST_LEVEL, gva, Gva(gva), access)
            return Walk(gva, access, fault, (), ())
        tcr = self._abi.get(abi.ENV_TCR_EL1)
        if tcr >> TCR_TBI_SHIFT + (gva >> 55 & 1) & 1:
            # The tag is not part of the address; in the upper half, ones stand in its place.
            gva = gva & (1 << 56) - 1 | (0xFF << 56 if gva >> 55 & 1 and not regime.format.is_bare else 0)
        return self._vm.space.walk(gva, regime, access, user=unprivileged)

    # --- running -----------------------------------------------------------------------------------------

    def start(self, address: int, argument: int) -> None:
        """Begin at EL1 with the MMU off, x0 = `argument` and x1 to x3 = 0, as Linux and bare-metal images expect."""
        self._abi.enter(abi.PSTATE_EL1H)
        self._abi.set(abi.ENV_PC, address)
        for number, value in enumerate((argument, 0, 0, 0)):
            self.set_register(number, value)
        self._abi.flush_tlb()

    def run(self) -> ArmReason:
        """Execute until something happens that the callbacks cannot settle.

        Returns:
            Why. NOTHING means the guest waits for an interrupt.
        """
        self.state[Word.REASON] = ArmReason.NOTHING
        self.pending = None
        try:
            self._uc.emu_start(self.pc, 0)
        except self._unicorn.UcError as error:
            if error.errno != self._unicorn.UC_ERR_EXCEPTION or not self.state[Word.REASON]:
                raise EngineError(f"unicorn stopped at PC {self.pc:#x}: {error}") from None
        return ArmReason(self.state[Word.REASON])

    def inject_stage_1_fault(self) -> None:
        """Give the guest the abort that its own tables ask for."""
        self.guest_faults += 1
        status = self.state[Word.STATUS]
        kind = FaultKind(status & KIND_MASK)
        self._abort(stage_1_status(kind, _LAST_LEVEL - (status >> LEVEL_SHIFT & 0xFF)), self._abi.invalid_address)

    def inject_access_fault(self, fault: MemoryFault) -> None:
        """Give the guest a synchronous external abort, as from a bus that answers with an error."""
        status = EXTERNAL_ABORT
        if fault.fault.on_table:
            status = EXTERNAL_ABORT_ON_TABLE + _LAST_LEVEL - self.state[ArmWord.TABLE_LEVEL]
        self._abort(status, fault.gva)

    def _abort(self, status: int, address: int) -> None:
        access = Access(self.state[Word.ACCESS])
        number = abi.PREFETCH_ABORT if access is Access.FETCH else abi.DATA_ABORT
        self._abi.raise_abort(number, abort_syndrome(access, status, from_el0=self.exception_level == 0), address)

    def translate_for_guest(self) -> bool:
        """Carry out the AT instruction that ended the run.

        Returns:
            False when it was something else that did.
        """
        memory = self._vm.space.frames.memory
        found = self._walk(self.pc, Access.FETCH, unprivileged=self.exception_level == 0).result
        if not isinstance(found, Mapped) or not memory.contains(found.hpa, 4):
            return False
        decoded = decode_at(int.from_bytes(memory.read(found.hpa, 4), "little"))
        if decoded is None:
            return False
        number, access, unprivileged = decoded
        address = 0 if number == _ZERO_REGISTER else self.register(number)
        walk = self._walk(address, access, unprivileged=unprivileged)
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
            walk = self._walk(address, access, unprivileged=unprivileged)
        self._abi.set_system(abi.PAR_EL1, par_of(walk, self._abi.get(abi.ENV_MAIR_EL1), _LAST_LEVEL))
        self._abi.set(abi.ENV_PC, self.pc + 4)
        return True

    # --- registers ---------------------------------------------------------------------------------------

    @property
    def pc(self) -> int:
        return self._abi.get(abi.ENV_PC)

    @property
    def exception_level(self) -> int:
        return self._abi.get(abi.ENV_PSTATE) >> abi.PSTATE_EL_SHIFT & 3

    def stage_1(self, gva: int) -> Regime | None:
        """The guest's own regime for an address; None where no table is for it."""
        cpu = self._abi
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
        return Regime(fmt, align_down(root, fmt.root_size), controls)

    def register(self, number: int) -> int:
        """x0 to x30."""
        return self._abi.get(abi.ENV_X + 8 * number)

    def set_register(self, number: int, value: int) -> None:
        """Write x0 to x30."""
        self._abi.set(abi.ENV_X + 8 * number, value)

    @property
    def arguments(self) -> tuple[int, ...]:
        """x0 to x3, those of a firmware call."""
        return tuple(self.register(number) for number in range(4))

    @property
    def syndrome(self) -> int:
        """ESR of the exception that ended the run."""
        return self._abi.syndrome

    def flush(self) -> None:
        """Drop all translations."""
        self._abi.flush_tlb()

    @property
    def peer(self) -> tuple[int, int]:
        """(uc, cpu) for the callbacks."""
        return self._abi.uc, self._abi.cpu

    def close(self) -> None:
        """Free the library's instance. Harmless when repeated; it must not be running."""
        self._windows.forget(self.number)
        self._uc = None
