"""What a picture of memory is of: spaces, and who has which range of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest

from ...address import Range
from ...config.board import BoardConfig
from ...config.platform import PlatformConfig
from ...config.regions import PlannedVm
from ...flags import MappingFlags, MapType
from ...forecast.map_ranges import RangeKind, Stage2Map
from ...hypervisor.layout import of_platform
from ...ranges import RangeMap
from ...space.region import MemoryRegion
from ..plain import about, percent

CHOSEN = "frames not chosen yet"
"""The memory behind regions for which no declaration names an HPA."""


class Kind(Enum):
    """What a range is; the value is its word in the legend."""

    RAM = "RAM"
    ROM = "ROM"
    SHARE = "share"
    PASSTHROUGH = "passed-through device"
    EMULATED = "emulated device (not mapped)"
    TABLES = "page tables"
    HYPERVISOR = "hypervisor"
    RESERVED = "reserved"
    UNDECLARED = "nothing declared"


@dataclass(frozen=True, slots=True)
class Link:
    """Host memory behind addresses of a VM.

    Args:
        gpa: the addresses.
        hpa: the memory; None where its place cannot be known.
        chosen: what to call memory whose place cannot be known.
        scattered: the memory lies behind some of the addresses, in any order.
    """

    gpa: Range
    hpa: Range | None
    chosen: str = ""
    scattered: bool = False


@dataclass(frozen=True, slots=True)
class Actual:
    """What the tables have of a range that is declared.

    Args:
        cells: stretches that are mapped, at least in part, in order; with the bytes of each that are.
        rights: what the tables allow, where that is not what is declared; with the bytes for which it is so.
    """

    cells: tuple[tuple[Range, int], ...] = ()
    rights: tuple[tuple[MappingFlags, int], ...] = ()

    @property
    def size(self) -> int:
        """Bytes that are mapped."""
        return sum(size for _, size in self.cells)


@dataclass(frozen=True, slots=True)
class Party:
    """Somebody with a range of a space.

    Args:
        name: what it is called.
        span: its addresses: GPAs in a VM's space, HPAs in the host's.
        kind: what it is.
        flags: what may be done there, as declared; None where nobody says.
        hpa: the host memory behind it; None for none, or where it cannot be known.
        chosen: what to call the host memory behind it whose place cannot be known; empty for none.
        links: where the host memory behind it is not one range: all of it.
        actual: what the tables have of it; None where no tables are looked at.
    """

    name: str
    span: Range
    kind: Kind
    flags: MappingFlags | None = None
    hpa: Range | None = None
    chosen: str = ""
    links: tuple[Link, ...] = ()
    actual: Actual | None = None

    @property
    def behind(self) -> tuple[Link, ...]:
        """All host memory behind it."""
        if self.links or not (self.hpa or self.chosen):
            return self.links
        return (Link(self.span, self.hpa, self.chosen),)

    @property
    def notes(self) -> tuple[str, ...]:
        """In what the tables differ from the declaration."""
        if self.actual is None:
            return ()
        size, whole = self.actual.size, self.span.size
        found = []
        if self.kind is Kind.EMULATED:
            found += [f"to trap, and {about(size)} of it mapped"] if size else []
        elif size < whole:
            found.append(f"populated: {_share(size, whole)}")
        found += [f"tables allow {flags.short[:3]} for {about(size)}" for flags, size in self.actual.rights]
        return tuple(found)


def _share(size: int, whole: int) -> str:
    """A part of a size, so that it is not taken for all of it."""
    if not size:
        return "nothing"
    if about(size) == about(whole):
        return f"all but {about(whole - size)}"
    return f"{about(size)} of {about(whole)}, {percent(size, whole)}"


@dataclass(frozen=True, slots=True)
class Space:
    """A VM's address space: its title and who has something in it, in any order."""

    title: str
    parties: tuple[Party, ...]


_KINDS = {
    MapType.ROM: Kind.ROM,
    MapType.SHARE: Kind.SHARE,
    MapType.MMIO: Kind.PASSTHROUGH,
    MapType.EMULATED: Kind.EMULATED,
}


def declared_spaces(
    vms: Sequence[PlannedVm],
    platform: PlatformConfig | BoardConfig | None,
    maps: Sequence[Stage2Map | None] = (),
) -> tuple[list[Space], list[Party]]:
    """What VM files declare, and what is the host's own: the spaces of the VMs, and the host's parties.

    Args:
        vms: as they lie on the host.
        platform: the host; None, or a board file, where nobody says what is in its memory.
        maps: the VMs' stage-2 maps that will be, where the host's tree is known: what they map besides is there too.
    """
    spaces = []
    for vm, made in zip_longest(vms, maps[: len(vms)]):
        found = [_party(vm, region) for region in vm.plan.regions]
        if made is not None:
            found += _mapped_besides(vm, made)
        spaces.append(Space(f"VM {vm.id} {vm.name}", tuple(found)))
    own: list[Party] = []
    if isinstance(platform, PlatformConfig):
        own += [Party(one.who, one.span, Kind.RESERVED) for one in platform.reserved]
        kernel = None if platform.kernel_paddr is None else of_platform(platform).hpa
        if kernel is not None:
            own.append(Party("hypervisor", kernel, Kind.HYPERVISOR))
    return spaces, own


def kind_of(region: MemoryRegion) -> Kind:
    """What a region is."""
    return _KINDS.get(region.map_type, Kind.RAM)


def _party(vm: PlannedVm, region: MemoryRegion) -> Party:
    kind = kind_of(region)
    name = region.label + (" (place assumed)" if vm.plan.is_assumed(region) else "")
    if not region.map_type.is_mapped:
        return Party(name, region.range, kind)
    chosen = ""
    if region.host_range is None:
        chosen = f"share {region.name}: {CHOSEN}" if kind is Kind.SHARE else CHOSEN
    return Party(name, region.range, kind, region.flags, region.host_range, chosen)


def _mapped_besides(vm: PlannedVm, made: Stage2Map) -> list[Party]:
    """What a board will map for a VM outside what its file declares: devices of the host's tree."""
    declared: RangeMap[None] = RangeMap()
    for region in vm.plan.regions:
        declared.add(region.range, None)
    found = []
    for one in made.mappings:
        kind = Kind.PASSTHROUGH if one.kind is RangeKind.PASSTHROUGH else Kind.RAM
        for span in declared.gaps(one.span):
            hpa = one.at(span).hpa
            behind, chosen = (None, CHOSEN) if hpa is None else (Range.sized(hpa, span.size), "")
            found.append(Party(f"{one.name} (by the host's tree)", span, kind, one.flags, behind, chosen))
    return found
