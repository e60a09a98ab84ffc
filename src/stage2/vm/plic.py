"""A PLIC, the interrupt controller of a RISC-V guest (RISC-V Platform-Level Interrupt Controller Specification 1.0.0).

It has one context for each hart, that of its supervisor mode, and its sources are levels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

SOURCES = 96
"""The highest source; 0 is none."""
_PENDING, _ENABLES, _CONTEXTS = 0x1000, 0x2000, 0x20_0000
_ENABLE_BYTES, _CONTEXT_BYTES = 0x80, 0x1000
_THRESHOLD, _CLAIM = 0, 4
_PRIORITIES = 7
"""The highest priority (chapter "Interrupt Priorities": how many there are is the implementation's)."""
_MASK_32 = (1 << 32) - 1


def size_of(harts: int) -> int:
    """Bytes from its first register to the last page of so many contexts."""
    return _CONTEXTS + harts * _CONTEXT_BYTES


def _numbers(values: Any, count: int, most: int) -> list[int]:
    """So many numbers without bits that `most` has not.

    Raises:
        ValueError, TypeError: they are something else.
    """
    found = list(values)
    if len(found) != count or any(not isinstance(value, int) or value & ~most for value in found):
        raise ValueError(f"{found} are not {count} numbers up to {most:#x}")
    return found


class Plic:
    """The interrupt controller.

    Lines may be moved from any thread.

    Args:
        name: what reports call it.
        harts: how many contexts it has.
    """

    def __init__(self, name: str, harts: int) -> None:
        self.name = name
        self.notify: Callable[[int], None] = lambda _: None
        """Called with a hart when what it is told has changed, or may have."""
        self._lock = threading.RLock()
        self._priorities = [0] * (SOURCES + 1)
        self._levels = self._pending = self._serving = 0
        """A bit for each source: its line is up; it wants to be claimed; it was claimed, and is not completed yet."""
        self._enables, self._thresholds = [0] * harts, [0] * harts

    def set_level(self, source: int, high: bool) -> None:
        """Raise or lower the line of a source ("Interrupt Gateways")."""
        bit = 1 << source
        with self._lock:
            if high == bool(self._levels & bit):
                return
            self._levels ^= bit
            # A request that was forwarded stays, whatever becomes of the line.
            if high and not self._serving & bit:
                self._pending |= bit
                self._tell()

    def interrupts(self, hart: int) -> bool:
        """Whether a hart's external interrupt is pending ("Interrupt Notifications", "Interrupt Threshold")."""
        with self._lock:
            source = self._best(hart)
            return self._priorities[source] > self._thresholds[hart]

    def _best(self, hart: int) -> int:
        """The pending and enabled source of the highest priority, the lowest number among equals; 0 for none."""
        wanted, best = self._pending & self._enables[hart], 0
        while wanted:
            source = (wanted & -wanted).bit_length() - 1
            wanted &= wanted - 1
            if self._priorities[source] > self._priorities[best]:
                best = source
        return best

    def _tell(self) -> None:
        for hart in range(len(self._enables)):
            self.notify(hart)

    def save(self) -> dict[str, Any]:
        """Its state, as JSON has it."""
        with self._lock:
            return {
                "priorities": list(self._priorities),
                "levels": self._levels,
                "pending": self._pending,
                "serving": self._serving,
                "enables": list(self._enables),
                "thresholds": list(self._thresholds),
            }

    def load(self, state: Mapping[str, Any]) -> None:
        """Put a state back.

        Raises:
            ValueError, KeyError, TypeError: it is none of this device's; nothing changed.
        """
        harts, all_of_them = len(self._enables), (1 << SOURCES + 1) - 2
        priorities = _numbers(state["priorities"], SOURCES + 1, _PRIORITIES)
        enables = _numbers(state["enables"], harts, all_of_them)
        thresholds = _numbers(state["thresholds"], harts, _PRIORITIES)
        bits = _numbers([state[name] for name in ("levels", "pending", "serving")], 3, all_of_them)
        with self._lock:
            self._priorities, self._enables, self._thresholds = priorities, enables, thresholds
            self._levels, self._pending, self._serving = bits
            self._tell()

    # --- registers (chapter "Memory Map"), 32 bits each ------------------------------------------------------

    def read(self, offset: int, width: int) -> int:
        with self._lock:
            return self._read(offset) if width == 4 and not offset & 3 else 0

    def write(self, offset: int, width: int, value: int) -> None:
        with self._lock:
            if width == 4 and not offset & 3:
                self._write(offset, value & _MASK_32)
                self._tell()

    def _read(self, offset: int) -> int:
        if offset < _PENDING:
            return self._priorities[offset // 4] if offset // 4 <= SOURCES else 0
        if offset < _ENABLES:
            return self._pending >> 8 * (offset - _PENDING) & _MASK_32
        if offset < _CONTEXTS:
            hart, at = divmod(offset - _ENABLES, _ENABLE_BYTES)
            return self._enables[hart] >> 8 * at & _MASK_32 if hart < len(self._enables) else 0
        hart, at = divmod(offset - _CONTEXTS, _CONTEXT_BYTES)
        if hart >= len(self._enables):
            return 0
        if at == _THRESHOLD:
            return self._thresholds[hart]
        return self._claim(hart) if at == _CLAIM else 0

    def _claim(self, hart: int) -> int:
        """Give a hart the source that it is to serve ("Interrupt Claim Process"): the threshold does not count."""
        source = self._best(hart)
        self._pending &= ~(1 << source)
        self._serving |= 1 << source & ~1
        self._tell()
        return source

    def _complete(self, hart: int, source: int) -> None:
        """A source was served ("Interrupt Completion"); one that is not enabled for the hart is ignored."""
        bit = 1 << source
        if not 0 < source <= SOURCES or not self._enables[hart] & bit:
            return
        self._serving &= ~bit
        if self._levels & bit:
            self._pending |= bit

    def _write(self, offset: int, value: int) -> None:
        if offset < _PENDING:
            if 0 < offset // 4 <= SOURCES:
                self._priorities[offset // 4] = value & _PRIORITIES
        elif offset < _ENABLES:
            return  # pending bits are not for writing
        elif offset < _CONTEXTS:
            hart, at = divmod(offset - _ENABLES, _ENABLE_BYTES)
            if hart < len(self._enables):
                kept = self._enables[hart] & ~(_MASK_32 << 8 * at)
                self._enables[hart] = (kept | value << 8 * at) & (1 << SOURCES + 1) - 2
        else:
            hart, at = divmod(offset - _CONTEXTS, _CONTEXT_BYTES)
            if hart >= len(self._enables):
                return
            if at == _THRESHOLD:
                self._thresholds[hart] = value & _PRIORITIES
            elif at == _CLAIM:
                self._complete(hart, value)
