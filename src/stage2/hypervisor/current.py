"""AxVisor's calls on timers, on the machine that this thread works for.

`register_timer` and its like name no machine: a hypervisor runs on one. Here the machine is the one whose thread calls,
such as a VM's while it runs its callbacks; everywhere else it is a machine of one CPU on the host's monotonic clock,
which is made when it is first needed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..address import MIB, Range
from ..memory.frames import FrameAllocator
from ..memory.physical import PhysicalMemory
from .clock import MonotonicClock
from .cpus import Cpus
from .time import TimeValue
from .timer_service import TimerService
from .timers import DEFAULT_LIMIT, Callback, Checked

_OWN_MEMORY = Range.sized(0x8000_0000, MIB)

_working = threading.local()
_lock = threading.Lock()
_own: list[Cpus] = []


@contextmanager
def working_for(timers: TimerService) -> Iterator[None]:
    """Let this thread work for a machine: the calls below are about its timers."""
    before = getattr(_working, "timers", None)
    _working.timers = timers
    try:
        yield
    finally:
        _working.timers = before


def current_timers() -> TimerService:
    """The timers of the machine that this thread works for."""
    timers: TimerService | None = getattr(_working, "timers", None)
    if timers is not None:
        return timers
    with _lock:
        if not _own:
            _own.append(Cpus(MonotonicClock(), FrameAllocator(PhysicalMemory([_OWN_MEMORY]))))
        return _own[0].timers


def register_timer(deadline_ns: int | TimeValue, callback: Callback) -> int:
    """Let `callback` be called by the first `check_events` at or after a time.

    Args:
        deadline_ns: nanoseconds of the machine's clock, or a `TimeValue`.
        callback: what is called, with the time.

    Returns:
        The token that cancels it.

    Raises:
        OutOfMemoryError: all events of this CPU are in use; nothing changed.
        OutOfRangeError: the deadline is below 0 or does not fit 64 bits.
    """
    return current_timers().register_timer(deadline_ns, callback)


def cancel_timer(token: int) -> bool:
    """Take an event back, whichever CPU's it is.

    Returns:
        Whether it was in time.
    """
    return current_timers().cancel_timer(token)


def check_events(limit: int = DEFAULT_LIMIT) -> Checked:
    """Run what is due on this CPU.

    Args:
        limit: how many events to run at the most.

    Returns:
        How many ran, which callbacks raised, and whether some that are due are left.
    """
    return current_timers().check_events(limit)


def scheduler_next_event(callback: Callback | None = None) -> int:
    """Register the scheduler's next tick with this CPU.

    Args:
        callback: what the tick calls; None for a tick that only wakes.

    Returns:
        The token that cancels it.
    """
    return current_timers().scheduler_next_event(callback)
