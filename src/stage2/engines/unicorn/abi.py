"""The private ABI of Unicorn 2.1.4's wheel as far as every architecture has it; each has a module `abi` of its own too.

The public API gives no interrupt delivery, no exact fault address and no way to drop translated code by physical
address. The wheel exports the functions that do, and the fields they work on have stood still within the release.
Everything was measured on that release, and `CpuAbi` checks it on the very instance it is made for: a value written
through the public API must appear at the private offset, and the other way round.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from ...errors import EngineError
from ...requirement import pip_install

VERSION = "2.1.4"

# --- uc_struct ------------------------------------------------------------------------------------------------
UC_CPU = 0x1B8
"""CPUState of the one CPU."""
UC_INVALID_ADDRESS = 0x588
"""The exact address of the access whose TLB fill was refused; set when the fill hooks have returned."""

# --- CPUState -------------------------------------------------------------------------------------------------
CPU_INTERRUPT_REQUEST = 0x1C
CPU_ENV = 0x128
CPU_EXCEPTION_INDEX = 0x81A0
CPU_UC = 0x81A8
INTERRUPT_HARD = 2


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
            f"the unicorn engine needs the package unicorn, release {VERSION}: {pip_install('unicorn')}"
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
        raise EngineError(
            f"unicorn {found} is installed, but its private ABI is known for {VERSION} only: {pip_install('unicorn')}"
        )
    uclib: Any = import_module("unicorn.unicorn_py3.unicorn").uclib
    return uclib


def symbol(name: str) -> int:
    """The address of an exported function.

    Raises:
        EngineError: this build does not export it.
    """
    found = getattr(library(), name, None)
    address = None if found is None else ctypes.cast(found, ctypes.c_void_p).value
    if address is None:
        raise EngineError(f"this build of unicorn {VERSION} does not export {name}")
    return address


@cache
def function(name: str, arguments: int) -> Any:
    """An exported function of so many words that returns nothing."""
    return ctypes.CFUNCTYPE(None, *[ctypes.c_uint64] * arguments)(symbol(name))


@cache
def answering(name: str) -> Any:
    """An exported function of two words that returns one."""
    return ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)(symbol(name))


def read(address: int) -> int:
    """A word of this process, read through the kernel so that a wrong address is an error and no crash."""
    try:
        data = os.pread(_own_memory(), 8, address)
    except (OSError, OverflowError):
        return 0
    return int.from_bytes(data, "little") if len(data) == 8 else 0


@cache
def _own_memory() -> int:
    return os.open("/proc/self/mem", os.O_RDONLY)


class CpuAbi:
    """The private parts of one instance that every architecture has.

    Args:
        uc: a `unicorn.Uc`, just made.
        register: public number of a register; reading it makes the library set the CPU up.

    Raises:
        EngineError: a check shows that the layout is not the one this module knows.
    """

    FLUSH_TLB: str
    FORGET_CODE: str
    """Drops code translated from [start, end) of the engine's physical memory."""
    DELIVER: str
    """Takes the exception whose number is the CPU's exception index."""

    def __init__(self, uc: Any, register: int) -> None:
        for name in (self.FLUSH_TLB, self.FORGET_CODE, self.DELIVER):
            symbol(name)
        uc.reg_read(register)
        self.uc: int = uc._uch.value
        self.cpu = read(self.uc + UC_CPU)
        self.env = read(self.cpu + CPU_ENV) if self.cpu else 0
        if not self.cpu or not self.env or read(self.cpu + CPU_UC) != self.uc:
            raise EngineError(f"unicorn {VERSION}: CPUState is not where it was measured to be; is this another build?")

    def check(self, what: str, offset: int, get: Callable[[], int], put: Callable[[int], None], probe: int) -> None:
        """Write `probe` through the public API: it must appear at a private offset.

        Raises:
            EngineError: it does not.
        """
        before = get()
        put(probe)
        seen, self_read = read(self.env + offset), get()
        put(before)
        if seen != self_read or self_read == before:
            raise EngineError(
                f"unicorn {VERSION}: {what} reads {self_read:#x}, but {seen:#x} stands at the offset {offset:#x} "
                "where it was measured to be; is this another build?"
            )

    def get(self, offset: int) -> int:
        """A 64-bit field of the CPU's state, whose place was checked."""
        return ctypes.c_uint64.from_address(self.env + offset).value

    def set(self, offset: int, value: int) -> None:
        """Write a 64-bit field of the CPU's state."""
        ctypes.c_uint64.from_address(self.env + offset).value = value

    def get_half(self, offset: int) -> int:
        """A 32-bit field of the CPU's state."""
        return ctypes.c_uint32.from_address(self.env + offset).value

    def set_half(self, offset: int, value: int) -> None:
        """Write a 32-bit field of the CPU's state."""
        ctypes.c_uint32.from_address(self.env + offset).value = value

    @property
    def invalid_address(self) -> int:
        """The exact address of the access that ended the last run."""
        return ctypes.c_uint64.from_address(self.uc + UC_INVALID_ADDRESS).value

    def set_exception(self, number: int) -> None:
        """Set the exception index; -1 for none."""
        ctypes.c_int32.from_address(self.cpu + CPU_EXCEPTION_INDEX).value = number

    def deliver(self, number: int) -> None:
        """Take an exception at the present PC, as the hardware would."""
        self.set_exception(number)
        function(self.DELIVER, 1)(self.cpu)
        self.set_exception(-1)

    def flush_tlb(self) -> None:
        """Drop every entry of the CPU's TLB."""
        function(self.FLUSH_TLB, 1)(self.cpu)
