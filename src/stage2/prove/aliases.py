"""Host memory that one VM reaches from two of its addresses: a part of the theorem `declared`.

What a region's bytes are is what was written at its addresses: a second way to them is sound only where both regions
say that they lie there, and never where it lets the VM write to a ROM.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..address import Range
from .lookup import clusters
from .packing import U64Array
from .scattered import Scattered
from .theorem import Seat, Witness
from .world import Part, Scanned, World


def aliases(world: World, vm: Scanned) -> Iterator[Witness]:
    """Two addresses of a VM that lead to the same and must not.

    Args:
        world: what the VM is in.
        vm: whose leaves.
    """
    for kind in vm.scan.scattered:
        if kind.repeats:
            yield from _within_kind(world, vm, kind)
    reach = np.concatenate([vm.scan.rows[:, 1:3], *(kind.reach for kind in vm.scan.scattered)])
    for cluster in clusters(reach):
        span = Range(int(cluster.spans[0, 0]), max(start + size for start, size in cluster.spans.tolist()))
        held: list[Part] = []
        for part in sorted(vm.parts(span), key=lambda part: part.host.start):
            held = [other for other in held if other.host.end > part.host.start]
            for other in held:
                if not _both_declared(part, other):
                    yield _witness(world, vm, other, part)
            held.append(part)


def _both_declared(one: Part, other: Part) -> bool:
    """Whether both regions say that they lie there. A ROM's never does, so that nothing else leads to its frames."""
    return all(part.region is not None and part.region.host_range is not None for part in (one, other))


def _witness(world: World, vm: Scanned, one: Part, other: Part) -> Witness:
    hpa = other.host.start
    found = (vm.gpa_in(one, hpa), one), (vm.gpa_in(other, hpa), other)
    return _alias(world, vm, found, hpa, one.host.intersection(other.host))


def _within_kind(world: World, vm: Scanned, kind: Scattered) -> Iterator[Witness]:
    """The first host memory that two scattered leaves of one kind lead to."""
    outputs: U64Array = np.sort(np.concatenate([rows[:, 1] for rows in vm.rows_of(kind)]))
    twice = int(outputs[1:][outputs[1:] == outputs[:-1]][0])
    one, other, *_ = vm.gpas_of(kind, twice)
    part = Part(Range.sized(twice, kind.leaf_size), vm.space.region_at(kind.first), kind.attributes, kind=kind)
    yield _alias(world, vm, ((one, part), (other, part)), twice, part.host)


def _alias(
    world: World, vm: Scanned, found: tuple[tuple[int, Part], tuple[int, Part]], hpa: int, span: Range | None
) -> Witness:
    """The witness for an HPA and the two GPAs that lead there, the lower one first."""
    (low, one), (high, other) = sorted(found, key=lambda pair: pair[0])
    names = " and of ".join("nothing" if part.region is None else part.region.label for part in (one, other))
    text = (
        f"{vm.space.who}: GPA {low:#x} and GPA {high:#x}, of {names}, both lead to HPA {hpa:#x}, which their "
        "regions do not say"
    )
    remedy = "give each address memory of its own"
    seats = Seat(vm.space.who, low), Seat(vm.space.who, high)
    return Witness(text, seats[0], hpa, seats[1], world.owner_of(hpa), remedy=remedy, span=span)
