"""Which registers of a live machine matter for translation, and what its gdb stub calls them."""

from __future__ import annotations

from ...errors import SourceError
from ..source import Cpu
from .gdbstub import GdbStub

ARCHITECTURES = {
    "aarch64": "aarch64", "arm": "arm", "riscv:rv64": "riscv64", "riscv:rv32": "riscv32", "i386:x86-64": "x86_64",
    "i386": "i386",
}  # fmt: skip
"""gdb's name of an architecture -> ours."""
_ARM = (
    *(f"{name}_EL1" for name in ("SCTLR", "TCR", "TTBR0", "TTBR1", "MAIR", "VBAR", "TCR2", "PIR", "PIRE0")),
    *(f"{name}_EL2" for name in ("SCTLR", "TCR", "TTBR0", "TTBR1", "MAIR", "VBAR", "HCR", "VTCR", "VTTBR")),
    "VSTCR_EL2",
    "VSTTBR_EL2",
    "ID_AA64MMFR0_EL1",
)
_RISCV = ("satp", "vsatp", "hgatp", "sstatus", "vsstatus", "mstatus", "hstatus", "henvcfg", "menvcfg", "priv", "virt")
_NAMES = {
    **{name.lower(): name for name in ("CR0", "CR2", "CR3", "CR4", "CR8", "EFER")},
    "k_gs_base": "KERNEL_GS_BASE", "gs_base": "GS_BASE", "eflags": "RFLAGS", "rip": "pc", "pc": "pc", "cpsr": "cpsr",
    # QEMU calls some registers of EL1 as AArch32 does, where both are the same register.
    **{name: f"{name}_EL1" for name in ("SCTLR", "VBAR", "TCR", "MAIR")},
    **{name: name for name in (*_ARM, *_RISCV)},
}  # fmt: skip
"""A stub's name -> the manual's, the better one of two last."""


def cpus_of(stub: GdbStub) -> tuple[Cpu, ...]:
    """The registers of every CPU, in their order.

    Raises:
        SourceError: the stub does not tell them.
    """
    found = []
    for number, cpu in enumerate(stub.cpus()):
        stub.select(cpu)
        values = {_NAMES[name]: value for name, value in stub.registers(_NAMES).items()}
        found.append(Cpu(number, values))
    if not any(cpu.values for cpu in found):
        raise SourceError(f"{stub.name}: the gdb stub tells no register that we know")
    stub.select(stub.cpus()[0])
    return tuple(found)
