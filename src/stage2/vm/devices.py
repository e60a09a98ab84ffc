"""Emulated devices and the bus that finds them by address."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from ..address import Gpa, Range
from ..errors import OverlapError
from ..ranges import RangeMap


class Device(Protocol):
    """An emulated device: registers at offsets from its base."""

    name: str

    def read(self, offset: int, width: int) -> int:
        """The value of `width` (1, 2, 4 or 8) bytes at an offset."""

    def write(self, offset: int, width: int, value: int) -> None:
        """Take `width` bytes at an offset."""


class BankedDevice(ABC):
    """An emulated device that shows each CPU registers of its own."""

    name: str

    @abstractmethod
    def read_by(self, cpu: int, offset: int, width: int) -> int:
        """The value that a CPU reads."""

    @abstractmethod
    def write_by(self, cpu: int, offset: int, width: int, value: int) -> None:
        """Take what a CPU writes."""


class RegisterBlock:
    """A device of two functions, which take offset and width, and the value."""

    def __init__(self, name: str, read: Callable[[int, int], int], write: Callable[[int, int, int], None]) -> None:
        self.name = name
        self._read, self._write = read, write

    def read(self, offset: int, width: int) -> int:
        return self._read(offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        self._write(offset, width, value)


class DeviceBus:
    """Which device answers at which GPA."""

    def __init__(self) -> None:
        self._devices: RangeMap[Device | BankedDevice] = RangeMap(merge=False)
        self.accesses: dict[str, int] = {}

    def attach(self, span: Range, device: Device | BankedDevice) -> None:
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

    def device_at(self, gpa: Gpa) -> Device | BankedDevice | None:
        """The device that answers at `gpa`."""
        found = self._devices.find(gpa)
        return None if found is None else found[1]

    def spans(self, span: Range) -> list[tuple[Range, str]]:
        """Where in `span` a device answers, and its name."""
        return [(held, device.name) for held, device in self._devices.overlapping(span)]

    def __iter__(self) -> Iterator[Device | BankedDevice]:
        """The devices in order of address."""
        return iter([device for _, device in self._devices])

    def read(self, gpa: Gpa, width: int, cpu: int = 0) -> int | None:
        """What the device at `gpa` answers a CPU; None where nobody does."""
        found = self._devices.find(gpa)
        if found is None:
            return None
        span, device = found
        self.accesses[device.name] += 1
        offset = gpa - span.start
        value = device.read_by(cpu, offset, width) if isinstance(device, BankedDevice) else device.read(offset, width)
        return value & ((1 << 8 * width) - 1)

    def write(self, gpa: Gpa, width: int, value: int, cpu: int = 0) -> bool:
        """Give a CPU's value to the device at `gpa`; False where nobody answers."""
        found = self._devices.find(gpa)
        if found is None:
            return False
        span, device = found
        self.accesses[device.name] += 1
        value &= (1 << 8 * width) - 1
        if isinstance(device, BankedDevice):
            device.write_by(cpu, gpa - span.start, width, value)
        else:
            device.write(gpa - span.start, width, value)
        return True


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


class TestDevice:
    """Two registers of 8 bytes: at 0 a counter that says how often it was read, at 8 one that keeps what is written.

    They may be accessed in any width; the rest reads as zero.
    """

    __test__ = False  # pytest takes it for a class of tests otherwise

    def __init__(self, name: str) -> None:
        self.name = name
        self.reads = 0
        self.scratch = bytearray(8)

    def read(self, offset: int, width: int) -> int:
        if offset < 8:
            self.reads += 1
            return self.reads >> 8 * offset
        return int.from_bytes(self.scratch[offset - 8 : offset - 8 + width], "little")

    def write(self, offset: int, width: int, value: int) -> None:
        if offset >= 8 and offset + width <= 16:
            self.scratch[offset - 8 : offset - 8 + width] = value.to_bytes(width, "little")

    def save(self) -> dict[str, Any]:
        return {"reads": self.reads, "scratch": self.scratch.hex()}

    def load(self, state: Mapping[str, Any]) -> None:
        reads, scratch = int(state["reads"]), octets(state["scratch"], 8)
        self.reads, self.scratch = reads, scratch


def octets(text: Any, count: int | None = None, most: int = 1 << 16) -> bytearray:
    """The bytes that a saved state has as hexadecimal digits.

    Args:
        text: the digits.
        count: how many bytes there must be; None for any number up to `most`.

    Raises:
        ValueError, TypeError: it is something else.
    """
    found = bytearray.fromhex(text)
    if (count is not None and len(found) != count) or len(found) > most:
        raise ValueError(f"{len(found)} bytes")
    return found
