"""The timers of a machine: a list for each CPU, and the calls that AxVisor's code makes on the CPU that it runs on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..config.defconfig import TICKS_PER_SEC
from ..errors import OutOfRangeError
from ..memory.frames import FrameAllocator
from ..memory.owners import Owner
from .clock import Clock
from .slab import NOTHING
from .time import NANOS_PER_SEC, TimeValue
from .timer_head import TimerHead
from .timers import CAPACITY, DEFAULT_LIMIT, OWNER, Callback, Checked, TimerList


class TimerService:
    """The timers of all CPUs of a machine.

    Args:
        clock: the machine's one clock.
        frames: host memory for the events.
        cpus: how many CPUs.
        capacity: events of each CPU.
        ticks_per_sec: what `scheduler_next_event` keeps to.
        heads: the fields of each CPU's list in its area; None where there are no areas.
        ticks: each CPU's number of its last tick, a view of one item; None where there are no areas.
        owner: whose frames the events are in.

    Raises:
        OutOfRangeError: the ticks are too few or too many.
        OutOfMemoryError: the host has no frames for the events; nothing was taken.
    """

    def __init__(
        self,
        clock: Clock,
        frames: FrameAllocator,
        *,
        cpus: int = 1,
        capacity: int = CAPACITY,
        ticks_per_sec: int = TICKS_PER_SEC,
        heads: Sequence[TimerHead] | None = None,
        ticks: Sequence[memoryview] | None = None,
        owner: Owner = OWNER,
    ) -> None:
        if not 1 <= ticks_per_sec <= NANOS_PER_SEC:
            raise OutOfRangeError(f"{ticks_per_sec} ticks per second: 1 to {NANOS_PER_SEC} are possible")
        self.clock = clock
        heads = heads or [TimerHead() for _ in range(cpus)]
        lists: list[TimerList] = []
        try:
            for cpu, head in enumerate(heads):
                lists.append(TimerList(clock, frames, cpu=cpu, cpus=cpus, capacity=capacity, head=head, owner=owner))
        except BaseException:
            for timers in lists:
                timers.close()
            raise
        self.lists = tuple(lists)
        self._ticks_per_sec = ticks_per_sec
        self._began = clock.now()
        self._ticks = ticks or [memoryview(bytearray(8)).cast("Q") for _ in range(cpus)]
        self._current = threading.local()

    # --- which CPU ---------------------------------------------------------------------------------------

    @property
    def cpu(self) -> int:
        """The CPU that this thread plays; 0 unless `on_cpu` says otherwise."""
        return int(getattr(self._current, "cpu", 0))

    @contextmanager
    def on_cpu(self, cpu: int) -> Iterator[TimerList]:
        """Let this thread play a CPU.

        Raises:
            OutOfRangeError: the machine has no such CPU.
        """
        if not 0 <= cpu < len(self.lists):
            raise OutOfRangeError(f"CPU {cpu} is none of the machine's {len(self.lists)}")
        before = self.cpu
        self._current.cpu = cpu
        try:
            yield self.lists[cpu]
        finally:
            self._current.cpu = before

    # --- the calls ---------------------------------------------------------------------------------------

    def register_timer(self, deadline: TimeValue | int, callback: Callback) -> int:
        """Register with this CPU's list; see `TimerList.register_timer`."""
        return self.lists[self.cpu].register_timer(deadline, callback)

    def cancel_timer(self, token: int) -> bool:
        """Take an event back, whichever CPU's it is; whether that was in time."""
        if token < 0:
            return False
        return self.lists[token % len(self.lists)].cancel_timer(token)

    def check_events(self, limit: int = DEFAULT_LIMIT) -> Checked:
        """Run what is due on this CPU; see `TimerList.check_events`."""
        return self.lists[self.cpu].check_events(limit)

    def scheduler_next_event(self, callback: Callback | None = None) -> int:
        """Register the scheduler's next tick with this CPU's list.

        Ticks stand at whole multiples of the period since the service began, however late this is called, so they do
        not drift; those that were slept through are left out.

        Args:
            callback: what the tick calls; None for a tick that only wakes.
        """
        tick = self._ticks[self.cpu]
        passed = self.clock.now().since(self._began).ticks(self._ticks_per_sec)
        tick[0] = max(tick[0], passed) + 1
        deadline = self._began + TimeValue.of_ticks(tick[0], self._ticks_per_sec)
        return self.register_timer(deadline, callback or _wake)

    @property
    def next_deadline(self) -> TimeValue | None:
        """When the next event of any CPU is due."""
        nanos = self.next_nanos
        return None if nanos == NOTHING else TimeValue(nanos)

    @property
    def next_nanos(self) -> int:
        """The same in nanoseconds, all ones when there is none."""
        return min(timers.next_nanos for timers in self.lists)

    def close(self) -> None:
        """Drop all events and give the memory back."""
        for timers in self.lists:
            timers.close()
        for tick in self._ticks:
            tick.release()


def _wake(_now: TimeValue) -> None:
    """The callback of a tick that only wakes its CPU."""
