"""The private ABI of Unicorn 2.1.4's RISC-V CPU. See `..abi`."""

from __future__ import annotations

import ctypes
from functools import cache, partial
from typing import Any

from ....errors import EngineError
from ..abi import CPU_INTERRUPT_REQUEST, INTERRUPT_HARD, VERSION, CpuAbi, function, unicorn

# --- CPURISCVState --------------------------------------------------------------------------------------------
ENV_GPR = 0x000
ENV_PC = 0x200
ENV_RESERVATION = 0x208
"""Address and value of the last LR; the address is all ones when there is no reservation."""
ENV_BADADDR = 0x220
ENV_PRIV = 0x250
ENV_MSTATUS = 0x270
ENV_MIP = 0x278
ENV_MIE = 0x288
ENV_SATP = 0x2A0

PRIV_USER, PRIV_SUPERVISOR, PRIV_MACHINE = 0, 1, 3

_SET_TIME_SOURCE = "riscv_cpu_set_rdtime_fn_riscv64"


class RiscvAbi(CpuAbi):
    """The private parts of one RISC-V instance.

    Args:
        uc: a `unicorn.Uc`, just made.

    Raises:
        EngineError: a check shows that the layout is not the one this module knows.
    """

    FLUSH_TLB = "tlb_flush_riscv64"
    FORGET_CODE = "tb_invalidate_phys_range_riscv64"
    DELIVER = "riscv_cpu_do_interrupt_riscv64"

    def __init__(self, uc: Any) -> None:
        names = unicorn().riscv_const
        super().__init__(uc, names.UC_RISCV_REG_PC)
        for register, offset in (
            (names.UC_RISCV_REG_X10, ENV_GPR + 8 * 10),
            (names.UC_RISCV_REG_PC, ENV_PC),
            (names.UC_RISCV_REG_PRIV, ENV_PRIV),
            (names.UC_RISCV_REG_MIE, ENV_MIE),
        ):
            probe = uc.reg_read(register) ^ 2
            self.check(
                f"register {register}", offset, partial(uc.reg_read, register), partial(uc.reg_write, register), probe
            )

    def raise_exception(self, cause: int, value: int) -> None:
        """Deliver a synchronous exception at the present PC, as the hardware would (stval = `value`)."""
        self.set(ENV_BADADDR, value)
        self.deliver(cause)

    def set_pending(self, mip: int) -> None:
        """Set the pending interrupts and tell the CPU loop whether there are any."""
        self.set(ENV_MIP, mip)
        request = ctypes.c_uint32.from_address(self.cpu + CPU_INTERRUPT_REQUEST)
        request.value = request.value | INTERRUPT_HARD if mip else request.value & ~INTERRUPT_HARD

    def set_time_source(self, source: int) -> None:
        """Make the `time` CSR read what a C function without arguments returns."""
        function(_SET_TIME_SOURCE, 2)(self.env, source)


@cache
def check_reservation() -> None:
    """Make sure that the reservation of an LR is where it was measured to be.

    Raises:
        EngineError: it is not.
    """
    package = unicorn()
    uc = package.Uc(package.UC_ARCH_RISCV, package.UC_MODE_RISCV64)
    uc.ctl_set_tcg_buffer_size(1 << 20)
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, (0x1005_B52F).to_bytes(4, "little"))  # lr.d a0, (a1)
    uc.mem_write(0x1800, (0x5A5A_1234).to_bytes(8, "little"))
    abi = RiscvAbi(uc)
    uc.reg_write(package.riscv_const.UC_RISCV_REG_X11, 0x1800)
    before = abi.get(ENV_RESERVATION)
    uc.emu_start(0x1000, 0x1004)
    found = before, abi.get(ENV_RESERVATION), abi.get(ENV_RESERVATION + 8)
    if found != ((1 << 64) - 1, 0x1800, 0x5A5A_1234):
        raise EngineError(f"unicorn {VERSION}: an LR left {found} as its reservation; is this another build?")
