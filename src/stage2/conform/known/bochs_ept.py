"""What Bochs's VMX does otherwise than the manual."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..deviation import Deviation
from ..probe import Answers, Probes

_ANY = r"2\.7.*"
_VIOLATION = 48 << 56
_READ, _WRITE, _LINEAR, _FINAL = 1 << 0, 1 << 1, 1 << 7, 1 << 8


def _read_not_told(_: Probes, expected: Answers, answers: Answers) -> npt.NDArray[np.bool_]:
    """Only bit 0 differs, of a violation by an access to the guest's tables that counts as a write."""
    code = expected["code"]
    which = _VIOLATION | _READ | _WRITE | _LINEAR | _FINAL
    of_tables = code & np.uint64(which) == _VIOLATION | _READ | _WRITE | _LINEAR
    meant = expected.copy()
    meant["code"] = np.where(of_tables, code & ~np.uint64(_READ), code)
    return np.asarray(meant == answers)


DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "accesses to tables told as writes only",
        "bochs-ept",
        _ANY,
        "With EPT's accessed and dirty flags, a violation by an access to the guest's tables sets bit 1 of the exit "
        "qualification; hardware sets bit 0 as well (`translate_guest_physical` takes the access for a write only).",
        'Intel SDM Vol. 3C, 29.2.1 "Basic VM-Exit Information", table of the exit qualification for EPT violations, note 1',
        explains_all=_read_not_told,
    ),
)
