"""What is asked of a machine and what it answers: arrays of probes and of answers.

A probe is one access to one address. An answer is what the hardware showed of it: where the access went, or the fault
as the architecture's own registers report it. The oracle also says what our walker expects in the same
shape, with whatever the hardware does not show, or leaves undefined, cleared on both sides; so answers are compared
field by field and a difference is a difference.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Probes = npt.NDArray[Any]
Answers = npt.NDArray[Any]


class Means(IntEnum):
    """How a probe is carried out."""

    ACCESS = 0
    """A real access by the guest: the truth."""
    TRANSLATE = 1
    """The architecture's instruction that translates or accesses for a guest (AT S12E1*, HLV, HSV), for bulk."""


PROBE = np.dtype(
    [
        ("address", np.uint64),  # GVA; where stage 1 is off, the GPA
        ("value", np.uint64),  # what a write stores
        ("access", np.uint8),  # `flags.Access`
        ("user", np.uint8),  # 1 for an unprivileged access
        ("means", np.uint8),  # `Means`
    ]
)

ANSWER = np.dtype(
    [
        ("ok", np.uint8),  # 1: the access was made
        ("stage", np.uint8),  # of a fault: 1 or 2
        ("hpa", np.uint64),  # of a translation: where it leads
        ("value", np.uint64),  # of a read: what it found; of a fetch: which instruction ran
        ("code", np.uint64),  # of a fault: the syndrome, reduced to what the architecture defines for it
        ("gva", np.uint64),  # of a fault: the address it reports
        ("gpa", np.uint64),  # of a stage-2 fault: the guest-physical address it reports
        ("attributes", np.uint64),  # of a translation: memory attributes, where the hardware shows them
    ]
)
