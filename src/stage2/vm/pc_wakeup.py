"""The mailbox by which a PC's operating system starts its other CPUs (ACPI Specification 6.5, 5.2.12.19).

It is a page of registers here, so that a CPU that is off need not look at memory all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_COMMAND, _APIC_ID, _VECTOR = 0, 4, 8
_WAKE = 1


class WakeupMailbox:
    """The mailbox.

    Args:
        apics: the number of each CPU's local APIC; the first CPU is on.
        wake: called with a CPU and the address at which it is to begin.
    """

    def __init__(self, apics: Sequence[int], wake: Callable[[int, int], None]) -> None:
        self.name = "wakeup mailbox"
        self._apics, self._wake = list(apics), wake
        self._off = set(self._apics[1:])
        self._words = bytearray(16)

    def read(self, offset: int, width: int) -> int:
        return int.from_bytes(self._words[offset : offset + width], "little")

    def write(self, offset: int, width: int, value: int) -> None:
        if offset + width > len(self._words):
            return
        self._words[offset : offset + width] = value.to_bytes(width, "little")
        apic, vector = self.read(_APIC_ID, 4), self.read(_VECTOR, 8)
        if offset != _COMMAND or self.read(_COMMAND, 2) != _WAKE or apic not in self._off:
            return
        self._off.discard(apic)
        # Zero again: the CPU has taken it.
        self._words[_COMMAND : _COMMAND + 2] = bytes(2)
        self._wake(self._apics.index(apic), vector)
