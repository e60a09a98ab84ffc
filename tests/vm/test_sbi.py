"""The RISC-V firmware's answers, against the SBI specification."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stage2.address import GIB, MIB, Gpa, Range
from stage2.flags import RWX, MappingFlags, MapType
from stage2.guest.memory import GuestMemory
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion
from stage2.vm.console import Console
from stage2.vm.exits import Hypercall
from stage2.vm.sbi import Error, Harts, HartState, Sbi

HSM = 0x48534D
RAM, DATA, UART = 0x8000_0000, 0x9000_0000, 0x1000_0000
START, STOP, STATUS, SUSPEND = range(4)


class _TwoHarts(Harts):
    """Hart 0 runs, hart 1 waits to be started."""

    def __init__(self) -> None:
        self.count = 2
        self.started: list[tuple[int, int, int]] = []

    def set_timer(self, hart: int, deadline: int) -> None: ...
    def send_ipi(self, hart: int) -> None: ...
    def flush(self, hart: int) -> None: ...
    def start(self, hart: int, address: int, opaque: int) -> None:
        self.started.append((hart, address, opaque))

    def stop_hart(self, hart: int) -> None: ...
    def state(self, hart: int) -> HartState:
        return HartState.STOPPED if hart == 1 and not self.started else HartState.STARTED

    def power_off(self, reason: str) -> None: ...


class Bench:
    """A firmware over RAM that executes, RAM that does not, and a device."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory([Range.sized(0x1_0000_0000, GIB)])
        self.space = AddressSpace.create("sv39x4", FrameAllocator(self.memory), name="test")
        self.space.map(MemoryRegion(Gpa(RAM), MIB, RWX, MapType.MAP_ALLOC))
        self.space.map(MemoryRegion(Gpa(DATA), MIB, MappingFlags(3), MapType.MAP_ALLOC))
        self.space.map(MemoryRegion(Gpa(UART), 4096, MappingFlags(0), MapType.EMULATED, name="uart"))
        self.harts = _TwoHarts()
        self._sbi = Sbi(self.harts, GuestMemory(self.space), Console())

    def hsm(self, function: int, *arguments: int) -> int:
        """The error of a call."""
        error, _ = self._sbi.call(Hypercall(0, (*arguments, *[0] * (6 - len(arguments)), function, HSM)))
        return error - (1 << 64) if error >> 63 else error


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.space.clear()
    bench.memory.close()


@pytest.mark.parametrize("address", [0, RAM - 2, RAM + MIB, DATA, UART, 1 << 41, 1 << 63, (1 << 64) - 1])
def test_a_hart_is_not_started_where_nothing_can_be_executed(bench: Bench, address: int) -> None:
    """SBI_ERR_INVALID_ADDRESS: "not a valid physical address", or "executable access to the address is prohibited by a
    physical memory protection mechanism or H-extension G-stage" ("Hart start")."""
    assert bench.hsm(START, 1, address, 7) == Error.INVALID_ADDRESS
    assert bench.harts.started == []


def test_a_hart_is_started_where_a_region_can_be_executed(bench: Bench) -> None:
    assert bench.hsm(START, 1, RAM + MIB - 2, 7) == Error.SUCCESS
    assert bench.harts.started == [(1, RAM + MIB - 2, 7)]
    assert bench.hsm(START, 1, RAM, 7) == Error.ALREADY_AVAILABLE


@pytest.mark.parametrize("hart", [2, 1 << 63])
def test_a_hart_that_is_not_there_is_an_invalid_parameter_whatever_the_address(bench: Bench, hart: int) -> None:
    assert bench.hsm(START, hart, 0, 0) == Error.INVALID_PARAM
    assert bench.hsm(STATUS, hart) == Error.INVALID_PARAM


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (0, Error.SUCCESS),
        (1, Error.INVALID_PARAM),
        (0x0FFF_FFFF, Error.INVALID_PARAM),
        (0x1000_0000, Error.INVALID_PARAM),
        (0x7FFF_FFFF, Error.INVALID_PARAM),
        (0x8000_0000, Error.NOT_SUPPORTED),
        (0x8000_0001, Error.INVALID_PARAM),
        (0x9000_0000, Error.INVALID_PARAM),
        (0xFFFF_FFFF, Error.INVALID_PARAM),
        # The parameter has 32 bits.
        (1 << 32, Error.SUCCESS),
        (0xFFFF_FFFF_8000_0000, Error.NOT_SUPPORTED),
    ],
)
def test_suspend_types_are_those_of_the_specification(bench: Bench, kind: int, error: Error) -> None:
    """SBI_ERR_INVALID_PARAM: "suspend_type is reserved or is platform-specific and unimplemented" ("Hart suspend")."""
    assert bench.hsm(SUSPEND, kind, RAM, 0) == error
