"""The verifier's own proofs. Each is shown every range of every space, and says at the end what is wrong, or nothing.

A definition is taken from elsewhere: who owns a passed-through device's registers (`space.backing.device_owner`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from ..address import Range
from ..flags import MappingFlags, MapType
from ..formats.outcome import EXECUTE, MEMORY_TYPE_MASK, USER_SHIFT, WRITE
from ..formats.record import Format
from ..memory.owners import Owner, OwnerKind
from ..space.backing import device_owner
from ..space.region import MemoryRegion
from ..tables.mapping import ATTRIBUTES
from .subject import Space
from .verify_spans import Span, Spans, common, meetings, uncovered
from .verify_tables import Leaf, Visit

_RIGHTS = 7
Owned = Sequence[tuple[Range, Owner]]
_Reached = tuple[int, int, tuple[str, tuple[str, int] | None]]
"""Host memory, who reaches it, and where it is a share the format and the memory type."""


class Parts:
    """Ranges of a VM, cut where its regions begin and end."""

    def __init__(self, space: Space) -> None:
        self._regions = sorted(space.regions, key=lambda region: region.start)
        self._starts = [int(region.start) for region in self._regions]

    def of(self, row: Leaf) -> Iterator[tuple[MemoryRegion | None, int, int, int]]:
        """(region, GPA, HPA, size); no region where none is declared."""
        gpa, hpa, size, _ = row
        end = gpa + size
        while gpa < end:
            after = bisect_right(self._starts, gpa)
            region = self._regions[after - 1] if after and gpa < self._regions[after - 1].end else None
            until = region.end if region is not None else self._starts[after] if after < len(self._starts) else end
            until = min(until, end)
            yield region, gpa, hpa, until - gpa
            gpa, hpa = until, hpa + until - gpa


class Isolation:
    """`apart`, `owned` and `declared`, of what VMs reach.

    Args:
        owners: who holds the host's memory; None where nothing says.
    """

    def __init__(self, owners: Owned | None) -> None:
        self.wrong: dict[str, str] = {}
        self._owners = None if owners is None else sorted(owners, key=lambda held: held[0].start)
        self._starts = [int(span.start) for span, _ in self._owners or ()]
        self._reached: list[list[_Reached]] = []

    def see(self, space: Space, rows: Iterable[Leaf]) -> None:
        """All ranges of a VM."""
        parts = Parts(space)
        chosen, fixed, shared = Spans(), Spans(), dict[int, Spans]()
        for row in rows:
            for region, gpa, hpa, size in parts.of(row):
                self._declared(space, region, gpa, hpa, row[3])
                self._owned(space, region, gpa, hpa, size)
                kind = chosen if region is None or region.host_range is None else fixed
                host = None if region is None else region.host_range
                # What is reached from a share's region, and is not that share, is no share.
                named = host is not None and host.start <= hpa and hpa + size <= host.end
                if named and region is not None and region.map_type is MapType.SHARE:
                    kind = shared.setdefault(row[3] & MEMORY_TYPE_MASK, Spans())
                kind.add(hpa, hpa + size)
        self._alone(space, chosen, [fixed, *shared.values()])
        reached: list[_Reached] = [
            (start, end, (space.who, None)) for spans in (chosen, fixed) for start, end in spans.joined
        ]
        for memory_type, spans in shared.items():
            share = space.regime.format.name, memory_type
            reached += [(start, end, (space.who, share)) for start, end in spans.joined]
        self._reached.append(sorted(reached, key=lambda piece: piece[:2]))

    def end(self) -> None:
        """`apart`, when all VMs were seen: where two of them meet, it is a share of both, with one memory type."""
        for hpa, (one, here), (other, there) in meetings(self._reached):
            if here is None or there is None:
                self._refute("apart", f"{one} and {other} both reach HPA {hpa:#x}")
            elif here[0] == there[0] and here[1] != there[1]:
                self._refute("apart", f"{one} and {other} share HPA {hpa:#x} with two memory types")

    def _refute(self, theorem: str, problem: str) -> None:
        self.wrong.setdefault(theorem, problem)

    def _declared(self, space: Space, region: MemoryRegion | None, gpa: int, hpa: int, attributes: int) -> None:
        fmt, controls = space.regime.format, space.regime.controls
        if region is None:
            self._refute("declared", f"{space.who} reaches GPA {gpa:#x}, where it declares nothing")
            return
        granted = int(fmt.permissions(attributes & ATTRIBUTES, controls))
        granted = (granted | granted >> USER_SHIFT) & _RIGHTS
        host = region.host_range
        if not region.map_type.is_mapped or granted & ~int(region.flags):
            self._refute("declared", f"{space.who} may do more at GPA {gpa:#x} than {region} says")
        elif host is not None and hpa - host.start != gpa - region.start:
            self._refute("declared", f"{space.who}: GPA {gpa:#x} leads to HPA {hpa:#x}, and {region} says another")
        elif attributes & MEMORY_TYPE_MASK != _memory_type(fmt, attributes >> 24, region.flags, controls):
            self._refute("declared", f"{space.who}: GPA {gpa:#x} has another memory type than {region}")

    def _alone(self, space: Space, chosen: Spans, named: Sequence[Spans]) -> None:
        """`declared`, of memory whose place no region names: one address leads there, so no other writes to a ROM."""
        others = sorted(span for spans in named for span in spans.joined)
        at = common(chosen.joined, others) if chosen.twice is None else chosen.twice
        if at is not None:
            self._refute("declared", f"{space.who} reaches HPA {at:#x} by two addresses, and not both regions name it")

    def _owned(self, space: Space, region: MemoryRegion | None, gpa: int, hpa: int, size: int) -> None:
        end = hpa + size
        while self._owners is not None and hpa < end:
            number = bisect_right(self._starts, hpa) - 1
            if number < 0 or hpa >= self._owners[number][0].end:
                self._refute("owned", f"{space.who} reaches HPA {hpa:#x}, which belongs to nobody")
                return
            span, owner = self._owners[number]
            if not _may_be_behind(region, owner, Owner(OwnerKind.VM, space.name)):
                self._refute("owned", f"{space.who} reaches HPA {hpa:#x}, which belongs to {owner}")
                return
            hpa = span.end


def _may_be_behind(region: MemoryRegion | None, owner: Owner, vm: Owner) -> bool:
    """A share leads to what is held under its name, a device to itself or the VM's own, all else to the VM's own."""
    kind = None if region is None else region.map_type
    if region is not None and kind is MapType.SHARE:
        return owner.kind is OwnerKind.SHARE and owner.name == region.name
    return owner == vm or (region is not None and kind is MapType.MMIO and owner == device_owner(region, vm))


@cache
def _memory_type(fmt: Format, level: int, flags: MappingFlags, controls: int) -> int:
    """What the format writes into a leaf with these flags."""
    leaf = fmt.encode_leaf(level, flags, flags.memory_type, controls)
    return int(fmt.decode(leaf, level, controls)[2]) & MEMORY_TYPE_MASK


class WriteOrExecute:
    """`wx`, of one party: the hypervisor, or a VM whose file says so."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._writable, self._executable = Spans(), Spans()

    def passing(self, space: Space, rows: Iterable[Leaf]) -> Iterator[Leaf]:
        """All ranges of a space of the party, each handed on when it was seen."""
        for row in rows:
            _, hpa, size, attributes = row
            granted = int(space.regime.format.permissions(attributes & ATTRIBUTES, space.regime.controls))
            granted |= granted >> USER_SHIFT
            for right, spans in ((WRITE, self._writable), (EXECUTE, self._executable)):
                if granted & right:
                    spans.add(hpa, hpa + size)
            yield row

    def end(self) -> str | None:
        """What is wrong."""
        both = common(self._writable.joined, self._executable.joined)
        return None if both is None else f"HPA {both:#x} is writable and executable for {self._who}"


class Wellformed:
    """`wellformed`, beside what a visit refuses by itself: where tables lie, and in whose memory."""

    def __init__(self, owners: Owned | None) -> None:
        self.wrong: str | None = None
        self._owners = owners
        self._tables: list[list[tuple[int, int, str]]] = []

    def see(self, space: Space, visit: Visit) -> None:
        """A space whose tables were all visited."""
        tables = Spans()
        for level, known in enumerate(visit.tables):
            for at in known:
                tables.add(at, at + visit.size(level))
        if tables.twice is not None:
            self._refute(f"{space.who} has two tables at {tables.twice:#x}")
        if space.frames is not None:
            self._inside(space, tables.joined, space.frames, "none of its tables' frames")
        if self._owners is not None:
            mine = Owner(OwnerKind.TABLES, space.name)
            held = [span for span, owner in self._owners if owner == mine]
            self._inside(space, tables.joined, held, f"not held as {mine}")
        self._tables.append([(start, end, space.who) for start, end in tables.joined])

    def end(self) -> str | None:
        """What is wrong, when all spaces were seen."""
        for at, one, other in meetings(self._tables):
            self._refute(f"{one} and {other} both have a table at {at:#x}")
        return self.wrong

    def _inside(self, space: Space, tables: Sequence[Span], ranges: Iterable[Range], what: str) -> None:
        cover = sorted((int(span.start), int(span.end)) for span in ranges)
        at = uncovered(tables, cover)
        if at is not None:
            self._refute(f"{space.who} has a table at {at:#x}, which is {what}")

    def _refute(self, problem: str) -> None:
        self.wrong = self.wrong or problem
