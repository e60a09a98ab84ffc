"""Memory at a fixed HPA that could be mapped in 2 MiB leaves, and is not for where it lies: the rule S2511."""

from __future__ import annotations

from collections.abc import Iterator

from ..address import SIZE_2M, SIZE_4K, Range, align_down, align_offset, align_up
from ..config.regions import PlannedVm
from ..space.region import MemoryRegion
from .finding import Finding, Location, Party, Rule, Severity
from .setup import Setup

HUGE_PAGES = Rule(
    "S2511", Severity.NOTE, "where memory lies costs huge pages",
    "A leaf of 2 MiB needs GPA and HPA at a multiple of 2 MiB. In leaves of 4 KiB there are more tables to build and "
    "to walk, and the TLB reaches less far.",
)  # fmt: skip
RULES = (HUGE_PAGES,)


def check_huge_pages(setup: Setup) -> Iterator[Finding]:
    """Regions whose place is the file's choice, with what it costs against the same size at multiples of 2 MiB."""
    for vm in setup.vms:
        named = vm.options.format
        if vm.options.page_size == SIZE_4K or (named is not None and named.format.page_shift != 12):
            continue
        for region in vm.plan.regions:
            host = region.host_range
            if host is not None and region.map_type.fixed_hpa and not vm.plan.is_assumed(region):
                yield from _cost(vm, region, host)


def _cost(vm: PlannedVm, region: MemoryRegion, host: Range) -> Iterator[Finding]:
    offsets = align_offset(region.start, SIZE_2M), align_offset(host.start, SIZE_2M)
    if offsets[0] != offsets[1]:
        leaves = region.size // SIZE_4K
        # The device is where it is; its GPA may follow.
        best = _leaves(host)
        cause = f"their offsets within 2 MiB differ ({offsets[0]:#x} and {offsets[1]:#x})"
        fix = f"give it a GPA with the offset {offsets[1]:#x} within 2 MiB"
    elif region.map_type.is_ram:
        leaves = _leaves(host)
        best = _leaves(Range.sized(0, region.size))
        cause = f"it begins {offsets[0]:#x} above a multiple of 2 MiB"
        fix = "begin it at a multiple of 2 MiB"
    else:
        return
    if leaves > best:
        party = Party(f"{region.map_type.noun} {region.label!r} of {vm.label}", region.range, "GPA")
        text = (
            f"{party} at HPA {host.start:#x} takes {leaves:,} leaves, not {best:,}, so {leaves - best:,} more: {cause}"
        )
        place = region.place or vm.place
        yield Finding(HUGE_PAGES, text, (party,), locations=(Location.of(place, party.name),), fix=fix)


def _leaves(span: Range) -> int:
    """How many leaves of 2 MiB and 4 KiB map a range whose GPA and HPA have the same offset."""
    start, end = align_up(span.start, SIZE_2M), align_down(span.end, SIZE_2M)
    if start >= end:
        return span.size // SIZE_4K
    return (end - start) // SIZE_2M + (start - span.start + span.end - end) // SIZE_4K
