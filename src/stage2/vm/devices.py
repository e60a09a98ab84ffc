"""Emulated devices and the bus that finds them by address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ..address import Gpa, Range
from ..errors import OverlapError
from ..ranges import RangeMap
from .console import Console


class Device(Protocol):
    """An emulated device: registers at offsets from its base."""

    name: str

    def read(self, offset: int, width: int) -> int:
        """The value of `width` (1, 2, 4 or 8) bytes at an offset."""

    def write(self, offset: int, width: int, value: int) -> None:
        """Take `width` bytes at an offset."""


class DeviceBus:
    """Which device answers at which GPA."""

    def __init__(self) -> None:
        self._devices: RangeMap[Device] = RangeMap(merge=False)
        self.accesses: dict[str, int] = {}

    def attach(self, span: Range, device: Device) -> None:
        """Let a device answer in `span`.

        Raises:
            OverlapError: another device answers in part of it; nothing changed.
        """
        for held, other in self._devices.overlapping(span):
            raise OverlapError(f"device {device.name} {span} overlaps device {other.name} {held}")
        self._devices.add(span, device)
        self.accesses.setdefault(device.name, 0)

    def answers(self, span: Range) -> bool:
        """Whether a device answers anywhere in `span`."""
        return bool(self._devices.overlapping(span))

    def spans(self, span: Range) -> list[tuple[Range, str]]:
        """Where in `span` a device answers, and its name."""
        return [(held, device.name) for held, device in self._devices.overlapping(span)]

    def __iter__(self) -> Iterator[Device]:
        """The devices in order of address."""
        return iter([device for _, device in self._devices])

    def read(self, gpa: Gpa, width: int) -> int | None:
        """What the device at `gpa` answers; None where nobody does."""
        found = self._devices.find(gpa)
        if found is None:
            return None
        span, device = found
        self.accesses[device.name] += 1
        return device.read(gpa - span.start, width) & ((1 << 8 * width) - 1)

    def write(self, gpa: Gpa, width: int, value: int) -> bool:
        """Give a value to the device at `gpa`; False where nobody answers."""
        found = self._devices.find(gpa)
        if found is None:
            return False
        span, device = found
        self.accesses[device.name] += 1
        device.write(gpa - span.start, width, value)
        return True


class Uart:
    """The part of a 16550 that a guest needs to print: THR, and an LSR that is always ready.

    Register numbers as in the PC16550D data sheet; registers are one byte apart.
    """

    _THR, _IER, _FCR, _LCR, _LSR, _SCR = 0, 1, 2, 3, 5, 7
    _DIVISOR_ACCESS = 0x80
    _TRANSMITTER_EMPTY = 0x60

    def __init__(self, name: str, console: Console) -> None:
        self.name = name
        self._console = console
        self._registers = bytearray(8)

    def read(self, offset: int, width: int) -> int:
        if offset == self._LSR:
            return self._TRANSMITTER_EMPTY
        return self._registers[offset] if self._IER <= offset <= self._SCR and offset != self._FCR else 0

    def write(self, offset: int, width: int, value: int) -> None:
        if offset == self._THR:
            if not self._registers[self._LCR] & self._DIVISOR_ACCESS:
                self._console.write(bytes([value & 0xFF]))
        elif offset <= self._SCR:
            self._registers[offset] = value & 0xFF

    def save(self) -> dict[str, Any]:
        return {"registers": self._registers.hex()}

    def load(self, state: Mapping[str, Any]) -> None:
        registers = bytearray.fromhex(state["registers"])
        if len(registers) != len(self._registers):
            raise ValueError(f"{len(registers)} registers")
        self._registers = registers


class Silent:
    """A device whose model does not exist here: reads as zero, takes writes, counts both."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self, offset: int, width: int) -> int:
        return 0

    def write(self, offset: int, width: int, value: int) -> None:
        return None

    def save(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        return None
