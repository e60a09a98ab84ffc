"""The registers of an AArch64 CPU: what a guest at EL1 and EL0 has of it. See `..registers`."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..abi import unicorn
from ..registers import Register
from . import abi

_LOW_MODES = (0b0000, 0b0100, 0b0101)
"""PSTATE.M of EL0t, EL1t and EL1h (DDI 0487, "SPSR_EL1")."""
_MODE, _SPSEL = 0x1F, 1
_SYSTEM: dict[str, abi.SystemRegister] = {
    "sctlr_el1": (3, 0, 1, 0, 0),
    "cpacr_el1": (3, 0, 1, 0, 2),
    "ttbr0_el1": (3, 0, 2, 0, 0),
    "ttbr1_el1": (3, 0, 2, 0, 1),
    "tcr_el1": (3, 0, 2, 0, 2),
    "spsr_el1": (3, 0, 4, 0, 0),
    "elr_el1": (3, 0, 4, 0, 1),
    "esr_el1": (3, 0, 5, 2, 0),
    "far_el1": (3, 0, 6, 0, 0),
    "par_el1": abi.PAR_EL1,
    "mair_el1": (3, 0, 10, 2, 0),
    "vbar_el1": (3, 0, 12, 0, 0),
    "contextidr_el1": (3, 0, 13, 0, 1),
    "tpidr_el1": (3, 0, 13, 0, 4),
    "cntkctl_el1": (3, 0, 14, 1, 0),
    "csselr_el1": (3, 2, 0, 0, 0),
    "mdscr_el1": (2, 0, 0, 2, 2),
    "pmuserenr_el0": (3, 3, 9, 14, 0),
    "tpidr_el0": (3, 3, 13, 0, 2),
    "tpidrro_el0": (3, 3, 13, 0, 3),
    "cntp_cval_el0": (3, 3, 14, 2, 2),
    "cntp_ctl_el0": (3, 3, 14, 2, 1),
    **{f"dbgbvr{number}_el1": (2, 0, 0, number, 4) for number in range(6)},
    **{f"dbgbcr{number}_el1": (2, 0, 0, number, 5) for number in range(6)},
    **{f"dbgwvr{number}_el1": (2, 0, 0, number, 6) for number in range(4)},
    **{f"dbgwcr{number}_el1": (2, 0, 0, number, 7) for number in range(4)},
}
"""(DDI 0487, "System instruction and register encodings".)"""
_OSLAR_EL1: abi.SystemRegister = (2, 0, 1, 0, 4)
_OSLSR_EL1: abi.SystemRegister = (2, 0, 1, 1, 4)
_OS_LOCK = 1


def cpu_registers(uc: Any, cpu: abi.ArmAbi) -> list[Register]:
    """The registers of a CPU.

    The counters are not among them, nor is the performance monitor: they count the machine's or the host's time.

    Args:
        uc: the library's instance.
        cpu: its private parts.
    """
    names = unicorn().arm64_const

    def private(name: str, offset: int) -> Register:
        return Register(name, partial(cpu.get, offset), partial(cpu.set, offset))

    def public(name: str, bits: int = 64) -> Register:
        number = getattr(names, f"UC_ARM64_REG_{name.upper()}")
        return Register(name, partial(uc.reg_read, number), partial(uc.reg_write, number), bits)

    def in_use(number: int) -> bool:
        """Whether the present SP is SP_ELn: then the library keeps it elsewhere."""
        return cpu.get(abi.ENV_PSTATE) & _SPSEL == number

    def stack(number: int) -> Register:
        banked = getattr(names, f"UC_ARM64_REG_SP_EL{number}")
        present = abi.ENV_X + 8 * 31

        def get() -> int:
            value: int = cpu.get(present) if in_use(number) else uc.reg_read(banked)
            return value

        def put(value: int) -> None:
            uc.reg_write(banked, value)
            if in_use(number):
                cpu.set(present, value)

        return Register(f"sp_el{number}", get, put)

    pstate = public("pstate", 32)
    return [
        Register("pstate", pstate.get, pstate.put, 32, lambda value: value & _MODE in _LOW_MODES),
        *(private(f"x{number}", abi.ENV_X + 8 * number) for number in range(31)),
        stack(0),
        stack(1),
        private("pc", abi.ENV_PC),
        *(public(f"q{number}", 128) for number in range(32)),
        public("fpcr", 32),
        public("fpsr", 32),
        *(
            Register(name, partial(cpu.system, encoding), partial(cpu.set_system, encoding))
            for name, encoding in _SYSTEM.items()
        ),
        Register(
            "os_lock",
            lambda: cpu.system(_OSLSR_EL1) >> 1 & _OS_LOCK,
            partial(cpu.set_system, _OSLAR_EL1),
            1,
        ),
        # Without the functions that stand behind these registers: reading one adds what the clock says to it.
        private("cntv_cval_el0", abi.ENV_CNTV_CVAL),
        private("cntv_ctl_el0", abi.ENV_CNTV_CTL),
        private("exclusive", abi.ENV_EXCLUSIVE),
        private("exclusive_value", abi.ENV_EXCLUSIVE + 8),
        private("exclusive_high", abi.ENV_EXCLUSIVE + 16),
    ]
