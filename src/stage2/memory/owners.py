"""Who an HPA range belongs to: host memory and the registers of devices alike."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ..address import Range
from ..errors import OverlapError, OwnerConflictError
from ..flags import Terse
from ..ranges import RangeMap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class OwnerKind(StrEnum, metaclass=Terse):
    """What sort of party holds a range; the value is what a report calls it."""

    HYPERVISOR = "hypervisor"
    TABLES = "page tables"
    """Frames that hold a VM's stage-2 tables (name: the VM) or the hypervisor's own (no name)."""
    PER_CPU = "per-CPU areas"
    """The storage of the CPUs of a machine (name: the VM that runs on them, empty for the hypervisor's own)."""
    TIMERS = "timers"
    """The timer events of the CPUs of a machine (name as before)."""
    VM = "VM"
    DEVICE = "device"
    SHARE = "share"
    """Memory that several VMs reach by declaration."""
    RESERVED = "reserved memory"
    """Host memory that nobody may be given: firmware, the host's own image."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One party; equal when kind and name are.

    Args:
        kind: what sort of party.
        name: which one, empty where there is only one.
    """

    kind: OwnerKind
    name: str = ""

    def __str__(self) -> str:
        """As an error names it: `VM linux`, `page tables of VM linux`, `hypervisor`."""
        if not self.name:
            return self.kind.value
        return f"{self.kind.value}{' of VM' if self.kind in _FOR_VMS else ''} {self.name}"


_FOR_VMS = (OwnerKind.TABLES, OwnerKind.PER_CPU, OwnerKind.TIMERS)
"""What the hypervisor keeps for a VM, under the VM's name."""


class Growth:
    """Memory of one owner that grows at its end, frame by frame, and is entered in the map when somebody looks.

    Args:
        owner: whose it is.
    """

    __slots__ = ("entered", "next", "owner")

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.entered = self.next = 0
        """[entered, next) is held and not in the map yet."""


class OwnerMap:
    """The owner of every HPA that has one; safe to use from several threads.

    Args:
        lock: held during every call; the frame allocator shares its own, so that both change together.
    """

    def __init__(self, lock: threading.RLock | None = None) -> None:
        self._lock = lock or threading.RLock()
        self._map: RangeMap[Owner] = RangeMap()
        self._growing: list[Growth] = []

    @property
    def _held(self) -> RangeMap[Owner]:
        """The map, with everything entered; the lock is held."""
        while self._growing:
            growth = self._growing.pop()
            start, growth.entered = growth.entered, growth.next
            if start < growth.next and not self._map.extend(start, growth.next, growth.owner):
                self._map.add(Range(start, growth.next), growth.owner)
        return self._map

    def settle(self) -> None:
        """Enter everything that grew; before the `next` of a growth is set anew."""
        with self._lock:
            _map = self._held

    def grow(self, growth: Growth, end: int) -> None:
        """Let memory that grows reach to `end`, without a look at the map: nobody else can hold what it grows into.

        The caller holds the lock.
        """
        if growth.entered == growth.next:
            self._growing.append(growth)
        growth.next = end

    def claim(self, span: Range, owner: Owner) -> None:
        """Enter `owner` for all of `span`.

        Raises:
            OwnerConflictError: somebody, be it `owner`, holds part of it; nothing changed.
        """
        with self._lock:
            # Where it goes on what the owner holds already, that nobody holds it is known by the same look.
            if not self._held.extend(span.start, span.end, owner):
                try:
                    self._held.add(span, owner)
                except OverlapError:
                    self.require_unheld(span, owner)

    def release(self, span: Range, owner: Owner, before: Callable[[Range], None] | None = None) -> None:
        """Take `owner` out of all of `span`.

        Args:
            span: what to release.
            owner: who holds it until now.
            before: called with `span` once it is known to be the owner's; where that raises, nothing changed.

        Raises:
            OwnerConflictError: part of it is held by another or by nobody; nothing changed.
        """
        with self._lock:
            self.require_held(span, owner)
            if before is not None:
                before(span)
            self._held.discard(span)

    def require_unheld(self, span: Range, owner: Owner) -> None:
        """Raise OwnerConflictError, naming the holders, when anybody holds part of what `owner` wants."""
        with self._lock:
            held = self._held.overlapping(span)
        if held:
            raise OwnerConflictError(f"HPA {span} cannot be given to {owner}: {_parts(held, span)}")

    def require_held(self, span: Range, owner: Owner) -> None:
        """Raise OwnerConflictError, naming the holders, unless `owner` holds all of `span`."""
        with self._lock:
            if self._held.covered(span, owner):
                return
            others = [(part, holder) for part, holder in self._held.overlapping(span) if holder != owner]
            free = self._held.gaps(span)
        text = _parts(others, span) if others else f"nobody holds {free[0]}"
        raise OwnerConflictError(f"HPA {span} cannot be released by {owner}: {text}")

    def at(self, hpa: int) -> Owner | None:
        """Who holds the byte at `hpa`."""
        with self._lock:
            return self._held.get(hpa)

    def overlapping(self, span: Range) -> list[tuple[Range, Owner]]:
        """The held ranges (whole, not clipped) that share a byte with `span`, in order."""
        with self._lock:
            return self._held.overlapping(span)

    def of(self, owner: Owner) -> list[Range]:
        """What `owner` holds, in order."""
        return [span for span, holder in self if holder == owner]

    def bytes_of(self, owner: Owner) -> int:
        """How many bytes `owner` holds."""
        return sum(span.size for span in self.of(owner))

    def __iter__(self) -> Iterator[tuple[Range, Owner]]:
        """All held ranges in order, as they were when the iteration began."""
        with self._lock:
            return iter(self._held)

    def __len__(self) -> int:
        """The number of ranges, touching ones of one owner counted once."""
        with self._lock:
            return len(self._held)

    def __repr__(self) -> str:
        return f"OwnerMap({len(list(self))} ranges)"


def _parts(held: list[tuple[Range, Owner]], span: Range) -> str:
    """The holders of parts of `span` for an error: the first three, each with what it holds of the span."""
    shown = []
    for whole, holder in held[:3]:
        part = whole.intersection(span)
        shown.append(f"{holder} holds {part}")
    if len(held) > 3:
        shown.append(f"and {len(held) - 3} more parts are held")
    return ", ".join(shown)
