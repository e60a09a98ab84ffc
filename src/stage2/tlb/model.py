"""A model of one CPU's TLBs and page-walk caches: what may be cached, and what each operation drops of it.

It caches as much as any processor may: translations of stage 1, of stage 2, and of both in one, each tagged with the
identifiers of the architecture, and the pointers that walks went through. It never evicts by itself, so a translation
that an edit forgot to invalidate stays and can be found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..address import Gpa, Gva, Hpa
from ..flags import Access
from ..formats.invalidation import Holds, Operation
from ..formats.outcome import GLOBAL, EntryKind
from ..tables.explain import Step, Walk, WordSource, explain_two_stage
from ..tables.regime import Regime
from ..tables.result import Fault, Mapped, need_mask

ENTRY = np.dtype(
    [
        ("holds", np.uint8),
        ("table", np.bool_),
        ("everyones", np.bool_),
        ("vmid", np.uint64),
        ("root", np.uint64),
        ("asid", np.uint64),
        ("start", np.uint64),
        ("last", np.uint64),
        ("gpa", np.uint64),
        ("gpa_last", np.uint64),
        ("output", np.uint64),
        ("attributes", np.uint64),
    ]
)
"""One cached translation.

holds: of `Holds`. table: a pointer to a table, not a leaf. everyones: of a global page. vmid, root, asid: its tags;
root is that of stage 2. start, last: the addresses it translates, GPAs if it holds stage 2 alone, otherwise GVAs.
gpa, gpa_last: of an entry that holds both stages, the GPAs it went through (for a pointer: where its table lies).
output: where `start` leads. attributes: of a leaf of one stage as `decode` answers them, cut down by the tables above;
of both stages, their effective permissions.
"""
Entries = npt.NDArray[np.void]


def entries(count: int, **fields: object) -> Entries:
    """`count` entries with these fields, the others 0."""
    made = np.zeros(count, ENTRY)
    for name, value in fields.items():
        made[name] = value
    return made


@dataclass(frozen=True, slots=True)
class Lookup:
    """What an access through the TLB meets.

    Args:
        result: where it leads.
        hit: it came from the TLB, whatever the tables say by now.
    """

    result: Mapped | Fault
    hit: bool


class Tlb:
    """The TLBs of one CPU."""

    def __init__(self) -> None:
        self.entries: Entries = np.zeros(0, ENTRY)

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, found: Entries) -> None:
        """Cache translations; those that are there already are not doubled."""
        data, size = np.concatenate((self.entries, found)).tobytes(), ENTRY.itemsize
        # Sorting them, as numpy's `unique` does, takes twenty times as long.
        distinct = dict.fromkeys(data[at : at + size] for at in range(0, len(data), size))
        self.entries = np.frombuffer(bytearray().join(distinct), ENTRY)

    def apply(self, operation: Operation) -> int:
        """Do an operation; how many entries it dropped."""
        doomed = matching(self.entries, operation)
        self.entries = self.entries[~doomed]
        return int(doomed.sum())

    def of(self, holds: Holds, *, table: bool = False) -> Entries:
        """The leaves, or pointers, that hold this."""
        found = self.entries
        chosen: Entries = found[(found["holds"] & int(holds) != 0) & (found["table"] == table)]
        return chosen

    def translate(
        self,
        source: WordSource,
        stage_1: Regime,
        stage_2: Regime,
        gva: Gva,
        access: Access | None = None,
        *,
        user: bool = False,
    ) -> Lookup:
        """Translate as a CPU does: from the TLB if it has the address, otherwise by a walk, which it remembers.

        An entry that forbids the access makes the CPU walk again, as every architecture allows.
        """
        found = self.of(Holds.COMBINED)
        address = np.uint64(gva)
        tagged = (found["asid"] == np.uint64(stage_1.identifier)) | found["everyones"]
        tagged &= (found["vmid"] == np.uint64(stage_2.identifier)) & (found["root"] == np.uint64(stage_2.root))
        need = np.uint64(need_mask(access, user=user))
        hits = found[
            tagged & (found["start"] <= address) & (address <= found["last"]) & (found["attributes"] & need == need)
        ]
        if len(hits):
            entry = hits[0]
            offset = gva - int(entry["start"])
            size = int(entry["last"]) - int(entry["start"]) + 1
            return Lookup(
                Mapped(
                    Hpa(int(entry["output"]) + offset), int(entry["attributes"]), size, Gpa(int(entry["gpa"]) + offset)
                ),
                hit=True,
            )
        walk = explain_two_stage(source, stage_1, stage_2, gva, access, user=user)
        self.fill(walk, stage_1, stage_2)
        return Lookup(walk.result, hit=False)

    def fill(self, walk: Walk, stage_1: Regime, stage_2: Regime) -> None:
        """Cache everything that a two-stage walk went through: leaves of each stage and of both, and all pointers."""
        tags = {"vmid": stage_2.identifier, "root": stage_2.root}
        present = (EntryKind.TABLE, EntryKind.LEAF)
        steps_1 = [step for step in walk.steps if step.stage == 1]
        steps_2 = [under for step in steps_1 for under in step.under]
        steps_2 += [step for step in walk.steps if step.stage == 2]
        made = [_stage_2_entry(step, walk, steps_1, stage_2, tags) for step in steps_2 if step.kind in present]
        for step in steps_1:
            if step.kind in present:
                made += _stage_1_entries(step, walk.address, stage_1, tags)
        if isinstance(walk.result, Mapped):
            made.append(_combined_entry(walk.result, walk.address, steps_1, stage_1, tags))
        if made:
            self.add(np.concatenate(made))


def matching(found: Entries, operation: Operation) -> npt.NDArray[np.bool_]:
    """Which entries an operation drops."""
    hit = found["holds"] & int(operation.drops) != 0
    if operation.vmid is not None:
        hit &= found["vmid"] == np.uint64(operation.vmid)
    if operation.root is not None:
        hit &= found["root"] == np.uint64(operation.root)
    if operation.asid is not None:
        hit &= (found["asid"] == np.uint64(operation.asid)) | found["everyones"]
    if operation.keeps_global:
        hit &= ~found["everyones"]
    if operation.gva is not None:
        hit &= _overlap(found["start"], found["last"], operation.gva.start, operation.gva.end - 1)
    if operation.gpa is not None:
        alone = found["holds"] == int(Holds.STAGE_2)
        first = np.where(alone, found["start"], found["gpa"])
        last = np.where(alone, found["last"], found["gpa_last"])
        hit &= _overlap(first, last, operation.gpa.start, operation.gpa.end - 1)
    kept = found["table"] & (found["holds"] & int(operation.keeps_tables) != 0)
    result: npt.NDArray[np.bool_] = hit & ~kept
    return result


def _overlap(
    first: npt.NDArray[np.uint64], last: npt.NDArray[np.uint64], start: int, end: int
) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = (first <= np.uint64(end)) & (np.uint64(start) <= last)
    return result


def _span(address: int, size: int) -> dict[str, int]:
    start = address & ~(size - 1)
    return {"start": start, "last": start + size - 1}


def _stage_2_entry(step: Step, walk: Walk, steps_1: list[Step], regime: Regime, tags: dict[str, int]) -> Entries:
    """The GPA that this step translated is that of a stage-1 entry, or the final one."""
    owner = next((outer for outer in steps_1 if step in outer.under), None)
    if owner is not None:
        gpa = owner.slot
    else:
        gpa = walk.result.gpa if isinstance(walk.result, Mapped) else walk.result.address
    leaf = step.kind is EntryKind.LEAF
    return entries(
        1, holds=int(Holds.STAGE_2), table=not leaf, output=step.output,
        attributes=step.attributes if leaf else 0, **tags, **_span(gpa, regime.format.leaf_size(step.level)),
    )  # fmt: skip


def _stage_1_entries(step: Step, gva: int, regime: Regime, tags: dict[str, int]) -> list[Entries]:
    """What stage 1 says alone; for a pointer also, with both stages in one, where its table is."""
    size = regime.format.leaf_size(step.level)
    common = {"asid": regime.identifier, **tags, **_span(gva, size)}
    leaf = step.kind is EntryKind.LEAF
    attributes = step.attributes if leaf else 0
    everyones = bool(attributes & GLOBAL)
    alone = entries(
        1, holds=int(Holds.STAGE_1), table=not leaf, everyones=everyones, output=step.output, attributes=attributes,
        **common,
    )  # fmt: skip
    if leaf:
        return [alone]
    last = step.output + regime.format.table_size - 1
    both = entries(
        1, holds=int(Holds.COMBINED), table=True, gpa=step.output, gpa_last=last, output=step.output, **common
    )
    return [alone, both]


def _combined_entry(found: Mapped, gva: int, steps_1: list[Step], regime: Regime, tags: dict[str, int]) -> Entries:
    everyones = bool(steps_1) and bool(steps_1[-1].attributes & GLOBAL)
    gpa, hpa = found.gpa & ~(found.size - 1), found.hpa & ~(found.size - 1)
    return entries(
        1, holds=int(Holds.COMBINED), everyones=everyones, asid=regime.identifier, gpa=gpa,
        gpa_last=gpa + found.size - 1, output=hpa, attributes=found.permissions, **tags, **_span(gva, found.size),
    )  # fmt: skip
