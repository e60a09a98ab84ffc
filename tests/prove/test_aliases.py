"""Two addresses of a VM that lead to one frame: what is said of them, and how both are confirmed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
from by_kind import all_by_kind
from test_seeded_faults import DEVICE, PAGE, RAM, RW, Bench, host_of

from stage2.address import Gpa, Hpa
from stage2.flags import MappingFlags
from stage2.prove.prover import prove_world
from stage2.prove.theorem import Witness
from stage2.prove.world import World
from stage2.tables.explain import explain_stage
from stage2.tables.result import Mapped
from stage2.vm.isolation import subject_of

FORMATS = ("sv39x4", "ept4", "npt4", "arm-s2-4k-40", "arm-s2-16k-40")


def witness_of(bench: Bench, by_kind: bool) -> Witness:
    """Why `declared` does not hold; both addresses of it lead where it says."""
    subject = subject_of(bench.host)
    with all_by_kind() if by_kind else nullcontext():
        theorems = prove_world(World.of(subject))
    assert [one.name for one in theorems.theorems if one.holds is False] == ["declared"]
    witness = theorems["declared"].witness
    assert witness is not None
    assert witness.seat is not None
    assert witness.other is not None
    assert witness.seat != witness.other
    for seat in (witness.seat, witness.other):
        found = explain_stage(subject.source, bench.vm.space.regime, seat.address).result
        assert isinstance(found, Mapped)
        assert found.hpa == witness.hpa
    return witness


@pytest.mark.parametrize("by_kind", [False, True], ids=["by row", "by kind"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_page_that_leads_to_another_pages_frame_is_told_with_both(name: str, by_kind: bool) -> None:
    with host_of(name, 1, page_size=4096) as host:
        bench = Bench(host, 0)
        first, second = RAM + 0x1_0000, RAM + 0x10_0000
        slot, entry = bench.step(first)
        frame = bench.at(second)
        bench.point(first, frame, RW | MappingFlags.EXECUTE)
        witness = witness_of(bench, by_kind)
        bench.store(slot, entry)
        assert witness.hpa == frame
        assert witness.problem == (
            f"VM vm1: GPA {first:#x} and GPA {second:#x}, of ram0 and of ram0, both lead to HPA {frame:#x}, which "
            "their regions do not say"
        )


@pytest.mark.parametrize("name", FORMATS)
def test_a_share_that_leads_to_ram_is_told_with_both_names(name: str) -> None:
    """The region is declared to lie there, so that nothing is wrong but that RAM's frame is reached twice."""
    with host_of(name, 2, page_size=4096) as host:
        bench = Bench(host, 0)
        target = bench.at(RAM)
        slot, entry = bench.step(DEVICE)
        bench.point(DEVICE, target, RW | MappingFlags.DEVICE)
        space = bench.vm.space
        page = space.format.page_size
        subject = subject_of(host)
        regions = []
        for region in subject.spaces[0].regions:
            if region.start != DEVICE:
                regions.append(region)
                continue
            regions.append(replace(region, size=page, hpa=Hpa(target)))
            if page < PAGE:
                regions.append(replace(region, start=Gpa(DEVICE + page), size=PAGE - page, hpa=Hpa(region.hpa + page)))
        spaces = (replace(subject.spaces[0], regions=tuple(regions)), *subject.spaces[1:])
        witness = prove_world(World.of(replace(subject, spaces=spaces)))["declared"].witness
        bench.store(slot, entry)
        assert witness is not None
        assert witness.problem == (
            f"VM vm1: GPA {DEVICE:#x} and GPA {RAM:#x}, of uart and of ram0, both lead to HPA {target:#x}, which their "
            "regions do not say"
        )


@pytest.mark.parametrize("name", FORMATS)
def test_undeclared_memory_is_judged_as_that_and_not_as_the_last_region(name: str) -> None:
    """The last region is the device, and it is the device that an undeclared page leads to."""
    with host_of(name, 1, page_size=4096) as host:
        bench = Bench(host, 0)
        subject = subject_of(host)
        space = subject.spaces[0]
        device = next(region for region in space.regions if region.start == DEVICE)
        spaces = (replace(space, regions=(device,)),)
        page = space.regime.format.page_size
        slot, entry = bench.step(RAM)
        bench.point(RAM, bench.at(DEVICE), RW | MappingFlags.DEVICE)
        witness = prove_world(World.of(replace(subject, spaces=spaces)))["owned"].witness
        bench.store(slot, entry)
        assert page
        assert witness is not None
        assert witness.problem.startswith(f"VM vm1 reaches [{int(device.hpa or 0):#x}, ")
