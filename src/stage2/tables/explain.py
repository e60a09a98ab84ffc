"""The explained walk: the same walk as the compiled one, run as plain Python with every step kept.

It reads and never writes: where hardware would set an accessed or dirty bit, the walk says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from ..address import Gpa, Gva, Hpa
from ..flags import Access
from ..formats.outcome import LEAF, TABLE, TABLE_OUTSIDE_MEMORY, EntryKind
from ..formats.record import Format
from .assembly import assemble_stage_2, assemble_two_stage
from .descent import Decoded, Function
from .regime import Regime
from .result import Fault, Mapped, fault_from_status, need_mask
from .walk import AT_STAGE_2


class WordSource(Protocol):
    """Where table entries are read from: physical memory, a dump, a live machine."""

    def contains(self, address: int, size: int = 1) -> bool:
        """Whether all `size` bytes from an HPA exist."""

    def load_u64(self, hpa: Hpa) -> int:
        """The 64-bit word at an HPA."""


@dataclass(frozen=True, slots=True)
class Step:
    """One entry that a walk read.

    Args:
        stage: 1 or 2.
        level: 0 is the smallest page.
        table: address of the table, in the stage's output space (a GPA for stage 1 under stage 2).
        index: index of the entry in the table.
        slot: address of the entry; slot_hpa is where its bytes really are.
        entry: the raw 64 bits.
        kind: what the entry is.
        output: the address it holds.
        permissions: effective permissions so far, as in `Mapped`.
        under: for a stage-1 entry, the stage-2 steps that found `slot_hpa`.
        attributes: what `decode` says of it, cut down to what the tables on the way let through.
    """

    stage: int
    level: int
    table: int
    index: int
    slot: int
    slot_hpa: Hpa
    entry: int
    kind: EntryKind
    output: int
    permissions: int
    under: tuple[Step, ...] = ()
    attributes: int = 0


@dataclass(frozen=True, slots=True)
class Walk:
    """A translation with all its steps.

    Args:
        address: what was translated.
        access: for which access, None for a mere lookup.
        result: how it ended.
        steps: stage-1 steps (each with the stage-2 steps under it), then the stage-2 steps of the final GPA.
        marks: (address of the entry, entry afterwards) that hardware would store.
        stage_1, stage_2: the regimes under which it was made; None for a stage that took no part.
    """

    address: int
    access: Access | None
    result: Mapped | Fault
    steps: tuple[Step, ...]
    marks: tuple[tuple[Hpa, int], ...]
    stage_1: Regime | None = None
    stage_2: Regime | None = None


class _Record:
    """Physical memory as the explained walk sees it: loads are made, steps noted, and stores kept instead of done.

    Args:
        source: the memory.
        regime: whose tables lie in it: the only stage, or stage 2.
        stage_1: the guest's own, under it.
    """

    def __init__(self, source: WordSource, regime: Regime, stage_1: Regime | None = None) -> None:
        self.source, self.regime, self.stage_1 = source, regime, stage_1
        self.steps: list[Step] = []
        self.outer_steps: list[Step] = []
        self.marks: list[tuple[Hpa, int]] = []
        self.loaded = 0
        """HPA of the word that was loaded last."""

    def note(self, level: int, table: int, slot: int, entry: int, decoded: Decoded, controls: int) -> None:
        """Note a step through tables in physical memory."""
        self.steps.append(_step(self.regime.format, level, table, slot, slot, entry, decoded, (), controls))

    def note_outer(self, level: int, table: int, slot: int, entry: int, decoded: Decoded, controls: int) -> None:
        """Note a step of stage 1; the stage-2 steps since the last one are those that led to its entry."""
        assert self.stage_1 is not None
        under = tuple(self.steps)
        self.steps.clear()
        fmt = self.stage_1.format
        self.outer_steps.append(_step(fmt, level, table, slot, self.loaded, entry, decoded, under, controls))


def _step(
    fmt: Format, level: int, table: int, slot: int, slot_hpa: int, entry: int, decoded: Decoded,
    under: tuple[Step, ...], controls: int,
) -> Step:  # fmt: skip
    """A step; `controls` are those of the walk, which tell hardware's own accesses to stage-1 tables from others."""
    kind, output, attributes = decoded
    return Step(
        stage=fmt.stage,
        level=level,
        table=table,
        index=(slot - table) // fmt.entry_size,
        slot=slot,
        slot_hpa=Hpa(slot_hpa),
        entry=entry,
        kind=EntryKind(kind),
        output=output,
        permissions=fmt.permissions(attributes, controls) if kind in (TABLE, LEAF) else 0,
        under=under,
        attributes=attributes,
    )


def _load(record: _Record, address: int) -> tuple[int, int]:
    if not record.source.contains(address, 8):
        return TABLE_OUTSIDE_MEMORY, 0
    record.loaded = address
    return 0, record.source.load_u64(Hpa(address))


def _store(record: _Record, address: int, word: int) -> None:
    record.marks.append((Hpa(address), word))


def _visit(record: _Record, level: int, table: int, slot: int, entry: int, decoded: Decoded, controls: int) -> int:
    record.note(level, table, slot, entry, decoded, controls)
    return 0


def _visit_outer(
    memory: tuple[_Record, Any], level: int, table: int, slot: int, entry: int, decoded: Decoded, controls: int
) -> int:
    memory[0].note_outer(level, table, slot, entry, decoded, controls)
    return 0


@cache
def _stage(fmt: Format) -> Function:
    return assemble_stage_2(fmt, _load, _store, _visit)


@cache
def _two_stage(first: Format, second: Format) -> Function:
    # Marks of stage 1 go through stage 2 once more; those steps repeat what stands under the step they mark.
    unseen_2 = assemble_stage_2(second, _load, _store)
    return assemble_two_stage(first, second, _stage(second), _load, _store, _visit_outer, unseen_2=unseen_2)


def explain_stage(
    source: WordSource, regime: Regime, address: int, access: Access | None = None, *, user: bool = False
) -> Walk:
    """Translate by one stage alone, keeping the steps.

    Args:
        source: physical memory that holds the tables.
        regime: of either stage; a stage-1 regime is taken to have its tables at host physical addresses.
        address: GPA for stage 2, GVA for stage 1.
        access: what is attempted; None only looks up.
        user: the access is made from user mode.
    """
    record = _Record(source, regime)
    status, output, permissions, level = _stage(regime.format)(
        record, regime.numbers, address, need_mask(access, user=user), int(access is Access.WRITE)
    )
    result: Mapped | Fault
    if status:
        result = fault_from_status(status & ~AT_STAGE_2, address, stage=regime.format.stage, access=access)
    else:
        result = Mapped(Hpa(output), permissions, regime.format.leaf_size(level), Gpa(address))
    stages = (regime, None) if regime.format.stage == 1 else (None, regime)
    return Walk(address, access, result, tuple(record.steps), tuple(record.marks), *stages)


def explain_two_stage(
    source: WordSource,
    stage_1: Regime,
    stage_2: Regime,
    gva: Gva,
    access: Access | None = None,
    *,
    user: bool = False,
) -> Walk:
    """Translate a GVA by both stages, keeping the steps of both.

    Args:
        source: host physical memory.
        stage_1: the guest's own regime; its root is a GPA.
        stage_2: the hypervisor's regime; its root is an HPA.
        gva: what to translate.
        access: what is attempted; None only looks up.
        user: the access is made from user mode.
    """
    record = _Record(source, stage_2, stage_1)
    status, hpa, permissions, gpa, level_1, level_2 = _two_stage(stage_1.format, stage_2.format)(
        record, stage_1.numbers, stage_2.numbers, gva, need_mask(access, user=user), int(access is Access.WRITE)
    )
    result: Mapped | Fault
    if status:
        refused = gpa if status & AT_STAGE_2 else gva
        result = fault_from_status(status, refused, stage=1, gva=gva, access=access)
    else:
        sizes = [
            regime.format.leaf_size(level)
            for regime, level in ((stage_1, level_1), (stage_2, level_2))
            if not regime.format.is_bare
        ]
        result = Mapped(Hpa(hpa), permissions, min(sizes, default=1 << 12), Gpa(gpa))
    return Walk(gva, access, result, (*record.outer_steps, *record.steps), tuple(record.marks), stage_1, stage_2)
