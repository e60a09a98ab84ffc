"""What QEMU's AArch64 does otherwise than the manual."""

from __future__ import annotations

from ...flags import Access
from ...formats.arm.layout import DBM
from ...formats.arm.stage1 import READ_ONLY
from ...formats.arm.syndromes import fault_status as arm_fault_status
from ...formats.outcome import EntryKind, FaultKind
from ...tables.result import Fault
from ..deviation import Deviation, Difference
from ..probe import ANSWER, Means


def _block_above(found: Difference) -> bool:
    """Our walk ends at a block descriptor, bits 1:0 = 01, at a level that has none."""
    last = found.walk.steps[-1] if found.walk.steps else None
    return last is not None and last.kind is EntryKind.NONE and last.level > 0 and last.entry & 3 == 1


def _level_of_stage_1(found: Difference) -> bool:
    """Stage 2 refused an access to a stage-1 table, and all that differs is the level."""
    result = found.walk.result
    if not isinstance(result, Fault) or not result.on_table:
        return False
    same = all(found.expected[name] == found.answer[name] for name in ANSWER.names or () if name != "code")
    ours, theirs = int(found.expected["code"]), int(found.answer["code"])
    at = 1 if found.probe["means"] == Means.TRANSLATE else 0
    kinds = [arm_fault_status(code >> at & 0x3F)[0] for code in (ours, theirs)]
    return same and (ours ^ theirs) & ~(0x3F << at) == 0 and kinds[0] is kinds[1]


def _clean_is_read_only(found: Difference) -> bool:
    """We refuse a fetch at stage 1, at a leaf with DBM whose AP[2] says read-only or clean."""
    result, steps = found.walk.result, [step for step in found.walk.steps if step.stage == 1]
    if not isinstance(result, Fault) or result.stage != 1 or result.kind is not FaultKind.PERMISSION:
        return False
    return result.access is Access.FETCH and steps[-1].entry & (DBM | READ_ONLY) == DBM | READ_ONLY


DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "block-above",
        "qemu-aarch64",
        r"7\.2\..*",
        "QEMU takes a block descriptor at any level but the last for a block: its walk looks at bits 1:0 and the level "
        "3 only. Levels that have no blocks are invalid to us, and a translation fault.",
        'Arm ARM DDI 0487, D8.3.1 "VMSAv8-64 translation table level -1 to level 2 descriptor formats"',
        _block_above,
    ),
    Deviation(
        "level-of-stage-1",
        "qemu-aarch64",
        r"7\.2\..*",
        "When stage 2 refuses an access to a stage-1 table, QEMU reports the level at which that table stands in stage "
        "1, because its stage-1 walk writes the level over the one that its stage-2 walk had found.",
        'Arm ARM DDI 0487, D24.2 "ESR_EL2", S1PTW and DFSC',
        _level_of_stage_1,
    ),
    Deviation(
        "clean-is-read-only",
        "qemu-aarch64",
        r"7\.2\..*",
        "A clean page under hardware management of the dirty state counts as writable, so that EL1 must not execute "
        "what EL0 may write, nor anybody what is writable under WXN. QEMU clears AP[2] of a page with DBM for writes only.",
        'Arm ARM DDI 0487, D8.4.6 "Hardware management of the dirty state", AArch64.S1ApplyOutputPerms',
        _clean_is_read_only,
    ),
)
