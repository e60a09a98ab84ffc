"""What an edit of a table owes to the TLBs: operations as values, and which of them each kind of change asks for.

An operation says which cached translations it drops, in terms that every architecture shares; the families name the
instructions (`arm.invalidation`, `x86.invalidation`, `riscv.invalidation`) and decide what a change owes. Why, and
from which section of which manual: docs/invalidation.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag

from ..address import Range
from .change import Change, ChangeKind


class Holds(IntFlag):
    """What a cached translation holds."""

    NOTHING = 0
    STAGE_1 = 1
    """A step or the whole of GVA to GPA; in a regime of one stage, to the physical address."""
    STAGE_2 = 2
    """A step or the whole of GPA to HPA."""
    COMBINED = 4
    """GVA to HPA, both stages in one."""


EVERYTHING = Holds.STAGE_1 | Holds.STAGE_2 | Holds.COMBINED
OF_GUEST_ADDRESSES = Holds.STAGE_1 | Holds.COMBINED


@dataclass(frozen=True, slots=True)
class Context:
    """Whose translations a table makes.

    Args:
        identifier: what its TLB entries are tagged with: a VMID, a VPID, AMD's ASID; at stage 1 an ASID or a PCID.
        root: address of its root table; EPT's entries are tagged with that.
        vmid: of a stage-1 table, the VM it belongs to; None for one that is under no stage 2.
    """

    identifier: int = 0
    root: int = 0
    vmid: int | None = None


@dataclass(frozen=True)
class Operation:
    """One kind of invalidation, as often repeated as its range needs.

    What it does not name it does not look at: None stands for "any".

    Args:
        name: the instruction, or what takes its place: `TLBI IPAS2E1IS`, `INVEPT single-context`.
        drops: which entries.
        manual: where its scope is specified.
        vmid: only entries with this VMID, VPID or AMD ASID.
        root: only entries made through this root (EPT).
        asid: only entries with this ASID or PCID, and global ones unless `keeps_global`.
        gva, gpa: only entries that translate something in there.
        keeps_global: entries of global pages stay.
        keeps_tables: of these, pointers to tables stay (they drop leaves only).
        step: bytes between the addresses that the instruction is repeated with; 0 for a single one without address.
        shift: how far the address is shifted right in the register.
        tag: what else stands in the register.
        broadcast: hardware carries it to the other CPUs; otherwise each must be asked to do it.
    """

    name: str
    drops: Holds
    manual: str
    vmid: int | None = None
    root: int | None = None
    asid: int | None = None
    gva: Range | None = None
    gpa: Range | None = None
    keeps_global: bool = False
    keeps_tables: Holds = Holds.NOTHING
    step: int = 0
    shift: int = 0
    tag: int = 0
    broadcast: bool = False

    def at_gpa(self, gpa: Range) -> Operation:
        """The same for other GPAs; made in a fraction of the time that a new one takes."""
        made = object.__new__(Operation)
        made.__dict__.update(self.__dict__)
        made.__dict__["gpa"] = gpa
        return made

    @property
    def span(self) -> Range | None:
        """The addresses it is limited to; None for all."""
        return self.gva if self.gpa is None else self.gpa

    @property
    def count(self) -> int:
        """How many instructions it takes."""
        return 1 if self.span is None or not self.step else self.span.size // self.step

    def operands(self) -> Iterator[int]:
        """The register operand of each instruction; one of 0 where there is no address."""
        if self.span is None or not self.step:
            yield self.tag
            return
        for address in range(self.span.start, self.span.end, self.step):
            yield address >> self.shift | self.tag

    def __str__(self) -> str:
        limits = [f"VMID {self.vmid}"] if self.vmid is not None else []
        limits += [f"ASID {self.asid}"] if self.asid is not None else []
        limits += [f"root {self.root:#x}"] if self.root is not None else []
        limits += [f"{'GPA' if self.gpa else 'GVA'} {self.span}"] if self.span is not None else []
        return f"{self.name} ({', '.join(limits)})" if limits else self.name


FEW = 32
"""Up to so many instructions by address are given; beyond that, everything of the identifier is dropped at once."""


_TABLE_FREED = ChangeKind.TABLE_FREED
Kinds = tuple[ChangeKind, ...]
"""Kinds of changes; a tuple, which finds one of a few sooner than a set does."""


@dataclass(slots=True)
class Debt:
    """What changes amount to, before a family puts it into its own instructions.

    Args:
        spans: addresses whose leaves a TLB may hold otherwise than the table says, disjoint and in order.
        tables: pointers to tables changed too, so that walk caches may lead to what is no table any more.
    """

    spans: tuple[Range, ...]
    tables: bool

    @classmethod
    def of(cls, changes: Sequence[Change], harmless: Kinds) -> Debt:
        """The debt of changes, some kinds of which owe nothing on an architecture."""
        spans: list[Range] = []
        tables = False
        for change in changes:
            kind, span = change.kind, change.span
            if kind not in harmless:
                tables |= kind is _TABLE_FREED
                if not spans or span is not spans[-1]:
                    spans.append(span)
        return cls(tuple(_merged(spans) if len(spans) > 1 else spans), tables)

    def few(self, page: int) -> bool:
        """Whether dropping page by page takes only a few instructions."""
        return sum([-(-(span.end - span.start) // page) for span in self.spans]) <= FEW


def owes(changes: Sequence[Change], harmless: Kinds) -> bool:
    """Whether changes owe anything at all."""
    for change in changes:  # noqa: SIM110  # twice as fast as any()
        if change.kind not in harmless:
            return True
    return False


def _merged(spans: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start <= merged[-1].end:
            if span.end > merged[-1].end:
                merged[-1] = Range(merged[-1].start, span.end)
        else:
            merged.append(span)
    return merged
