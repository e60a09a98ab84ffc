"""What QEMU's RISC-V does otherwise than the manual."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...address import Range
from ...flags import Access
from ...formats.riscv import entry as riscv
from ...formats.riscv.syndromes import ACCESS_FAULTS, GUEST_PAGE_FAULTS, PAGE_FAULTS
from ..deviation import Deviation
from ..probe import Answers, Probes

_CAUSE = np.uint64(0x3F)
"""Of `code` in its answers: scause; htinst stands from bit 16 on."""


def _calls_it_a_load(_: Probes, expected: Answers, answers: Answers) -> npt.NDArray[np.bool_]:
    load = np.uint64(GUEST_PAGE_FAULTS[Access.READ])
    walk = expected["code"] >> np.uint64(16) != 0
    found: npt.NDArray[np.bool_] = walk & (answers["code"] == (expected["code"] & ~_CAUSE | load))
    for name in ("ok", "stage", "gva", "gpa"):
        found &= expected[name] == answers[name]
    return found


def _calls_it_a_page_fault(_: Probes, expected: Answers, answers: Answers) -> npt.NDArray[np.bool_]:
    cause, said = expected["code"] & _CAUSE, answers["code"] & _CAUSE
    found = np.zeros(len(expected), np.bool_)
    for access, number in ACCESS_FAULTS.items():
        others = [PAGE_FAULTS[access], GUEST_PAGE_FAULTS[access], GUEST_PAGE_FAULTS[Access.READ]]
        found |= (cause == number) & np.isin(said, others)
    same: npt.NDArray[np.bool_] = found & (answers["ok"] == 0) & (answers["gva"] == expected["gva"])
    return same


def _not_dirty(ours: int, theirs: int, tables: Range) -> bool:
    """A leaf of the G-stage over a table of the guest: we have its dirty bit set, the machine has not."""
    target = (ours & riscv.PPN_FIELD) << 2
    return ours ^ theirs == riscv.D == ours & riscv.D and tables.start <= target < tables.end


_RISCV_WALK = 'RISC-V Privileged, "Hypervisor" Extension, "Two-Stage Address Translation"'

DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "riscv-walk-is-a-load",
        "qemu-riscv64",
        r"7\..*|8\.0\..*",
        "A guest-page fault of the walk's own access to a table of the guest is reported as that of a load (21), also "
        "when the guest stores or fetches. Seen here; QEMU's riscv_cpu_tlb_fill replaces the access by a load.",
        'RISC-V Privileged, "Hypervisor" Extension, "Memory-Management Fault Causes": the original access counts',
        explains_all=_calls_it_a_load,
    ),
    Deviation(
        "riscv-table-outside-memory",
        "qemu-riscv64",
        r".*",
        "A table outside memory raises a page fault instead of an access fault. Seen here.",
        'RISC-V Privileged, "Virtual Address Translation Process", step 2: an access-fault exception',
        explains_all=_calls_it_a_page_fault,
    ),
    Deviation(
        "riscv-marks-pass-by-stage-2",
        "qemu-riscv64",
        r".*",
        "Accessed and dirty bits of stage 1 are written straight to the HPA: stage 2 is not asked for write permission "
        "(which is not judged), and its own dirty bit stays clear. Seen here.",
        _RISCV_WALK,
        leaves=_not_dirty,
    ),
)
