"""What is marked in a picture: witnesses that refute theorems, findings, overlaps; each by a number with a caption."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from ...address import SIZE_4K, Range
from ...ranges import RangeMap
from .parties import Kind, Party, Space

if TYPE_CHECKING:
    from ...check.finding import Finding
    from ...prove.theorem import Proof, Theorem

_NOBODYS = "belongs to nobody here"


class MarkKind(Enum):
    """What a mark is about; the value is its text in the legend."""

    WITNESS = "refutes a theorem"
    OVERLAP = "several have it, and it is no share"
    FINDING = "wrong in a file"


@dataclass(frozen=True, slots=True)
class Mark:
    """Something to be looked at.

    Args:
        kind: what it is.
        caption: all of it, in words.
        seats: VMs' numbers, counted from 0, each with a GPA of it.
        hpa: the host memory that it is about.
        whole: numbers of VMs that it is about as a whole.
    """

    kind: MarkKind
    caption: str
    seats: tuple[tuple[int, int], ...] = ()
    hpa: int | None = None
    whole: tuple[int, ...] = ()


def witness_marks(proof: Proof, names: Sequence[str]) -> list[Mark]:
    """A mark for every theorem that is refuted.

    Args:
        proof: whose witnesses.
        names: what the proof calls the VMs, in the order in which they are drawn (`VM linux`).
    """
    return [_witness(theorem, names) for theorem in proof.theorems if theorem.holds is False]


def _witness(theorem: Theorem, names: Sequence[str]) -> Mark:
    found = theorem.witness
    if found is None:
        return Mark(MarkKind.WITNESS, f"{theorem.name}: does not hold")
    hpa = found.slot if found.hpa is None else found.hpa
    seats = [seat for seat in (found.seat, found.other) if seat is not None]
    vms = [(names.index(seat.who), seat.address) for seat in seats if seat.who in names]
    said = [f"{theorem.name}: {found.problem}"]
    if hpa is None:
        # It is about a VM, and its address says nothing.
        return Mark(MarkKind.WITNESS, said[0], whole=tuple(number for number, _ in vms))
    said += [f"{seat.who} {'GPA' if seat.who in names else 'HVA'} {seat.address:#x}" for seat in seats]
    said.append(f"{'HPA' if found.slot is None else 'entry at HPA'} {hpa:#x}")
    if found.owner is not None:
        said[-1] += f" of {found.owner}"
    return Mark(MarkKind.WITNESS, "; ".join(said), tuple(vms), hpa)


def finding_marks(number: int, findings: Iterable[Finding]) -> list[Mark]:
    """A mark for every finding about a VM.

    Args:
        number: of the VM, counted from 0.
    """
    marks = []
    for finding in findings:
        spans = {party.space: party.span for party in finding.parties if party.span is not None}
        gpa, hpa = spans.get("GPA"), spans.get("HPA")
        seats = () if gpa is None else ((number, int(gpa.start)),)
        whole = () if gpa or hpa else (number,)
        marks.append(Mark(MarkKind.FINDING, str(finding), seats, None if hpa is None else hpa.start, whole))
    return marks


def with_marked(vms: Sequence[Space], host: Sequence[Party], marks: Sequence[Mark]) -> tuple[list[Space], list[Party]]:
    """The spaces, with a page of their own for marked addresses that nobody has."""
    seats = [(number, gpa) for mark in marks for number, gpa in mark.seats]
    spaces = [
        replace(vm, parties=(*vm.parties, *_missing(
            (party.span for party in vm.parties), (gpa for one, gpa in seats if one == number), Kind.UNDECLARED.value
        )))
        for number, vm in enumerate(vms)
    ]  # fmt: skip
    held = [party.span for party in host]
    held += [link.hpa for vm in vms for party in vm.parties for link in party.behind if link.hpa is not None]
    return spaces, [*host, *_missing(held, (mark.hpa for mark in marks if mark.hpa is not None), _NOBODYS)]


def _missing(held: Iterable[Range], addresses: Iterable[int], name: str) -> Iterator[Party]:
    wanted = dict.fromkeys(Range.sized(address - address % SIZE_4K, SIZE_4K) for address in addresses)
    if not wanted:
        return
    known: RangeMap[None] = RangeMap()
    for span in held:
        known.set(span, None)
    for page in wanted:
        for gap in known.gaps(page):
            yield Party(name, gap, Kind.UNDECLARED)
