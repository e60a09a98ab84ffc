"""The explained walk: the same walk as the compiled one, run as plain Python with every step kept.

It reads and never writes: where hardware would set an accessed or dirty bit, the walk says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..address import Gpa, Gva, Hpa
from ..flags import Access
from ..formats.outcome import TABLE_OUTSIDE_MEMORY, EntryKind
from .assembly import assemble_stage_2, assemble_two_stage
from .descent import Decoded, visit_nothing
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
    """

    address: int
    access: Access | None
    result: Mapped | Fault
    steps: tuple[Step, ...]
    marks: tuple[tuple[Hpa, int], ...]


class _Recorder:
    """Loads words, notes the steps of one stage, and keeps stores instead of doing them."""

    def __init__(self, source: WordSource) -> None:
        self.source = source
        self.steps: list[Step] = []
        self.marks: list[tuple[Hpa, int]] = []

    def load(self, _host: Any, address: int) -> tuple[int, int]:
        if not self.source.contains(address, 8):
            return TABLE_OUTSIDE_MEMORY, 0
        return 0, self.source.load_u64(Hpa(address))

    def store(self, _host: Any, address: int, word: int) -> None:
        self.marks.append((Hpa(address), word))

    def watcher(self, regime: Regime) -> Callable[..., int]:
        fmt = regime.format

        def watch(_memory: Any, level: int, table: int, slot: int, entry: int, decoded: Decoded, controls: int) -> int:
            kind, output, attributes = decoded
            self.steps.append(
                Step(
                    stage=fmt.stage,
                    level=level,
                    table=table,
                    index=(slot - table) // fmt.entry_size,
                    slot=slot,
                    slot_hpa=Hpa(slot),
                    entry=entry,
                    kind=EntryKind(kind),
                    output=output,
                    permissions=fmt.permissions(attributes, regime.controls)
                    if kind in (EntryKind.TABLE, EntryKind.LEAF)
                    else 0,
                    attributes=attributes,
                )
            )
            return 0

        return watch

    def take(self) -> tuple[Step, ...]:
        steps = tuple(self.steps)
        self.steps.clear()
        return steps


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
    recorder = _Recorder(source)
    translate = assemble_stage_2(regime.format, recorder.load, recorder.store, recorder.watcher(regime))
    status, output, permissions, level = translate(
        None, regime.numbers, address, need_mask(access, user=user), int(access is Access.WRITE)
    )
    result: Mapped | Fault
    if status:
        result = fault_from_status(status & ~AT_STAGE_2, address, stage=regime.format.stage, access=access)
    else:
        result = Mapped(Hpa(output), permissions, regime.format.leaf_size(level), Gpa(address))
    return Walk(address, access, result, recorder.take(), tuple(recorder.marks))


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
    inner, outer = _Recorder(source), _Recorder(source)
    steps: list[Step] = []
    translate_2 = assemble_stage_2(stage_2.format, inner.load, inner.store, inner.watcher(stage_2))
    # Marks of stage 1 go through stage 2 once more; those steps repeat what stands under the step they mark.
    unseen_2 = assemble_stage_2(stage_2.format, inner.load, inner.store, visit_nothing)
    slot_hpa = Hpa(0)

    def load(host: Any, address: int) -> tuple[int, int]:
        nonlocal slot_hpa
        slot_hpa = Hpa(address)
        return inner.load(host, address)

    note = outer.watcher(stage_1)

    def watch(*numbers: Any) -> int:
        note(*numbers)
        (step,) = outer.take()
        steps.append(replace(step, slot_hpa=slot_hpa, under=inner.take()))
        return 0

    translate = assemble_two_stage(
        stage_1.format, stage_2.format, translate_2, load, inner.store, watch, unseen_2=unseen_2
    )
    status, hpa, permissions, gpa, level_1, level_2 = translate(
        None, stage_1.numbers, stage_2.numbers, gva, need_mask(access, user=user), int(access is Access.WRITE)
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
    return Walk(gva, access, result, (*steps, *inner.take()), tuple(inner.marks))
