"""What a picture of VMs with tables is of: what the tables map of each region, and whose the host memory is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from ...address import Range
from ...flags import MappingFlags
from ...memory.owners import OwnerKind
from ...prove.decoding import joined
from ...prove.packing import U64Array
from ...prove.scattered import joined_reach
from ...prove.world import Scanned, World
from ..plain import counted
from .parties import Actual, Kind, Link, Party, Space, kind_of

if TYPE_CHECKING:
    from ...vm.host import Host

MAX_RUNS = 8
"""Limit: runs of host memory that are drawn of one region; the rest is counted."""
MAX_CELLS = 512
"""Limit: stretches of a region of which it is told how much is mapped; many small ones become so many equal ones."""
_HYPERVISOR = "the hypervisor"
_UNDECLARED = "mapped, not declared"
_OWN = {
    OwnerKind.HYPERVISOR: Kind.HYPERVISOR,
    OwnerKind.PER_CPU: Kind.HYPERVISOR,
    OwnerKind.TIMERS: Kind.HYPERVISOR,
    OwnerKind.RESERVED: Kind.RESERVED,
}


def made_spaces(host: Host) -> tuple[list[Space], list[Party]]:
    """The spaces of a host's VMs, and what else has an owner there.

    Args:
        host: with its VMs, whose tables are read; they may run.
    """
    return mapped_spaces(world_of(host), titles_of(host))


def world_of(host: Host) -> World:
    """The tables of a host's VMs as they are now; they may run."""
    from ...vm.isolation import subject_of

    with ExitStack() as held:
        for vm in host.vms:
            held.enter_context(vm.space.lock)
        return World.of(subject_of(host))


def titles_of(host: Host) -> dict[str, str]:
    """What a host's VMs are called, by the names of their spaces."""
    return {vm.space.name: f"VM {vm.id} {vm.name}" for vm in host.vms}


def mapped_spaces(world: World, titles: Mapping[str, str] | None = None) -> tuple[list[Space], list[Party]]:
    """The spaces of VMs whose tables are read, and what else has an owner.

    Every region is what is declared, with what the tables map of it; what they map beside all regions is there too.

    Args:
        world: the tables.
        titles: what to call VMs, by the names of their spaces.
    """
    spaces = []
    for vm in world.vms:
        title = (titles or {}).get(vm.space.name, vm.space.who)
        spaces.append(Space(title, tuple(_parties(vm, title))))
    return spaces, list(_host(world))


def _host(world: World) -> Iterator[Party]:
    """What is the host's own; where nobody knows its owners, the frames of tables."""
    owners = world.subject.owners
    if owners is None:
        frames = [(span, one.space.who) for one in (*world.vms, *world.own) for span in one.space.frames or ()]
    else:
        frames = [
            (span, f"VM {owner.name}" if owner.name else _HYPERVISOR)
            for span, owner in owners
            if owner.kind is OwnerKind.TABLES
        ]
    for span, owner in owners or ():
        if owner.kind in _OWN:
            yield Party(str(owner), span, _OWN[owner.kind])
    yield from _tables(sorted(frames))


def _tables(frames: Iterable[tuple[Range, str]]) -> Iterator[Party]:
    """Frames of tables, with whose they are; those that touch are one: with many VMs they lie mingled."""
    joined: tuple[Range, dict[str, None]] | None = None
    for span, who in frames:
        if joined is not None and joined[0].end == span.start:
            joined = Range(joined[0].start, span.end), {**joined[1], who: None}
            continue
        if joined is not None:
            yield _frames(*joined)
        joined = span, {who: None}
    if joined is not None:
        yield _frames(*joined)


def _frames(span: Range, whose: Collection[str]) -> Party:
    vms = [who for who in whose if who != _HYPERVISOR]
    several = vms if len(vms) < 2 else [f"{len(vms)} VMs"]
    own = [_HYPERVISOR] if len(vms) < len(whose) else []
    return Party(f"page tables of {' and '.join([*several, *own])}", span, Kind.TABLES)


def _parties(vm: Scanned, title: str) -> Iterator[Party]:
    """Regions and what lies between them, in order of GPA."""
    at = 0
    rows = _rows(vm)
    for region in vm.space.sorted_regions:
        if region.start > at:
            yield from _undeclared(vm, title, _clipped(rows, at, region.start))
        flags = region.flags if region.map_type.is_mapped else None
        part = _clipped(rows, region.start, region.end)
        yield _party(vm, title, part, region.range, region.label, kind_of(region), flags)
        at = max(at, region.end)
    yield from _undeclared(vm, title, _clipped(rows, at, 1 << 64))


def _rows(vm: Scanned) -> U64Array:
    """All that is mapped, in order of GPA; scattered leaves each by itself."""
    scattered = [part for kind in vm.scan.scattered for part in vm.rows_of(kind)]
    if not scattered:
        return vm.scan.rows
    rows = np.concatenate([vm.scan.rows, *scattered])
    return joined(rows[np.argsort(rows[:, 0], kind="stable")])


def _undeclared(vm: Scanned, title: str, rows: U64Array) -> Iterator[Party]:
    """What is mapped between two regions."""
    spans = [Range.sized(start, size) for start, size in _spans(rows)[: MAX_RUNS + 1].tolist()]
    if len(spans) > MAX_RUNS:
        spans = [_hull(rows)]
    for span in spans:
        part = _clipped(rows, span.start, span.end)
        yield _party(vm, title, part, span, _UNDECLARED, Kind.UNDECLARED, None)


def _party(
    vm: Scanned, title: str, rows: U64Array, span: Range, name: str, kind: Kind, flags: MappingFlags | None
) -> Party:
    runs = rows.copy()
    runs[:, 3] = 0
    links = tuple(_links(joined(runs), f"{title} {name}"))
    # What is to trap looks as declared as long as it does.
    actual = None if kind is Kind.EMULATED and not len(rows) else Actual(_cells(rows, span), _rights(vm, rows, flags))
    if len(links) == 1 and links[0].gpa == span and links[0].hpa is not None:
        return Party(name, span, kind, flags, links[0].hpa, actual=actual)
    return Party(name, span, kind, flags, links=links, actual=actual)


def _clipped(rows: U64Array, start: int, end: int) -> U64Array:
    """The parts of rows that lie between two GPAs."""
    first = int(np.searchsorted(rows[:, 0] + (rows[:, 2] - np.uint64(1)), np.uint64(start)))
    last = len(rows) if end >> 64 else int(np.searchsorted(rows[:, 0], np.uint64(end)))
    part = rows[first:last].copy()
    if len(part):
        ((gpa, hpa, size, _),) = part[:1].tolist()
        before = max(0, start - gpa)
        part[0, :3] = gpa + before, hpa + before, size - before
        ((gpa, _, size, _),) = part[-1:].tolist()
        part[-1, 2] = min(size, end - gpa)
    return part


def _spans(rows: U64Array, column: int = 0) -> U64Array:
    """(n, 2) start and size of the addresses in a column of rows, joined: 0 for GPAs, 1 for HPAs."""
    return joined_reach(rows[:, [column, 2]])


def _cells(rows: U64Array, span: Range) -> tuple[tuple[Range, int], ...]:
    """How much of a range is mapped: its mapped stretches, or equal ones where those are many."""
    spans = _spans(rows)
    if len(spans) <= MAX_CELLS:
        return tuple((Range.sized(start, size), size) for start, size in spans.tolist())
    borders = [span.start + span.size * place // MAX_CELLS for place in range(MAX_CELLS + 1)]
    below = mapped_below(rows, np.array(borders, np.uint64)).tolist()
    cells = zip(borders, borders[1:], below, below[1:], strict=False)
    return tuple((Range(start, end), after - before) for start, end, before, after in cells if after > before)


def mapped_below(rows: U64Array, addresses: U64Array) -> U64Array:
    """Bytes that rows map below each of some addresses.

    Args:
        rows: in order of GPA.
        addresses: in any order.
    """
    starts, sizes = (np.concatenate([np.zeros(1, np.uint64), rows[:, column]]) for column in (0, 2))
    last = np.searchsorted(starts, addresses, "right") - 1
    found: U64Array = (np.cumsum(sizes) - sizes)[last] + np.minimum(addresses - starts[last], sizes[last])
    return found


def _rights(vm: Scanned, rows: U64Array, flags: MappingFlags | None) -> tuple[tuple[MappingFlags, int], ...]:
    """What tables allow where that is not what is declared, with the bytes."""
    found: dict[MappingFlags, int] = {}
    for attributes in np.unique(rows[:, 3]).tolist():
        granted = vm.granted(attributes)
        if flags is None or granted != flags.permissions:
            found[granted] = found.get(granted, 0) + int(rows[rows[:, 3] == attributes, 2].sum())
    return tuple(sorted(found.items()))


def _links(runs: U64Array, name: str) -> Iterator[Link]:
    """The host memory behind runs of GPAs: run by run, or where those are many by pieces of host memory."""
    if len(runs) <= MAX_RUNS:
        for gpa, hpa, size, _ in runs.tolist():
            yield Link(Range.sized(gpa, size), Range.sized(hpa, size))
        return
    pieces = _spans(runs, 1)
    if len(pieces) > MAX_RUNS + 1:
        pieces = pieces[np.sort(np.argsort(~pieces[:, 1], kind="stable")[:MAX_RUNS])]  # the largest
    place = np.searchsorted(pieces[:, 0], runs[:, 1], "right") - 1
    last = np.maximum(place, 0)
    place[(place < 0) | (runs[:, 1] >= pieces[last, 0] + pieces[last, 1])] = -1
    for number, (start, size) in enumerate(pieces.tolist()):
        yield Link(_hull(runs[place == number]), Range.sized(start, size), scattered=True)
    left = runs[place < 0]
    if len(left):
        more = counted(len(_spans(left, 1)), "more run")
        yield Link(_hull(left), None, f"{more} of {name}", scattered=True)


def _hull(rows: U64Array) -> Range:
    """All GPAs from the first to the last of rows."""
    return Range(int(rows[:, 0].min()), int((rows[:, 0] + rows[:, 2]).max()))
