"""What Bochs's VMX does otherwise than the manual."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...address import Hpa
from ...flags import Access
from ...formats.outcome import EntryKind, FaultKind
from ...formats.x86 import ept, longmode
from ...tables.explain import Walk
from ...tables.result import Fault
from ..deviation import Deviation, Versions
from ..probe import Answers, Probes
from .misconfigured import misconfigured_at_stage_2

_ANY = Versions("2.7")
_BIT_12 = 1 << 12
_VIOLATION = 48 << 56
_READ, _WRITE, _USER_FETCH, _LINEAR, _FINAL = 1 << 0, 1 << 1, 1 << 6, 1 << 7, 1 << 8


def _read_not_told(_: Probes, expected: Answers, answers: Answers) -> npt.NDArray[np.bool_]:
    """Only bit 0 differs, of a violation by an access to the guest's tables that counts as a write."""
    code = expected["code"]
    which = _VIOLATION | _READ | _WRITE | _LINEAR | _FINAL
    of_tables = code & np.uint64(which) == _VIOLATION | _READ | _WRITE | _LINEAR
    meant = expected.copy()
    meant["code"] = np.where(of_tables, code & ~np.uint64(_READ), code)
    return np.asarray(meant == answers)


def _user_fetch_in_bit_13(probes: Probes, expected: Answers, answers: Answers) -> npt.NDArray[np.bool_]:
    """Bit 6 of a violation's qualification is told as bit 13."""
    code = expected["code"]
    told = (code & np.uint64(0xFF << 56) == _VIOLATION) & (code & np.uint64(_USER_FETCH) != 0)
    meant = expected.copy()
    meant["code"] = np.where(told, code & ~np.uint64(_USER_FETCH) | np.uint64(_USER_FETCH << 7), code)
    return np.asarray(told & ((meant == answers) | _read_not_told(probes, meant, answers)))


def _marked_in_spite(walk: Walk) -> tuple[Hpa, int] | None:
    """An entry of the guest's tables that EPT lets be read but not marked."""
    fault = walk.result
    if not isinstance(fault, Fault) or not fault.on_mark or fault.kind is not FaultKind.PERMISSION:
        return None
    step = next((step for step in walk.steps if step.stage == 1 and step.slot == fault.address), None)
    if step is None:
        return None
    dirty = step.kind is EntryKind.LEAF and walk.access is Access.WRITE
    return step.slot_hpa, step.entry | longmode.A | (longmode.D if dirty else 0)


def _bit_12_of_block(walk: Walk) -> tuple[Hpa, int] | None:
    """A block of EPT that is misconfigured by nothing but its bit 12."""
    last = misconfigured_at_stage_2(walk)
    if last is None:
        return None
    block = last.level in (1, 2) and last.entry & ept.PAGE_SIZE and last.entry & _BIT_12
    return (last.slot_hpa, last.entry & ~_BIT_12) if block else None


DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "user-mode fetches told in bit 13",
        "bochs-ept",
        Versions("3.0"),
        "Under mode-based execute control, bit 6 of the exit qualification tells whether EPT allows user-mode "
        "fetches. But for fetches, Bochs sets bit 13 instead: it shifts bit 10 of the entries left by 3 like bits 2:0 "
        "(`translate_guest_physical`).",
        'Intel SDM Vol. 3C, 29.2.1 "Basic VM-Exit Information", exit qualification for EPT violations, bits 6 and 13',
        explains_all=_user_fetch_in_bit_13,
    ),
    Deviation(
        "accesses to tables told as writes only",
        "bochs-ept",
        _ANY,
        "With EPT's accessed and dirty flags, a violation by an access to the guest's tables sets bit 1 of the exit "
        "qualification; hardware sets bit 0 as well (`translate_guest_physical` takes the access for a write only).",
        'Intel SDM Vol. 3C, 29.2.1 "Basic VM-Exit Information", exit qualification for EPT violations, note 1',
        explains_all=_read_not_told,
    ),
    Deviation(
        "marks in tables that EPT protects",
        "bochs-ept",
        _ANY,
        "Without EPT's accessed and dirty flags, the guest's tables may stand in pages that EPT lets be read only. "
        "Bochs sets accessed and dirty bits there all the same; hardware's write of them is an EPT violation "
        "(`update_access_dirty_PAE` writes to the HPA that the read was translated to).",
        'Intel SDM Vol. 3C, 30.3.3.2 "EPT Violations"',
        reads_as=_marked_in_spite,
    ),
    Deviation(
        "bit 12 of blocks",
        "bochs-ept",
        _ANY,
        "In an EPT entry of a 2 MiB or 1 GiB page, bit 12 is reserved. Bochs ignores it, as if it were the PAT that "
        "the guest's own blocks have there (the mask of address bits in `translate_guest_physical`).",
        'Intel SDM Vol. 3C, 30.3.2 "EPT Translation Mechanism", formats of entries that map 1-GByte and 2-MByte pages',
        reads_as=_bit_12_of_block,
    ),
)
