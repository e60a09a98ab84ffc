"""What the x86 oracles share: a guest in long mode, the code that it finds, how its accesses and faults are told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

from ...address import Range
from ...flags import Access, MappingFlags
from ...formats.outcome import FaultKind
from ...formats.x86 import longmode
from ...formats.x86.paging import registers_for
from ...formats.x86.syndromes import encode_page_fault_error
from ...machines.mailbox import UNPRIVILEGED
from ...tables.regime import Regime
from ..oracle import Fixture, Predictions
from ..probe import ANSWER, Answers, Probes

U64Array = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
_MAXPHYADDR = 0x3F
_TAG_MARK = 0x5A5A << 16


def code_fixtures(kernel: int, user: int, gpa: int, code: Range) -> tuple[Fixture, ...]:
    """The guest's code, at one GVA for each privilege, behind one GPA.

    Args:
        kernel, user: GVAs.
        gpa: where both lead.
        code: HPAs of the code.
    """
    readable = MappingFlags.READ | MappingFlags.EXECUTE
    return (
        Fixture(1, kernel, gpa, code.size, readable),
        Fixture(1, user, gpa, code.size, readable | MappingFlags.USER),
        Fixture(2, gpa, code.start, code.size, readable),
    )


def with_physical_bits(controls: int, shift: int, bits: int) -> int:
    """A format's controls with this MAXPHYADDR, which stands in them at `shift`."""
    return controls & ~(_MAXPHYADDR << shift) | bits << shift


def tag(index: int, end: bytes) -> int:
    """`mov eax, index and a mark`, and the three bytes `end`."""
    return int.from_bytes(b"\xb8" + (index | _TAG_MARK).to_bytes(4, "little") + end, "little")


def control_registers(stage_1: Regime, cr0: int, cr4: int, efer: int) -> tuple[int, int, int]:
    """CR0, CR4 and EFER with the bits of a guest's regime: WP, SMEP, SMAP and NXE."""
    more = registers_for(stage_1.controls)
    return cr0 | more[0], cr4 | more[1], efer | more[2]


def nxe(regime: Regime) -> int:
    """EFER.NXE as tables of long mode need it."""
    return registers_for(regime.controls)[2]


def kinds(probes: Probes) -> U64Array:
    """Accesses and privileges as the monitors read them."""
    found: U64Array = (probes["access"] | np.where(probes["user"] != 0, UNPRIVILEGED, 0)).astype(np.uint64)
    return found


def inside(hpas: U64Array, *places: Range) -> Mask:
    """Which addresses are in one of the places."""
    found = np.zeros(len(hpas), np.bool_)
    for place in places:
        found |= (hpas >= np.uint64(place.start)) & (hpas < np.uint64(place.end))
    return found


def expected_if_made(probes: Probes, predictions: Predictions) -> Answers:
    """The answers of accesses that are made: what reads find, and the index in the tag that fetches run."""
    answers = np.zeros(len(probes), ANSWER)
    made = predictions.status == 0
    answers["ok"] = made
    read, fetch = probes["access"] == Access.READ, probes["access"] == Access.FETCH
    index = predictions.memory >> np.uint64(8) & np.uint64(0xFFFF_FFFF)
    answers["value"] = np.where(made & read, predictions.memory, np.where(made & fetch, index, 0))
    return answers


def faults(probes: Probes, status: npt.NDArray[np.uint32]) -> Iterator[tuple[int, Access, bool, Mask]]:
    """(status, access, user, which probes) of every kind of fault among predictions."""
    for found in np.unique(status[status != 0]).tolist():
        for access, user in product(Access, (False, True)):
            these = (status == found) & (probes["access"] == access) & (probes["user"] == user)
            if these.any():
                yield found, access, user, these


def page_fault_error(stage_1: Regime, kind: FaultKind, access: Access, user: bool) -> int:
    """The error code of a guest's page fault, which tells fetches apart only with NXE or SMEP.

    Raises:
        EncodingError: no page fault reports this kind.
    """
    told = bool(stage_1.controls & longmode.FETCHES_TOLD)
    return encode_page_fault_error(kind, access, user=user, fetches_told=told)
