"""The theorems `apart` and `owned`: whose host memory a VM reaches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from ..address import Range
from ..flags import MapType
from ..formats.outcome import MEMORY_TYPE_MASK
from ..memory.owners import Owner
from ..ranges import RangeMap
from .lookup import distinct, within
from .subject import Scanned, World, may_hold
from .theorem import Seat, Theorem, Witness

_APART = "no host memory is reachable from two VMs, except shares that both declare"
_OWNED = "no VM reaches host memory that is not its own: no tables, no hypervisor, no other VM's, none of nobody's"


def apart(world: World) -> Theorem:
    """No two VMs reach one HPA but by a share, and then with one memory type."""
    held: RangeMap[int] = RangeMap(merge=False)
    covered = {"vms": len(world.vms), "bytes": 0}
    witness: Witness | None = None
    for number, vm in enumerate(world.vms):
        for span in vm.spans():
            covered["bytes"] += span.size
            for met, other in list(held.overlapping(span)):
                both = met.intersection(span)
                if witness is None and both is not None:
                    witness = _meeting(world, world.vms[other], vm, both)
            for gap in list(held.gaps(span)):
                held.add(gap, number)
    return Theorem("apart", _APART, witness is None, covered, witness=witness)


def _meeting(world: World, one: Scanned, other: Scanned, both: Range) -> Witness | None:
    """Why two VMs must not both reach some host memory; None where they share it."""
    for hpa, _ in _pieces(one, both):
        here, there = one.gpa_of(hpa), other.gpa_of(hpa)
        if here is None or there is None:
            continue
        regions = one.space.region_at(here), other.space.region_at(there)
        shared = all(region is not None and region.map_type is MapType.SHARE for region in regions)
        seats = Seat(one.space.who, here), Seat(other.space.who, there)
        if not shared:
            return Witness(
                f"{one.space.who} and {other.space.who} both reach {both}", seats[0], hpa, seats[1],
                world.owner_of(hpa), span=both, remedy="unmap it from one of them, or declare a share in both",
            )  # fmt: skip
        if _type_at(one, hpa) != _type_at(other, hpa) and one.space.regime.format is other.space.regime.format:
            return Witness(
                f"{one.space.who} and {other.space.who} share {both} with two memory types", seats[0], hpa, seats[1],
                world.owner_of(hpa), span=both, remedy="map the share with one memory type",
            )  # fmt: skip
    return None


def _pieces(vm: Scanned, within: Range) -> Iterator[tuple[int, int]]:
    """HPA and size of every row's part of a range."""
    for _, hpa, size, _ in vm.scan.rows.tolist():
        both = Range.sized(hpa, size).intersection(within)
        if both is not None:
            yield both.start, both.size


def _type_at(vm: Scanned, hpa: int) -> int | None:
    for _, start, size, attributes in vm.scan.rows.tolist():
        if start <= hpa < start + size:
            return int(attributes & MEMORY_TYPE_MASK)
    return None


def owned(world: World) -> Theorem:
    """Every HPA that a VM reaches is held by it, or by a share or device that it declares."""
    covered = {"vms": len(world.vms), "bytes": sum(vm.scan.size for vm in world.vms)}
    if world.owners is None:
        return Theorem("owned", _OWNED, None, why_not="nothing says who owns the host's memory")
    for vm in world.vms:
        witness = _stranger(world, world.owners, vm)
        if witness is not None:
            return Theorem("owned", _OWNED, False, covered, witness=witness)
    return Theorem("owned", _OWNED, True, covered)


def _stranger(world: World, owners: RangeMap[Owner], vm: Scanned) -> Witness | None:
    """The first host memory that a VM reaches and does not hold.

    Rows within one region and one owner's memory are judged by these two; the others one by one.
    """
    rows, held, regions = vm.scan.rows, list(owners), vm.space.sorted_regions
    region_of = within(rows[:, 0], rows[:, 2], [region.range for region in regions])
    owner_of = within(rows[:, 1], rows[:, 2], [span for span, _ in held])
    plain = (region_of >= 0) & (owner_of >= 0)
    known = np.flatnonzero(plain)
    seen = known[distinct(region_of[known], owner_of[known])]
    judged = {int(at) for at in seen if not may_hold(vm.space, regions[region_of[at]], held[owner_of[at]][1])}
    for gpa, hpa, size, _ in rows[sorted({*judged, *np.flatnonzero(~plain).tolist()})].tolist():
        span = Range.sized(hpa, size)
        gap = next(iter(owners.gaps(span)), None)
        if gap is not None:
            text = f"{vm.space.who} reaches {gap}, which belongs to nobody"
            seat = Seat(vm.space.who, gpa + gap.start - hpa)
            return Witness(text, seat, gap.start, owner="nobody", span=gap, remedy="unmap it")
        for met, owner in owners.overlapping(span):
            both = met.intersection(span)
            assert both is not None, "they overlap"
            wrong = _misplaced(vm, Range.sized(gpa + both.start - hpa, both.size), owner)
            if wrong is not None:
                part = Range.sized(hpa + wrong.start - gpa, wrong.size)
                text = f"{vm.space.who} reaches {part}, which belongs to {owner}"
                seat = Seat(vm.space.who, wrong.start)
                return Witness(text, seat, part.start, owner=str(owner), span=part, remedy="unmap it")
    return None


def _misplaced(vm: Scanned, span: Range, owner: Owner) -> Range | None:
    """The first addresses of a stretch of GPAs behind which memory of an owner must not be."""
    edges = {edge for one in vm.space.regions for edge in (int(one.start), one.end) if span.start < edge < span.end}
    for start, end in pairwise(sorted({span.start, *edges, span.end})):
        if not may_hold(vm.space, vm.space.region_at(start), owner):
            return Range(start, end)
    return None
