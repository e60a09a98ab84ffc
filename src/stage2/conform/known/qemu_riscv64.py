"""What QEMU's RISC-V does otherwise than the manual."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ...address import Hpa, Range
from ...flags import Access
from ...formats.outcome import LEAF, FaultKind
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


def _calls_it_a_fetch(probes: Probes, expected: Answers, answers: Answers) -> npt.NDArray[np.bool_]:
    loads = {PAGE_FAULTS[Access.READ], GUEST_PAGE_FAULTS[Access.READ], ACCESS_FAULTS[Access.READ]}
    fetches = np.uint64(PAGE_FAULTS[Access.FETCH]), np.uint64(ACCESS_FAULTS[Access.FETCH])
    cause = answers["code"] & _CAUSE
    found: npt.NDArray[np.bool_] = (probes["access"] == Access.READ) & np.isin(expected["code"] & _CAUSE, list(loads))
    found &= np.isin(cause, fetches) & (answers["code"] == (expected["code"] & ~_CAUSE | cause))
    for name in ("ok", "gva", "gpa"):
        found &= expected[name] == answers[name]
    return found


def _forbids_user_pages(difference: Difference) -> bool:
    probe, answer = difference.probe, difference.answer
    fetch = int(answer["code"] & _CAUSE) == PAGE_FAULTS[Access.FETCH] and not answer["gpa"]
    if not fetch or int(probe["access"]) != Access.READ or probe["user"] or answer["gva"] != probe["address"]:
        return False
    leaves = [step for step in difference.walk.steps if step.stage == 1 and step.kind == LEAF]
    return bool(leaves) and bool(leaves[-1].entry & riscv.U)


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


def _readable(walk: Walk) -> tuple[Hpa, int] | None:
    """The execute-only leaf of the G-stage over a table of the guest that was to be read, as a readable one."""
    fault = walk.result
    if not isinstance(fault, Fault) or fault.kind is not FaultKind.PERMISSION or not fault.on_table or fault.on_mark:
        return None
    last = walk.steps[-1]
    if last.entry & (riscv.R | riscv.X) != riscv.X:
        return None
    return last.slot_hpa, last.entry | riscv.R


def _leads_outside(reads_as: Callable[[Walk], tuple[Hpa, int] | None]) -> Callable[[Difference], bool]:
    """An entry that is taken for another, and which leads where there is no memory."""

    def explains(difference: Difference) -> bool:
        cause = ACCESS_FAULTS[Access(int(difference.probe["access"]))]
        same = bool(difference.answer["gva"] == difference.expected["gva"])
        return same and int(difference.answer["code"] & _CAUSE) == cause and reads_as(difference.walk) is not None

    return explains


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
        "riscv-hlvx-faults-as-a-fetch",
        "qemu-riscv64",
        Versions("8.0"),
        "A fault of HLVX is reported as that of a fetch, and one of stage 2 as an instruction page fault (12). Seen "
        "here.",
        'RISC-V Privileged, "Hypervisor Virtual-Machine Load and Store Instructions": they raise the same exceptions '
        "as other load instructions",
        explains_all=_calls_it_a_fetch,
    ),
    Deviation(
        "riscv-hlvx-without-sum",
        "qemu-riscv64",
        Versions("8.0"),
        "HLVX as VS-mode faults on user pages although vsstatus.SUM is set, as a fetch would. Seen here.",
        'RISC-V Privileged, "Hypervisor Virtual-Machine Load and Store Instructions": HLVX.WU is HLV.WU but for '
        "execute permission in the place of read permission, and SUM is of loads and stores",
        explains=_forbids_user_pages,
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
        "riscv-mxr-reads-tables",
        "qemu-riscv64",
        Versions("7.2"),
        "sstatus.MXR lets hardware read tables of the guest through execute-only leaves of the G-stage (stores and "
        "fetches that may be made by it are not asked for). Seen here.",
        'RISC-V Privileged, "Hypervisor" Extension, "Two-Stage Address Translation": MXR is of explicit loads, and '
        '"Guest Physical Address Translation": tables are read as though for an implicit load',
        explains=_leads_outside(_readable),
        reads_as=_readable,
    ),
    Deviation(
        "riscv-reserved-bits-pass",
        "qemu-riscv64",
        Versions("7.2", "7.2"),
        "A hart with Svnapot or Svpbmt does not look at bits 60:54 of an entry, nor at memory type 3. Seen here, where "
        "a hart with neither refuses them.",
        'RISC-V Privileged, "Sv39: Addressing and Memory Protection" and the "Svpbmt" Extension: a page fault',
        explains=_leads_outside(_without_reserved),
        reads_as=_without_reserved,
    ),
    Deviation(
        "riscv-marks-of-odd-groups",
        "qemu-riscv64",
        Versions("7.2"),
        "A leaf with a reserved Svnapot encoding is refused only after its accessed and dirty bits are set. Seen here.",
        'RISC-V Privileged, the "Svnapot" Extension: a page fault, which leaves the entry alone',
        marks=riscv.A | riscv.D,
    ),
)
