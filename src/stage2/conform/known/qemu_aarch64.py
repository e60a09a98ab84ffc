"""What QEMU's AArch64 does otherwise than the manual."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...formats.arm.fault_status import fault_status
from ...formats.outcome import EntryKind
from ..deviation import Deviation, Difference, Versions
from ..probe import Answers, Means, Probes

_KINDS = np.array([fault_status(status)[0] or 0 for status in range(64)])
"""Fault status code -> FaultKind, whatever the level; 0 for what is no fault of a table."""


_PERMISSION_AT_0 = np.uint64(0b001100)


def _block_above(found: Difference) -> bool:
    """Our walk ends at a block descriptor, bits 1:0 = 01, at a level that has none."""
    last = found.walk.steps[-1] if found.walk.steps else None
    return last is not None and last.kind is EntryKind.NONE and last.level > 0 and last.entry & 3 == 1


def _level_0(probes: Probes, expected: Answers, answers: Answers) -> npt.NDArray[np.bool_]:
    """Stage 2 did not allow a read of a stage-1 table, and the machine says so at level 0."""
    at = np.where(probes["means"] == Means.TRANSLATE, np.uint64(1), np.uint64(0))
    status = answers["code"] >> at & np.uint64(0x3F)
    return np.asarray(_level_of_stage_1(probes, expected, answers) & (status == _PERMISSION_AT_0))


def _level_of_stage_1(probes: Probes, expected: Answers, answers: Answers) -> npt.NDArray[np.bool_]:
    """Stage 2 refused an access to a stage-1 table, and all that differs is the level."""
    translated = probes["means"] == Means.TRANSLATE
    at = np.where(translated, np.uint64(1), np.uint64(0))
    on_table = expected["code"] >> np.where(translated, np.uint64(8), np.uint64(7)) & np.uint64(1) == 1
    ours, theirs = (_KINDS[found["code"] >> at & np.uint64(0x3F)] for found in (expected, answers))
    meant = expected.copy()
    meant["code"] = expected["code"] & ~(np.uint64(0x3F) << at) | answers["code"] & np.uint64(0x3F) << at
    explained: npt.NDArray[np.bool_] = (expected["stage"] == 2) & on_table & (ours == theirs) & (meant == answers)
    return explained


DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "block-above",
        "qemu-aarch64",
        Versions("7.2", "7.2"),
        "QEMU takes a block descriptor at any level but the last for a block: its walk looks at bits 1:0 and the level "
        "3 only. Levels that have no blocks are invalid to us, and a translation fault.",
        'Arm ARM DDI 0487, D8.3.1 "VMSAv8-64 translation table level -1 to level 2 descriptor formats"',
        _block_above,
    ),
    Deviation(
        "level-of-stage-1",
        "qemu-aarch64",
        Versions("7.2", "7.2"),
        "When stage 2 refuses an access to a stage-1 table, QEMU reports the level at which that table stands in stage "
        "1, because its stage-1 walk writes the level over the one that its stage-2 walk had found.",
        'Arm ARM DDI 0487, D24.2 "ESR_EL2", S1PTW and DFSC',
        explains_all=_level_of_stage_1,
    ),
    Deviation(
        "level-of-protected-walks",
        "qemu-aarch64",
        Versions("8.0"),
        "HCR_EL2.PTW refuses a walk of stage 1 through what stage 2 maps as device memory. QEMU reports level 0 "
        "whatever the level of that mapping: `S1_ptw_translate` makes the fault itself and sets no level.",
        'Arm ARM DDI 0487, D24.2 "HCR_EL2", PTW, and "ESR_EL2", DFSC (AArch64.S2CheckPermissions)',
        explains_all=_level_0,
    ),
)
