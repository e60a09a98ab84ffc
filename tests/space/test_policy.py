"""Region, VM and default meet in one place."""

from __future__ import annotations

from itertools import product

import pytest

from stage2.address import Gpa, Range
from stage2.errors import OverlapError
from stage2.flags import RWX, Access, MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.place import Place
from stage2.space.address_space import AddressSpace
from stage2.space.faults import Resolution
from stage2.space.policy import Policy
from stage2.space.region import MemoryRegion, Populate, ViolationPolicy
from stage2.space.region_map import RegionMap

SAID = (None, *ViolationPolicy)


def region(violation: ViolationPolicy | None = None, populate: Populate | None = None) -> MemoryRegion:
    read = MappingFlags.READ
    return MemoryRegion(Gpa(0x1000), 0x1000, read, MapType.MAP_ALLOC, violation=violation, populate=populate)


@pytest.mark.parametrize(("own", "space"), list(product(SAID, SAID)))
def test_a_regions_policy_wins_over_the_vms_and_that_over_stop(
    own: ViolationPolicy | None, space: ViolationPolicy | None
) -> None:
    policy = Policy(violation=space)
    expected = own if own is not None else space if space is not None else ViolationPolicy.STOP
    assert policy.violation_of(region(own)) is expected
    assert policy.violation_of(None) is (space if space is not None else ViolationPolicy.STOP)


@pytest.mark.parametrize(("own", "space"), list(product((None, *Populate), (None, *Populate))))
def test_a_regions_populate_wins_over_the_vms_and_that_over_lazy(own: Populate | None, space: Populate | None) -> None:
    expected = own if own is not None else space if space is not None else Populate.LAZY
    assert Policy(populate=space).populate_of(region(populate=own)) is expected


def test_a_fault_is_answered_with_the_policy_that_holds_at_its_address() -> None:
    with PhysicalMemory([Range.sized(0x10_0000, 0x40_0000)]) as memory:
        space = AddressSpace("sv39x4", FrameAllocator(memory), violation=ViolationPolicy.INJECT)
        space.map(region(ViolationPolicy.DISCARD))
        space.map(MemoryRegion(Gpa(0x2000), 0x1000, MappingFlags.READ, MapType.MAP_ALLOC))
        found = [space.handle_page_fault(gpa, Access.WRITE) for gpa in (0x1000, 0x2000, 0x3000)]
        assert [(result.resolution, result.policy) for result in found] == [
            (Resolution.VIOLATION, ViolationPolicy.DISCARD),
            (Resolution.VIOLATION, ViolationPolicy.INJECT),
            (Resolution.HOLE, ViolationPolicy.INJECT),
        ]
        space.destroy()


def test_a_region_carries_its_place_with_file_line_and_key() -> None:
    place = Place("vm.toml", 9, "kernel.memory_regions[1]")
    declared = MemoryRegion(Gpa(0x1000), 0x1000, RWX, MapType.MAP_ALLOC, place=place)
    assert declared.place is place
    assert place.whole_line == Place("vm.toml", 9)
    regions = RegionMap()
    regions.add(declared)
    with pytest.raises(OverlapError, match=r"\(declared at vm\.toml:9\)"):
        regions.add(declared)
