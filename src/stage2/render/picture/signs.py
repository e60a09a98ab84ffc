"""Where marks stand: a sign at every address that a mark is about, and a line from GPA to HPA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .marks import Mark, MarkKind

SIGN = 9.0
"""Half the width of a sign."""
_STEP = 2 * SIGN + 1
_MOST_BESIDE = 4
"""Limit: signs beside each other; what is more is in the captions."""
MOST_CAPTIONS = 40
"""Limit: captions of a picture; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Sign:
    """The number of a mark, with its middle; `vm` is the number of the VM whose address it stands at."""

    x: float
    y: float
    number: int
    kind: MarkKind
    title: str
    vm: int | None = None


@dataclass(frozen=True, slots=True)
class Spot:
    """An address in a picture: the box that has it, and the height at which it lies.

    Args:
        x, width: the box's left edge, and its width.
        top, bottom: the box's.
        y: the address's, within the box.
        vm: number of the VM whose address it is; None for an HPA.
    """

    x: float
    width: float
    top: float
    bottom: float
    y: float
    vm: int | None = None


@dataclass(frozen=True, slots=True)
class Wire:
    """A line from a marked GPA of a VM to its HPA."""

    x: float
    y: float
    host_x: float
    host_y: float
    vm: int | None


@dataclass(slots=True)
class Signs:
    """All marks of a picture, in drawing order within each list.

    Args:
        captions: the marks by their numbers, which count from 1.
        frames: boxes with a frame around them.
        ticks: heights of addresses within tall boxes.
    """

    captions: list[Mark] = field(default_factory=list)
    signs: list[Sign] = field(default_factory=list)
    frames: list[Spot] = field(default_factory=list)
    ticks: list[Spot] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)

    @property
    def right(self) -> float:
        """Where the last of the signs ends."""
        return max((sign.x + SIGN for sign in self.signs), default=0.0)

    def add(self, mark: Mark, seats: Sequence[Spot], host: Spot | None, titles: Sequence[Spot]) -> None:
        """Mark what a mark is about.

        Args:
            mark: what is said of it.
            seats: the addresses of VMs.
            host: the host memory.
            titles: of VMs that it is about as a whole.
        """
        self.captions.append(mark)
        for spot in seats:
            self._mark(mark, spot)
            if host is not None:
                left = spot.x < host.x
                ends = spot.x + (spot.width if left else 0), host.x + (0 if left else host.width)
                self.wires.append(Wire(ends[0], spot.y, ends[1], host.y, spot.vm))
        if host is not None:
            self._mark(mark, host)
        for title in titles:
            self._sign(mark, title.x + title.width + SIGN + 4, title.y, title.vm)

    def _mark(self, mark: Mark, spot: Spot) -> None:
        self._sign(mark, spot.x + spot.width, min(max(spot.y, spot.top + SIGN + 2), spot.bottom - SIGN - 2), spot.vm)
        if mark.kind is MarkKind.OVERLAP or spot.bottom - spot.top <= 4 * _STEP:
            if not any((one.x, one.top) == (spot.x, spot.top) for one in self.frames):
                self.frames.append(spot)
        else:
            self.ticks.append(spot)

    def _sign(self, mark: Mark, x: float, y: float, vm: int | None) -> None:
        beside = [one for one in self.signs if abs(one.y - y) < _STEP and 0 <= one.x - x < _MOST_BESIDE * _STEP]
        free = next(
            (n for n in range(_MOST_BESIDE) if all(abs(one.x - x - n * _STEP) >= _STEP for one in beside)), None
        )
        if free is not None:
            self.signs.append(Sign(x + free * _STEP, y, len(self.captions), mark.kind, mark.caption, vm))
