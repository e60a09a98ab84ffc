"""The private ABI of Unicorn 2.1.4's x86-64 CPU: offsets of the state, and the exported functions that work on it.

Measured on the release that `..abi` pins, by writing through the public API and looking where the value appears.
`X86Abi` repeats that for every register on the very instance it is made for. The record of the last exception has no
public name: once per process, a selector that does not exist shows on a throw-away instance that it is still there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from ....errors import EngineError
from ..abi import VERSION, CpuAbi, function, unicorn

# --- CPUX86State ----------------------------------------------------------------------------------------------
ENV_REGISTERS = 0x000
"""rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15."""
ENV_RIP = 0x080
ENV_EFLAGS = 0x088
"""The flags but for CF, PF, AF, ZF, SF, OF and DF, which are kept elsewhere while the CPU runs."""
ENV_HFLAGS = 0x0B0
"""What the translator derives from the registers; bits 1:0 are the CPL."""
HFLAGS_CS64 = 1 << 15
"""The code segment is one of 64 bits."""
ENV_SEGMENTS = 0x0B8
"""es, cs, ss, ds, fs, gs: selector (64 bits), base (64), limit (32), flags (32: the descriptor's upper half)."""
ENV_LDTR = 0x148
ENV_TR = 0x160
ENV_GDTR = 0x178
ENV_IDTR = 0x190
SEGMENT_SIZE, SEGMENT_BASE, SEGMENT_LIMIT, SEGMENT_FLAGS = 24, 8, 16, 20
ENV_CR0 = 0x1A8
ENV_CR2 = 0x1B8
ENV_CR3 = 0x1C0
ENV_CR4 = 0x1C8
ENV_EFER = 0x250
ENV_STAR = 0x12D8
ENV_LSTAR = 0x12E8
ENV_CSTAR = 0x12F0
ENV_FMASK = 0x12F8
ENV_XCR0 = 0x1328
ENV_ERROR_CODE = 0x1508
ENV_IS_INT = 0x150C
"""1 when the exception is an INT instruction's."""
ENV_OLD_EXCEPTION = 0x1578
"""A contributory exception or page fault that is being taken: another one makes a double fault. -1 for none."""

RAX, RCX, RBX, RSP, R11 = 0, 1, 3, 4, 11
ES, CS, SS, DS, FS, GS = range(6)
REBUILD_FLAGS = "x86_update_hflags_x86_64"
RAISE = "raise_exception_err_x86_64"
"""(env, vector, error code): the CPU's own check for double faults, then a jump out of the caller to the CPU loop."""
SET_CR4 = "cpu_x86_update_cr4_x86_64"
SET_DR7 = "cpu_x86_update_dr7_x86_64"
_PROBE = 0x1234_5678_9000
_EFER, _EFER_PROBE = 0xC000_0080, 0xD01
_STAR, _LSTAR, _CSTAR, _FMASK = 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084


class X86Abi(CpuAbi):
    """The private parts of one x86-64 instance.

    Args:
        uc: a `unicorn.Uc`, just made.

    Raises:
        EngineError: a check shows that the layout is not the one this module knows.
    """

    FLUSH_TLB = "tlb_flush_x86_64"
    FORGET_CODE = "tb_invalidate_phys_range_x86_64"
    DELIVER = "x86_cpu_do_interrupt_x86_64"

    def __init__(self, uc: Any) -> None:
        self._uc = uc
        names = unicorn().x86_const
        super().__init__(uc, names.UC_X86_REG_RIP)
        for name, offset in (
            ("RAX", ENV_REGISTERS), ("R15", ENV_REGISTERS + 8 * 15), ("RIP", ENV_RIP), ("CR2", ENV_CR2),
            ("CR3", ENV_CR3), ("GS_BASE", ENV_SEGMENTS + GS * SEGMENT_SIZE + SEGMENT_BASE),
        ):  # fmt: skip
            register = getattr(names, f"UC_X86_REG_{name}")
            get, put = partial(uc.reg_read, register), partial(uc.reg_write, register)
            self.check(f"register {name}", offset, get, put, _PROBE)
        for name, offset in (("LDTR", ENV_LDTR), ("TR", ENV_TR), ("GDTR", ENV_GDTR), ("IDTR", ENV_IDTR)):
            register = getattr(names, f"UC_X86_REG_{name}")
            self.check(f"base of {name}", offset + SEGMENT_BASE, *self._table_register(register), _PROBE)
        for msr, offset, probe in (
            (_EFER, ENV_EFER, _EFER_PROBE), (_STAR, ENV_STAR, _PROBE), (_LSTAR, ENV_LSTAR, _PROBE),
            (_CSTAR, ENV_CSTAR, _PROBE),
            (_FMASK, ENV_FMASK, _PROBE),
        ):  # fmt: skip
            self.check(f"MSR {msr:#x}", offset, partial(self.msr, msr), partial(self.set_msr, msr), probe)
        # What the library sets a new CPU to; these have too many side effects to be written.
        found = self.get(ENV_CR0), self.get(ENV_EFLAGS), self.get(ENV_HFLAGS) & 0xFFFF_FFFF
        if found[:2] != (0x11, 2) or self.get(ENV_CR4) != uc.reg_read(names.UC_X86_REG_CR4) or found[2] != _HFLAGS:
            raise EngineError(
                f"unicorn {VERSION}: CR0, CR4 or flags are not where they were measured to be; is this another build?"
            )

    def _table_register(self, register: int) -> tuple[Callable[[], int], Callable[[int], None]]:
        def get() -> int:
            base: int = self._uc.reg_read(register)[1]
            return base

        return get, lambda base: self._uc.reg_write(register, (0, base, 0, 0))

    def msr(self, number: int) -> int:
        """Read a model-specific register through the public API."""
        value: int = self._uc.reg_read(unicorn().x86_const.UC_X86_REG_MSR, number)
        return value

    def set_msr(self, number: int, value: int) -> None:
        """Write a model-specific register through the public API."""
        self._uc.reg_write(unicorn().x86_const.UC_X86_REG_MSR, (number, value))

    def set_segment(self, offset: int, selector: int, limit: int, flags: int) -> None:
        """Load a segment with base 0 as if from a descriptor with these flags (its upper half)."""
        self.set(offset, selector)
        self.set(offset + SEGMENT_BASE, 0)
        self.set_half(offset + SEGMENT_LIMIT, limit)
        self.set_half(offset + SEGMENT_FLAGS, flags)

    @property
    def eflags(self) -> int:
        """All flags, through the public API: some are kept elsewhere."""
        value: int = self._uc.reg_read(unicorn().x86_const.UC_X86_REG_EFLAGS)
        return value

    @eflags.setter
    def eflags(self, value: int) -> None:
        self._uc.reg_write(unicorn().x86_const.UC_X86_REG_EFLAGS, value)

    def enter_ring_0(self, code: int, code_flags: int, stack: int, stack_flags: int) -> None:
        """Load CS and SS with flat segments, and so the CPL."""
        self.set_segment(ENV_SEGMENTS + CS * SEGMENT_SIZE, code, 0xFFFF_FFFF, code_flags)
        self.set_segment(ENV_SEGMENTS + SS * SEGMENT_SIZE, stack, 0xFFFF_FFFF, stack_flags)
        self.rebuild_flags()

    def enter(self, cr0: int, cr4: int, eflags: int) -> None:
        """Leave long mode if it is on, set the control registers, and what the translator derives from all of them."""
        self.set(ENV_EFER, 0)
        self.set(ENV_CR0, cr0)
        self.set(ENV_EFLAGS, eflags)
        self.set_cr4(cr4)
        self.rebuild_flags()

    def set_cr4(self, value: int) -> None:
        """Set CR4, without what is derived from it."""
        function(SET_CR4, 2)(self.env, value)

    def set_dr7(self, value: int) -> None:
        """Set DR7, and the breakpoints that it enables."""
        function(SET_DR7, 2)(self.env, value)

    def rebuild_flags(self) -> None:
        """Set what the translator derives from the registers."""
        function(REBUILD_FLAGS, 1)(self.env)


_CR4_OSXSAVE = 1 << 18
_HFLAGS = 0x40C0B0
"""PE, 32- and 64-bit code, 32-bit stack, LMA, OSFXSR, as the library makes a CPU of 64-bit mode."""


@cache
def check_exception_record() -> None:
    """Make sure that the exception record is where it was measured to be.

    Raises:
        EngineError: it is not.
    """
    package = unicorn()
    uc = package.Uc(package.UC_ARCH_X86, package.UC_MODE_64)
    uc.ctl_set_tcg_buffer_size(1 << 20)
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, bytes.fromhex("66b81800 8ed8"))  # mov ax, 0x18; mov ds, ax, without a GDT
    abi = X86Abi(uc)
    seen: list[tuple[int, int, int, int]] = []

    def stop(_uc: Any, number: int, _user: Any) -> None:
        code, is_int, old = (abi.get(at) & 0xFFFF_FFFF for at in (ENV_ERROR_CODE, ENV_IS_INT, ENV_OLD_EXCEPTION))
        seen.append((number, code, is_int, old))
        uc.emu_stop()

    uc.hook_add(package.UC_HOOK_INTR, stop)
    before = abi.get(ENV_OLD_EXCEPTION) & 0xFFFF_FFFF
    uc.emu_start(0x1000, 0x1006)
    if before != 0xFFFF_FFFF or seen != [(13, 0x18, 0, 13)]:
        raise EngineError(f"unicorn {VERSION}: a general-protection fault left {seen}; is this another build?")


@cache
def check_xcr0(model: int) -> None:
    """Make sure that XCR0 is where it was measured to be.

    Args:
        model: the library's constant of a CPU model that has XSAVE.

    Raises:
        EngineError: it is not.
    """
    package = unicorn()
    names = package.x86_const
    uc = package.Uc(package.UC_ARCH_X86, package.UC_MODE_64)
    uc.ctl_set_cpu_model(model)
    uc.ctl_set_tcg_buffer_size(1 << 20)
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, bytes.fromhex("31c9 31d2 b803000000 0f01d1"))  # ECX = EDX = 0, EAX = 3, XSETBV
    abi = X86Abi(uc)
    uc.reg_write(names.UC_X86_REG_CR4, uc.reg_read(names.UC_X86_REG_CR4) | _CR4_OSXSAVE)
    before = abi.get(ENV_XCR0)
    uc.emu_start(0x1000, 0x100C)
    if before == 3 or abi.get(ENV_XCR0) != 3:
        raise EngineError(f"unicorn {VERSION}: XCR0 is not where it was measured to be; is this another build?")
