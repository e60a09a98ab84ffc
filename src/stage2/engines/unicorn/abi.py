"""The private ABI of Unicorn 2.1.4's wheel: offsets and exported symbols, all in this one module.

The public API gives no interrupt delivery, no exact fault address and no way to drop translated code by physical
address. The wheel exports the functions that do, and the fields they work on have stood still within the release.
Everything here was measured on that release, and `Abi` checks it on the very instance it is made for: a value
written through the public API must appear at the private offset, and the other way round.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from importlib import import_module
from typing import Any

from ...errors import EngineError

VERSION = "2.1.4"

# --- uc_struct ------------------------------------------------------------------------------------------------
UC_CPU = 0x1B8
"""CPUState of the one CPU."""
UC_INVALID_ADDRESS = 0x588
"""The exact address of the access whose TLB fill was refused; set when the fill hooks have returned."""

# --- CPUState -------------------------------------------------------------------------------------------------
CPU_INTERRUPT_REQUEST = 0x1C
CPU_HALTED = 0x20
CPU_ENV = 0x128
CPU_ICOUNT_DECR = 0x130
CPU_EXCEPTION_INDEX = 0x81A0
CPU_UC = 0x81A8
INTERRUPT_HARD = 2

# --- CPURISCVState --------------------------------------------------------------------------------------------
ENV_GPR = 0x000
ENV_PC = 0x200
ENV_BADADDR = 0x220
ENV_PRIV = 0x250
ENV_MSTATUS = 0x270
ENV_MIP = 0x278
ENV_MIE = 0x288
ENV_SATP = 0x2A0

PRIV_USER, PRIV_SUPERVISOR, PRIV_MACHINE = 0, 1, 3
MSTATUS_SUM, MSTATUS_MXR = 1 << 18, 1 << 19

_SYMBOLS = (
    "tb_invalidate_phys_range_riscv64",
    "tlb_flush_riscv64",
    "riscv_cpu_do_interrupt_riscv64",
    "riscv_cpu_set_rdtime_fn_riscv64",
    "uc_emu_stop",
)


@cache
def unicorn() -> Any:
    """The unicorn package.

    Raises:
        EngineError: it is not installed.
    """
    try:
        return import_module("unicorn")
    except ImportError:
        raise EngineError(
            f"the unicorn engine needs the package unicorn=={VERSION}: pip install 'stage2[unicorn]'"
        ) from None


@cache
def library() -> Any:
    """The loaded shared library.

    Raises:
        EngineError: Unicorn is not installed, or not the release whose ABI this module knows.
    """
    package = unicorn()
    found = ".".join(str(part) for part in package.__version__.split(".")[:3])
    if found != VERSION:
        raise EngineError(f"unicorn {found} is installed, but its private ABI is known for {VERSION} only")
    uclib: Any = import_module("unicorn.unicorn_py3.unicorn").uclib
    missing = [name for name in _SYMBOLS if not hasattr(uclib, name)]
    if missing:
        raise EngineError(f"this build of unicorn {found} does not export {', '.join(missing)}")
    return uclib


def symbol(name: str) -> int:
    """The address of an exported function."""
    address = ctypes.cast(getattr(library(), name), ctypes.c_void_p).value
    if address is None:
        raise EngineError(f"unicorn exports no {name}")
    return address


class Abi:
    """The private parts of one RISC-V instance.

    Args:
        uc: a `unicorn.Uc`, just made.

    Raises:
        EngineError: a check shows that the layout is not the one this module knows.
    """

    def __init__(self, uc: Any) -> None:
        library()
        names = unicorn().riscv_const
        uc.reg_read(names.UC_RISCV_REG_PC)  # the library sets the CPU up at the first use
        self.uc: int = uc._uch.value
        self.cpu = _read(self.uc + UC_CPU)
        self.env = _read(self.cpu + CPU_ENV) if self.cpu else 0
        if not self.cpu or not self.env or _read(self.cpu + CPU_UC) != self.uc:
            raise EngineError(f"unicorn {VERSION}: CPUState is not where it was measured to be; is this another build?")
        self.icount_decr = _read(self.cpu + CPU_ICOUNT_DECR)
        for register, offset in (
            (names.UC_RISCV_REG_X10, ENV_GPR + 8 * 10),
            (names.UC_RISCV_REG_PC, ENV_PC),
            (names.UC_RISCV_REG_PRIV, ENV_PRIV),
            (names.UC_RISCV_REG_MIE, ENV_MIE),
        ):
            self._check(uc, register, offset)

    def _check(self, uc: Any, register: int, offset: int) -> None:
        before = uc.reg_read(register)
        probe = before ^ 2
        uc.reg_write(register, probe)
        seen, self_read = _read(self.env + offset), uc.reg_read(register)
        uc.reg_write(register, before)
        if seen != self_read:
            raise EngineError(
                f"unicorn {VERSION}: register {register} reads {self_read:#x}, but {seen:#x} stands at the offset "
                f"{offset:#x} where it was measured to be; is this another build?"
            )

    def get(self, offset: int) -> int:
        """A 64-bit field of the RISC-V state."""
        return _read(self.env + offset)

    def set(self, offset: int, value: int) -> None:
        """Write a 64-bit field of the RISC-V state."""
        ctypes.c_uint64.from_address(self.env + offset).value = value

    @property
    def invalid_address(self) -> int:
        """The exact address of the access that ended the last run."""
        return _read(self.uc + UC_INVALID_ADDRESS)

    def raise_exception(self, cause: int, value: int) -> None:
        """Deliver a synchronous exception at the present PC, as the hardware would (stval = `value`)."""
        ctypes.c_int32.from_address(self.cpu + CPU_EXCEPTION_INDEX).value = cause
        self.set(ENV_BADADDR, value)
        _function("riscv_cpu_do_interrupt_riscv64", 1)(self.cpu)

    def set_pending(self, mip: int) -> None:
        """Set the pending interrupts and tell the CPU loop whether there are any."""
        self.set(ENV_MIP, mip)
        request = ctypes.c_uint32.from_address(self.cpu + CPU_INTERRUPT_REQUEST)
        request.value = request.value | INTERRUPT_HARD if mip else request.value & ~INTERRUPT_HARD

    def wake(self) -> None:
        """End a WFI: the CPU is no longer halted."""
        ctypes.c_uint32.from_address(self.cpu + CPU_HALTED).value = 0

    def flush_tlb(self) -> None:
        """Drop every entry of the CPU's TLB."""
        _function("tlb_flush_riscv64", 1)(self.cpu)

    def forget_code(self, start: int, end: int) -> None:
        """Drop code translated from [start, end) of the engine's physical memory."""
        _function("tb_invalidate_phys_range_riscv64", 3)(self.uc, start, end)

    def set_time_source(self, function: int) -> None:
        """Make the `time` CSR read what a C function without arguments returns."""
        _function("riscv_cpu_set_rdtime_fn_riscv64", 2)(self.env, function)


@cache
def _function(name: str, arguments: int) -> Any:
    return ctypes.CFUNCTYPE(None, *[ctypes.c_uint64] * arguments)(symbol(name))


def _read(address: int) -> int:
    """A word of this process, read through the kernel so that a wrong address is an error and no crash."""
    try:
        data = os.pread(_own_memory(), 8, address)
    except (OSError, OverflowError):
        return 0
    return int.from_bytes(data, "little") if len(data) == 8 else 0


@cache
def _own_memory() -> int:
    return os.open("/proc/self/mem", os.O_RDONLY)
