"""What emulators are known to do otherwise than the manuals, each with its reason. Anything else is our bug."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..address import Hpa, Range
from ..flags import Access
from ..formats.outcome import FaultKind
from ..formats.riscv import entry as riscv
from ..formats.riscv.syndromes import ACCESS_FAULTS, GUEST_PAGE_FAULTS, PAGE_FAULTS
from ..formats.x86 import longmode
from ..machines.x86_svm import EXIT_NPF, EXIT_PF
from ..tables.explain import Walk
from ..tables.result import Fault
from .probe import Answers, Probes


@dataclass(frozen=True, slots=True)
class Difference:
    """One probe whose answer is not the expected one.

    Args:
        probe, expected, answer: one element each of their arrays.
        walk: our walk of it, on the tables as they were before the batch.
    """

    probe: Probes
    expected: Answers
    answer: Answers
    walk: Walk


@dataclass(frozen=True, slots=True)
class Deviation:
    """A known one.

    Args:
        name: a short name, for counting.
        oracle: which judge.
        versions: regular expression of the emulator's versions that have it.
        reason: what it does, and how that is known.
        manual: the section that says otherwise.
        explains: whether a difference is an instance of it.
        explains_all: the same of all probes at once, from (probes, expected, answers); of a deviation that is met often
            and leaves nothing behind in memory.
        leaves: whether it makes an entry be left like that: (ours, the machine's, where the tables are).
        reads_as: of a walk, an entry that the emulator takes for another: its HPA and the other word. The difference
            is explained if our walk with that word comes to the emulator's answer.
        marks: bits that it sets also in entries which only walks that are refused go through.
    """

    name: str
    oracle: str
    versions: str
    reason: str
    manual: str
    explains: Callable[[Difference], bool] = lambda _: False
    explains_all: Callable[[Probes, Answers, Answers], npt.NDArray[np.bool_]] | None = None
    leaves: Callable[[int, int, Range], bool] = lambda *_: False
    reads_as: Callable[[Walk], tuple[Hpa, int] | None] | None = None
    marks: int = 0


# --- QEMU's RISC-V ---------------------------------------------------------------------------------------------

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

_QEMU_RISCV64 = (
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

# --- QEMU's x86 ------------------------------------------------------------------------------------------------


def _reserved_without_present(_: Probes, expected: Answers, answers: Answers) -> npt.NDArray[np.bool_]:
    """Only P differs, of a fault that a reserved bit caused."""
    code = expected["code"]
    of_tables = np.isin(code >> np.uint64(48), (EXIT_PF, EXIT_NPF)) & (code & np.uint64(9) == 9)
    meant = expected.copy()
    meant["code"] = np.where(of_tables, code & ~np.uint64(1), code)
    return np.asarray(meant == answers)


def _global_pointer(walk: Walk) -> tuple[Hpa, int] | None:
    """A nested pointer that is misconfigured by nothing but its bit 8."""
    fault = walk.result
    if not isinstance(fault, Fault) or fault.stage != 2 or fault.kind is not FaultKind.MISCONFIGURATION:
        return None
    last = walk.steps[-1]
    last = last.under[-1] if last.stage == 1 else last
    return (last.slot_hpa, last.entry & ~longmode.G) if last.entry & longmode.G else None


_QEMU_X86_SVM = (
    Deviation(
        "x86-reserved-without-present",
        "qemu-x86-svm",
        r"7\..*",
        "The error code of a fault by a reserved bit has RSVD but not P, at both stages (`do_fault_rsvd` of QEMU's "
        "mmu_translate); no entry that is not present has reserved bits.",
        'Intel SDM Vol. 3A, 5.7 "Page-Fault Exceptions"; AMD APM Vol. 2, 8.4.2 "Page-Fault Error Code"',
        explains_all=_reserved_without_present,
    ),
    Deviation(
        "x86-nested-pointer-bit-8",
        "qemu-x86-svm",
        r"7\..*",
        "A nested entry that points to a table may have bit 8 set above the 2 MiB level: QEMU ignores it there, as "
        "Intel's processors do in their own tables.",
        'AMD APM Vol. 2, 5.3 "Long-Mode Page Translation", figures of the PML4E and the PDPE',
        reads_as=_global_pointer,
    ),
    Deviation(
        "x86-refused-walks-mark",
        "qemu-x86-svm",
        r"7\..*",
        "QEMU sets the accessed bits of tables while it walks, so also on the way to an entry that ends the walk in a "
        "fault; we set them after a walk that succeeds.",
        'Intel SDM Vol. 3A, 5.8 "Accessed and Dirty Flags"; AMD APM Vol. 2, 5.4.2 "Page-Translation-Table Fields"',
        marks=longmode.A,
    ),
)

DEVIATIONS: tuple[Deviation, ...] = (*_QEMU_RISCV64, *_QEMU_X86_SVM)


def known(oracle: str, version: str, difference: Difference) -> Deviation | None:
    """The deviation that explains a difference, None if there is none."""
    return next((found for found in of(oracle, version) if found.explains(difference)), None)


def known_at_once(
    oracle: str, version: str, probes: Probes, expected: Answers, answers: Answers
) -> list[tuple[Deviation, npt.NDArray[np.bool_]]]:
    """The deviations that explain many differences at a time, each with those that it explains."""
    return [
        (deviation, deviation.explains_all(probes, expected, answers))
        for deviation in of(oracle, version)
        if deviation.explains_all is not None
    ]


def known_to_leave(oracle: str, version: str, ours: int, theirs: int, tables: Range) -> Deviation | None:
    """The deviation that explains an entry left otherwise than our walk leaves it, None if there is none."""
    return next((found for found in of(oracle, version) if found.leaves(ours, theirs, tables)), None)


def of(oracle: str, version: str) -> list[Deviation]:
    """The deviations of a version of a judge."""
    return [found for found in DEVIATIONS if found.oracle == oracle and re.fullmatch(found.versions, version)]
