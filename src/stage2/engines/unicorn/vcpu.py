"""One RISC-V vCPU on Unicorn: a CPU whose MMU is our compiled walker."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from ...address import Gpa, Gva
from ...errors import EngineError
from ...flags import Access
from ...formats.riscv import entry as riscv
from ...formats.riscv.registers import decode_satp
from ...tables.compiled import host_memory
from ...tables.explain import Walk
from ...tables.regime import Regime
from ...tables.result import fault_from_status
from ...tables.walk import AT_STAGE_2
from ...vm.exits import Action, MemoryFault
from ...vm.vm import Vm
from . import abi
from .callbacks import block_callback, fill_callback, trap_callback
from .clock import Clock
from .state import NEVER, Reason, State, Word
from .windows import Windows

_RETRIES = 64
"""A translation touches at most 5 stage-1 tables and a page; far beyond that something is wrong."""
_PAGE_FAULT = {Access.FETCH: 12, Access.READ: 13, Access.WRITE: 15}
_ACCESS_FAULT = {Access.FETCH: 1, Access.READ: 5, Access.WRITE: 7}
_BREAKPOINT = 3
_TCG_BUFFER = 32 << 20
_DELEGATED_EXCEPTIONS = 0xB1FF & ~(1 << 9)
"""medeleg: everything but the supervisor's own ecall goes to the guest's supervisor."""
_DELEGATED_INTERRUPTS = 0x222
"""mideleg: software, timer and external interrupts of the supervisor."""
_TIMER, _SOFTWARE = 1 << 5, 1 << 1


class Vcpu:
    """A hart.

    Args:
        number: hart id.
        vm: whose memory it sees.
        clock: the machine's clock.
        page_state: address of the page-state bytes of the VM.
        windows: the machine's device windows.
    """

    def __init__(self, number: int, vm: Vm, clock: Clock, page_state: int, windows: Windows) -> None:
        unicorn = abi.unicorn()
        registers: Any = unicorn.riscv_const
        self.number, self._vm, self._clock, self._windows = number, vm, clock, windows
        self.state = State()
        self.running = False
        self.waiting = False
        self.guest_faults = 0
        self.pending: tuple[Action, MemoryFault, Any] | None = None
        self._unicorn = unicorn
        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
        uc = self._uc
        uc.ctl_set_tcg_buffer_size(_TCG_BUFFER)
        uc.ctl_set_tlb_mode(unicorn.unicorn_const.UC_TLB_VIRTUAL)
        self._abi = abi.Abi(uc)
        memory = vm.space.frames.memory
        uc.mem_map_ptr(0, memory.span, unicorn.UC_PROT_ALL, memory.hva)
        windows.install(uc, self)
        self._fill_state(page_state)
        self._install_hooks()
        uc.reg_write(registers.UC_RISCV_REG_MEDELEG, _DELEGATED_EXCEPTIONS)
        uc.reg_write(registers.UC_RISCV_REG_MIDELEG, _DELEGATED_INTERRUPTS)
        # The guest may read cycle, time and instret.
        uc.reg_write(registers.UC_RISCV_REG_MCOUNTEREN, 7)
        uc.reg_write(registers.UC_RISCV_REG_SCOUNTEREN, 7)
        self._abi.set_time_source(clock.function)
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
        state[Word.ICOUNT] = cpu.icount_decr
        state[Word.FLUSH_TLB] = abi.symbol("tlb_flush_riscv64")
        state[Word.FORGET_CODE] = abi.symbol("tb_invalidate_phys_range_riscv64")
        state[Word.DELIVER] = abi.symbol("riscv_cpu_do_interrupt_riscv64")
        state[Word.STOP_RUN] = abi.symbol("uc_emu_stop")
        state[Word.PAGE_STATE] = page_state
        state[Word.CLOCK_AT] = self._clock.address
        state[Word.ALARM] = state[Word.SLICE_END] = NEVER

    def _install_hooks(self) -> None:
        constants = self._unicorn.unicorn_const
        self._fill = fill_callback(self._vm.space.format)
        self._callbacks = (self._fill, block_callback(), trap_callback())
        kinds = (constants.UC_HOOK_TLB_FILL, constants.UC_HOOK_BLOCK, constants.UC_HOOK_INTR)
        for kind, compiled in zip(kinds, self._callbacks, strict=True):
            handle = ctypes.c_size_t()
            error = abi.library().uc_hook_add(
                self._uc._uch, ctypes.byref(handle), kind, ctypes.c_void_p(compiled.address),
                ctypes.c_void_p(self.state.address), ctypes.c_uint64(1), ctypes.c_uint64(0),
            )  # fmt: skip
            if error:
                raise EngineError(f"unicorn refused a hook: error {error}")
        kind = ctypes.CFUNCTYPE(
            ctypes.c_bool, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint64
        )
        self._fill_again: Callable[..., bool] = kind(self._fill.address)
        # Runs only when the compiled fill has refused.
        self._uc.hook_add(constants.UC_HOOK_TLB_FILL, self._refused)

    # --- faults ------------------------------------------------------------------------------------------

    def _refused(self, uc: Any, page: int, access: int, result: Any, _user: Any) -> bool:
        """The compiled walker could not translate: let the VM resolve what stage 2 refused, then walk again."""
        try:
            resolved = self._resolve(page, access, result)
            if resolved:
                # The refusal is settled: whatever ends the run later has its own reason.
                self.state[Word.REASON] = Reason.NOTHING
            return resolved
        except BaseException as error:  # noqa: BLE001  # it must not pass through the library's frames
            self._windows.failure = error
            self.state[Word.STOP] = 1
            return False

    def _resolve(self, page: int, access: int, result: Any) -> bool:
        state = self.state
        target = ctypes.addressof(result)
        for _ in range(_RETRIES):
            if not state[Word.STATUS] & AT_STAGE_2:
                return False
            fault = self._memory_fault(page)
            action, outcome = self._vm.memory_fault(fault)
            if action is Action.RETRY:
                if self._fill_again(0, page, access, target, state.address):
                    return True
                continue
            if action in (Action.EMULATE, Action.DISCARD):
                result.paddr, result.perms = self._windows.open(fault, action, outcome)
                return True
            self.pending = (action, fault, outcome)
            return False
        raise EngineError(f"the page at {page:#x} keeps faulting after it was populated")

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
        return MemoryFault(fault.vcpu, gpa, Gva(address), fault.access, fault.pc, fault.fault)

    def walk(self, fault: MemoryFault) -> Walk:
        """The explained walk of a fault, under the guest's present registers."""
        access = Access(self.state[Word.ACCESS])
        return self._vm.space.walk(fault.gva, self.stage_1, access, user=self.privilege == abi.PRIV_USER)

    # --- running -----------------------------------------------------------------------------------------

    def start(self, address: int, opaque: int) -> None:
        """Begin in S-mode at `address` with a0 the hart id and a1 `opaque`, translation off (SBI HSM)."""
        self._abi.set(abi.ENV_SATP, 0)
        self._abi.set(abi.ENV_PRIV, abi.PRIV_SUPERVISOR)
        self._abi.set(abi.ENV_PC, address)
        self.set_register(10, self.number)
        self.set_register(11, opaque)
        self._abi.flush_tlb()
        self.running, self.waiting = True, False

    def run(self) -> Reason:
        """Execute until something happens that the callbacks cannot settle.

        Returns:
            Why. NOTHING means the hart waits for an interrupt.
        """
        self.state[Word.REASON] = Reason.NOTHING
        self.pending = None
        try:
            self._uc.emu_start(self.pc, 0)
        except self._unicorn.UcError as error:
            if error.errno != self._unicorn.UC_ERR_EXCEPTION:
                raise EngineError(f"unicorn stopped at PC {self.pc:#x}: {error}") from None
            if self.state[Word.REASON] == Reason.NOTHING:
                return Reason.EXCEPTION
        return Reason(self.state[Word.REASON])

    def inject_stage_1_fault(self) -> None:
        """Give the guest the page fault that its own tables ask for."""
        self.guest_faults += 1
        access = Access(self.state[Word.ACCESS])
        self._abi.raise_exception(_PAGE_FAULT[access], self._abi.invalid_address)

    def inject_access_fault(self, fault: MemoryFault) -> None:
        """Give the guest an access fault, as from a bus that answers with an error."""
        access = Access(self.state[Word.ACCESS])
        self._abi.raise_exception(_ACCESS_FAULT[access], fault.gva)

    def inject_breakpoint(self) -> None:
        """Deliver an exception that the library reported without a number: an ebreak."""
        self._abi.raise_exception(_BREAKPOINT, self.pc)

    # --- registers and interrupts ------------------------------------------------------------------------

    @property
    def pc(self) -> int:
        return self._abi.get(abi.ENV_PC)

    @property
    def privilege(self) -> int:
        return self._abi.get(abi.ENV_PRIV)

    @property
    def stage_1(self) -> Regime:
        """The guest's own regime, from satp and mstatus."""
        satp = decode_satp(self._abi.get(abi.ENV_SATP))
        controls = riscv.HARDWARE_AD | (self._abi.get(abi.ENV_MSTATUS) >> 18) & (riscv.SUM | riscv.MXR)
        return Regime(satp.format, satp.root, controls, satp.identifier)

    def register(self, number: int) -> int:
        """x0 to x31."""
        return self._abi.get(abi.ENV_GPR + 8 * number)

    def set_register(self, number: int, value: int) -> None:
        """Write x1 to x31."""
        self._abi.set(abi.ENV_GPR + 8 * number, value)

    @property
    def arguments(self) -> tuple[int, ...]:
        """a0 to a7."""
        return tuple(self.register(number) for number in range(10, 18))

    @property
    def alarm(self) -> int:
        """Clock value of the timer interrupt, NEVER for none."""
        return self.state[Word.ALARM]

    def set_timer(self, ticks: int, shift: int) -> None:
        """Raise the timer interrupt when the clock reaches `ticks` << `shift`; takes a pending one back."""
        self.state[Word.ALARM] = min(ticks << shift, NEVER)
        self._abi.set_pending(self._abi.get(abi.ENV_MIP) & ~_TIMER)

    def ring(self) -> None:
        """The timer's time has come."""
        self.state[Word.ALARM] = NEVER
        self._raise(_TIMER)

    def raise_software(self) -> None:
        """Make the software interrupt pending."""
        self._raise(_SOFTWARE)

    def _raise(self, bit: int) -> None:
        self._abi.set_pending(self._abi.get(abi.ENV_MIP) | bit)
        self.waiting = False

    @property
    def has_interrupt(self) -> bool:
        """Whether an enabled interrupt is pending, which ends a wait whatever sstatus.SIE says."""
        return bool(self._abi.get(abi.ENV_MIP) & self._abi.get(abi.ENV_MIE))

    def flush(self) -> None:
        """Drop all translations."""
        self._abi.flush_tlb()

    @property
    def peer(self) -> tuple[int, int]:
        """(uc, cpu) for the other harts' callbacks."""
        return self._abi.uc, self._abi.cpu

    def close(self) -> None:
        """Free the library's instance. Harmless when repeated; the hart must not be running."""
        self.running = False
        self._windows.forget(self.number)
        self._uc = None
