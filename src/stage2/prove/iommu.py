"""What devices reach through an IOMMU's second stage, held against what their VMs reach and hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..address import Range
from ..errors import ConfigError
from ..flags import MappingFlags
from ..formats.record import Format
from ..memory.owners import Owner, OwnerKind
from ..ranges import RangeMap
from ..tables.regime import Regime
from .lookup import within
from .packing import U64Array
from .scan import Scan, scan
from .separation import owned
from .source import TableSource
from .subject import GivenDevice, IommuTables, Subject
from .theorem import Seat, Witness
from .world import Scanned, World, granting

_VERBS = {MappingFlags.WRITE: "write", MappingFlags.READ: "read"}
_SMMU = "an SMMUv3's stream table has their root and VTCR's fields, with S2AA64 set (Arm IHI 0070, 5.2 and 3.4)"
_VTD = "VT-d reads the bits of second-stage entries (its specification, 3.7 and 9.8) that EPT has too, as EPT does"
_RISCV = "the RISC-V IOMMU's device context has their root and mode in iohgatp"
_AMD = (
    "AMD's IOMMU reads tables of its own format, with Next Level, IR and IW in each entry (publication 48882), and not "
    "{0}: its tables are not read here"
)


def require_walked(fmt: Format) -> str:
    """What it takes for an IOMMU to walk tables of a format.

    Raises:
        ConfigError: no IOMMU that is known here does.
    """
    if fmt.stage == 2 and fmt.family == "arm":
        return _SMMU
    if fmt.stage == 2 and fmt.family == "riscv":
        return _RISCV
    if fmt.name.startswith("ept"):
        return _VTD
    if fmt.name.startswith("npt"):
        raise ConfigError(_AMD.format(fmt.name))
    raise ConfigError(f"tables of the format {fmt.name} are none of a second stage: no IOMMU has them for a whole VM")


def behind_iommu(subject: Subject, device: str | None, tables: tuple[Regime, TableSource] | None) -> Subject:
    """A subject in which an IOMMU stands between a device and memory.

    Args:
        subject: the host.
        device: its name, or `VM/DEVICE`; None for every device of every VM.
        tables: what the IOMMU walks; None for the stage-2 tables of the device's VM.

    Raises:
        ConfigError: there is no such device, or several, or no IOMMU walks tables of that format.
    """
    chosen = set(subject.devices if device is None else devices_named(subject, device))
    regimes = {space.name: space.regime for space in subject.spaces}
    found = []
    for one in subject.devices:
        if one in chosen:
            regime, source = tables or (regimes[one.vm], subject.source)
            require_walked(regime.format)
            one = replace(one, iommu=IommuTables(regime, source, shared=tables is None))
        found.append(one)
    return replace(subject, devices=tuple(found))


def devices_named(subject: Subject, device: str) -> list[GivenDevice]:
    """The devices of one VM that have a name.

    Args:
        subject: the host.
        device: the name, or `VM/DEVICE`.

    Raises:
        ConfigError: there is none, or several VMs have one.
    """
    found = [one for one in subject.devices if device in (one.name, f"{one.vm}/{one.name}")]
    owners = list(dict.fromkeys(one.vm for one in found))
    if not found:
        known = ", ".join(f"{one.vm}/{one.name}" for one in subject.devices[:8]) or "none"
        raise ConfigError(f"no VM is given a device {device!r}; their devices are: {known}")
    if len(owners) > 1:
        raise ConfigError(f"several VMs are given a device {device!r}: name it {owners[0]}/{device}")
    return found


def assumed(device: GivenDevice) -> tuple[str, ...]:
    """What is taken for granted of a device behind an IOMMU, a sentence each."""
    assert device.iommu is not None, "only of such"
    return (
        require_walked(device.iommu.regime.format),
        "devices behind an IOMMU send nothing past it, under no other's ID, and with no addresses that they translated "
        "themselves (ATS)",
    )


def scanned(device: GivenDevice, vm: Scanned) -> Scan:
    """The tables of a device's IOMMU, read: every leaf is in a row, but for a VM's own tables."""
    assert device.iommu is not None, "only of such"
    return vm.scan if device.iommu.shared else scan(device.iommu.regime, device.iommu.source)


def reach_of(world: World, device: GivenDevice, vm: Scanned, found: Scan) -> Witness | None:
    """Why a device reaches what is not its VM's, or more than that may do; None where it does not.

    Args:
        world: the host.
        device: behind an IOMMU.
        vm: whose it is.
        found: the IOMMU's tables.
    """
    for wrong in found.wrong:
        seat = Seat(device.who, wrong.address)
        text = f"the tables of the IOMMU before {device.who}: {wrong.problem}"
        return Witness(text, seat, owner=world.owner_of(wrong.slot), slot=wrong.slot, remedy="write the entry anew")
    mine = owned(World(world.subject, (vm,), (), world.owners)).witness
    if mine is not None:
        return replace(mine, problem=f"{device.who} reaches what its VM reaches: {mine.problem}")
    if device.iommu is not None and device.iommu.shared:
        return None
    regime = _regime(device)
    for right in _VERBS:
        rows = granting(found.rows, regime, right)
        allowed = _allowed(world, vm, right)
        outside = np.flatnonzero(within(rows[:, 1], rows[:, 2], allowed) < 0)
        if len(outside):
            iova, hpa, size = (int(part) for part in rows[int(outside[0]), :3])
            span = _first_outside(Range.sized(hpa, size), allowed)
            assert span is not None, "it lies in none of them"
            return _witness(world, device, vm, iova + span.start - hpa, span, right)
    return None


def beyond(world: World, vm: Scanned, reach: Sequence[Range]) -> Range | None:
    """The first host addresses of those that a device reaches which are not its VM's; None where all are.

    Args:
        world: the host.
        vm: whose the device is.
        reach: the host addresses.
    """
    allowed = _allowed(world, vm, MappingFlags.WRITE)
    for span in reach:
        outside = _first_outside(span, allowed)
        if outside is not None:
            return outside
    return None


def table_reached(world: World, device: GivenDevice, found: Scan) -> Witness | None:
    """Whether a VM reaches a table of a device's IOMMU: it could give the device all of memory."""
    tables = _ranges(found.table_spans(_regime(device).format))
    for vm in world.vms:
        for span, _ in tables:
            for part in vm.parts(span):
                text = f"{vm.space.who} reaches {part.host}, a table of the IOMMU before {device.who}"
                hpa = part.host.start
                seat = Seat(vm.space.who, vm.gpa_in(part, hpa))
                return Witness(text, seat, hpa, owner=world.owner_of(hpa), span=part.host, remedy="unmap it")
    return None


def _regime(device: GivenDevice) -> Regime:
    assert device.iommu is not None, "only of such"
    return device.iommu.regime


def _allowed(world: World, vm: Scanned, right: MappingFlags) -> list[Range]:
    """Where a VM's device may access: what the VM may access itself, and what it holds and has not mapped."""
    allowed, mapped = _ranges(vm.spans_with(right)), _ranges(vm.spans)
    for span, owner in world.owners or ():
        if owner == Owner(OwnerKind.VM, vm.space.name):
            for gap in mapped.gaps(span):
                allowed.set(gap, None)
    return [span for span, _ in allowed]


def _ranges(spans: U64Array) -> RangeMap[None]:
    found: RangeMap[None] = RangeMap()
    for start, size in spans.tolist():
        found.set(Range.sized(start, size), None)
    return found


def _first_outside(span: Range, allowed: Sequence[Range]) -> Range | None:
    """The first piece of a range that no allowed one has."""
    start = span.start
    for one in allowed:
        if one.end <= start:
            continue
        if one.start > start or one.end >= span.end:
            return Range(start, min(span.end, one.start)) if one.start > start else None
        start = one.end
    return Range(start, span.end)


def _witness(world: World, device: GivenDevice, vm: Scanned, iova: int, span: Range, right: MappingFlags) -> Witness:
    owner = world.owner_of(span.start)
    first = Range.sized(span.start, 1)
    if any(vm.parts(first)):
        text = f"{device.who} may {_VERBS[right]} {span} at IOVA {iova:#x}, and its VM may not"
    else:
        whose = f"belongs to {owner}" if world.owners is not None else "its VM does not reach"
        text = f"{device.who} reaches {span} at IOVA {iova:#x}, which {whose}"
    seats = (Seat(one.space.who, one.gpa_in(part, span.start)) for one in (vm, *world.vms) for part in one.parts(first))
    remedy = "take it out of the IOMMU's tables"
    return Witness(text, Seat(device.who, iova), span.start, next(seats, None), owner, span=span, remedy=remedy)
