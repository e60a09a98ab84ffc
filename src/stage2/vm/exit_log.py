"""What made a guest stop while it ran, how often, and how long it waited each time."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass

_NANOS_PER_US = 1000
_POINTS = {"p50": 50, "p90": 90, "p99": 99}


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something took, in microseconds.

    Args:
        p50, p90, p99: half, 90 % and 99 % of the times were at most so long.
        longest: all were.
        total: of all together.
    """

    p50: float
    p90: float
    p99: float
    longest: float
    total: float

    @classmethod
    def of(cls, nanos: array[int]) -> Spread:
        """The spread of times in nanoseconds, of which there are some."""
        ordered = sorted(nanos)
        at = [ordered[min(len(ordered) * point // 100, len(ordered) - 1)] for point in _POINTS.values()]
        return cls(*[time / _NANOS_PER_US for time in (*at, ordered[-1], sum(ordered))])


@dataclass(frozen=True, slots=True)
class ExitReport:
    """One kind of exit.

    Args:
        kind: "memory fault", "hypercall" and the like.
        count: how often.
        waited: from when the guest stopped to when it ran on, by its own counter; None where nobody measured it.
        handled: of that, what Python took to deal with it.
    """

    kind: str
    count: int
    waited: Spread | None
    handled: Spread

    @property
    def doorbell_us(self) -> float | None:
        """Of half of the exits, what was neither the guest's time nor the handler's: the way to Python and back."""
        return None if self.waited is None else max(self.waited.p50 - self.handled.p50, 0.0)


class ExitLog:
    """The exits of one VM, in order.

    Args:
        vm: its name.
    """

    def __init__(self, vm: str) -> None:
        self._vm = vm
        self._write: Callable[[str], None] | None = None
        self._handled: dict[str, array[int]] = {}
        self._waited: dict[str, array[int]] = {}
        self.total = 0

    def write_to(self, write: Callable[[str], None]) -> None:
        """Call `write` with a line of JSON for each exit from now on."""
        self._write = write

    def note(self, at_ns: int, cpu: int, kind: str, handled_ns: int, **details: object) -> None:
        """Note an exit.

        Args:
            at_ns: when it was seen, in nanoseconds since the run began.
            cpu: the vCPU.
            kind: what it was.
            handled_ns: what Python took.
            details: what the line of JSON says beside.
        """
        self.total += 1
        self._handled.setdefault(kind, array("Q")).append(handled_ns)
        if self._write is not None:
            line = {"ns": at_ns, "vm": self._vm, "cpu": cpu, "exit": kind, "handled_ns": handled_ns, **details}
            self._write(json.dumps(line))

    def waited(self, kind: str, nanos: int) -> None:
        """Note how long the guest stood still for an exit that was noted before."""
        self._waited.setdefault(kind, array("Q")).append(nanos)

    def reports(self) -> tuple[ExitReport, ...]:
        """One for each kind, the most frequent first."""
        return tuple(
            ExitReport(
                kind, len(times), Spread.of(self._waited[kind]) if kind in self._waited else None, Spread.of(times)
            )
            for kind, times in sorted(self._handled.items(), key=lambda item: -len(item[1]))
        )
