"""A CPU interface: whether a CPU is interrupted, by what, and in the midst of what it is.

Arm IHI 0048 (GICv2), 3.3 and 4.4; Arm IHI 0069 (GICv3), 4.8. One security state. What a guest has of list registers is
the hardware's; this one is for CPUs that have no such thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .bank import FIRST_SPECIAL, IDLE, PRIORITY_BITS, PRIORITY_MASK, SPURIOUS
from .gic import Gic, Signal

_LOW = 8 - PRIORITY_BITS
_SMALLEST_BINARY_POINT = _LOW - 1
"""Of group 0: bits 7 to BPR + 1 are the group priority. Group 1's is one more, for the same bits."""
_OTHER_GROUP = 1022
"""What an acknowledge register of the other group reads."""


class CpuInterface:
    """One CPU's.

    Args:
        gic: whose interrupts it takes.
        cpu: the CPU.
    """

    def __init__(self, gic: Gic, cpu: int) -> None:
        self._gic, self._cpu = gic, cpu
        self.groups = 0
        """Which groups are signalled: bit 0 for group 0, bit 1 for group 1."""
        self.mask = 0
        """Only priorities below are signalled."""
        self.common_binary_point = False
        """Group 1 uses group 0's binary point."""
        self.split = False
        """The end of an interrupt drops its priority, and another register deactivates it (EOImode)."""
        self._binary = [_SMALLEST_BINARY_POINT, _SMALLEST_BINARY_POINT + 1]
        self.active = [0, 0]
        """Of each group the priorities in service, a bit each: the active priorities registers."""

    def save(self) -> dict[str, Any]:
        """Its state, as JSON has it."""
        return {
            "groups": self.groups,
            "mask": self.mask,
            "common_binary_point": self.common_binary_point,
            "split": self.split,
            "binary_points": list(self._binary),
            "active": [hex(bits) for bits in self.active],
        }

    def parsed(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """What puts a state back that was saved.

        Raises:
            ValueError, KeyError, TypeError: it is none of a CPU interface.
        """
        groups, mask = int(state["groups"]) & 0b11, int(state["mask"]) & PRIORITY_MASK
        common, split = bool(state["common_binary_point"]), bool(state["split"])
        points = [int(point) for point in state["binary_points"]]
        active = [int(bits, 16) & (1 << 32) - 1 for bits in state["active"]]
        if len(points) != 2 or len(active) != 2:
            raise ValueError(f"{len(points)} binary points, {len(active)} registers of active priorities")

        def put() -> None:
            self.groups, self.mask, self.common_binary_point, self.split = groups, mask, common, split
            for group, point in enumerate(points):
                self.set_binary_point(group, point)
            self.active = active

        return put

    @property
    def running(self) -> int:
        """The group priority in service; `IDLE` for none."""
        both = self.active[0] | self.active[1]
        return (both & -both).bit_length() - 1 << _LOW if both else IDLE

    def binary_point(self, group: int) -> int:
        """A group's binary point."""
        return self._binary[group]

    def set_binary_point(self, group: int, value: int) -> None:
        """Set it; what is smaller than the implemented priorities allow becomes the smallest."""
        self._binary[group] = max(value & 7, _SMALLEST_BINARY_POINT + group)

    def signal(self) -> Signal | None:
        """The interrupt that the CPU is interrupted by now: the highest pending one, if it may preempt."""
        best = self._gic.best(self._cpu)
        if best is None or not self.groups >> best.group & 1 or best.priority >= self.mask:
            return None
        return best if self._group_priority(best) < self.running else None

    def acknowledge(self, group: int, *, either: bool = False) -> tuple[int, int]:
        """The CPU reads an acknowledge register.

        Args:
            group: the register's.
            either: it acknowledges the other group's interrupts too (GICC_CTLR.AckCtl).

        Returns:
            INTID, and the CPU that sent it. 1023 is none, 1022 one of group 1 in group 0's register.
        """
        found = self.signal()
        if found is None:
            return SPURIOUS, 0
        if found.group != group and not either:
            return (_OTHER_GROUP if found.group else SPURIOUS), 0
        sender = self._gic.acknowledge(self._cpu, found.intid)
        if sender is None:
            return SPURIOUS, 0
        self.active[found.group] |= 1 << (self._group_priority(found) >> _LOW)
        return found.intid, sender

    def end(self, intid: int) -> None:
        """The CPU writes an end-of-interrupt register: the highest priority in service drops, the interrupt ends."""
        if intid >= FIRST_SPECIAL:
            return
        lowest = [bits & -bits for bits in self.active]
        group = 1 if lowest[1] and not 0 < lowest[0] <= lowest[1] else 0
        self.active[group] &= ~lowest[group]
        if not self.split:
            self._gic.deactivate(self._cpu, intid)

    def deactivate(self, intid: int) -> None:
        """The CPU writes a deactivate register, which counts only where ends are split."""
        if self.split:
            self._gic.deactivate(self._cpu, intid)

    def highest(self, group: int, *, either: bool = False) -> int:
        """What the highest-priority-pending register of a group reads; it may be too low to be signalled."""
        best = self._gic.best(self._cpu)
        if best is None:
            return SPURIOUS
        if best.group != group and not either:
            return _OTHER_GROUP if best.group else SPURIOUS
        return best.intid

    def set_mask(self, value: int) -> None:
        """Set the priority mask."""
        self.mask = value & PRIORITY_MASK

    def _group_priority(self, signal: Signal) -> int:
        own = signal.group and not self.common_binary_point
        low = self._binary[1] if own else self._binary[0] + 1
        return signal.priority >> low << low
