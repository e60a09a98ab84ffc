"""TLB maintenance of RISC-V (Privileged, "Hypervisor Memory-Management Fence Instructions" and "Supervisor
Memory-Management Fence Instruction"), and what an edit owes.

A fence with an address orders leaf entries only: a changed pointer needs one without. None of it reaches other harts:
each that may hold entries must be asked to do the same. HFENCE.GVMA also covers entries that hold both stages in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ...address import Range
from ..change import Change, ChangeKind
from ..invalidation import OF_GUEST_ADDRESSES, Context, Debt, Holds, Operation
from ..record import Format

MANUAL_HFENCE = 'RISC-V Privileged, "Hypervisor Memory-Management Fence Instructions"'
MANUAL_SFENCE = 'RISC-V Privileged, "Supervisor Memory-Management Fence Instruction"'
HARMLESS = ChangeKind.ADDED, ChangeKind.SPLIT, ChangeKind.GROUPED
"""An invalid entry that is cached can only fault once more; whoever handles the fault finds the page there, fences
and goes on (Svvptc bounds it). A split block or a group is cached with the meaning it still has, and a later fence of
any address in it drops all of it."""
_BY_HFENCE = Holds.STAGE_2 | Holds.COMBINED
_GPA_SHIFT = 2


def hfence_gvma(vmid: int, gpa: Range, step: int = 1 << 12) -> Operation:
    """HFENCE.GVMA with a GPA (shifted right by 2) and a VMID: leaves of the G-stage."""
    return _hfence_gvma(vmid, step).at_gpa(gpa)


@lru_cache
def _hfence_gvma(vmid: int, step: int) -> Operation:
    return Operation(
        "HFENCE.GVMA gpa, vmid", _BY_HFENCE, MANUAL_HFENCE, vmid=vmid, step=step, shift=_GPA_SHIFT,
        keeps_tables=Holds.STAGE_2,
    )  # fmt: skip


@lru_cache
def hfence_gvma_all(vmid: int) -> Operation:
    """HFENCE.GVMA with a VMID only: all of its G-stage."""
    return Operation("HFENCE.GVMA x0, vmid", _BY_HFENCE, MANUAL_HFENCE, vmid=vmid)


def hfence_gvma_every() -> Operation:
    """HFENCE.GVMA without arguments: the G-stage of every VMID."""
    return Operation("HFENCE.GVMA x0, x0", _BY_HFENCE, MANUAL_HFENCE)


def hfence_vvma(vmid: int, asid: int, gva: Range, step: int = 1 << 12) -> Operation:
    """HFENCE.VVMA with a GVA and an ASID: leaves of the VS-stage that are not global, of the VMID in hgatp."""
    return Operation(
        "HFENCE.VVMA gva, asid", OF_GUEST_ADDRESSES, MANUAL_HFENCE, vmid=vmid, asid=asid, gva=gva, step=step,
        keeps_global=True, keeps_tables=OF_GUEST_ADDRESSES,
    )  # fmt: skip


def hfence_vvma_all(vmid: int) -> Operation:
    """HFENCE.VVMA without arguments: all of the VS-stage, of the VMID in hgatp."""
    return Operation("HFENCE.VVMA x0, x0", OF_GUEST_ADDRESSES, MANUAL_HFENCE, vmid=vmid)


def sfence_vma(vmid: int | None, asid: int | None, gva: Range, step: int = 1 << 12) -> Operation:
    """SFENCE.VMA with an address: its leaves. With an ASID global ones stay. In a guest, of its own VMID."""
    return Operation(
        f"SFENCE.VMA va, {'x0' if asid is None else 'asid'}", OF_GUEST_ADDRESSES, MANUAL_SFENCE, vmid=vmid, asid=asid,
        gva=gva, step=step, keeps_global=asid is not None, keeps_tables=OF_GUEST_ADDRESSES,
    )  # fmt: skip


@lru_cache
def sfence_vma_all(vmid: int | None, asid: int | None = None) -> Operation:
    """SFENCE.VMA without an address: everything, or with an ASID everything of it that is not global."""
    return Operation(
        f"SFENCE.VMA x0, {'x0' if asid is None else 'asid'}", OF_GUEST_ADDRESSES, MANUAL_SFENCE, vmid=vmid, asid=asid,
        keeps_global=asid is not None,
    )  # fmt: skip


def retire(fmt: Format, context: Context) -> tuple[Operation, ...]:
    """Everything of a VMID, of both stages, or at stage 1 of all ASIDs, whose global pages are shared."""
    if fmt.stage == 1:
        return (sfence_vma_all(context.vmid),)
    return hfence_gvma_all(context.identifier), hfence_vvma_all(context.identifier)


def roll_over(fmt: Format) -> tuple[Operation, ...]:
    """The G-stage of every VMID. No fence reaches the VS-stage of every VMID: `first_entry` does it one by one."""
    return (hfence_gvma_every(),)


def first_entry(fmt: Format, identifier: int) -> tuple[Operation, ...]:
    """The VS-stage of the VMID: HFENCE.GVMA need not drop what leads from GVAs to GPAs."""
    return (hfence_vvma_all(identifier),)


def owed(fmt: Format, context: Context, changes: Sequence[Change], controls: int) -> tuple[Operation, ...]:
    """What changes owe (docs/invalidation.md)."""
    debt = Debt.of(changes, HARMLESS)
    if not debt.spans:
        return ()
    by_address = debt.few(fmt.page_size) and not debt.tables
    if fmt.stage == 2:
        if by_address:
            return tuple(hfence_gvma(context.identifier, span) for span in debt.spans)
        return (hfence_gvma_all(context.identifier),)
    if by_address:
        return tuple(sfence_vma(context.vmid, None, span) for span in debt.spans)
    # Without an ASID: with one, global pages would stay.
    return (sfence_vma_all(context.vmid),)
