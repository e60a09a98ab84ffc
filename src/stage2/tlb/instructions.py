"""Invalidations by their architecture's names: read back from a file, and the barriers that stand around them.

What an operation drops is never read: it is asked of the family that the name belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..address import Range
from ..errors import EncodingError
from ..formats.arm import invalidation as arm
from ..formats.invalidation import Operation
from ..formats.record import Format
from ..formats.riscv import invalidation as riscv
from ..formats.x86 import invalidation as x86

T = TypeVar("T")
DSB = "DSB ISH"
"""Arm's barrier: an invalidation is ordered with stores, and with the next one, by nothing else (DDI 0487 D8.17)."""


@dataclass(frozen=True, slots=True)
class Operands:
    """What a file says beside an operation's name; None where it says nothing.

    Args:
        vmid, root, asid, gva, gpa: as in `Operation`.
        step: bytes between the addresses of an operation by address.
    """

    vmid: int | None = None
    root: int | None = None
    asid: int | None = None
    gva: Range | None = None
    gpa: Range | None = None
    step: int = 0

    @classmethod
    def of(cls, operation: Operation) -> Operands:
        """Those of an operation."""
        step = 0 if operation.span is None else operation.step
        return cls(operation.vmid, operation.root, operation.asid, operation.gva, operation.gpa, step)

    @property
    def number(self) -> int:
        """The VMID, VPID or AMD ASID, of an operation that cannot do without."""
        return _given(self.vmid, "VMID")

    @property
    def ipa(self) -> Range:
        return _given(self.gpa, "GPA")

    @property
    def va(self) -> Range:
        return _given(self.gva, "GVA")


def _given(value: T | None, what: str) -> T:
    if value is None:
        raise EncodingError(f"it needs a {what}")
    return value


_BUILDERS: dict[str, Callable[[Operands], Operation]] = {
    "TLBI IPAS2E1IS": lambda o: arm.ipas2e1is(o.number, o.ipa, o.step),
    "TLBI IPAS2LE1IS": lambda o: arm.ipas2e1is(o.number, o.ipa, o.step, last_level=True),
    "TLBI VMALLE1IS": lambda o: arm.vmalle1is(o.vmid),
    "TLBI VMALLS12E1IS": lambda o: arm.vmalls12e1is(o.number),
    "TLBI ALLE1IS": lambda o: arm.alle1is(),
    "TLBI VAE1IS": lambda o: arm.vae1is(o.vmid, _given(o.asid, "ASID"), o.va, o.step),
    "TLBI VALE1IS": lambda o: arm.vae1is(o.vmid, _given(o.asid, "ASID"), o.va, o.step, last_level=True),
    "TLBI VAAE1IS": lambda o: arm.vaae1is(o.vmid, o.va, o.step),
    "TLBI ASIDE1IS": lambda o: arm.aside1is(o.vmid, _given(o.asid, "ASID")),
    "TLBI VAE2IS": lambda o: arm.vae2is(o.va, o.step),
    "TLBI ALLE2IS": lambda o: arm.alle2is(),
    "HFENCE.GVMA gpa, vmid": lambda o: riscv.hfence_gvma(o.number, o.ipa, o.step),
    "HFENCE.GVMA x0, vmid": lambda o: riscv.hfence_gvma_all(o.number),
    "HFENCE.GVMA x0, x0": lambda o: riscv.hfence_gvma_every(),
    "HFENCE.VVMA gva, asid": lambda o: riscv.hfence_vvma(o.number, _given(o.asid, "ASID"), o.va, o.step),
    "HFENCE.VVMA x0, x0": lambda o: riscv.hfence_vvma_all(o.number),
    "SFENCE.VMA va, x0": lambda o: riscv.sfence_vma(o.vmid, None, o.va, o.step),
    "SFENCE.VMA va, asid": lambda o: riscv.sfence_vma(o.vmid, _given(o.asid, "ASID"), o.va, o.step),
    "SFENCE.VMA x0, x0": lambda o: riscv.sfence_vma_all(o.vmid),
    "SFENCE.VMA x0, asid": lambda o: riscv.sfence_vma_all(o.vmid, _given(o.asid, "ASID")),
    "INVEPT single-context": lambda o: x86.invept_single_context(_given(o.root, "root")),
    "INVEPT all-contexts": lambda o: x86.invept_all_contexts(),
    "INVVPID individual-address": lambda o: x86.invvpid_address(o.number, o.va, o.step),
    "INVVPID single-context": lambda o: x86.invvpid_single_context(o.number),
    "INVVPID all-contexts": lambda o: x86.invvpid_all_contexts(),
    "INVVPID single-context-retaining-globals": lambda o: x86.invvpid_retaining_globals(o.number),
    "INVLPGA": lambda o: x86.invlpga(o.number, o.va, o.step),
    "TLB_CONTROL 1": lambda o: x86.flush_all_asids(),
    "TLB_CONTROL 3": lambda o: x86.flush_asid(o.number),
    "TLB_CONTROL 7": lambda o: x86.flush_asid_but_globals(o.number),
    "INVLPG": lambda o: x86.invlpg(o.vmid, o.va, o.step),
    "MOV CR3": lambda o: x86.mov_cr3(o.vmid, _given(o.asid, "PCID")),
    "INVPCID all-contexts": lambda o: x86.invpcid_all(o.vmid),
}


def operation_named(name: str, operands: Operands) -> Operation:
    """The operation that an architecture calls so.

    Args:
        name: as `Operation.name`.
        operands: exactly those that it takes.

    Raises:
        EncodingError: there is none of that name, or it takes other operands.
    """
    build = _BUILDERS.get(name)
    if build is None:
        raise EncodingError(f"there is no invalidation {name!r}")
    try:
        made = build(operands)
    except EncodingError as error:
        raise EncodingError(f"{name}: {error}") from None
    if Operands.of(made) != operands:
        raise EncodingError(f"{name} has other operands: it takes no more than {made}")
    return made


def barrier_of(fmt: Format) -> str | None:
    """The barrier that software needs around invalidations; None where they order stores themselves.

    HFENCE and SFENCE do (RISC-V Privileged, "Supervisor Memory-Management Fence Instruction"), INVEPT and its like are
    serializing (Intel SDM Vol. 3A, 10.3), TLB_CONTROL is part of VMRUN.
    """
    return DSB if fmt.break_before_make else None


def with_barriers(fmt: Format, operations: Sequence[Operation]) -> Iterator[Operation | str]:
    """Operations and the barriers that they owe: before the first, between two kinds, and after the last."""
    barrier = barrier_of(fmt)
    before: str | None = None
    for operation in operations:
        if barrier is not None and operation.name != before:
            yield barrier
        yield operation
        before = operation.name
    if barrier is not None and before is not None:
        yield barrier
