"""The registers of a RISC-V hart: what a guest in S-mode and U-mode has of it. See `..registers`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ....errors import Stage2Error
from ....formats.riscv.registers import decode_satp
from ..abi import unicorn
from ..registers import Register
from . import abi

_OWN_CSRS = {"stvec": 64, "scounteren": 32, "sscratch": 64, "sepc": 64, "scause": 64, "stval": 64, "fcsr": 8}
"""CSRs behind which stands a register of their own, and their bits."""
_FLOATS_ON = 3 << 13
"""mstatus.FS: without it fcsr cannot be reached."""
_OF_SUPERVISOR = 1 << 1 | 1 << 5 | 1 << 8 | 3 << 13 | 1 << 18 | 1 << 19 | 1 << 63
"""SIE, SPIE, SPP, FS, SUM, MXR and SD: what a supervisor may change of mstatus (Privileged, "sstatus")."""
_INTERRUPTS = 1 << 1 | 1 << 5 | 1 << 9
"""The supervisor's software, timer and external interrupts."""


def _is_satp(value: int) -> bool:
    try:
        decode_satp(value)
    except Stage2Error:
        return False
    return True


def hart_registers(uc: Any, cpu: abi.RiscvAbi) -> list[Register]:
    """The registers of a hart.

    cycle and instret are not among them: they count the host's time.

    Args:
        uc: the library's instance.
        cpu: its private parts.
    """
    names = unicorn().riscv_const

    def private(name: str, offset: int, bits: int = 64) -> Register:
        return Register(name, partial(cpu.get, offset), partial(cpu.set, offset), bits)

    def public(name: str, upper: str) -> Register:
        number = getattr(names, f"UC_RISCV_REG_{upper}")
        return Register(name, partial(uc.reg_read, number), partial(uc.reg_write, number))

    @contextmanager
    def as_machine() -> Iterator[None]:
        """The library answers for a CSR with whatever was in its memory where the hart itself could not read it now."""
        status, privilege = cpu.get(abi.ENV_MSTATUS), cpu.get(abi.ENV_PRIV)
        cpu.set(abi.ENV_MSTATUS, status | _FLOATS_ON)
        cpu.set(abi.ENV_PRIV, abi.PRIV_MACHINE)
        try:
            yield
        finally:
            cpu.set(abi.ENV_MSTATUS, status)
            cpu.set(abi.ENV_PRIV, privilege)

    def csr(name: str, bits: int) -> Register:
        known = public(name, name.upper())

        def get() -> int:
            with as_machine():
                return known.get()

        def put(value: int) -> None:
            with as_machine():
                known.put(value)

        return Register(name, get, put, bits)

    fixed = cpu.get(abi.ENV_MSTATUS) & ~_OF_SUPERVISOR
    return [
        *(private(f"x{number}", abi.ENV_GPR + 8 * number) for number in range(1, 32)),
        *(public(f"f{number}", f"F{number}") for number in range(32)),
        private("pc", abi.ENV_PC),
        Register(
            "privilege",
            partial(cpu.get, abi.ENV_PRIV),
            partial(cpu.set, abi.ENV_PRIV),
            allows=lambda value: value in (abi.PRIV_USER, abi.PRIV_SUPERVISOR),
        ),
        private("reservation", abi.ENV_RESERVATION),
        private("reservation_value", abi.ENV_RESERVATION + 8),
        *(csr(name, bits) for name, bits in _OWN_CSRS.items()),
        Register("satp", partial(cpu.get, abi.ENV_SATP), partial(cpu.set, abi.ENV_SATP), allows=_is_satp),
        Register(
            "sie", partial(cpu.get, abi.ENV_MIE), partial(cpu.set, abi.ENV_MIE), allows=lambda v: not v & ~_INTERRUPTS
        ),
        Register("sip", partial(cpu.get, abi.ENV_MIP), cpu.set_pending, allows=lambda v: not v & ~_INTERRUPTS),
        Register(
            "mstatus",
            partial(cpu.get, abi.ENV_MSTATUS),
            partial(cpu.set, abi.ENV_MSTATUS),
            allows=lambda value: value & ~_OF_SUPERVISOR == fixed,
        ),
    ]
