"""What a CPU's area holds of its timer list: where its events lie, how many there were, and when the next is due."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .percpu import PerCpu, PerCpuField, PerCpuLayout
from .slab import NOTHING


@dataclass(frozen=True, slots=True)
class TimerFields:
    """The per-CPU fields of timer lists.

    Args:
        events: HPA of the slab of events, 0 before there is one.
        registered: events registered so far.
        next_deadline: when the next event is due, in nanoseconds; all ones when there is none.
    """

    events: PerCpuField
    registered: PerCpuField
    next_deadline: PerCpuField

    @classmethod
    def declare(cls, layout: PerCpuLayout) -> TimerFields:
        """Add them to a layout."""
        return cls(
            layout.declare("timer_events", np.uint64),
            layout.declare("timers_registered", np.uint64),
            layout.declare("timer_next_deadline", np.uint64, NOTHING),
        )


class TimerHead:
    """The fields of one CPU, to be read and written.

    Args:
        areas: of the machine; None for a list that stands alone, whose fields are in no area.
        fields: as they were declared in the areas' layout.
        cpu: whose.
    """

    def __init__(self, areas: PerCpu | None = None, fields: TimerFields | None = None, cpu: int = 0) -> None:
        if areas is None or fields is None:
            self._events, self._registered, self._next = (memoryview(bytearray(8)).cast("Q") for _ in range(3))
            self.next_deadline = NOTHING
        else:
            self._events, self._registered, self._next = (
                areas.cell(field, cpu) for field in (fields.events, fields.registered, fields.next_deadline)
            )

    @property
    def events(self) -> int:
        return self._events[0]

    @events.setter
    def events(self, hpa: int) -> None:
        self._events[0] = hpa

    @property
    def registered(self) -> int:
        return self._registered[0]

    @registered.setter
    def registered(self, count: int) -> None:
        self._registered[0] = count

    @property
    def next_deadline(self) -> int:
        return self._next[0]

    @next_deadline.setter
    def next_deadline(self, nanos: int) -> None:
        self._next[0] = nanos

    def close(self) -> None:
        """Let go of the area."""
        for cell in (self._events, self._registered, self._next):
            cell.release()
