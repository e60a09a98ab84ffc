"""TLB maintenance of Arm (Arm ARM DDI 0487, D8.17 "TLB maintenance"), and what an edit owes.

All in their Inner Shareable form: hardware carries them to the other CPUs. A stage-2 operation by IPA leaves entries
that hold both stages in one, because those are not tagged with an IPA: VMALLE1IS must follow (D8.17.5 "TLB maintenance
instruction scope"). DSB ISH stands before the first, between the two, and after the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ...address import Range
from ..change import Change, ChangeKind
from ..invalidation import EVERYTHING, OF_GUEST_ADDRESSES, Context, Debt, Holds, Operation
from ..record import Format
from . import stage1

MANUAL = 'Arm ARM DDI 0487, D8.17 "TLB maintenance"'
HARMLESS = (ChangeKind.ADDED,)
"""An invalid descriptor is never cached (D8.17.1). A relaxed permission is owed: the old one may fault forever."""
_ADDRESS_SHIFT = 12
_ASID_SHIFT = 48


def ipas2e1is(vmid: int, gpa: Range, step: int, *, last_level: bool = False) -> Operation:
    """TLBI IPAS2E1IS or IPAS2LE1IS: stage-2 entries of an IPA, of the current VMID."""
    return _ipas2e1is(vmid, step, last_level).at_gpa(gpa)


@lru_cache
def _ipas2e1is(vmid: int, step: int, last_level: bool) -> Operation:
    return Operation(
        f"TLBI IPAS2{'L' if last_level else ''}E1IS", Holds.STAGE_2, MANUAL, vmid=vmid, step=step,
        shift=_ADDRESS_SHIFT, keeps_tables=Holds.STAGE_2 if last_level else Holds.NOTHING, broadcast=True,
    )  # fmt: skip


@lru_cache
def vmalle1is(vmid: int | None) -> Operation:
    """TLBI VMALLE1IS: everything of stage 1 or of both stages, of the current VMID."""
    return Operation("TLBI VMALLE1IS", OF_GUEST_ADDRESSES, MANUAL, vmid=vmid, broadcast=True)


@lru_cache
def vmalls12e1is(vmid: int) -> Operation:
    """TLBI VMALLS12E1IS: everything of the current VMID."""
    return Operation("TLBI VMALLS12E1IS", EVERYTHING, MANUAL, vmid=vmid, broadcast=True)


def alle1is() -> Operation:
    """TLBI ALLE1IS: everything of EL1&0, whatever the VMID."""
    return Operation("TLBI ALLE1IS", EVERYTHING, MANUAL, broadcast=True)


def vae1is(vmid: int | None, asid: int, gva: Range, step: int, *, last_level: bool = False) -> Operation:
    """TLBI VAE1IS or VALE1IS: entries of a VA with an ASID, and global ones, of the current VMID."""
    return Operation(
        f"TLBI VA{'L' if last_level else ''}E1IS", OF_GUEST_ADDRESSES, MANUAL, vmid=vmid, asid=asid, gva=gva, step=step,
        shift=_ADDRESS_SHIFT, tag=asid << _ASID_SHIFT, keeps_tables=OF_GUEST_ADDRESSES if last_level else Holds.NOTHING,
        broadcast=True,
    )  # fmt: skip


def vaae1is(vmid: int | None, gva: Range, step: int) -> Operation:
    """TLBI VAAE1IS: entries of a VA, whatever the ASID, of the current VMID."""
    return Operation(
        "TLBI VAAE1IS", OF_GUEST_ADDRESSES, MANUAL, vmid=vmid, gva=gva, step=step, shift=_ADDRESS_SHIFT, broadcast=True
    )


def aside1is(vmid: int | None, asid: int) -> Operation:
    """TLBI ASIDE1IS: entries of an ASID that are not global, of the current VMID."""
    return Operation(
        "TLBI ASIDE1IS", OF_GUEST_ADDRESSES, MANUAL, vmid=vmid, asid=asid, tag=asid << _ASID_SHIFT, keeps_global=True,
        broadcast=True,
    )  # fmt: skip


def vae2is(gva: Range, step: int) -> Operation:
    """TLBI VAE2IS: entries of a VA in the EL2 regime."""
    return Operation("TLBI VAE2IS", Holds.STAGE_1, MANUAL, gva=gva, step=step, shift=_ADDRESS_SHIFT, broadcast=True)


@lru_cache
def alle2is() -> Operation:
    """TLBI ALLE2IS: everything of the EL2 regime."""
    return Operation("TLBI ALLE2IS", Holds.STAGE_1, MANUAL, broadcast=True)


def retire(fmt: Format, context: Context) -> tuple[Operation, ...]:
    """Everything of a VMID, or at stage 1 of all ASIDs, whose global pages are one another's."""
    return (vmalls12e1is(context.identifier) if fmt.stage == 2 else vmalle1is(context.vmid),)


def roll_over(fmt: Format) -> tuple[Operation, ...]:
    """Everything of every VMID."""
    return (alle1is(),)


def first_entry(fmt: Format, identifier: int) -> tuple[Operation, ...]:
    """Nothing: ALLE1IS has dropped both stages."""
    return ()


def owed(fmt: Format, context: Context, changes: Sequence[Change], controls: int) -> tuple[Operation, ...]:
    """What changes owe (docs/invalidation.md)."""
    debt = Debt.of(changes, HARMLESS)
    if not debt.spans:
        return ()
    page = fmt.page_size
    few = debt.few(page)
    if fmt.stage == 2:
        if not few:
            return (vmalls12e1is(context.identifier),)
        by_address = tuple(ipas2e1is(context.identifier, span, page) for span in debt.spans)
        return (*by_address, vmalle1is(context.identifier))
    if controls & stage1.ONE_PRIVILEGE:
        return tuple(vae2is(span, page) for span in debt.spans) if few else (alle2is(),)
    if few:
        return tuple(vae1is(context.vmid, context.identifier, span, page) for span in debt.spans)
    # Not ASIDE1IS: pages of the privileged level are global as we write them, and it leaves those.
    return (vmalle1is(context.vmid),)
