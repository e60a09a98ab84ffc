"""The private ABI of Unicorn 2.1.4's AArch64 CPU: offsets of the state, and the exported functions that work on it.

Measured on the release that `..abi` pins, by writing through the public API and looking where the value appears.
`ArmAbi` repeats that for every register on the very instance it is made for. The record of the last exception has
no public name: once per process, an SVC on a throw-away instance shows that it is still where it was.
"""

from __future__ import annotations

import ctypes
from functools import cache, partial
from typing import Any

from ....errors import EngineError
from ..abi import VERSION, CpuAbi, answering, function, read, unicorn

# --- CPUARMState ----------------------------------------------------------------------------------------------
ENV_X = 0x040
"""x0 to x30, then the present SP."""
ENV_PC = 0x140
ENV_PSTATE = 0x148
"""Mode, PAN and the like; NZCV, DAIF and BTYPE are kept elsewhere."""
ENV_SPSR_EL1 = 0x168
ENV_ELR_EL1 = 0x240
ENV_SCTLR_EL1 = 0x2A8
ENV_TTBR0_EL1 = 0x308
ENV_TTBR1_EL1 = 0x328
ENV_TCR_EL1 = 0x358
ENV_ESR_EL1 = 0x3E0
ENV_FAR_EL1 = 0x420
ENV_MAIR_EL1 = 0x4A8
ENV_VBAR_EL1 = 0x4C8
ENV_CNTV_CVAL = 0x580
ENV_CNTV_CTL = 0x588
ENV_EXCEPTION = 0xBD0
"""The last exception: syndrome and fsr (32 bits each), virtual address (64), target EL (32)."""
EXCEPTION_ADDRESS, EXCEPTION_TARGET = 8, 16
ENV_EXCLUSIVE = 0x2F00
"""The exclusive monitor: address (all ones when it is open), then the two words that were loaded."""
ENV_REGISTERS = 0x31C0
"""The table of system registers, behind the state: a record for each."""
REGISTER_ENCODING = 9
"""In a record: CRn, CRm, op0, op1, op2, a byte each."""
REGISTER_OPAQUE = 0x20
_REGISTER_FIELD, _REGISTER_READ, _REGISTER_WRITE = 0x30, 0x50, 0x58
"""In a record: the register's place in the state, and the functions that read and write it, none where the place is
all."""

PSTATE_EL1H = 0x3C5
"""EL1, SP_EL1, every interrupt masked: how a kernel is entered."""
PSTATE_EL_SHIFT = 2
PSTATE_PAN = 1 << 22

# --- exception numbers, as the library's interrupt hook and `exception_index` have them --------------------------
UNDEFINED, SVC, PREFETCH_ABORT, DATA_ABORT, BKPT, HVC, SMC = 1, 2, 3, 4, 7, 11, 13

SystemRegister = tuple[int, int, int, int, int]
"""(op0, op1, CRn, CRm, op2)."""
PAR_EL1: SystemRegister = (3, 0, 7, 4, 0)
SCR_EL3: SystemRegister = (3, 6, 1, 1, 0)
HCR_EL2: SystemRegister = (3, 4, 1, 1, 0)
VTTBR_EL2: SystemRegister = (3, 4, 2, 1, 0)
VTCR_EL2: SystemRegister = (3, 4, 2, 1, 2)
CNTFRQ_EL0: SystemRegister = (3, 3, 14, 0, 0)
CNTPCT_EL0: SystemRegister = (3, 3, 14, 0, 1)
CNTVCT_EL0: SystemRegister = (3, 3, 14, 0, 2)
CNTV_TVAL_EL0: SystemRegister = (3, 3, 14, 3, 0)
CNTV_CTL_EL0: SystemRegister = (3, 3, 14, 3, 1)
CNTV_CVAL_EL0: SystemRegister = (3, 3, 14, 3, 2)
_CHECKED: dict[SystemRegister, int] = {
    (3, 0, 1, 0, 0): ENV_SCTLR_EL1,
    (3, 0, 2, 0, 0): ENV_TTBR0_EL1,
    (3, 0, 2, 0, 1): ENV_TTBR1_EL1,
    (3, 0, 2, 0, 2): ENV_TCR_EL1,
    (3, 0, 4, 0, 0): ENV_SPSR_EL1,
    (3, 0, 4, 0, 1): ENV_ELR_EL1,
    (3, 0, 5, 2, 0): ENV_ESR_EL1,
    (3, 0, 6, 0, 0): ENV_FAR_EL1,
    (3, 0, 10, 2, 0): ENV_MAIR_EL1,
    (3, 0, 12, 0, 0): ENV_VBAR_EL1,
}
_PROBE = 0x1234_5678_9000
"""Aligned as VBAR_EL1 demands."""

REBUILD_FLAGS = "arm_rebuild_hflags_aarch64"
REGISTER_INFO = "get_arm_cp_reginfo_aarch64"


class ArmAbi(CpuAbi):
    """The private parts of one AArch64 instance.

    Args:
        uc: a `unicorn.Uc`, just made.

    Raises:
        EngineError: a check shows that the layout is not the one this module knows.
    """

    FLUSH_TLB = "tlb_flush_aarch64"
    FORGET_CODE = "tb_invalidate_phys_range_aarch64"
    DELIVER = "arm_cpu_do_interrupt_aarch64"

    def __init__(self, uc: Any) -> None:
        self._uc = uc
        self._names = unicorn().arm64_const
        super().__init__(uc, self._names.UC_ARM64_REG_PC)
        for system, offset in _CHECKED.items():
            get, put = partial(self.system, system), partial(self.set_system, system)
            self.check(f"system register {system}", offset, get, put, _PROBE)
        for register, offset in ((self._names.UC_ARM64_REG_X0, ENV_X), (self._names.UC_ARM64_REG_PC, ENV_PC)):
            get, put = partial(uc.reg_read, register), partial(uc.reg_write, register)
            self.check(f"register {register}", offset, get, put, _PROBE)
        if self.get(ENV_PSTATE) & 0xF_0000_000F != 0x1_0000_0005:
            raise EngineError(f"unicorn {VERSION}: PSTATE is not where it was measured to be; is this another build?")

    def system(self, register: SystemRegister) -> int:
        """Read a system register through the public API."""
        op0, op1, crn, crm, op2 = register
        value: int = self._uc.reg_read(self._names.UC_ARM64_REG_CP_REG, (crn, crm, op0, op1, op2))
        return value

    def set_system(self, register: SystemRegister, value: int) -> None:
        """Write a system register through the public API."""
        op0, op1, crn, crm, op2 = register
        self._uc.reg_write(self._names.UC_ARM64_REG_CP_REG, (crn, crm, op0, op1, op2, value))

    def set_accessors(self, register: SystemRegister, read_function: int, write_function: int, opaque: int) -> None:
        """Let C functions answer for a system register of this instance.

        Args:
            register: which.
            read_function: address of word(state, record); 0 for the plain field, if it is read so.
            write_function: address of void(state, record, word); 0 where it is not written.
            opaque: what stands in the record at `REGISTER_OPAQUE`.

        Raises:
            EngineError: the register's record is not the one this module knows.
        """
        op0, op1, crn, crm, op2 = register
        table = read(self.env + ENV_REGISTERS)
        # A table of the library's glib: its size, a power of two, and the mask that is one less.
        size = read(table) & 0xFFFF_FFFF
        record = 0
        if 0 < size < 1 << 16 and read(table + 8) & 0xFFFF_FFFF == size - 1:
            key = 1 << 28 | 0x13 << 16 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
            record = answering(REGISTER_INFO)(table, key)
        encoding = bytes((crn, crm, op0, op1, op2))
        if not record or read(record + REGISTER_ENCODING - 1).to_bytes(8, "little")[1:6] != encoding:
            raise EngineError(
                f"unicorn {VERSION}: system register {register} is not where it was measured to be; is this another "
                "build?"
            )
        for offset, value in (
            (_REGISTER_READ, read_function),
            (_REGISTER_WRITE, write_function),
            (REGISTER_OPAQUE, opaque),
        ):
            ctypes.c_uint64.from_address(record + offset).value = value

    def enter(self, pstate: int) -> None:
        """Set PSTATE, and what the translator derives from it and the system registers."""
        self._uc.reg_write(self._names.UC_ARM64_REG_PSTATE, pstate)
        self.rebuild_flags()

    def rebuild_flags(self) -> None:
        """Set what the translator derives from PSTATE and the system registers."""
        function(REBUILD_FLAGS, 1)(self.env)

    def raise_abort(self, number: int, syndrome: int, address: int) -> None:
        """Take an exception to EL1 at the present PC, as the hardware would.

        Args:
            number: PREFETCH_ABORT or DATA_ABORT.
            syndrome: for ESR_EL1.
            address: for FAR_EL1.
        """
        self.set_half(ENV_EXCEPTION, syndrome)
        self.set(ENV_EXCEPTION + EXCEPTION_ADDRESS, address)
        self.set_half(ENV_EXCEPTION + EXCEPTION_TARGET, 1)
        self.deliver(number)

    @property
    def syndrome(self) -> int:
        """ESR of the last exception that the library found."""
        return self.get(ENV_EXCEPTION) & 0xFFFF_FFFF


@cache
def check_exception_record() -> None:
    """Make sure that the exception record is where it was measured to be.

    Raises:
        EngineError: it is not.
    """
    package = unicorn()
    uc = package.Uc(package.UC_ARCH_ARM64, package.UC_MODE_ARM)
    uc.ctl_set_tcg_buffer_size(1 << 20)
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, (0xD400_0001 | 0x5A5A << 5).to_bytes(4, "little"))  # svc #0x5a5a
    abi = ArmAbi(uc)
    seen: list[tuple[int, int, int]] = []

    def stop(_uc: Any, number: int, _user: Any) -> None:
        target = abi.get(ENV_EXCEPTION + EXCEPTION_TARGET) & 0xFFFF_FFFF
        seen.append((number, abi.syndrome, target))
        uc.emu_stop()

    uc.hook_add(package.UC_HOOK_INTR, stop)
    uc.emu_start(0x1000, 0x1004)
    if seen != [(SVC, 0x5600_5A5A, 1)]:
        raise EngineError(f"unicorn {VERSION}: an SVC left {seen} as its record; is this another build?")


@cache
def check_exclusive_monitor() -> None:
    """Make sure that the exclusive monitor is where it was measured to be.

    Raises:
        EngineError: it is not.
    """
    package = unicorn()
    uc = package.Uc(package.UC_ARCH_ARM64, package.UC_MODE_ARM)
    uc.ctl_set_tcg_buffer_size(1 << 20)
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, (0xC87F_0C22).to_bytes(4, "little"))  # ldxp x2, x3, [x1]
    uc.mem_write(0x1800, (0x5A5A).to_bytes(8, "little") + (0xA5A5).to_bytes(8, "little"))
    abi = ArmAbi(uc)
    uc.reg_write(package.arm64_const.UC_ARM64_REG_X1, 0x1800)
    before = abi.get(ENV_EXCLUSIVE)
    uc.emu_start(0x1000, 0x1004)
    found = before, *(abi.get(ENV_EXCLUSIVE + 8 * word) for word in range(3))
    if found != ((1 << 64) - 1, 0x1800, 0x5A5A, 0xA5A5):
        raise EngineError(f"unicorn {VERSION}: an LDXP left {found} in its monitor; is this another build?")
