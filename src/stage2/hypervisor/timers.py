"""The timers of one CPU: events in the hypervisor's own memory, in order of their deadlines.

An event is a record of a `Slab`; beside it Python keeps the callback and a heap that says which is next. A cancelled
event gives its record back at once and leaves a stale entry in the heap, which is dropped when it comes up, or when
half of the heap is stale; so no operation costs more than the logarithm of the number of events.
"""

from __future__ import annotations

import heapq
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import OutOfMemoryError, OutOfRangeError
from ..memory.frames import FrameAllocator
from ..memory.owners import Owner, OwnerKind
from .clock import Clock
from .slab import Slab, SlabUse
from .time import TimeValue

Callback = Callable[[TimeValue], object]
"""Called with the time at which the event was found due."""
CAPACITY = 4096
"""Events of one CPU, unless somebody says otherwise."""
DEFAULT_LIMIT = 1024
"""Events that one check runs at the most, unless somebody says otherwise."""
_WORDS = 2
"""Of a record: deadline, token."""
_DEADLINE, _TOKEN = range(_WORDS)
_FEW_STALE = 64
_LAST = (1 << 64) - 1


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

    Raises:
        OutOfMemoryError: the host has no frames for so many.
    """

    def __init__(
        self, clock: Clock, frames: FrameAllocator, *, cpu: int = 0, cpus: int = 1, capacity: int = CAPACITY
    ) -> None:
        if not 0 <= cpu < cpus:
            raise OutOfRangeError(f"CPU {cpu} is none of the machine's {cpus}")
        self.clock, self.cpu = clock, cpu
        owner = Owner(OwnerKind.HYPERVISOR, f"timers of CPU {cpu}")
        self._slab = Slab(frames, owner=owner, words=_WORDS, capacity=capacity, what="timer")
        self._cpus = cpus
        self._next_token = cpu
        self._heap: list[tuple[int, int]] = []
        self._events: dict[int, tuple[int, Callback]] = {}
        self._lock = threading.RLock()

    # --- registering and cancelling ----------------------------------------------------------------------

    def register_timer(self, deadline: TimeValue, callback: Callback) -> int:
        """Let `callback` be called once the clock reaches `deadline`.

        Returns:
            The token that cancels it.

        Raises:
            OutOfMemoryError: all events of this CPU are in use; nothing changed.
            OutOfRangeError: the deadline is beyond 2^64 ns, which is after 584 years.
        """
        if deadline.nanos > _LAST:
            raise OutOfRangeError(f"deadline {deadline.nanos:#x} ns does not fit the 64 bits of an event")
        with self._lock:
            due = max(deadline.nanos, self.clock.now().nanos)
            token = self._next_token
            try:
                number = self._slab.take(due, token)
            except OutOfMemoryError as error:
                raise OutOfMemoryError(f"CPU {self.cpu}: {error}: cancel some, or give the list more room") from None
            self._next_token += self._cpus
            self._events[token] = number, callback
            heapq.heappush(self._heap, (due, token))
            return token

    def cancel_timer(self, token: int) -> bool:
        """Take an event back.

        Returns:
            Whether it was in time: False when it has fired (or is being fired), was cancelled before, or never was.
        """
        with self._lock:
            found = self._events.pop(token, None)
            if found is None:
                return False
            self._slab.give(found[0])
            stale = len(self._heap) - len(self._events)
            if stale > _FEW_STALE and stale > len(self._events):
                self._heap = [entry for entry in self._heap if entry[1] in self._events]
                heapq.heapify(self._heap)
            return True

    # --- firing ------------------------------------------------------------------------------------------

    @property
    def next_deadline(self) -> TimeValue | None:
        """When the next event is due; None when there is none."""
        with self._lock:
            self._drop_stale()
            return TimeValue(self._heap[0][0]) if self._heap else None

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
            now, end = self.clock.now(), self._next_token
        while fired < limit:
            event, callback = self._take_due(now, end)
            if event is None or callback is None:
                return Checked(fired, tuple(failures))
            fired += 1
            try:
                callback(self.clock.now())
            except Exception as error:  # noqa: BLE001  # a callback of whoever: it must not take others with it
                failures.append(TimerFailure(event, error))
        return Checked(fired, tuple(failures), more=self._is_due(now, end))

    # --- looking -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Events that have not fired."""
        return len(self._events)

    def __iter__(self) -> Iterator[VmmTimerEvent]:
        """Events that have not fired, in the order in which they will."""
        with self._lock:
            pending = sorted(entry for entry in self._heap if entry[1] in self._events)
        return (VmmTimerEvent(token, TimeValue(due), self.cpu) for due, token in pending)

    @property
    def use(self) -> SlabUse:
        """How full its memory is."""
        return self._slab.use

    @property
    def bytes_beside(self) -> int:
        """Bytes of Python objects beside the records: the heap's list and the table of callbacks."""
        return sys.getsizeof(self._heap) + sys.getsizeof(self._events)

    def close(self) -> None:
        """Drop all events and give the memory back."""
        with self._lock:
            self._events.clear()
            self._heap.clear()
            self._slab.close()

    # --- inside ------------------------------------------------------------------------------------------

    def _drop_stale(self) -> None:
        while self._heap and self._heap[0][1] not in self._events:
            heapq.heappop(self._heap)

    def _is_due(self, now: TimeValue, end: int) -> bool:
        with self._lock:
            self._drop_stale()
            return bool(self._heap) and self._heap[0][0] <= now.nanos and self._heap[0][1] < end

    def _take_due(self, now: TimeValue, end: int) -> tuple[VmmTimerEvent | None, Callback | None]:
        """The next event that is due and was registered before `end`, out of the list."""
        with self._lock:
            if not self._is_due(now, end):
                return None, None
            due, token = heapq.heappop(self._heap)
            number, callback = self._events.pop(token)
            # The record is what counts; the heap only says where to look.
            deadline = TimeValue(self._slab.word(number, _DEADLINE))
            event = VmmTimerEvent(self._slab.word(number, _TOKEN), deadline, self.cpu)
            assert (deadline.nanos, event.token) == (due, token), "the record is another event's"
            self._slab.give(number)
            return event, callback
