"""The explained walk: the same walk as the compiled one, run as plain Python with every step kept.

It reads and never writes: where hardware would set an accessed or dirty bit, the walk says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, Protocol

from ..address import Gpa, Gva, Hpa
from ..flags import Access
from ..formats.outcome import ALL_PERMISSIONS, COMBINED, LEAF, TABLE, TABLE_OUTSIDE_MEMORY, EntryKind
from ..formats.record import Format
from .assembly import assemble_stage_2, assemble_two_stage, plain
from .descent import Decoded, Function
from .folded import FEW, folded, folded_format
from .regime import Regime
from .result import Fault, Mapped, fault_from_status, need_mask
from .walk import AT_STAGE_2


class WordSource(Protocol):
    """Where table entries are read from: physical memory, a dump, a live machine."""

    def contains(self, address: int, size: int = 1) -> bool:
        """Whether all `size` bytes from an HPA exist."""

    def word_at(self, hpa: int) -> int | None:
        """The 64-bit word at an HPA, a multiple of 8; None where there is none."""


_KINDS = tuple(EntryKind)


@dataclass(slots=True)
class Step:
    """One entry that a walk read. A value: it is not frozen only because that takes three times as long to make.

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

    def __repr__(self) -> str:
        where = f"stage {self.stage}, level {self.level}"
        return f"Step({where}, entry {self.entry:#018x} at {self.slot:#x}, {self.kind.name})"


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

    def __repr__(self) -> str:
        return f"Walk({self.address:#x}, {len(self.steps)} steps, {self.result!r})"

    def __str__(self) -> str:
        """Its steps, one on a line, those of stage 2 under the step of stage 1 they are for, and how it ended."""
        lines = [
            f"{indent}{step!r}"
            for each in self.steps
            for indent, step in (("", each), *(("  ", s) for s in each.under))
        ]
        return "\n".join([*lines, f"-> {self.result}"])


class _Record:
    """Physical memory as the explained walk sees it: loads are made, steps noted, and stores kept instead of done.

    Args:
        source: the memory.
    """

    __slots__ = ("loaded", "marks", "outer_steps", "steps", "word_at")

    def __init__(self, source: WordSource) -> None:
        self.word_at = source.word_at
        self.steps: list[Step] = []
        """Steps through tables in physical memory, those below a step of stage 1 apart."""
        self.outer_steps: list[Step] = []
        """Steps of stage 1, when there are two."""
        self.marks: list[tuple[Hpa, int]] = []
        self.loaded = Hpa(0)
        """HPA of the word that was loaded last."""


def _load(record: _Record, address: Hpa) -> tuple[int, int]:
    word = record.word_at(address)
    if word is None:
        return TABLE_OUTSIDE_MEMORY, 0
    record.loaded = address
    return 0, word


def _store(record: _Record, address: Hpa, word: int) -> None:
    record.marks.append((address, word))


def _make_visit(fmt: Format) -> Function:
    """The visitor that notes the steps through tables in physical memory."""
    stage, entry_size, permissions = fmt.stage, fmt.entry_size, fmt.permissions

    def visit(record: _Record, level: int, table: int, slot: Hpa, entry: int, decoded: Decoded, controls: int) -> int:
        # `controls` are those of the walk: they tell hardware's own accesses to stage-1 tables from others.
        kind, output, attributes = decoded
        granted = permissions(attributes, controls) if kind in (TABLE, LEAF) else 0
        if kind == TABLE and attributes & COMBINED == COMBINED:
            granted = ALL_PERMISSIONS  # nobody's page yet, so neither side's rules apply
        record.steps.append(
            Step(
                stage, level, table, (slot - table) // entry_size, slot, slot, entry, _KINDS[kind], output,
                granted, (), attributes,
            )
        )  # fmt: skip
        return 0

    return visit


def _make_visit_outer(fmt: Format) -> Function:
    """The visitor that notes the steps of stage 1; the stage-2 steps since the last one led to its entry."""
    visit_inner = _make_visit(fmt)

    def visit(
        memory: tuple[_Record, Any], level: int, table: int, slot: int, entry: int, decoded: Decoded, controls: int
    ) -> int:
        record = memory[0]
        under = tuple(record.steps)
        record.steps.clear()
        visit_inner(record, level, table, slot, entry, decoded, controls)
        step = record.steps.pop()
        step.slot_hpa, step.under = record.loaded, under
        record.outer_steps.append(step)
        return 0

    return visit


_walks = count()


def _often() -> bool:
    """Whether so many walks were made by now that folded functions are worth it."""
    return next(_walks) >= FEW


@cache
def _stage(fmt: Format, often: bool) -> Function:
    ready, fmt = (folded, folded_format(fmt)) if often else (plain, fmt)
    return assemble_stage_2(fmt, _load, _store, _make_visit(fmt), ready)


@cache
def _two_stage(first: Format, second: Format, often: bool) -> Function:
    stage_2 = _stage(second, often)
    ready = plain
    if often:
        ready, first, second = folded, folded_format(first), folded_format(second)
    # Marks of stage 1 go through stage 2 once more; those steps repeat what stands under the step they mark.
    unseen_2 = assemble_stage_2(second, _load, _store, ready=ready)
    return assemble_two_stage(first, second, stage_2, _load, _store, _make_visit_outer(first), ready, unseen_2=unseen_2)


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
    record = _Record(source)
    status, output, permissions, level = _stage(regime.format, _often())(
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
    record = _Record(source)
    status, hpa, permissions, gpa, level_1, level_2 = _two_stage(stage_1.format, stage_2.format, _often())(
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
