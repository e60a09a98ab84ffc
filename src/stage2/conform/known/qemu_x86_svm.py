"""What QEMU's SVM does otherwise than the manual."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...address import Hpa
from ...formats.x86 import longmode
from ...machines.x86_svm import EXIT_NPF, EXIT_PF
from ...tables.explain import Walk
from ..deviation import Deviation, Versions
from ..probe import Answers, Probes
from .misconfigured import misconfigured

_PML4 = 3
"""Level of the PML4 table; that of the PML5 table is above it."""


def _reserved_without_present(_: Probes, expected: Answers, answers: Answers) -> npt.NDArray[np.bool_]:
    """Only P differs, of a fault that a reserved bit caused."""
    code = expected["code"]
    of_tables = np.isin(code >> np.uint64(48), (EXIT_PF, EXIT_NPF)) & (code & np.uint64(9) == 9)
    meant = expected.copy()
    meant["code"] = np.where(of_tables, code & ~np.uint64(1), code)
    return np.asarray(meant == answers)


def _global_pointer(walk: Walk) -> tuple[Hpa, int] | None:
    """A PML4E or PML5E that is misconfigured by nothing but its bit 8."""
    last = misconfigured(walk)
    if last is None or last.level < _PML4:
        return None
    return (last.slot_hpa, last.entry & ~longmode.G) if last.entry & longmode.G else None


DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "reserved bits without P",
        "qemu-x86-svm",
        Versions("7.2"),
        "The error code of a fault by a reserved bit has RSVD but not P, at both stages (`do_fault_rsvd` of QEMU's "
        "mmu_translate); no entry that is not present has reserved bits.",
        'Intel SDM Vol. 3A, 5.7 "Page-Fault Exceptions"; AMD APM Vol. 2, 8.4.2 "Page-Fault Error Code"',
        explains_all=_reserved_without_present,
    ),
    Deviation(
        "bit 8 of PML4 and PML5 entries",
        "qemu-x86-svm",
        Versions("7.2"),
        "Bit 8 of a PML4E and a PML5E is reserved on AMD's processors, in the guest's tables and in nested ones. QEMU "
        "ignores it, as Intel's processors do.",
        'AMD APM Vol. 2, 5.3 "Long-Mode Page Translation", figures of the PML5E and the PML4E',
        reads_as=_global_pointer,
    ),
    Deviation(
        "accessed bits of refused walks",
        "qemu-x86-svm",
        Versions("7.2"),
        "QEMU sets the accessed bits of tables while it walks, so also on the way to an entry that ends the walk in a "
        "fault; we set them after a walk that succeeds.",
        'Intel SDM Vol. 3A, 5.8 "Accessed and Dirty Flags"; AMD APM Vol. 2, 5.4.2 "Page-Translation-Table Fields"',
        marks=longmode.A,
    ),
)
