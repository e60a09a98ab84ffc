"""The timers of one CPU: events in the hypervisor's own memory, in order of their deadlines.

An event is a record of a `Slab`; beside it Python keeps the callback and a heap that says which is next. A token holds
the number of its event's record, so cancelling looks nothing up. A cancelled event gives its record back at once and
leaves a stale entry in the heap, which is dropped when it comes up, or when half of the heap is stale; so no operation
costs more than the logarithm of the number of events.
"""

from __future__ import annotations

import heapq
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..address import Range
from ..errors import OutOfMemoryError, OutOfRangeError
from ..memory.frames import FrameAllocator
from ..memory.owners import Owner, OwnerKind
from .clock import Clock
from .slab import NOTHING, Slab, SlabUse
from .time import TimeValue
from .timer_head import TimerHead

Callback = Callable[[TimeValue], object]
"""Called with the time at which the event was found due."""
CAPACITY = 4096
"""Events of one CPU, unless somebody says otherwise."""
DEFAULT_LIMIT = 1024
"""Events that one check runs at the most, unless somebody says otherwise."""
_WORDS = 2
"""Of a record: the deadline, and the event's number in the order of registration, 0 of a free one."""
_DEADLINE, _TOKEN = 0, 1
_TOKEN_BITS = 128
_TOKEN_MASK = (1 << _TOKEN_BITS) - 1
_FEW_STALE = 64
LATEST = NOTHING - 1
"""The latest deadline, in nanoseconds."""
OWNER = Owner(OwnerKind.TIMERS)


@dataclass(frozen=True, slots=True)
class VmmTimerEvent:
    """An event that has not fired yet.

    Args:
        token: what cancels it.
        deadline: when it is due; of one that was due already when it was registered, that moment.
        cpu: whose list it is in.
    """

    token: int
    deadline: TimeValue
    cpu: int


@dataclass(frozen=True, slots=True)
class TimerFailure:
    """A callback that raised.

    Args:
        event: whose it was; it is gone.
        error: what it raised.
    """

    event: VmmTimerEvent
    error: Exception


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check did.

    Args:
        fired: how many events it ran, failures included.
        failures: those whose callback raised, in order.
        more: events are due that it left because of its limit.
    """

    fired: int = 0
    failures: tuple[TimerFailure, ...] = ()
    more: bool = False


class TimerList:
    """The timers of one CPU.

    Events fire in order of their deadlines, those with the same deadline in the order in which they were registered.
    A deadline that has passed already stands for the moment of its registration, so a callback that registers itself
    again and again does not keep others from their turn. Safe between threads; callbacks run without the lock.

    Args:
        clock: the machine's.
        frames: host memory for the events.
        cpu: number of the CPU.
        cpus: how many CPUs the machine has; tokens tell them apart.
        capacity: events that it has room for.
        head: its fields in the CPU's area; None for a list that stands alone.
        owner: whose frames the events are in.

    Raises:
        OutOfMemoryError: the host has no frames for so many.
    """

    def __init__(
        self,
        clock: Clock,
        frames: FrameAllocator,
        *,
        cpu: int = 0,
        cpus: int = 1,
        capacity: int = CAPACITY,
        head: TimerHead | None = None,
        owner: Owner = OWNER,
    ) -> None:
        if not 0 <= cpu < cpus:
            raise OutOfRangeError(f"CPU {cpu} is none of the machine's {cpus}")
        self.clock, self.cpu = clock, cpu
        self._slab = Slab(frames, owner=owner, words=_WORDS, capacity=capacity, what="timer")
        self._cpus = cpus
        self._slot_bits = capacity.bit_length()
        self._head = head or TimerHead()
        self._head.events = self._slab.span.start
        # An entry is a deadline above 128 bits of token: comparing numbers is comparing deadlines, then tokens, and the
        # garbage collector has nothing to follow.
        self._heap: list[int] = []
        self._callbacks: list[Callback | None] = []
        self._lock = threading.RLock()

    # --- registering and cancelling ----------------------------------------------------------------------

    def register_timer(self, deadline: TimeValue | int, callback: Callback) -> int:
        """Let `callback` be called once the clock reaches `deadline`.

        Args:
            deadline: a point in time of the machine's clock; a number is nanoseconds.
            callback: what is called, with the time.

        Returns:
            The token that cancels it.

        Raises:
            OutOfMemoryError: all events of this CPU are in use; nothing changed.
            OutOfRangeError: the deadline is below 0, or beyond 2^64 - 2 ns, which is after 584 years.
        """
        nanos = deadline.nanos if isinstance(deadline, TimeValue) else deadline
        if not 0 <= nanos <= LATEST:
            raise OutOfRangeError(f"deadline {nanos:#x} ns does not fit the 64 bits of an event")
        with self._lock:
            due = max(nanos, self.clock.now().nanos)
            try:
                slot = self._slab.take(due, 0)
            except OutOfMemoryError as error:
                raise OutOfMemoryError(f"CPU {self.cpu}: {error}: cancel some, or give the list more room") from None
            sequence = self._head.registered = self._head.registered + 1
            token = (sequence << self._slot_bits | slot) * self._cpus + self.cpu
            self._slab.put(slot, _TOKEN, sequence)
            if slot == len(self._callbacks):
                self._callbacks.append(callback)
            else:
                self._callbacks[slot] = callback
            heapq.heappush(self._heap, due << _TOKEN_BITS | token)
            if due < self._head.next_deadline:
                self._head.next_deadline = due
            return token

    def cancel_timer(self, token: int) -> bool:
        """Take an event back.

        Returns:
            Whether it was in time: False when it has fired (or is being fired), was cancelled before, or never was.
        """
        with self._lock:
            slot = self._slot_of(token)
            if slot is None:
                return False
            due = self._slab.word(slot, _DEADLINE)
            self._give(slot)
            if due == self._head.next_deadline:
                self._settle()
            stale = len(self._heap) - len(self)
            if stale > _FEW_STALE and stale > len(self):
                self._heap = [entry for entry in self._heap if self._slot_of(entry & _TOKEN_MASK) is not None]
                heapq.heapify(self._heap)
            return True

    # --- firing ------------------------------------------------------------------------------------------

    @property
    def next_deadline(self) -> TimeValue | None:
        """When the next event is due; None when there is none."""
        nanos = self._head.next_deadline
        return None if nanos == NOTHING else TimeValue(nanos)

    @property
    def next_nanos(self) -> int:
        """When the next event is due, as the CPU's area has it: nanoseconds, all ones when there is none."""
        return self._head.next_deadline

    def check_events(self, limit: int = DEFAULT_LIMIT) -> Checked:
        """Run the events that are due.

        What callbacks register meanwhile waits for the next check. An event is never run before its deadline.

        Args:
            limit: how many to run at the most; what is left then is first in the next check.

        Raises:
            OutOfRangeError: the limit is below 1.
        """
        if limit < 1:
            raise OutOfRangeError(f"a check of {limit} events does nothing: 1 is the least")
        fired = 0
        failures: list[TimerFailure] = []
        with self._lock:
            # What callbacks register is due at this moment or later, and stands behind all that was due before it.
            now, last = self.clock.now().nanos, self._head.registered
        while fired < limit:
            taken = self._take_due(now, last)
            if taken is None:
                return Checked(fired, tuple(failures))
            entry, callback = taken
            fired += 1
            try:
                callback(self.clock.now())
            except Exception as error:  # noqa: BLE001  # a callback of whoever: it must not take others with it
                failures.append(TimerFailure(self._event(entry), error))
        with self._lock:
            return Checked(fired, tuple(failures), more=self._is_due(now, last))

    # --- looking -----------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"TimerList(CPU {self.cpu}, {len(self)} of {self.use.capacity} events, {self.span})"

    def __len__(self) -> int:
        """Events that have not fired."""
        return self._slab.use.used

    def __iter__(self) -> Iterator[VmmTimerEvent]:
        """Events that have not fired, in the order in which they will."""
        with self._lock:
            pending = sorted(entry for entry in self._heap if self._slot_of(entry & _TOKEN_MASK) is not None)
        return map(self._event, pending)

    @property
    def use(self) -> SlabUse:
        """How full its memory is."""
        return self._slab.use

    @property
    def span(self) -> Range:
        """Where its events lie."""
        return self._slab.span

    @property
    def bytes_beside(self) -> int:
        """Bytes of Python objects beside the records: the heap with its numbers, and the table of callbacks."""
        entries = sys.getsizeof(self._heap[0]) * len(self._heap) if self._heap else 0
        return sys.getsizeof(self._heap) + entries + sys.getsizeof(self._callbacks)

    def close(self) -> None:
        """Drop all events and give the memory back."""
        with self._lock:
            self._callbacks.clear()
            self._heap.clear()
            self._slab.close()
            self._head.close()

    # --- inside ------------------------------------------------------------------------------------------

    def _slot_of(self, token: int) -> int | None:
        """The record of an event that has not fired; None when the token is of none."""
        sequence, slot = divmod(token // self._cpus, 1 << self._slot_bits)
        known = token >= 0 and token % self._cpus == self.cpu and slot < len(self._callbacks)
        return slot if known and sequence and self._slab.word(slot, _TOKEN) == sequence else None

    def _give(self, slot: int) -> Callback:
        """Take the event out of its record, which is free then."""
        callback = self._callbacks[slot]
        assert callback is not None, "a record that is in use has a callback"
        self._callbacks[slot] = None
        self._slab.give(slot)
        return callback

    def _event(self, entry: int) -> VmmTimerEvent:
        return VmmTimerEvent(entry & _TOKEN_MASK, TimeValue(entry >> _TOKEN_BITS), self.cpu)

    def _settle(self) -> None:
        """Drop stale entries off the top of the heap, and note in the CPU's area what is next then."""
        heap = self._heap
        while heap and self._slot_of(heap[0] & _TOKEN_MASK) is None:
            heapq.heappop(heap)
        self._head.next_deadline = heap[0] >> _TOKEN_BITS if heap else NOTHING

    def _is_due(self, now: int, last: int) -> bool:
        """Whether the next event is due, and was registered no later than the one numbered `last`."""
        if self._head.next_deadline > now or not self._heap:
            return False
        entry = self._heap[0]
        return entry >> _TOKEN_BITS <= now and (entry & _TOKEN_MASK) // self._cpus >> self._slot_bits <= last

    def _take_due(self, now: int, last: int) -> tuple[int, Callback] | None:
        """The heap's entry of the next event that is due, and its callback; both are out of the list then."""
        with self._lock:
            if not self._is_due(now, last):
                return None
            entry = heapq.heappop(self._heap)
            slot = (entry & _TOKEN_MASK) // self._cpus & (1 << self._slot_bits) - 1
            callback = self._give(slot)
            self._settle()
            return entry, callback
