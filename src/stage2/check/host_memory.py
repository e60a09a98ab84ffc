"""VMs' memory beside the host's: the rules S2501 to S2506. Most need a file that describes the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ..address import Range, format_size
from ..config.boot import require_boot
from ..config.load import choose_arch, choose_format
from ..config.platform import PlatformConfig
from ..config.regions import PlannedVm
from ..config.wording import shown
from ..errors import ConfigError
from ..flags import MapType
from ..place import Place
from ..ranges import RangeIndex
from ..space.region import MemoryRegion
from .conflicts import OTHER
from .finding import Finding, Location, Party, Rule, Severity
from .kernel_layout import Claim, check_image, check_place
from .setup import Setup

OUTSIDE_RAM = Rule(
    "S2501", Severity.WARNING, "memory that a VM has one to one is no RAM of the host's description",
    "AxVisor's platform files may describe the hypervisor's part of RAM alone, and then this is as it should be. Where "
    "it is no RAM, the guest's first access goes to a hole or a device of the bus: it stops, or hangs the board.",
)  # fmt: skip
ON_A_DEVICE = Rule(
    "S2502", Severity.ERROR, "memory that a VM has one to one is a device of the host",
    "The guest would use the device's registers as RAM.",
)  # fmt: skip
TOO_LITTLE = Rule(
    "S2503", Severity.ERROR, "the host has not as much RAM as its VMs are promised",
    "The last VMs do not start, or guests stop when they touch memory for the first time.",
)  # fmt: skip
RAM_AS_DEVICE = Rule(
    "S2504", Severity.ERROR, "a device that a VM is given is RAM of the host",
    "The guest reaches memory that is the hypervisor's or another VM's, uncached: isolation ends there.",
)  # fmt: skip
RESERVED = Rule(
    "S2505", Severity.ERROR, "memory that a VM has one to one is reserved on the host",
    "Firmware, another core or a device uses it too: guest and owner overwrite each other, or the bus refuses it.",
)  # fmt: skip
TOO_WIDE = Rule(
    "S2506", Severity.ERROR, "the tables of the processor do not reach a VM's memory",
    "Stage 2 cannot translate the addresses: AxVisor refuses the VM, or the guest faults there.",
)  # fmt: skip
RULES = (OUTSIDE_RAM, ON_A_DEVICE, TOO_LITTLE, RAM_AS_DEVICE, RESERVED, TOO_WIDE)

_MOST_MET = 256
"""Limit: what one region meets of the host's."""


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A stretch of host memory that a VM reaches at an address of its file's choice."""

    vm: PlannedVm
    region: MemoryRegion
    span: Range

    @property
    def name(self) -> str:
        return f"{self.region.map_type.noun} {shown(self.region.label)} of {self.vm.label}"

    @property
    def place(self) -> Place:
        return self.region.place or self.vm.place

    @property
    def party(self) -> Party:
        return Party(self.name, self.span)

    @property
    def location(self) -> Location:
        return Location.of(self.place, self.name)


def check_host_memory(setup: Setup) -> Iterator[Finding]:
    """What VMs want of the host's memory, held against what it has, and against where the hypervisor is."""
    fixed = [each for vm in setup.vms for each in _fixed(vm)]
    if setup.image is not None and setup.kernel is not None:
        yield from check_image(setup.image, setup.kernel)
    if setup.kernel is not None:
        claims = [Claim(each.name, each.span, each.location) for each in fixed]
        yield from check_place(setup.kernel, setup.host, claims)
    host = setup.host
    if host is None:
        return
    spans = (*host.mmio, *host.virtio_mmio, *host.pci_ranges)
    windows = _parties(Party("the host's device window", span) for span in spans)
    reserved = _parties(Party(f"the reservation {held.who}", held.span) for held in host.reserved)
    memory = _parties(Party("the host's RAM", span) for span in host.memory)
    for each in fixed:
        if each.region.map_type.is_ram:
            yield from _outside(each, host)
            yield from _meeting(ON_A_DEVICE, each, windows, "move the memory, or correct the platform's [devices]")
            # A region of map_type 2 asks for memory that is reserved; the others do not.
            if each.region.map_type is MapType.MAP_IDENTICAL:
                fix = "move the memory, or declare what is meant to be reserved with map_type 2"
                yield from _meeting(RESERVED, each, reserved, fix)
        else:
            fix = "give the device's own address, or memory with map_type 1 or 2"
            yield from _meeting(RAM_AS_DEVICE, each, memory, fix)
    yield from _demand(setup.vms, host, [each.span for each in fixed if each.region.map_type.is_ram])


def check_width(setup: Setup) -> Iterator[Finding]:
    """Whether tables of the architecture, and of the processor, reach all of each VM."""
    for vm in setup.vms:
        rule = OTHER
        try:
            arch = choose_arch(vm, setup.arch, setup.platform)
            if arch is not None:
                require_boot(vm.kernel.boot, arch)
                if vm.options.cpu is not None:
                    vm.options.cpu.on(arch)
                if vm.options.format is None or vm.options.format.arch == arch:
                    rule = TOO_WIDE
                choose_format(vm, arch, setup.platform, cpu=setup.cpu)
        except ConfigError as error:
            where = Location.of(vm.place) if error.file is None else Location(error.file, error.line)
            yield Finding(rule, error.problem, (Party(vm.label),), locations=(where,))


def _fixed(vm: PlannedVm) -> Iterator[_Fixed]:
    for region in vm.plan.regions:
        host = region.host_range
        if host is not None and region.map_type.fixed_hpa and not vm.plan.is_assumed(region):
            yield _Fixed(vm, region, host)


def _outside(each: _Fixed, host: PlatformConfig) -> Iterator[Finding]:
    if each.region.map_type is not MapType.MAP_IDENTICAL or any(ram.covers(each.span) for ram in host.memory):
        return
    ram = ", ".join(f"{part} ({format_size(part.size)})" for part in host.memory) or "none"
    yield Finding(
        OUTSIDE_RAM, f"{each.party} is not all RAM of the host, which is {ram}", (each.party,),
        locations=(each.location,), fix="put it into the host's RAM, or let the host choose with map_type 0",
    )  # fmt: skip


def _parties(parties: Iterable[Party]) -> RangeIndex[tuple[int, Party]]:
    """Parties by their addresses, each with its number."""
    return RangeIndex((one.span, (number, one)) for number, one in enumerate(parties) if one.span is not None)


def _meeting(rule: Rule, each: _Fixed, others: RangeIndex[tuple[int, Party]], fix: str) -> Iterator[Finding]:
    """One finding about all of the others whose addresses a VM has too."""
    found = islice(others.meeting(each.span), _MOST_MET)
    met = [one for _, (_, one) in sorted(found, key=lambda entry: entry[1][0])]
    if met:
        shared = None if met[0].span is None else met[0].span.intersection(each.span)
        more = f", and {len(met) - 1} more of them" if len(met) > 1 else ""
        message = f"{each.party} overlaps {met[0]} in {shared}{more}"
        yield Finding(rule, message, (each.party, *met), shared, (each.location,), fix)


def _demand(vms: Sequence[PlannedVm], host: PlatformConfig, taken: Sequence[Range]) -> Iterator[Finding]:
    """The RAM that the host is to choose, against what is left once the memory at fixed addresses is given."""
    whole = sum(part.size for part in host.memory)
    gone = sum(shared.size for part in host.memory for span in taken if (shared := part.intersection(span)) is not None)
    left = whole - gone
    for vm in vms:
        for region in vm.plan.regions:
            if not region.map_type.is_ram or region.map_type.fixed_hpa:
                continue
            left -= region.size
            if left < 0:
                party = Party(f"{region.map_type.noun} {shown(region.label)} of {vm.label}", region.range, "GPA")
                yield Finding(
                    TOO_LITTLE,
                    f"{party} needs {format_size(region.size)}, and the host's {format_size(whole)} of RAM are "
                    f"{format_size(-left)} short of it beside what other VMs have",
                    (party,), locations=(Location.of(region.place or vm.place),),
                    fix="give VMs less memory, or run fewer of them",
                )  # fmt: skip
                return
