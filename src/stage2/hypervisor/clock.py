"""Where time comes from. A machine has one clock, and everything on it asks that one."""

from __future__ import annotations

import time
from typing import Protocol

from ..errors import OutOfRangeError
from .time import TimeValue


class Clock(Protocol):
    """One source of time; it never goes back."""

    def now(self) -> TimeValue:
        """The time since some fixed point: the start of the host, or of the machine."""


class MonotonicClock:
    """The host's monotonic clock: for VMs whose time is the world's."""

    def now(self) -> TimeValue:
        return TimeValue(time.monotonic_ns())


class VirtualClock:
    """A clock that is set: for engines whose time goes on with executed code, and for tests.

    Args:
        start: what it shows first.
    """

    def __init__(self, start: TimeValue | None = None) -> None:
        self._now = start or TimeValue()

    def now(self) -> TimeValue:
        return self._now

    def advance_to(self, then: TimeValue) -> None:
        """Let the time be `then`.

        Raises:
            OutOfRangeError: that would be going back.
        """
        if then < self._now:
            raise OutOfRangeError(f"a clock does not go back: it is {self._now}, and {then} was wanted")
        self._now = then

    def advance(self, by: TimeValue) -> None:
        """Let `by` go by."""
        self._now += by
