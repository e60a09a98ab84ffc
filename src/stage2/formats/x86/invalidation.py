"""TLB maintenance of x86, Intel's and AMD's, and what an edit owes.

Intel SDM Vol. 3C, 30.4 "Caching Translation Information"; AMD APM Vol. 2, 15.16 "TLB Control". None of it reaches
other CPUs: each that may hold entries must be asked to do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ...address import Range
from ...errors import EncodingError
from ..change import Change, ChangeKind
from ..invalidation import EVERYTHING, OF_GUEST_ADDRESSES, Context, Debt, Holds, Operation, owes
from ..record import Format
from .kinds import is_ept

MANUAL_EPT = 'Intel SDM Vol. 3C, 30.4.3 "Invalidating Cached Translation Information"'
MANUAL_NPT = 'AMD APM Vol. 2, 15.16 "TLB Control"'
MANUAL_STAGE_1 = 'Intel SDM Vol. 3A, 5.10.4 "Invalidation of TLBs and Paging-Structure Caches"'

HARMLESS_EPT = ChangeKind.ADDED, ChangeKind.RELAXED, ChangeKind.SPLIT
"""What is not present is not cached. An EPT violation drops the entries that caused it (SDM 30.4.3.1), so a relaxed
permission shows at the second try. A block that was split is cached with the meaning it still has."""
HARMLESS_NPT = ChangeKind.ADDED, ChangeKind.SPLIT
"""The APM does not promise that a nested page fault drops what caused it, so a relaxed permission is owed."""
HARMLESS_STAGE_1 = ChangeKind.ADDED, ChangeKind.RELAXED, ChangeKind.SPLIT
"""A page fault drops the entries that caused it (SDM 5.10.4.1)."""
_BY_EPT = Holds.STAGE_2 | Holds.COMBINED


@lru_cache
def invept_single_context(root: int) -> Operation:
    """INVEPT type 1: guest-physical and combined mappings of one EPT. There is no INVEPT by address."""
    return Operation("INVEPT single-context", _BY_EPT, MANUAL_EPT, root=root, tag=root)


def invept_all_contexts() -> Operation:
    """INVEPT type 2: guest-physical and combined mappings of every EPT."""
    return Operation("INVEPT all-contexts", _BY_EPT, MANUAL_EPT)


def invvpid_address(vpid: int, gva: Range, step: int = 1 << 12) -> Operation:
    """INVVPID type 0: linear and combined mappings of an address, of one VPID, whatever the PCID.

    Raises:
        EncodingError: VPID 0, with which INVVPID fails; so in the other two of one VPID.
    """
    _require_vpid(vpid)
    return Operation("INVVPID individual-address", OF_GUEST_ADDRESSES, MANUAL_EPT, vmid=vpid, gva=gva, step=step)


def invvpid_single_context(vpid: int) -> Operation:
    """INVVPID type 1: linear and combined mappings of one VPID."""
    _require_vpid(vpid)
    return Operation("INVVPID single-context", OF_GUEST_ADDRESSES, MANUAL_EPT, vmid=vpid)


def invvpid_all_contexts() -> Operation:
    """INVVPID type 2: linear and combined mappings of every VPID but 0, the host's."""
    return Operation("INVVPID all-contexts", OF_GUEST_ADDRESSES, MANUAL_EPT)


def invvpid_retaining_globals(vpid: int) -> Operation:
    """INVVPID type 3: as type 1, but global pages stay."""
    _require_vpid(vpid)
    return Operation(
        "INVVPID single-context-retaining-globals", OF_GUEST_ADDRESSES, MANUAL_EPT, vmid=vpid, keeps_global=True
    )


def _require_vpid(vpid: int) -> None:
    if vpid == 0:
        raise EncodingError("VPID 0 is the host's own: INVVPID fails with it (SDM Vol. 3C, chapter 32, INVVPID)")


def invlpga(asid: int, gva: Range, step: int = 1 << 12) -> Operation:
    """INVLPGA: entries of a guest virtual address with an ASID. It does not see guest physical addresses."""
    return Operation("INVLPGA", OF_GUEST_ADDRESSES, MANUAL_NPT, vmid=asid, gva=gva, step=step)


@lru_cache
def flush_asid(asid: int) -> Operation:
    """TLB_CONTROL 3 at the next VMRUN: everything of this guest's ASID."""
    return Operation("TLB_CONTROL 3", EVERYTHING, MANUAL_NPT, vmid=asid, tag=3)


def flush_asid_but_globals(asid: int) -> Operation:
    """TLB_CONTROL 7 at the next VMRUN: as 3, but global pages stay."""
    return Operation("TLB_CONTROL 7", EVERYTHING, MANUAL_NPT, vmid=asid, keeps_global=True, tag=7)


def flush_all_asids() -> Operation:
    """TLB_CONTROL 1 at the next VMRUN: everything of every ASID, the host's too."""
    return Operation("TLB_CONTROL 1", EVERYTHING, MANUAL_NPT, tag=1)


def invlpg(vmid: int | None, gva: Range, step: int = 1 << 12) -> Operation:
    """INVLPG: entries of an address, global ones too."""
    return Operation("INVLPG", OF_GUEST_ADDRESSES, MANUAL_STAGE_1, vmid=vmid, gva=gva, step=step)


def mov_cr3(vmid: int | None, pcid: int) -> Operation:
    """MOV to CR3 with bit 63 clear: everything of the PCID but global pages."""
    return Operation("MOV CR3", OF_GUEST_ADDRESSES, MANUAL_STAGE_1, vmid=vmid, asid=pcid, keeps_global=True)


@lru_cache
def invpcid_all(vmid: int | None) -> Operation:
    """INVPCID type 2: everything of every PCID, global pages too."""
    return Operation("INVPCID all-contexts", OF_GUEST_ADDRESSES, MANUAL_STAGE_1, vmid=vmid)


def retire(fmt: Format, context: Context) -> tuple[Operation, ...]:
    """Everything of an EPT and its VPID, of an ASID, or at stage 1 of all PCIDs, whose global pages are shared.

    A VM without a VPID (0) owes no INVVPID: without VPIDs every VM entry and exit drops linear and combined mappings
    (SDM Vol. 3C, 30.4.3.1).
    """
    if fmt.stage == 1:
        return (invpcid_all(context.vmid),)
    if is_ept(fmt):
        of_table = (invept_single_context(context.root),)
        return (*of_table, invvpid_single_context(context.identifier)) if context.identifier else of_table
    return (flush_asid(context.identifier),)


def roll_over(fmt: Format) -> tuple[Operation, ...]:
    """Everything of every VPID or ASID. Guest-physical mappings of EPT have no VPID; they go too, so that a CPU that
    has not run a VM since has nothing of it."""
    return (invept_all_contexts(), invvpid_all_contexts()) if is_ept(fmt) else (flush_all_asids(),)


def first_entry(fmt: Format, identifier: int) -> tuple[Operation, ...]:
    """Nothing: `roll_over` has dropped both stages."""
    return ()


def owed(fmt: Format, context: Context, changes: Sequence[Change], controls: int) -> tuple[Operation, ...]:
    """What changes owe (docs/invalidation.md)."""
    if is_ept(fmt):
        return (invept_single_context(context.root),) if owes(changes, HARMLESS_EPT) else ()
    if fmt.stage == 2:
        return (flush_asid(context.identifier),) if owes(changes, HARMLESS_NPT) else ()
    debt = Debt.of(changes, HARMLESS_STAGE_1)
    if debt.few(fmt.page_size):
        return tuple(invlpg(context.vmid, span) for span in debt.spans)
    # Not MOV CR3, which leaves global pages.
    return (invpcid_all(context.vmid),)
