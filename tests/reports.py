"""A walk of two stages and the report of a run, for tests of what is printed."""

from __future__ import annotations

from stage2.address import Gpa, Gva, Hpa, Range
from stage2.flags import RWX, Access, MappingFlags, MapType, MemoryType
from stage2.formats import by_name
from stage2.formats.outcome import EntryKind, FaultKind
from stage2.memory.owners import Owner, OwnerKind
from stage2.render.walk import WalkView
from stage2.space.faults import FaultResult, Resolution
from stage2.space.region import MemoryRegion, ViolationPolicy
from stage2.tables.explain import Step, Walk
from stage2.tables.regime import Regime
from stage2.tables.result import Fault, Mapped
from stage2.vm.cost import Cost, HostCost
from stage2.vm.report import RegionReport, ViolationReport, VmReport

SV39, SV39X4 = by_name("sv39"), by_name("sv39x4")


def two_stage_walk() -> WalkView:
    """One stage-1 step with a stage-2 step under it, and one stage-2 step of the final GPA."""
    block = SV39X4.leaf_entry(2, 0x1_0000_0000, RWX, MemoryType.WRITE_BACK)
    under = Step(2, 2, 0x9000_0000, 2, 0x9000_0010, Hpa(0x9000_0010), block, EntryKind.LEAF, 0x1_0000_0000, 0x3F)
    page = SV39.leaf_entry(2, 0x8000_0000, RWX, MemoryType.WRITE_BACK)
    outer = Step(
        1, 2, 0x8000_1000, 1, 0x8000_1008, Hpa(0x1_0000_1008), page, EntryKind.LEAF, 0x8000_0000, 0x07, (under,)
    )
    result = Mapped(Hpa(0x1_0000_0123), 0x07, 1 << 30, Gpa(0x8000_0123))
    walk = Walk(0x4000_0123, Access.WRITE, result, (outer, under), ((Hpa(0x1_0000_1008), page | 0xC0),))
    return WalkView(walk, Regime.of(SV39X4, Hpa(0x9000_0000)), Regime.of(SV39, 0x8000_1000), "guest")


def vm_report() -> VmReport:
    fault = Fault(FaultKind.PERMISSION, 2, 0, 0x2000_0000, gva=Gva(0x5000), access=Access.WRITE)
    shown = two_stage_walk()
    walk = Walk(0x5000, Access.WRITE, fault, shown.walk.steps, (), shown.stage_1, shown.stage_2)
    rom = MemoryRegion(Gpa(0x2000_0000), 0x1000, MappingFlags.READ, MapType.ROM, name="rom")
    refused = FaultResult(Resolution.VIOLATION, rom, ViolationPolicy.DISCARD)
    return VmReport(
        name="[b]linux",
        id=1,
        engine="unicorn",
        arch="riscv64",
        format="sv39x4",
        exit="stopped",
        reason="the guest wrote to a hole",
        wall_s=3.1234,
        guest_faults=3021,
        stage2_faults=14670,
        fills=1234567,
        populated_bytes=60124160,
        declared_bytes=256 << 20,
        leaves={1 << 21: 3, 4096: 14668},
        tables=34,
        table_bytes=34 * 4096 + 0x3000,
        regions=(RegionReport("ram0", 0x8000_0000, 256 << 20, MapType.MAP_ALLOC, RWX, 60124160, ((0, 60124160),)),),
        console="",
        resolutions={"populated": 14668, "hole": 2},
        violations=(
            ViolationReport(
                0x2000_0000, 0x5000, 0x8000_0010, "write", "rom", "discarded", 3, 0x55, walk, result=refused
            ),
            ViolationReport(
                0x7000_0000,
                None,
                0xFFFF_FFFF_8000_0024,
                "read",
                "hole",
                "stopped",
                syndrome={"scause": 21, "stval": 0xFFFF_FFFF_8000_0000, "htval": 0x7000_0000 >> 2, "htinst": 0},
            ),
        ),
        devices={"uart": 1200},
    )


def host_cost() -> HostCost:
    return HostCost(
        (Cost("one", tables=0x31000, per_cpu=4096, timers=4096, python=86_495), Cost("two", tables=4096)),
        Cost("", image=4 << 20, per_cpu=4096),
        ((Range(0x8000_0000, 0x8040_0000), Owner(OwnerKind.HYPERVISOR)),),
    )
