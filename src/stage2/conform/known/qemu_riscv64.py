"""What QEMU's RISC-V does otherwise than the manual."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...address import Hpa, Range
from ...flags import Access
from ...formats.outcome import FaultKind
from ...formats.riscv import entry as riscv
from ...formats.riscv.syndromes import ACCESS_FAULTS, GUEST_PAGE_FAULTS, PAGE_FAULTS
from ...tables.explain import Walk
from ...tables.result import Fault
from ..deviation import Deviation, Difference, Versions
from ..probe import Answers, Probes

_RESERVED = 0x7F << 54
_PBMT = 3 << riscv.PBMT_SHIFT
_CAUSE = np.uint64(0x3F)
"""Of `code` in its answers: scause; htinst stands from bit 16 on."""


def _calls_it_a_load(_: Probes, expected: Answers, answers: Answers) -> npt.NDArray[np.bool_]:
    load = np.uint64(GUEST_PAGE_FAULTS[Access.READ])
    walk = expected["code"] >> np.uint64(16) != 0
    found: npt.NDArray[np.bool_] = walk & (answers["code"] == (expected["code"] & ~_CAUSE | load))
    for name in ("ok", "stage", "gva", "gpa"):
        found &= expected[name] == answers[name]
    return found


def _calls_it_a_page_fault(difference: Difference) -> bool:
    expected, answer, walk = difference.expected, difference.answer, difference.walk
    if not isinstance(walk.result, Fault) or walk.result.kind is not FaultKind.TABLE_OUTSIDE_MEMORY or not walk.steps:
        return False
    access = Access(int(difference.probe["access"]))
    causes = {PAGE_FAULTS[access], GUEST_PAGE_FAULTS[access], GUEST_PAGE_FAULTS[Access.READ]}
    said = int(answer["code"] & _CAUSE)
    # A hole points nowhere: that it does must be an error of ours.
    return bool(walk.steps[-1].entry & riscv.V) and said in causes and bool(answer["gva"] == expected["gva"])


def _not_dirty(ours: int, theirs: int, tables: Range) -> bool:
    """A leaf of the G-stage over a table of the guest: we have its dirty bit set, the machine has not."""
    target = (ours & riscv.PPN_FIELD) << 2
    return ours ^ theirs == riscv.D == ours & riscv.D and tables.start <= target < tables.end


def _marked(walk: Walk) -> tuple[Hpa, int] | None:
    """The leaf of stage 1 as if it had been marked before, when stage 2 refuses that it is."""
    leaves = [step for step in walk.steps if step.stage == 1]
    if not isinstance(walk.result, Fault) or not walk.result.on_mark or not leaves:
        return None
    dirty = riscv.D if walk.access is Access.WRITE else 0
    return leaves[-1].slot_hpa, leaves[-1].entry | riscv.A | dirty


def _reserved(entry: int) -> int | None:
    """The entry without what QEMU does not look at with Svnapot or Svpbmt, one thing after the other."""
    if entry & _RESERVED:
        return entry & ~_RESERVED
    leaf = entry & (riscv.R | riscv.W | riscv.X)
    return entry & ~_PBMT if leaf and entry & _PBMT == _PBMT else None


def _without_reserved(walk: Walk) -> tuple[Hpa, int] | None:
    if not isinstance(walk.result, Fault) or walk.result.kind is not FaultKind.MISCONFIGURATION or not walk.steps:
        return None
    other = _reserved(walk.steps[-1].entry)
    return None if other is None else (walk.steps[-1].slot_hpa, other)


def _leads_outside(difference: Difference) -> bool:
    """An entry whose reserved bits pass, and which leads where there is no memory."""
    cause = ACCESS_FAULTS[Access(int(difference.probe["access"]))]
    same = bool(difference.answer["gva"] == difference.expected["gva"])
    return same and int(difference.answer["code"] & _CAUSE) == cause and _without_reserved(difference.walk) is not None


_RISCV_WALK = 'RISC-V Privileged, "Hypervisor" Extension, "Two-Stage Address Translation"'

DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "riscv-walk-is-a-load",
        "qemu-riscv64",
        Versions("7.0", "8.0"),
        "A guest-page fault of the walk's own access to a table of the guest is reported as that of a load (21), also "
        "when the guest stores or fetches. Seen here; QEMU's riscv_cpu_tlb_fill replaces the access by a load.",
        'RISC-V Privileged, "Hypervisor" Extension, "Memory-Management Fault Causes": the original access counts',
        explains_all=_calls_it_a_load,
    ),
    Deviation(
        "riscv-table-outside-memory",
        "qemu-riscv64",
        Versions("7.2"),
        "A table outside memory raises a page fault instead of an access fault. Seen here.",
        'RISC-V Privileged, "Virtual Address Translation Process", step 2: an access-fault exception',
        explains=_calls_it_a_page_fault,
    ),
    Deviation(
        "riscv-marks-pass-by-stage-2",
        "qemu-riscv64",
        Versions("7.2"),
        "Accessed and dirty bits of stage 1 are written straight to the HPA: stage 2 is not asked for write permission "
        "(probes of which are not made), and its own dirty bit stays clear. Seen here.",
        _RISCV_WALK,
        reads_as=_marked,
        leaves=_not_dirty,
    ),
    Deviation(
        "riscv-reserved-bits-pass",
        "qemu-riscv64",
        Versions("7.2", "7.2"),
        "A hart with Svnapot or Svpbmt does not look at bits 60:54 of an entry, nor at memory type 3. Seen here, where "
        "a hart with neither refuses them.",
        'RISC-V Privileged, "Sv39: Addressing and Memory Protection" and the "Svpbmt" Extension: a page fault',
        explains=_leads_outside,
        reads_as=_without_reserved,
    ),
    Deviation(
        "riscv-marks-of-odd-groups",
        "qemu-riscv64",
        Versions("7.2", "7.2"),
        "A leaf with a reserved Svnapot encoding is refused only after its accessed and dirty bits are set. Seen here.",
        'RISC-V Privileged, the "Svnapot" Extension: a page fault, which leaves the entry alone',
        marks=riscv.A | riscv.D,
    ),
)
