"""The theorem `wellformed`: sound entries, and tables in frames of their own."""

from __future__ import annotations

from collections.abc import Iterator

from ..address import Range
from ..memory.owners import OwnerKind
from ..ranges import RangeMap
from .theorem import Seat, Theorem, Witness
from .world import Scanned, World

_STATEMENT = (
    "no entry has reserved bits or is misconfigured, no table belongs to two spaces, and every table lies in frames "
    "that are held for tables of its space"
)


def wellformed(world: World) -> Theorem:
    """Entries and tables of all spaces, the hypervisor's own among them."""
    everybody = (*world.vms, *world.own)
    covered = {
        "spaces": len(everybody),
        "tables": sum(len(one.scan.tables) for one in everybody),
        "leaves": sum(one.scan.leaves for one in everybody),
    }
    witness = next(_faults(world, everybody), None)
    return Theorem("wellformed", _STATEMENT, witness is None, covered, witness=witness)


def _faults(world: World, everybody: tuple[Scanned, ...]) -> Iterator[Witness]:
    held: RangeMap[int] = RangeMap(merge=False)
    for number, one in enumerate(everybody):
        for wrong in one.scan.wrong:
            seat = Seat(one.space.who, wrong.address)
            yield Witness(
                f"{one.space.who}: {wrong.problem}", seat, owner=world.owner_of(wrong.slot), slot=wrong.slot,
                remedy="write the entry anew",
            )  # fmt: skip
        frames: RangeMap[None] = RangeMap()
        for part in one.space.frames or ():
            frames.set(part, None)
        for start, size in one.scan.table_spans(one.space.regime.format).tolist():
            span = Range.sized(start, size)
            for met, other in held.overlapping(span):
                both = met.intersection(span)
                assert both is not None, "they overlap"
                text = f"{everybody[other].space.who} and {one.space.who} both have a table at {both}"
                yield Witness(text, hpa=both.start, owner=world.owner_of(both.start), remedy="give each its own tables")
            for gap in held.gaps(span):
                held.add(gap, number)
            yield from _frames(world, one, frames, span)


def _frames(world: World, one: Scanned, frames: RangeMap[None], span: Range) -> Iterator[Witness]:
    """Tables outside the frames that are held for them."""
    if one.space.frames is not None:
        for gap in frames.gaps(span):
            text = f"{one.space.who} has a table at {gap}, which is none of its tables' frames"
            yield Witness(text, hpa=gap.start, owner=world.owner_of(gap.start), remedy="take the table out")
    if world.owners is None:
        return
    for met, owner in world.owners.overlapping(span):
        if owner.kind is not OwnerKind.TABLES or owner.name != one.space.name:
            both = met.intersection(span)
            assert both is not None, "they overlap"
            text = f"{one.space.who} has a table at {both}, which belongs to {owner}"
            yield Witness(text, hpa=both.start, owner=str(owner), remedy="take the table out")
    for gap in world.owners.gaps(span):
        text = f"{one.space.who} has a table at {gap}, which belongs to nobody"
        yield Witness(text, hpa=gap.start, owner="nobody", remedy="take the table out")
