"""What the oracles of QEMU's AArch64 machine share: places, tags, how probes are listed, and faults as arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...address import Range
from ...flags import Access
from ...formats.outcome import ACCESS_FLAG, PERMISSION, TRANSLATION
from ...machines.aarch64 import AArch64Machine
from ...machines.mailbox import PROBE_ENTRY, TRANSLATE
from ...tables.batch import translate_batch, translate_two_stage_batch
from ...tables.compiled import host_memory
from ...tables.walk import AT_STAGE_2, KIND_MASK, LEVEL_SHIFT, ON_TABLE
from ..oracle import Case, Predictions
from ..probe import Means, Probes

RAM = AArch64Machine.RAM
TABLES = Range(0x7F00_0000, 0x8000_0000)
DATA = Range(0x8000_0000, 0xC000_0000)

_BRK, _IMMEDIATE_AT = 0xD420_0000, 5
"""BRK, which goes to EL2 from every level, and where its 16-bit number stands."""
_UNIQUE = 0xACCE_0000_0000_0000
"""The upper half of a tag, beside its index: no entry of a table is like that."""
SYNDROME = 0xFE00_3FFF
"""Of ESR: class, IL, and the syndrome without the instruction's (ISV, bits 24:14), which says nothing of tables."""
STATUS = 0x3F
PAR_FAULT = 0x37E
"""Of PAR_EL1 with F = 1: FST, PTW and S."""
PAR_ADDRESS = 0x000F_FFFF_FFFF_F000
LEVELS_TO_MINUS_ONE = 5
_CLASS_AT, _CLASS_BRK = 26, 0x3C
_ANOTHER = (1 << 64) - 1
"""What a fetch has found if its word was no tag."""


def tag(index: int) -> int:
    """See `conform.oracle.Oracle.tag`."""
    return _UNIQUE | index << 32 | _BRK | index << _IMMEDIATE_AT


def seen(probes: Probes, predictions: Predictions) -> npt.NDArray[np.uint64]:
    """What accesses that are made ought to find: the word, or of a fetch the tag's number."""
    number = predictions.memory >> u(_IMMEDIATE_AT) & u(0xFFFF)
    return np.where(probes["access"] == Access.FETCH, number, predictions.memory)


def fetched(value: npt.NDArray[np.uint64], esr: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """What fetches that were made have found."""
    return np.where(esr >> u(_CLASS_AT) == _CLASS_BRK, value, u(_ANOTHER))


def listed(machine: AArch64Machine, case: Case) -> Probes:
    """The probes of a case as the machine takes them, with neither privilege nor instruction."""
    probes = case.probes
    found = np.zeros(len(probes), PROBE_ENTRY)
    found["address"], found["value"] = probes["address"], probes["value"]
    found["kind"] = probes["access"] | np.where(probes["means"] == Means.TRANSLATE, TRANSLATE, 0).astype(np.uint64)
    fetches = probes["access"] == Access.FETCH
    found["value"][fetches] = _words_of(machine, case, fetches)
    return found


def groups(
    case: Case, status: npt.NDArray[np.uint32], wide: npt.NDArray[np.bool_], lower: npt.NDArray[np.bool_]
) -> tuple[list[int], npt.NDArray[np.intp]]:
    """Probes of one kind and fate, whose syndromes are the same: (a probe of each group, each probe's group).

    Args:
        status: what our walker says.
        wide: the address is refused for its width, which is part of the fate.
        lower: the access comes from the lower exception level.
    """
    probes = case.probes
    keys = status.astype(np.uint64) << u(8) | probes["access"].astype(np.uint64) << u(4)
    keys |= np.where(lower, u(2), 0) | np.where(probes["means"] == Means.TRANSLATE, u(1), 0) | np.where(wide, u(8), 0)
    _, examples, which = np.unique(keys, return_index=True, return_inverse=True)
    return examples.tolist(), which


class Faults:
    """What our walker says of the probes that are refused, as arrays."""

    def __init__(self, case: Case, found: Predictions) -> None:
        status, self._case, self._found = found.status, case, found
        self.kind = status & np.uint32(KIND_MASK)
        self.at_2 = status & np.uint32(AT_STAGE_2) != 0
        self.on_table = status & np.uint32(ON_TABLE) != 0
        self._level = status >> np.uint32(LEVEL_SHIFT) & np.uint32(0xFF)
        outer = case.stage_2.format
        above = ~found.gpa if outer.high_half else found.gpa
        self.wide = self.at_2 & (above >> u(outer.input_bits) != 0)
        """The address is wider than what the stage translates: it is refused before the first lookup."""
        if case.stage_1 is not None:
            self.wide |= ~self.at_2 & (case.probes["address"] >> u(case.stage_1.format.input_bits) != 0)

    @property
    def above_blocks(self) -> npt.NDArray[np.bool_]:
        """The walk ends, at a hole or a block, where no block may be."""
        top = np.where(self.at_2, self._case.stage_2.format.top_leaf_level, 0)
        if self._case.stage_1 is not None:
            top = np.where(self.at_2, top, self._case.stage_1.format.top_leaf_level)
        ends: npt.NDArray[np.bool_] = (self.kind == TRANSLATION) & ~self.wide & (self._level > top)
        return ends

    @property
    def at_minus_one(self) -> npt.NDArray[np.bool_]:
        """Faults at Arm's level -1 of stage 1 that QEMU takes for impossible, and ends by an assertion.

        It has a permission or access flag fault there when stage 2 refuses the access to the root table so, and when
        the root holds a block.
        """
        case = self._case
        regime = case.stage_1 or case.stage_2
        in_root: npt.NDArray[np.bool_] = self.above_blocks & (self._level == regime.format.levels - 1)
        if case.stage_1 is None:
            return in_root
        root = Range.sized(regime.root, regime.format.root_size)
        of_root = self.on_table & ((self.kind == PERMISSION) | (self.kind == ACCESS_FLAG))
        ends: npt.NDArray[np.bool_] = of_root & inside(root, self._found.gpa) | in_root & ~self.at_2
        return ends


def _words_of(machine: AArch64Machine, case: Case, fetches: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Where the words of fetches are, as the tables stand; 0 where they lead nowhere.

    That only makes QEMU forget what it translated there; the answers do not hang on it.
    """
    host, addresses = host_memory(machine.memory), case.probes["address"][fetches]
    if case.stage_1 is None:
        found = translate_batch(host, case.stage_2, addresses)
        hpa, there = found.hpa, found.status == 0
    else:
        both = translate_two_stage_batch(host, case.stage_1, case.stage_2, addresses, ahead=False)
        hpa, there = both.hpa, both.status == 0
    return np.where(there & inside(DATA, hpa), hpa & ~u(7), 0)


def inside(span: Range, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which addresses are in a range."""
    found: npt.NDArray[np.bool_] = (addresses >= u(span.start)) & (addresses < u(span.end))
    return found


def u(value: int) -> np.uint64:
    """A number as numpy's arrays hold it."""
    return np.uint64(value)
