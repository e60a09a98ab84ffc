"""The theorem `declared`: every leaf is what a region of its VM says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from ..address import Range
from ..flags import MappingFlags, MapType
from ..formats.outcome import MEMORY_TYPE_MASK
from ..formats.record import Format
from ..space.region import MemoryRegion
from ..tables.mapping import ATTRIBUTES, LEVEL_FIELD
from .aliases import aliases
from .lookup import Places, distinct, within
from .packing import U64Array
from .scattered import Scattered
from .theorem import Seat, Theorem, Witness
from .world import Scanned, World

_STATEMENT = (
    "every leaf lies in a region that its VM declares, leads where the region says and where no other leaf of the VM "
    "leads, and allows no more than the region does"
)


def declared(world: World) -> Theorem:
    """Leaves against regions: place, permissions, memory type and target."""
    covered = {
        "vms": len(world.vms),
        "regions": sum(len(vm.space.regions) for vm in world.vms),
        "leaves": sum(vm.scan.leaves for vm in world.vms),
    }
    witness = next((found for vm in world.vms for found in _faults(world, vm)), None)
    return Theorem("declared", _STATEMENT, witness is None, covered, witness=witness)


def _faults(world: World, vm: Scanned) -> Iterator[Witness]:
    """Rows that lie in one region are judged by what they have in common; the others one by one."""
    regions = vm.space.sorted_regions
    rows = vm.scan.rows
    place = within(rows[:, 0], rows[:, 2], [region.range for region in regions])
    alike = np.flatnonzero(place >= 0)
    yield from _alike(world, vm, rows[alike], place[alike], regions)
    yield from _one_by_one(world, vm, rows[place < 0].tolist(), regions)
    for kind in vm.scan.scattered:
        yield from _scattered(world, vm, kind)
    yield from aliases(world, vm)


def _scattered(world: World, vm: Scanned, kind: Scattered) -> Iterator[Witness]:
    """One leaf stands for its kind; where the region says where it leads, all are looked at."""
    region = vm.space.region_at(kind.first)
    for rows in vm.rows_of(kind):
        gpa, hpa = (int(value) for value in rows[0, :2])
        if region is None:
            text = f"{vm.space.who} reaches GPA {Range.sized(gpa, kind.leaf_size)}, where it declares nothing"
            yield _witness(world, vm, text, gpa, hpa, "unmap it, or declare a region there")
            return
        yield from _within(world, vm, region, gpa, hpa, kind.attributes)
        host = region.host_range
        if host is None:
            return
        astray = np.flatnonzero(rows[:, 1] - rows[:, 0] != np.uint64((host.start - region.start) % (1 << 64)))
        for gpa, hpa in rows[astray[:1], :2].tolist():
            yield from _within(world, vm, region, gpa, hpa, kind.attributes)


def _alike(
    world: World, vm: Scanned, rows: U64Array, place: Places, regions: Sequence[MemoryRegion]
) -> Iterator[Witness]:
    """Every kind of leaf of every region, and each whose region says where it leads."""
    hosts = [region.host_range for region in regions]
    wanted = np.array([0 if host is None else (host.start - region.start) % (1 << 64) for host, region in
                       zip(hosts, regions, strict=True)], np.uint64)  # fmt: skip
    fixed = np.array([host is not None for host in hosts], bool)
    astray = np.flatnonzero(fixed[place] & (rows[:, 1] - rows[:, 0] != wanted[place])) if len(rows) else place
    for number in sorted({*distinct(place, rows[:, 3]).tolist(), *astray[:1].tolist()}):
        gpa, hpa, _, attributes = rows[number].tolist()
        yield from _within(world, vm, regions[int(place[number])], gpa, hpa, attributes)


def _one_by_one(
    world: World, vm: Scanned, rows: Sequence[Sequence[int]], regions: Sequence[MemoryRegion]
) -> Iterator[Witness]:
    number = 0
    for gpa, hpa, size, attributes in rows:
        at, end = gpa, gpa + size
        while number < len(regions) and regions[number].end <= at:
            number += 1
        here = number
        while at < end:
            region = regions[here] if here < len(regions) else None
            if region is None or region.start > at:
                until = end if region is None else min(end, int(region.start))
                text = f"{vm.space.who} reaches GPA {Range(at, until)}, where it declares nothing"
                yield _witness(world, vm, text, at, hpa + at - gpa, "unmap it, or declare a region there")
                return
            yield from _within(world, vm, region, at, hpa + at - gpa, attributes)
            at, here = min(end, region.end), here + 1


def _within(world: World, vm: Scanned, region: MemoryRegion, gpa: int, hpa: int, attributes: int) -> Iterator[Witness]:
    """What is wrong with a leaf in a region."""
    fmt, controls = vm.space.regime.format, vm.space.regime.controls
    level, found = attributes >> LEVEL_FIELD, attributes & ATTRIBUTES
    what = f"{vm.space.who}: GPA {gpa:#x} of {region.map_type.noun} {region.label}"
    if not region.map_type.is_mapped:
        yield _witness(world, vm, f"{what} is to trap, and is mapped", gpa, hpa, "unmap it")
        return
    allowed = region.flags.permissions
    if region.map_type is MapType.ROM:
        allowed &= ~MappingFlags.WRITE
    more = vm.granted(attributes) & ~allowed
    if more:
        text = f"{what} allows {more.short.replace('-', '')}, which the region does not"
        yield _witness(world, vm, text, gpa, hpa, f"map it {region.flags.short}")
    wanted = _target(region, gpa)
    if wanted is not None and wanted != hpa:
        text = f"{what} leads to HPA {hpa:#x}, and the region says {wanted:#x}"
        yield _witness(world, vm, text, gpa, hpa, f"map it to {wanted:#x}")
    if found & MEMORY_TYPE_MASK != _memory_type(fmt, level, region.flags, controls):
        yield _witness(world, vm, f"{what} has another memory type than its region", gpa, hpa, "map it anew")


def _target(region: MemoryRegion, gpa: int) -> int | None:
    """The HPA that a region wants behind a GPA; None where any frame of the VM will do."""
    host = region.host_range
    return None if host is None else host.start + gpa - region.start


@cache
def _memory_type(fmt: Format, level: int, flags: MappingFlags, controls: int) -> int:
    """The memory type in a leaf that is made for a region."""
    leaf = fmt.encode_leaf(level, flags, flags.memory_type, controls)
    return int(fmt.decode(leaf, level, controls)[2] & MEMORY_TYPE_MASK)


def _witness(world: World, vm: Scanned, text: str, gpa: int, hpa: int, remedy: str) -> Witness:
    return Witness(text, Seat(vm.space.who, gpa), hpa, owner=world.owner_of(hpa), remedy=remedy)
