"""One RISC-V hart on Unicorn. See `..vcpu`."""

from __future__ import annotations

from functools import lru_cache

from ....flags import Access
from ....formats.riscv.entry import HARDWARE_AD
from ....formats.riscv.registers import decode_satp
from ....formats.riscv.status import controls_of
from ....formats.riscv.syndromes import (
    ACCESS_FAULTS,
    BREAKPOINT,
    EXTERNAL_INTERRUPT,
    GUEST_CALL,
    MACHINE_CALL,
    SOFTWARE_INTERRUPT,
    SUPERVISOR_CALL,
    TIMER_INTERRUPT,
    encode_scause,
)
from ....tables.explain import Walk
from ....tables.regime import Regime
from ....tables.result import fault_from_status
from ....vm.exits import MemoryFault
from ....vm.vm import Vm
from ..abi import unicorn
from ..callbacks import block_callback
from ..registers import Register
from ..state import Word
from ..vcpu import Vcpu, new_cpu
from ..windows import Windows
from . import abi
from .callbacks import fill_callback, trap_callback
from .clock import RiscvClock
from .saved import hart_registers

_RESERVED_CAUSE = 14
_DELEGATED_EXCEPTIONS = sum(
    1 << cause for cause in range(16) if cause not in (SUPERVISOR_CALL, GUEST_CALL, MACHINE_CALL, _RESERVED_CAUSE)
)
"""medeleg: everything but the supervisor's own ecall goes to the guest's supervisor."""
_TIMER, _SOFTWARE, _EXTERNAL = 1 << TIMER_INTERRUPT, 1 << SOFTWARE_INTERRUPT, 1 << EXTERNAL_INTERRUPT
_DELEGATED_INTERRUPTS = _TIMER | _SOFTWARE | _EXTERNAL
"""mideleg: software, timer and external interrupts of the supervisor."""


@lru_cache(maxsize=64)
def _cause(status: int, access: int) -> int:
    """scause of what stage 1 refused; few are asked for thousands of times."""
    fault = fault_from_status(status, 0, stage=1, access=Access(access))
    return encode_scause(fault.kind, fault.stage, Access(access))


class RiscvVcpu(Vcpu):
    """A hart.

    Args:
        number: hart id.
        vm: whose memory it sees.
        clock: the machine's clock.
        page_state: address of the page-state bytes of the VM.
        windows: the machine's device windows.
    """

    PLAIN_ENV = abi.ENV_SATP + 8

    def __init__(self, number: int, vm: Vm, clock: RiscvClock, page_state: int, windows: Windows) -> None:
        package = unicorn()
        registers = package.riscv_const
        abi.check_reservation()
        uc = new_cpu(package.UC_ARCH_RISCV, package.UC_MODE_RISCV64)
        self._cpu: abi.RiscvAbi = abi.RiscvAbi(uc)
        callbacks = (fill_callback(vm.space.format), block_callback(), trap_callback())
        super().__init__(number, vm, uc, self._cpu, page_state, windows, callbacks)
        self.running = False
        self.waiting = False
        uc.reg_write(registers.UC_RISCV_REG_MEDELEG, _DELEGATED_EXCEPTIONS)
        uc.reg_write(registers.UC_RISCV_REG_MIDELEG, _DELEGATED_INTERRUPTS)
        # The guest may read cycle, time and instret.
        uc.reg_write(registers.UC_RISCV_REG_MCOUNTEREN, 7)
        uc.reg_write(registers.UC_RISCV_REG_SCOUNTEREN, 7)
        self._cpu.set_time_source(clock.function)
        # The library's CPU begins in M-mode, which is ours; one that is yet to be started is not to be in it either.
        self._cpu.set(abi.ENV_PRIV, abi.PRIV_SUPERVISOR)

    def _walk(self, gva: int, access: Access, *, user: bool) -> Walk:
        return self._vm.space.walk(gva, self.stage_1, access, user=user)

    def start(self, address: int, argument: int) -> None:
        """Begin in S-mode at `address` with a0 the hart id and a1 the argument, translation off (SBI HSM)."""
        self._cpu.set(abi.ENV_SATP, 0)
        self._cpu.set(abi.ENV_PRIV, abi.PRIV_SUPERVISOR)
        self._cpu.set(abi.ENV_PC, address)
        self.set_register(10, self.number)
        self.set_register(11, argument)
        self._cpu.flush_tlb()
        self.running, self.waiting = True, False

    def _registers(self) -> list[Register]:
        return hart_registers(self._uc, self._cpu)

    def _settle(self) -> None:
        # The library derives nothing from this architecture's registers that outlives a block.
        return None

    def inject_stage_1_fault(self) -> None:
        """Give the guest the fault that its own tables ask for: a page fault, or an access fault where one of them is
        no memory."""
        self.guest_faults += 1
        cause = _cause(self.state[Word.STATUS], self.state[Word.ACCESS])
        self._cpu.raise_exception(cause, self._cpu.invalid_address)

    def inject_access_fault(self, fault: MemoryFault) -> None:
        """Give the guest an access fault, as from a bus that answers with an error."""
        access = Access(self.state[Word.ACCESS])
        self._cpu.raise_exception(ACCESS_FAULTS[access], fault.gva)

    def inject_breakpoint(self) -> None:
        """Deliver an exception that the library reported without a number: an ebreak."""
        self._cpu.raise_exception(BREAKPOINT, self.pc)

    # --- registers and interrupts ------------------------------------------------------------------------

    @property
    def pc(self) -> int:
        return self._cpu.get(abi.ENV_PC)

    @property
    def privilege(self) -> int:
        return self._cpu.get(abi.ENV_PRIV)

    @property
    def stage_1(self) -> Regime:
        """The guest's own regime, from satp and mstatus."""
        satp = decode_satp(self._cpu.get(abi.ENV_SATP))
        controls = HARDWARE_AD | controls_of(self._cpu.get(abi.ENV_MSTATUS))
        return Regime(satp.format, satp.root, controls, satp.identifier)

    def register(self, number: int) -> int:
        """x0 to x31."""
        return self._cpu.get(abi.ENV_GPR + 8 * number)

    def set_register(self, number: int, value: int) -> None:
        """Write x1 to x31."""
        self._cpu.set(abi.ENV_GPR + 8 * number, value)

    @property
    def arguments(self) -> tuple[int, ...]:
        """a0 to a7."""
        return tuple(self.register(number) for number in range(10, 18))

    def clear_timer(self) -> None:
        """Take a pending timer interrupt back."""
        self._cpu.set_pending(self._cpu.get(abi.ENV_MIP) & ~_TIMER)

    def raise_timer(self) -> None:
        """Make the timer interrupt pending."""
        self._raise(_TIMER)

    def raise_software(self) -> None:
        """Make the software interrupt pending."""
        self._raise(_SOFTWARE)

    def set_external(self, high: bool) -> None:
        """Make the external interrupt pending, or take it back."""
        before = self._cpu.get(abi.ENV_MIP)
        if bool(before & _EXTERNAL) == high:
            return
        if not high:
            self._cpu.set_pending(before & ~_EXTERNAL)
            return
        self._raise(_EXTERNAL)
        # It is looked at when the next turn begins.
        self.leave()

    def _raise(self, bit: int) -> None:
        self._cpu.set_pending(self._cpu.get(abi.ENV_MIP) | bit)
        self.waiting = False

    @property
    def has_interrupt(self) -> bool:
        """Whether an enabled interrupt is pending, which ends a wait whatever sstatus.SIE says."""
        return bool(self._cpu.get(abi.ENV_MIP) & self._cpu.get(abi.ENV_MIE))
