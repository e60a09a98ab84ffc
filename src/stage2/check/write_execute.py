"""Memory that a VM may write and execute although its file forbids that: the rule S2309."""

from __future__ import annotations

from collections.abc import Iterator

from ..config.regions import PlannedVm
from ..config.wording import shown
from ..flags import MappingFlags
from ..space.region import MemoryRegion
from .finding import Finding, Location, Party, Rule, Severity
from .setup import Setup

WRITE_EXECUTE = Rule(
    "S2309", Severity.ERROR, "memory that is writable and executable, against what its file says",
    "The file has write_xor_execute: code that the guest, or whoever breaks into it, writes there can be run.",
)  # fmt: skip
RULES = (WRITE_EXECUTE,)


def check_write_execute(setup: Setup) -> Iterator[Finding]:
    """Regions of VMs that forbid it, alone and by host memory that two of them have."""
    for vm in setup.vms:
        if not vm.options.write_xor_execute:
            continue
        regions = [region for region in vm.plan.regions if region.map_type.is_mapped]
        writable = [one for one in regions if one.flags & MappingFlags.WRITE]
        for region in (one for one in regions if one.flags & MappingFlags.EXECUTE):
            for other in writable:
                if region is other or _meet(region, other):
                    yield _finding(vm, region, other)


def _meet(one: MemoryRegion, other: MemoryRegion) -> bool:
    spans = one.host_range, other.host_range
    return spans[0] is not None and spans[1] is not None and spans[0].overlaps(spans[1])


def _finding(vm: PlannedVm, region: MemoryRegion, other: MemoryRegion) -> Finding:
    party = Party(f"{region.map_type.noun} {shown(region.label)} of {vm.label}", region.range, "GPA")
    parties, text = [party], f"{party} is {region.flags.short}, and the file says write_xor_execute"
    if other is not region:
        parties.append(Party(f"{other.map_type.noun} {shown(other.label)} of {vm.label}", other.range, "GPA"))
        text = f"{party} may be executed and {parties[1]} written, which is the same host memory"
    places = tuple(
        Location.of((one.place or vm.place), who.name) for one, who in zip((region, other), parties, strict=False)
    )
    fix = "take write or execute out of its flags, or write_xor_execute out of the file"
    return Finding(WRITE_EXECUTE, text, tuple(parties), None, places, fix)
