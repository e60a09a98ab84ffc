"""The registers of an x86-64 CPU: what a guest has of it. See `..registers`."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..abi import unicorn
from ..registers import Register
from ..state import State, Word
from . import abi

_GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
_TABLES = {"ldtr": abi.ENV_LDTR, "tr": abi.ENV_TR, "gdtr": abi.ENV_GDTR, "idtr": abi.ENV_IDTR}
_MSRS = {
    "ia32_star": 0xC000_0081,
    "ia32_lstar": 0xC000_0082,
    "ia32_cstar": 0xC000_0083,
    "ia32_fmask": 0xC000_0084,
    "ia32_kernel_gs_base": 0xC000_0102,
    "ia32_tsc_aux": 0xC000_0103,
    "ia32_sysenter_cs": 0x174,
    "ia32_sysenter_esp": 0x175,
    "ia32_sysenter_eip": 0x176,
    "ia32_misc_enable": 0x1A0,
    "ia32_pat": 0x277,
}
"""(SDM Vol. 4, "Architectural MSRs".)"""
_FPU = {"fpcw": 16, "fpsw": 16, "fptag": 16, "fip": 64, "fdp": 64, "fop": 16, "fcs": 16, "fds": 16, "mxcsr": 32}
_X87 = 1 << 0
"""Of XCR0: always one."""
_XCR0_BITS = 10
_NO_EXCEPTION = 0xFFFF_FFFF
_VECTORS = 32
_CR8_BITS = 4


def cpu_registers(uc: Any, cpu: abi.X86Abi, state: State) -> list[Register]:
    """The registers of a CPU.

    The time-stamp counter is not among them: it counts the host's time. AVX and MPX are not, since the library's CPU
    does not execute them.

    Args:
        uc: the library's instance.
        cpu: its private parts.
        state: the words it shares with us; they hold an exception that is to be taken.
    """
    names = unicorn().x86_const

    def private(name: str, offset: int) -> Register:
        return Register(name, partial(cpu.get, offset), partial(cpu.set, offset))

    def half(name: str, offset: int) -> Register:
        return Register(name, partial(cpu.get_half, offset), partial(cpu.set_half, offset), 32)

    def public(name: str, bits: int = 64) -> Register:
        number = getattr(names, f"UC_X86_REG_{name.upper()}")
        return Register(name, partial(uc.reg_read, number), partial(uc.reg_write, number), bits)

    def stack_register(number: int) -> Register:
        register = getattr(names, f"UC_X86_REG_FP{number}")

        def get() -> int:
            mantissa, exponent = uc.reg_read(register)
            value: int = exponent << 64 | mantissa
            return value

        def put(value: int) -> None:
            uc.reg_write(register, (value & (1 << 64) - 1, value >> 64))

        return Register(f"fpr{number}", get, put, 80)

    def segment(name: str, offset: int) -> list[Register]:
        return [
            half(f"{name}_selector", offset),
            private(f"{name}_base", offset + abi.SEGMENT_BASE),
            half(f"{name}_limit", offset + abi.SEGMENT_LIMIT),
            half(f"{name}_flags", offset + abi.SEGMENT_FLAGS),
        ]

    def word(name: str, number: Word, bits: int) -> Register:
        def put(value: int) -> None:
            state[number] = value

        return Register(name, lambda: state[number], put, bits)

    segments = {name: abi.ENV_SEGMENTS + number * abi.SEGMENT_SIZE for number, name in enumerate(_SEGMENTS)}
    old = half("exception_taken", abi.ENV_OLD_EXCEPTION)
    xcr0 = private("xcr0", abi.ENV_XCR0)
    vector = word("exception", Word.VECTOR, 9)
    return [
        *(private(name, abi.ENV_REGISTERS + 8 * number) for number, name in enumerate(_GENERAL)),
        private("rip", abi.ENV_RIP),
        *(register for name, offset in (segments | _TABLES).items() for register in segment(name, offset)),
        private("efer", abi.ENV_EFER),
        private("cr0", abi.ENV_CR0),
        private("cr2", abi.ENV_CR2),
        private("cr3", abi.ENV_CR3),
        Register("cr4", partial(cpu.get, abi.ENV_CR4), cpu.set_cr4),
        public("cr8", _CR8_BITS),
        Register("xcr0", xcr0.get, xcr0.put, _XCR0_BITS, lambda value: bool(value & _X87)),
        *(Register(name, partial(cpu.msr, number), partial(cpu.set_msr, number)) for name, number in _MSRS.items()),
        *(public(f"dr{number}") for number in (0, 1, 2, 3, 6)),
        Register("dr7", public("dr7").get, cpu.set_dr7, 32),
        *(stack_register(number) for number in range(8)),
        *(public(name, bits) for name, bits in _FPU.items()),
        *(public(f"xmm{number}", 128) for number in range(16)),
        Register("rflags", lambda: cpu.eflags, partial(setattr, cpu, "eflags"), 32),
        Register("exception", vector.get, vector.put, 9, lambda value: value <= 1 << 8),
        word("exception_error_code", Word.ERROR_CODE, 32),
        Register("exception_taken", old.get, old.put, 32, lambda value: value < _VECTORS or value == _NO_EXCEPTION),
    ]
