"""The theorems `apart` and `owned`: whose host memory a VM reaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..address import Range
from ..flags import MapType
from ..formats.outcome import MEMORY_TYPE_MASK
from ..memory.owners import Owner
from ..ranges import RangeMap
from .lookup import clusters, distinct, within
from .packing import U64Array
from .subject import may_hold
from .theorem import Seat, Theorem, Witness
from .world import Part, Scanned, World

_APART = "no host memory is reachable from two VMs, except shares that both declare"
_OWNED = "no VM reaches host memory that is not its own: no tables, no hypervisor, no other VM's, none of nobody's"


def apart(world: World) -> Theorem:
    """No two VMs reach one HPA but by a share, and then with one memory type."""
    spans = [vm.spans for vm in world.vms]
    covered = {"vms": len(world.vms), "bytes": sum(int(one[:, 1].sum()) for one in spans)}
    witness = next(_meetings(world, spans), None)
    return Theorem("apart", _APART, witness is None, covered, witness=witness)


def _meetings(world: World, spans: Sequence[U64Array]) -> Iterator[Witness]:
    """Where two VMs reach the same and must not. Only spans that meet others are looked at one by one."""
    whose = np.repeat(np.arange(len(spans)), [len(one) for one in spans])
    for cluster in clusters(np.concatenate([np.zeros((0, 2), np.uint64), *spans])):
        held: RangeMap[set[int]] = RangeMap(merge=False)
        for (start, size), number in zip(cluster.spans.tolist(), whose[cluster.places].tolist(), strict=True):
            span = Range.sized(start, size)
            for met, others in list(held.overlapping(span)):
                both = met.intersection(span)
                assert both is not None, "they overlap"
                for other in sorted(others - {number}):
                    witness = _meeting(world, world.vms[other], world.vms[number], both)
                    if witness is not None:
                        yield witness
                others.add(number)
            for gap in list(held.gaps(span)):
                held.add(gap, {number})


def _meeting(world: World, one: Scanned, other: Scanned, both: Range) -> Witness | None:
    """Why two VMs must not both reach some host memory; None where they share it."""
    for mine in one.parts(both):
        for its in other.parts(mine.host):
            shared = _of_share(mine) and _of_share(its)
            same = (mine.attributes ^ its.attributes) & MEMORY_TYPE_MASK == 0
            if shared and (same or one.space.regime.format is not other.space.regime.format):
                continue
            hpa = its.host.start
            seats = (Seat(one.space.who, one.gpa_in(mine, hpa)), Seat(other.space.who, other.gpa_in(its, hpa)))
            text, remedy = f"both reach {both}", "unmap it from one of them, or declare a share in both"
            if shared:
                text, remedy = f"share {both} with two memory types", "map the share with one memory type"
            return Witness(
                f"{one.space.who} and {other.space.who} {text}", seats[0], hpa, seats[1], world.owner_of(hpa),
                span=both, remedy=remedy,
            )  # fmt: skip
    return None


def _of_share(part: Part) -> bool:
    """Whether a part is memory that its VM declares as shared, and not merely reached from such a region."""
    region = part.region
    if region is None or region.map_type is not MapType.SHARE:
        return False
    return region.host_range is not None and region.host_range.covers(part.host)


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
        for part in vm.by_region(Range.sized(gpa, size), hpa):
            witness = _held_by_another(owners, vm, part)
            if witness is not None:
                return witness
    return _scattered_stranger(owners, vm)


def _scattered_stranger(owners: RangeMap[Owner], vm: Scanned) -> Witness | None:
    """The same of scattered leaves."""
    held = list(owners)
    for kind in vm.scan.scattered:
        region = vm.space.region_at(kind.first)
        owner_of = within(kind.reach[:, 0], kind.reach[:, 1], [span for span, _ in held])
        numbers = np.unique(owner_of).tolist()
        strange = [at for at in numbers if at < 0 or not may_hold(vm.space, region, held[at][1])]
        for start, size in kind.reach[np.isin(owner_of, strange)].tolist():
            part = Part(Range.sized(start, size), region, kind.attributes, kind=kind)
            witness = _held_by_another(owners, vm, part)
            if witness is not None:
                return witness
    return None


def _held_by_another(owners: RangeMap[Owner], vm: Scanned, part: Part) -> Witness | None:
    """What of a part its VM must not reach."""
    gap = next(iter(owners.gaps(part.host)), None)
    if gap is not None:
        text = f"{vm.space.who} reaches {gap}, which belongs to nobody"
        seat = Seat(vm.space.who, vm.gpa_in(part, gap.start))
        return Witness(text, seat, gap.start, owner="nobody", span=gap, remedy="unmap it")
    for met, owner in owners.overlapping(part.host):
        both = met.intersection(part.host)
        assert both is not None, "they overlap"
        if not may_hold(vm.space, part.region, owner):
            seat = Seat(vm.space.who, vm.gpa_in(part, both.start))
            text = f"{vm.space.who} reaches {both}, which belongs to {owner}"
            return Witness(text, seat, both.start, owner=str(owner), span=both, remedy="unmap it")
    return None
