"""One x86-64 vCPU on Unicorn: protected and long mode. See `..vcpu`."""

from __future__ import annotations

from typing import Any

from ....errors import EngineError
from ....flags import Access
from ....formats.outcome import FaultKind
from ....formats.x86 import longmode
from ....formats.x86.kinds import is_nested
from ....formats.x86.paging import EFER_LMA
from ....formats.x86.syndromes import (
    DOUBLE_FAULT,
    GENERAL_PROTECTION,
    INVALID_OPCODE,
    PAGE_FAULT,
    encode_guest_exception,
)
from ....guest.x86_regime import regime_of
from ....tables.explain import Walk
from ....tables.regime import Regime
from ....tables.result import Mapped
from ....tables.walk import AT_STAGE_2, KIND_MASK
from ....vm.exits import MemoryFault
from ....vm.pc_ports import Ports
from ....vm.vm import Vm
from ..abi import symbol, unicorn
from ..registers import Register
from ..state import Reason, Word
from ..vcpu import Vcpu, new_cpu
from ..windows import Windows
from . import abi
from .callbacks import block_callback, fill_callback, invalid_callback, trap_callback
from .saved import cpu_registers
from .segments import reads_descriptor

PHYSICAL_BITS = 40
"""Physical-address width that the CPU model's CPUID reports; entries with address bits above it are reserved."""
_PROTECTED = 1 << 4 | 1 << 0
"""CR0.ET and PE."""
_NO_INTERRUPTS = 1 << 1
"""EFLAGS with nothing but the bit that is always 1."""
_CODE, _DATA = 0x00CF_9B00, 0x00CF_9300
"""Descriptors of flat 32-bit segments of 4 GiB, accessed: code and data."""
_LONG_CODE = 0x00AF_9B00
"""A 64-bit code segment."""
_TASK, _LOCAL_TABLE = 0x8B00, 0x8200
_SELECTOR_OF_CODE, _SELECTOR_OF_DATA = 0x08, 0x10
_SYSCALL_MODE = EFER_LMA | 1 << 0
"""EFER.LMA and SCE."""
_SYSCALL_SIZE = 2
_LONGEST_INSTRUCTION = 15
_PAGE = 4096
_RESUME = 1 << 16
"""EFLAGS.RF."""


class X86Vcpu(Vcpu):
    """A CPU.

    Args:
        number: its number in the VM.
        vm: whose memory it sees.
        page_state: address of the page-state bytes of the VM.
        windows: the machine's device windows.
        ports: the machine's I/O ports.
    """

    def __init__(self, number: int, vm: Vm, page_state: int, windows: Windows, ports: Ports) -> None:
        package = unicorn()
        abi.check_exception_record()
        model = package.x86_const.UC_CPU_X86_ICELAKE_SERVER
        abi.check_xcr0(model)
        uc = new_cpu(package.UC_ARCH_X86, package.UC_MODE_64, model=model)
        self._cpu: abi.X86Abi = abi.X86Abi(uc)
        # Only AMD's processors have nested paging, so a guest on it has tables of AMD's kind.
        self._processor = PHYSICAL_BITS << longmode.MAXPHYADDR_SHIFT
        self._processor |= longmode.AMD if is_nested(vm.space.format) else 0
        callbacks = (fill_callback(vm.space.format, self._processor), block_callback(), trap_callback())
        super().__init__(number, vm, uc, self._cpu, page_state, windows, callbacks)
        self._callbacks.append(invalid_callback())
        self._install(package.UC_HOOK_INSN_INVALID, self._callbacks[-1].address)
        self.state[Word.RAISE] = symbol(abi.RAISE)
        self._ports = ports
        self.shut_down = False
        """Taking a double fault raised another exception: the CPU has given up."""
        hook, names = package.UC_HOOK_INSN, package.x86_const
        uc.hook_add(hook, self._port_in, None, 1, 0, names.UC_X86_INS_IN)
        uc.hook_add(hook, self._port_out, None, 1, 0, names.UC_X86_INS_OUT)
        uc.hook_add(hook, self._syscall, None, 1, 0, names.UC_X86_INS_SYSCALL)

    def _port_in(self, _uc: Any, port: int, width: int, _user: Any) -> int:
        try:
            return self._ports.read(port, width)
        except BaseException as error:  # noqa: BLE001  # it must not pass through the library's frames
            self._fail(error)
            return 0

    def _port_out(self, _uc: Any, port: int, width: int, value: int, _user: Any) -> None:
        try:
            self._ports.write(port, width, value)
            if self._ports.is_off:
                self.leave()
        except BaseException as error:  # noqa: BLE001  # it must not pass through the library's frames
            self._fail(error)

    def _syscall(self, _uc: Any, _user: Any) -> None:
        """SYSCALL (SDM Vol. 2, "SYSCALL"), which the library leaves to a hook; afterwards it adds 2 to RIP."""
        try:
            cpu, rip, efer = self._cpu, self.pc, self._cpu.get(abi.ENV_EFER)
            if efer & _SYSCALL_MODE != _SYSCALL_MODE:
                cpu.set(abi.ENV_RIP, rip - _SYSCALL_SIZE)
                self._raise(INVALID_OPCODE, 0)
                return
            segments, flags = cpu.get(abi.ENV_STAR) >> 32, cpu.eflags & ~_RESUME
            is_64_bit = cpu.get(abi.ENV_HFLAGS) & abi.HFLAGS_CS64
            target = cpu.get(abi.ENV_LSTAR if is_64_bit else abi.ENV_CSTAR)
            self.set_register(abi.RCX, rip + _SYSCALL_SIZE)
            self.set_register(abi.R11, flags)
            cpu.enter_ring_0(segments & 0xFFFC, _LONG_CODE, segments + 8 & 0xFFFC, _DATA)
            cpu.eflags = flags & ~cpu.get(abi.ENV_FMASK) | _NO_INTERRUPTS
            cpu.set(abi.ENV_RIP, target - _SYSCALL_SIZE)
        except BaseException as error:  # noqa: BLE001  # it must not pass through the library's frames
            self._fail(error)

    def _resolve(self, page: int, access: int, result: int) -> bool:
        if not self._is_implicit(page):
            return super()._resolve(page, access, result)
        self.state[Word.DELIVERING] = 1
        try:
            again = self._fill_again(0, page, access, result, self.state.address)
            return again or super()._resolve(page, access, result)
        finally:
            self.state[Word.DELIVERING] = 0

    def _is_implicit(self, page: int) -> bool:
        """Whether a user's access that stage 1 refused was the CPU's own to a descriptor table."""
        state, cpu = self.state, self._cpu
        if state[Word.REASON] != Reason.FAULT or state[Word.STATUS] & AT_STAGE_2 or not state[Word.USER]:
            return False
        for table in (abi.ENV_GDTR, abi.ENV_LDTR):
            base, limit = cpu.get(table + abi.SEGMENT_BASE), cpu.get(table + abi.SEGMENT_LIMIT) & 0xFFFF_FFFF
            if base <= page | _PAGE - 1 and page <= base + limit:
                break
        else:
            return False
        if self.register(abi.RSP) >> 12 == page >> 12:
            return False
        is_64_bit = bool(cpu.get(abi.ENV_HFLAGS) & abi.HFLAGS_CS64)
        return reads_descriptor(self._code(), long=is_64_bit)

    def _code(self) -> bytes:
        """The code at RIP, up to the longest instruction or the end of its page."""
        rip, memory = self.pc, self._vm.space.frames.memory
        found = self._walk(rip, Access.FETCH, user=True).result
        size = min(_LONGEST_INSTRUCTION, _PAGE - (rip & _PAGE - 1))
        if not isinstance(found, Mapped) or not memory.contains(found.hpa, size):
            return b""
        return bytes(memory.read(found.hpa, size))

    def _change_walker(self, page: int) -> None:
        if Reason(self.state[Word.REASON]) is Reason.MODE:
            raise EngineError(
                f"the guest turned on paging outside long mode, or protection keys, at RIP {self.pc:#x}; "
                "this engine has walkers for long mode without keys only"
            )
        super()._change_walker(page)

    def _walk(self, gva: int, access: Access, *, user: bool) -> Walk:
        regime = self.stage_1
        if regime.format.is_bare:
            gva &= 0xFFFF_FFFF
        return self._vm.space.walk(gva, regime, access, user=user)

    # --- running -----------------------------------------------------------------------------------------

    def start(self, address: int, argument: int) -> None:
        """Begin in 32-bit protected mode, paging off, flat segments, interrupts off, EAX = 0 and EBX = `argument`.

        That is the machine state of the Multiboot specification (3.2), without its magic number, since there is no
        boot information. The guest makes its GDT, IDT and tables and goes to long mode by itself.
        """
        cpu = self._cpu
        for segment in (abi.ES, abi.SS, abi.DS, abi.FS, abi.GS):
            cpu.set_segment(abi.ENV_SEGMENTS + segment * abi.SEGMENT_SIZE, _SELECTOR_OF_DATA, 0xFFFF_FFFF, _DATA)
        cpu.set_segment(abi.ENV_SEGMENTS + abi.CS * abi.SEGMENT_SIZE, _SELECTOR_OF_CODE, 0xFFFF_FFFF, _CODE)
        cpu.set_segment(abi.ENV_TR, 0, 0xFFFF, _TASK)
        cpu.set_segment(abi.ENV_LDTR, 0, 0xFFFF, _LOCAL_TABLE)
        for table in (abi.ENV_GDTR, abi.ENV_IDTR):
            cpu.set_segment(table, 0, 0, 0)
        cpu.enter(_PROTECTED, 0, _NO_INTERRUPTS)
        for number in range(16):
            self.set_register(number, 0)
        self.set_register(abi.RBX, argument)
        cpu.set(abi.ENV_RIP, address)
        cpu.flush_tlb()

    def _registers(self) -> list[Register]:
        down = Register("shut_down", lambda: int(self.shut_down), self._set_shut_down, 1)
        return [*cpu_registers(self._uc, self._cpu, self.state), down]

    def _set_shut_down(self, value: int) -> None:
        self.shut_down = bool(value)

    def _settle(self) -> None:
        self.state[Word.DELIVERING] = 0
        self._cpu.rebuild_flags()

    def inject_stage_1_fault(self) -> None:
        """Give the guest the exception that its own tables ask for: a page fault, CR2 the address, or for an address
        that is not canonical a general-protection fault. For one through the stack pointer hardware makes that a stack
        fault, which cannot be told here."""
        self.guest_faults += 1
        vector, code = encode_guest_exception(
            FaultKind(self.state[Word.STATUS] & KIND_MASK),
            Access(self.state[Word.ACCESS]),
            user=bool(self.state[Word.USER]),
            controls=self.stage_1.controls,
        )
        if vector == PAGE_FAULT:
            self._cpu.set(abi.ENV_CR2, self._cpu.invalid_address)
        self._raise(vector, code)

    def inject_access_fault(self, fault: MemoryFault) -> None:
        """Give the guest a general-protection fault with error code 0.

        x86 has no exception for a bus error but the machine check, which nobody returns from; and a page fault would
        tell the guest to look into tables that are in order. #GP(0) is what Xen gives for an access that it cannot
        carry out.
        """
        self._raise(GENERAL_PROTECTION, 0)

    def _raise(self, vector: int, error_code: int) -> None:
        """Let the next run begin with the taking of an exception at the present RIP.

        It happens there because taking it reads and writes the guest's memory, and a fault in that leaves the run:
        there must be one. When this one came up while another was being taken, the CPU knows what follows.
        """
        if self._cpu.get(abi.ENV_OLD_EXCEPTION) & 0xFFFF_FFFF == DOUBLE_FAULT:
            self.shut_down = True
        self.state[Word.DELIVERING] = 0
        self.state[Word.VECTOR], self.state[Word.ERROR_CODE] = vector + 1, error_code

    # --- registers ---------------------------------------------------------------------------------------

    @property
    def pc(self) -> int:
        """RIP, which is relative to CS.base; that is 0 in long mode and flat segments."""
        return self._cpu.get(abi.ENV_RIP)

    @property
    def stage_1(self) -> Regime:
        """The guest's own regime, from CR0, CR3, CR4, EFER and EFLAGS.AC."""
        get = self._cpu.get
        return regime_of(
            cr0=get(abi.ENV_CR0), cr3=get(abi.ENV_CR3), cr4=get(abi.ENV_CR4), efer=get(abi.ENV_EFER),
            eflags=get(abi.ENV_EFLAGS), processor=self._processor,
        )  # fmt: skip

    def register(self, number: int) -> int:
        """A general register, by its number in instructions."""
        return self._cpu.get(abi.ENV_REGISTERS + 8 * number)

    def set_register(self, number: int, value: int) -> None:
        """Write a general register."""
        self._cpu.set(abi.ENV_REGISTERS + 8 * number, value)
