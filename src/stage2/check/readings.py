"""Files that may be of the seed or of head, and mean something else as the one than as the other: the rule S2909."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ..config.regions import PlannedVm
from ..config.vm import VmConfig
from ..flags import MapType
from ..place import Place
from ..space.region import MemoryRegion
from .file_notices import DEVICE_TYPE
from .finding import Finding, Location, Party, Rule, Severity
from .setup import Setup

TWO_READINGS = Rule(
    "S2909", Severity.NOTE, "a file that means one thing to the seed and another to head",
    "It is checked as a file of the seed. AxVisor's head makes another map of it, or stumbles over something else.",
)  # fmt: skip
RULES = (TWO_READINGS,)

_SEED, _HEAD = "by the seed", "by head"


def compare_readings(setup: Setup, found: Sequence[Finding], theirs: Sequence[Finding]) -> Iterator[Finding]:
    """What the other reading of files gives, where it gives something else.

    Args:
        setup: the VMs, with the other reading of those that may be of either generation.
        found: what is wrong with them.
        theirs: what is wrong by the other reading.
    """
    if setup.other is None:
        return
    plans = {vm.file: vm for vm in setup.vms}
    others = {vm.file: vm for vm in setup.other.vms}
    for file in setup.files:
        if file.is_undecided:
            yield from _compare(file, plans.get(file.file), others.get(file.file), found, theirs)


def _compare(
    file: VmConfig,
    seed: PlannedVm | None,
    head: PlannedVm | None,
    found: Iterable[Finding],
    theirs: Iterable[Finding],
) -> Iterator[Finding]:
    told: list[str] = []
    place = file.place
    parties: tuple[Party, ...] = ()
    if seed is not None and head is not None:
        told, place, parties = _maps(seed, head)
        if seed.kernel.entry_point != head.kernel.entry_point:
            told.append(
                f"the guest begins at {seed.kernel.entry_point:#x} {_SEED} and at {head.kernel.entry_point:#x} {_HEAD}"
            )
    ours, other = _codes(file, found), _codes(file, theirs)
    for codes, who in ((ours - other, _SEED), (other - ours, _HEAD)):
        are = "are" if len(codes) > 1 else "is"
        told += [f"{_listed(codes)} {are} found {who} only"] if codes else []
    if told:
        what = f"nothing says whether {file.label} is of the seed, as which it is read, or of head"
        fix = "say which it is with [stage2] generation, or with --generation"
        yield Finding(TWO_READINGS, f"{what}: {', and '.join(told)}", parties, locations=(Location.of(place),), fix=fix)


def _maps(seed: PlannedVm, head: PlannedVm) -> tuple[list[str], Place, tuple[Party, ...]]:
    """What is mapped otherwise: the first such region in words, with its place and parties, and how many more."""
    one, two = _declared(seed), _declared(head)
    differing = [
        key for key in dict.fromkeys((*one, *two))
        if _told(seed, one.get(key)) != _told(head, two.get(key))
    ]  # fmt: skip
    if not differing:
        return [], seed.place, ()
    first = differing[0]
    known = one.get(first) or two.get(first)
    assert known is not None, "it is in one of them"
    name = known.label
    more = len(differing) - 1
    text = f"{name} is {_told(seed, one.get(first))} {_SEED} and {_told(head, two.get(first))} {_HEAD}"
    if more:
        text += f" ({more} more region{'s' if more > 1 else ''} differ{'' if more > 1 else 's'})"
    parties = tuple(
        Party(f"{region.map_type.noun} {region.label} {who}", region.range, "GPA")
        for region, who in ((one.get(first), _SEED), (two.get(first), _HEAD)) if region is not None
    )  # fmt: skip
    return [text], known.place or seed.place, parties


def _declared(vm: PlannedVm) -> dict[tuple[str, int], MemoryRegion]:
    """Regions by what declares them, and by order where one declaration gives several: names depend on the reading."""
    found: dict[tuple[str, int], MemoryRegion] = {}
    pieces: Counter[str] = Counter()
    for region in vm.plan.regions:
        key = region.name if region.place is None else str(region.place) + region.place.key
        found[key, pieces[key]] = region
        pieces[key] += 1
    return found


def _told(vm: PlannedVm, region: MemoryRegion | None) -> str:
    """A region in words that are the same where it is the same."""
    if region is None:
        return "not there"
    rights = region.flags.permissions.short[:3]
    if vm.plan.is_assumed(region):
        return f"RAM {rights} wherever there is room for {region.size:#x} bytes (assumed: HPA and GPA {region.range})"
    host = region.host_range
    where = "" if host is None else f" at HPA {host.start:#x}"
    kind = "RAM" if region.map_type is MapType.MAP_IDENTICAL else region.map_type.noun
    return f"{kind} {rights} GPA {region.range}{where}"


def _codes(file: VmConfig, findings: Iterable[Finding]) -> Counter[str]:
    """How often which rule is broken in a file; notes do not count, nor what speaks of both readings itself."""
    told = (one for one in findings if one.level is not Severity.NOTE and one.rule is not DEVICE_TYPE)
    return Counter(one.code for one in told if any(place.file == file.file for place in one.locations))


def _listed(codes: Counter[str]) -> str:
    return ", ".join(f"{code} ({count} times)" if count > 1 else code for code, count in sorted(codes.items()))
