"""From declarations to the guest's physical memory: one sorted list of regions that do not overlap.

The rules, in the order they are applied:

1. RAM, ROM and shares never overlap anything.
2. Passed-through ranges are widened to whole pages (GPA and HPA must have the same offset in their page). Where two
   overlap they must agree on the HPA of every GPA, and become one region.
3. Emulated devices never overlap each other. Their pages are unmapped; devices that share a page become one region.
   Inside a passed-through range they make a hole.
4. The entry point is executable memory, and every load address is RAM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

from ..address import SIZE_4K, Gpa, Hpa, Range, align_down, align_offset, align_up
from ..errors import AddressError, EncodingError
from ..flags import MappingFlags, MapType
from ..place import Place, Rewrite
from ..ranges import RangeMap
from ..space.region import MemoryRegion, Populate, ViolationPolicy
from .conflict import Claim, ConflictError, Refuse, raise_it
from .devices import PassthroughDevice
from .document import NO_TREE, Notice, in_order
from .extensions import RegionDeclaration, RomDeclaration
from .extent import GPA_LIMIT, require_below_place, wrapped
from .load_addresses import check_addresses
from .locator import hex_groups
from .placement import Starts, identical_starts, placed_kernel, placed_memory, placement_notices, with_images
from .vm import VmConfig
from .wording import shown

_NEAR = 8
"""Limit: passed-through ranges on either side that are looked at for neighbours in a page."""
_DEVICE_FLAGS = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.DEVICE


@dataclass(frozen=True, slots=True)
class RegionPlan:
    """A VM's guest physical memory.

    Args:
        regions: sorted by GPA, disjoint; RAM, ROM, shares, passed-through and emulated devices.
        notices: what the plan did that the file does not say.
        starts: the regions whose place upstream's allocator decides, by name, and where they are assumed to begin.
    """

    regions: tuple[MemoryRegion, ...]
    notices: tuple[Notice, ...]
    starts: Starts = field(default_factory=dict)

    def is_assumed(self, region: MemoryRegion) -> bool:
        """Whether a region's place was assumed."""
        return region.map_type is MapType.MAP_IDENTICAL and self.starts.get(region.name) == region.start


@dataclass(frozen=True, slots=True)
class PlannedVm(VmConfig):
    """A VM whose declarations fit together; its kernel has the addresses that upstream makes of the file's.

    Args:
        plan: its memory. Other images than the file's leave it as it is: they are loaded where the file says.
        declared: the VM as its file has it.
    """

    plan: RegionPlan
    declared: VmConfig


@dataclass(frozen=True, slots=True)
class _Party:
    """A declared stretch on its way to a region."""

    name: str
    map_type: MapType
    flags: MappingFlags
    span: Range
    place: Place
    hpa: int | None = None
    populate: Populate | None = None
    violation: ViolationPolicy | None = None
    declared: Range | None = None
    """What the file says, where `span` was widened to pages."""

    def __str__(self) -> str:
        widened = ""
        if self.declared is not None and self.declared != self.span:
            widened = f" (the pages of {self.declared})"
        return f"{self.map_type.noun} {shown(self.name)} {self.span}{widened}"

    @property
    def delta(self) -> int:
        """HPA minus GPA."""
        return (self.hpa if self.hpa is not None else self.span.start) - self.span.start

    def at(self, span: Range) -> _Party:
        """The same stretch, cut or grown to `span`."""
        return replace(self, span=span, hpa=None if self.hpa is None else span.start + self.delta)

    def region(self) -> MemoryRegion:
        try:
            return MemoryRegion(
                start=Gpa(self.span.start),
                size=self.span.size,
                flags=self.flags,
                map_type=self.map_type,
                hpa=None if self.hpa is None else Hpa(self.hpa),
                name=self.name,
                populate=self.populate,
                violation=self.violation,
                place=self.place,
            )
        except (AddressError, EncodingError) as error:
            raise wrapped(self.place, error) from None


def plan_vm(vm: VmConfig, starts: Starts | None = None, refuse: Refuse = raise_it) -> PlannedVm:
    """The VM with the plan of its memory; the plan's notices are among the VM's.

    Args:
        vm: the VM as its file has it.
        starts: where identical memory lies whose place upstream's allocator decides; None for a VM on a host of its
            own, of which nothing is known.
        refuse: as for `plan_regions`.

    Raises:
        ConfigError: as `plan_regions`.
    """
    plan = plan_regions(vm, starts, refuse)
    kernel, _ = placed_kernel(vm, plan.starts)
    own = {entry.name: getattr(vm, entry.name) for entry in fields(VmConfig)}
    notices = in_order((*vm.notices, *plan.notices))
    return PlannedVm(**own | {"notices": notices, "kernel": kernel}, plan=plan, declared=vm)


def plan_together(
    vms: Sequence[PlannedVm], memory: Sequence[Range] | None = None, taken: Sequence[Range] = ()
) -> list[PlannedVm]:
    """VMs as they lie beside each other on one host: identical memory whose place upstream's allocator decides.

    Args:
        vms: the VMs, each planned by itself.
        memory: the host's RAM; None where nothing says.
        taken: host memory that no VM gets.

    Raises:
        ConfigError: a VM finds no room, or does not fit together where it does.
    """
    found = []
    for vm, starts in zip(vms, identical_starts([vm.declared for vm in vms], memory, taken), strict=True):
        if starts == vm.plan.starts:
            found.append(vm)
        else:
            found.append(plan_vm(replace(vm.declared, kernel=with_images(vm.declared.kernel, vm.kernel)), starts))
    return found


def plan_regions(vm: VmConfig, starts: Starts | None = None, refuse: Refuse = raise_it) -> RegionPlan:
    """Make one list of regions of everything the VM's file declares.

    Args:
        vm, starts: as for `plan_vm`.
        refuse: what is done with declarations that contradict each other; where it goes on, the plan is of no use.

    Raises:
        ConfigError: declarations overlap or contradict each other, or the guest would start or be loaded where
            there is no memory for it.
    """
    if starts is None:
        (starts,) = identical_starts([vm])
    kernel, notices = placed_kernel(vm, starts)
    notices += placement_notices(vm, starts)
    declared = (*placed_memory(vm, starts), *vm.extensions.regions)
    owned = [_owned(region) for region in declared if region.map_type.is_ram]
    owned += [_rom(rom) for rom in vm.roms]
    owned += [
        _Party(share.name, MapType.SHARE, share.flags, Range.sized(share.gpa, share.size), share.place)
        for share in vm.shares
    ]
    mmio = [_owned(region) for region in declared if region.map_type is MapType.MMIO]
    mmio += [_passthrough(device, refuse) for device in vm.devices.mapped]
    emulated = [_owned(region) for region in declared if region.map_type is MapType.EMULATED]
    emulated += [
        _Party(
            device.name,
            MapType.EMULATED,
            MappingFlags(0),
            Range.sized(device.gpa, device.size),
            device.place,
        )
        for device in vm.devices.emulated
        if device.size and not device.on_ports
    ]
    _refuse_overlaps(refuse, owned, "every GPA belongs to one of them only: move or shrink one")
    _refuse_overlaps(refuse, emulated, "an access could go to either device: move or shrink one")
    traps = _by_pages(emulated)
    notices += _neighbours(mmio)
    mmio = _merge_mmio(mmio, refuse)
    _refuse_between(refuse, owned, mmio, "the guest sees either RAM or the device there: move or shrink one")
    _refuse_between(refuse, owned, traps, "the device would hide the memory: move or shrink one")
    mapped = _punch(mmio, traps, notices)
    parties = sorted((*owned, *mapped, *traps), key=_start)
    regions = tuple(party.region() for party in parties)
    check_addresses(kernel, regions, refuse, written=vm.kernel)
    notices += _aliases(mapped, owned)
    unmapped = "is a node of the host's device tree, which is not at hand: nothing is mapped"
    notices += [Notice(f"{shown(node.path)} {unmapped}", node.place, NO_TREE) for node in vm.devices.unresolved]
    return RegionPlan(regions, tuple(notices), starts)


def _start(party: _Party) -> int:
    return party.span.start


def _owned(region: RegionDeclaration) -> _Party:
    return _Party(
        region.name,
        region.map_type,
        region.flags,
        Range.sized(region.gpa, region.size),
        region.place,
        region.hpa,
        region.populate,
        region.violation,
    )


def _rom(rom: RomDeclaration) -> _Party:
    size = rom.size
    if size is None:
        found = rom.image.find()
        if found is None:
            raise rom.place.error(
                f"ROM {shown(rom.name)} has no size, and its image {shown(rom.image.text)} is not there to be "
                f"measured ({rom.image.sought}): give size"
            )
        try:
            size = align_up(found.stat().st_size, SIZE_4K)
        except OSError as error:
            raise rom.image.error(f"cannot be read: {error.strerror}") from None
        if size == 0:
            raise rom.image.error("the image is empty")
        require_below_place(rom.place, rom.gpa, size, GPA_LIMIT)
    return _Party(rom.name, MapType.ROM, rom.flags, Range.sized(rom.gpa, size), rom.place, violation=rom.on_write)


def _passthrough(device: PassthroughDevice, refuse: Refuse) -> _Party:
    offset = align_offset(device.gpa, SIZE_4K)
    if offset != align_offset(device.hpa, SIZE_4K):
        problem = (
            f"GPA {device.gpa:#x} and HPA {device.hpa:#x} have different offsets in their pages, and only whole "
            "pages can be mapped: make the last three hexadecimal digits equal"
        )
        claim = Claim(f"device {shown(device.name)}", device.place, Range.sized(device.gpa, device.size))
        meant = hex_groups(align_down(device.gpa, SIZE_4K) | align_offset(device.hpa, SIZE_4K))
        rewrite = None if device.gpa_place is None else Rewrite(device.gpa_place, meant)
        refuse(ConflictError("page-offset", problem, (claim,), rewrite=rewrite))
    declared = Range.sized(device.gpa, device.size)
    span = declared.widened(SIZE_4K)
    return _Party(
        device.name,
        MapType.MMIO,
        _DEVICE_FLAGS,
        span,
        device.place,
        align_down(device.hpa, SIZE_4K),
        declared=declared,
    )


def _overlap(kind: str, one: _Party, other: _Party, advice: str) -> ConflictError:
    """The error for two stretches that overlap, told at the one further down in the file."""
    first, second = sorted((one, other), key=lambda party: (party.place.file, party.place.line))
    shared = one.span.intersection(other.span)
    claims = tuple(
        Claim(f"{party.map_type.noun} {shown(party.name)}", party.place, party.span) for party in (second, first)
    )
    return ConflictError(kind, f"{second} overlaps {first} of {first.place} in {shared}: {advice}", claims, shared)


def _refuse_overlaps(refuse: Refuse, parties: Sequence[_Party], advice: str) -> None:
    last: _Party | None = None
    for party in sorted(parties, key=_start):
        if last is not None and party.span.overlaps(last.span):
            refuse(_overlap("overlap", last, party, advice))
        if last is None or party.span.end > last.span.end:
            last = party


def _refuse_between(refuse: Refuse, ones: Sequence[_Party], others: Sequence[_Party], advice: str) -> None:
    """Refuse an overlap of one group with another; each group is free of overlaps."""
    groups = [(party, True) for party in ones] + [(party, False) for party in others]
    last: tuple[_Party, bool] | None = None
    for party, group in sorted(groups, key=lambda pair: _start(pair[0])):
        if last is not None and last[1] != group and party.span.overlaps(last[0].span):
            refuse(_overlap("device-over-memory", last[0], party, advice))
        if last is None or party.span.end > last[0].span.end:
            last = (party, group)


def _joined(
    parties: Sequence[_Party], together: Callable[[_Party, _Party], bool], join: Callable[[_Party, Range], _Party]
) -> list[_Party]:
    """Put neighbours in address order together where `together` says so; names are joined with a plus."""
    result: list[_Party] = []
    names: list[list[str]] = []
    for party in sorted(parties, key=_start):
        if result and together(result[-1], party):
            span = Range(result[-1].span.start, max(result[-1].span.end, party.span.end))
            result[-1] = join(result[-1], span)
            if party.name not in names[-1][:8]:
                names[-1].append(party.name)
        else:
            result.append(party)
            names.append([party.name])
    return [
        replace(party, name=" + ".join(group[:4]) + (f" + {len(group) - 4} more" if len(group) > 4 else ""))
        for party, group in zip(result, names, strict=True)
    ]


def _merge_mmio(parties: Sequence[_Party], refuse: Refuse) -> list[_Party]:
    def together(last: _Party, party: _Party) -> bool:
        if not party.span.overlaps(last.span):
            return False
        shared = last.span.intersection(party.span)
        assert shared is not None
        if party.delta != last.delta:
            here, there = shared.start + last.delta, shared.start + party.delta
            refuse(
                _overlap(
                    "two-targets",
                    last,
                    party,
                    f"GPA {shared.start:#x} would be HPA {here:#x} and HPA {there:#x}: keep one",
                )
            )
        elif (party.flags, party.violation) != (last.flags, last.violation):
            refuse(_overlap("two-targets", last, party, "their flags or policies differ: keep one"))
        return True

    return _joined(parties, together, lambda party, span: replace(party, span=span, declared=None))


def _by_pages(emulated: Sequence[_Party]) -> list[_Party]:
    widened = [replace(party, span=party.span.widened(SIZE_4K), declared=party.span) for party in emulated]
    return _joined(
        widened,
        lambda last, party: party.span.overlaps(last.span),
        lambda party, span: replace(party, span=span, declared=None),
    )


def _punch(mmio: Sequence[_Party], traps: Sequence[_Party], notices: list[Notice]) -> list[_Party]:
    """Take the pages of emulated devices out of passed-through ranges."""
    index: RangeMap[int] = RangeMap(merge=False)
    for number, party in enumerate(mmio):
        index.add(party.span, number)
    for trap in traps:
        for held, number in index.overlapping(trap.span):
            shared = held.intersection(trap.span)
            notices.append(
                Notice(
                    f"{shared} is taken out of {mmio[number]} of {mmio[number].place}, so that accesses reach {trap}",
                    trap.place,
                    "trap-inside",
                )
            )
        index.remove(trap.span)
    return [mmio[number].at(span) for span, number in index]


def _neighbours(mmio: Sequence[_Party]) -> list[Notice]:
    """Passed-through ranges that are no whole pages: what else is in their pages comes along."""
    index = sorted(mmio, key=_start)
    notices = []
    for number, party in enumerate(index):
        declared = party.declared
        if declared is None or declared == party.span:
            continue
        near = (*index[max(0, number - _NEAR) : number], *index[number + 1 : number + 1 + _NEAR])
        others = [
            f"{shown(other.name)} {other.declared or other.span}"
            for other in near
            if other.span.overlaps(party.span) and not declared.covers(other.declared or other.span)
        ]
        host = Range.sized(party.span.start + party.delta, party.span.size)
        along = f", among it {' and '.join(others)}" if others else ""
        notices.append(
            Notice(
                f"{party.map_type.noun} {shown(party.name)} {declared} is no whole page, and the guest gets whole "
                f"pages: what else is in HPA {host} comes along{along}",
                party.place,
                "part-page",
            )
        )
    return notices


def _aliases(mmio: Sequence[_Party], owned: Sequence[_Party]) -> list[Notice]:
    """Devices whose HPA is RAM that the same VM maps one to one."""
    ram: RangeMap[_Party] = RangeMap(merge=False)
    for party in owned:
        if party.map_type.is_identity:
            for gap in ram.gaps(party.span):  # where they overlap it was told, and somebody may want to hear the rest
                ram.add(gap, party)
    notices = []
    for party in mmio:
        host = Range.sized(party.span.start + party.delta, party.span.size)
        met = ram.overlapping(host)
        if met:
            held = met[0][1]
            more = f", and RAM of {len(met) - 1} more regions" if len(met) > 1 else ""
            text = f"{party} is at HPA {host}, which is {held} of {held.place}{more}: a second way to it"
            notices.append(Notice(text, party.place, "two-ways"))
    return notices
