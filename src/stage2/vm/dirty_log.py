"""A dirty log: which pages a guest writes, harvested again and again at an interval of its machine's time."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import OutOfRangeError
from ..hypervisor.time import TimeValue
from ..hypervisor.timers import TimerList
from .written import WrittenPages


@dataclass(frozen=True, slots=True)
class DirtyLogReport:
    """What a dirty log found.

    Args:
        interval_ns: nanoseconds from one harvest to the next.
        harvests: how many there were.
        pages: pages written, each once for every harvest that found it.
        most: pages of the harvest with the most.
        page_size: bytes of a page.
    """

    interval_ns: int
    harvests: int
    pages: int
    most: int
    page_size: int


class DirtyLog:
    """Tracks writes to all memory of a VM that it may write to, and harvests them by a timer.

    Harvests are due at whole multiples of the interval since the log began, so they do not drift; those that were slept
    through are one.

    Args:
        written: whose pages.
        timers: of the CPU that harvests; the log begins at once.
        interval: from one harvest to the next.

    Raises:
        OutOfRangeError: the interval is nothing.
        EncodingError: the format cannot take write permission away alone.
    """

    def __init__(self, written: WrittenPages, timers: TimerList, interval: TimeValue) -> None:
        if not interval.nanos:
            raise OutOfRangeError("a dirty log needs an interval of at least 1 ns")
        self._page, self._timers, self._interval = written.space.format.page_size, timers, interval
        self._began = timers.clock.now()
        self._harvests = self._pages = self._most = 0
        self._reader = written.reader()
        self._token = self._again(self._began)

    def restart(self) -> None:
        """The clock was put to another time: harvests are due at whole multiples of the interval since then."""
        self._timers.cancel_timer(self._token)
        self._began = self._timers.clock.now()
        self._token = self._again(self._began)

    def _again(self, now: TimeValue) -> int:
        passed = now.since(self._began).nanos // self._interval.nanos
        return self._timers.register_timer(self._began + self._interval * (passed + 1), self._harvest)

    def _harvest(self, now: TimeValue) -> None:
        self._token = self._again(now)
        pages = len(self._reader.take())
        self._harvests += 1
        self._pages += pages
        self._most = max(self._most, pages)

    @property
    def report(self) -> DirtyLogReport:
        """What it found so far."""
        return DirtyLogReport(self._interval.nanos, self._harvests, self._pages, self._most, self._page)

    def close(self) -> None:
        """Track writes no longer. The list of timers must still be open."""
        self._timers.cancel_timer(self._token)
        self._reader.close()
