"""What small guests of every architecture are run in, and what every engine must refuse alike."""

from __future__ import annotations

import threading
import time
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from stage2.address import GIB, MIB, Gpa, Hpa, Range
from stage2.engines.unicorn.machine import Machine
from stage2.errors import EngineError
from stage2.flags import RWX, MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, ViolationPolicy
from stage2.vm.vm import Boot, RunResult, Vm
from waiting import HANG_S

M = TypeVar("M", bound=Machine[Any])


class GuestBench(Generic[M]):
    """Memory, one VM with 8 MiB of lazy RAM, and a run of a guest in it."""

    fmt: ClassVar[str]
    """The stage-2 format, unless a test wants another."""
    ram: ClassVar[int]
    entry: ClassVar[int]
    """GPA where guests are put and begin."""

    def __init__(self, kind: type[M]) -> None:
        self.kind = kind
        self.memory = PhysicalMemory([Range.sized(0x1_0000_0000, GIB)])
        self.frames = FrameAllocator(self.memory)
        self.machine: M | None = None
        self.vm: Vm

    def vm_with(
        self,
        *regions: MemoryRegion,
        violation: ViolationPolicy = ViolationPolicy.STOP,
        fmt: str | None = None,
        cpus: int = 1,
    ) -> Vm:
        space = AddressSpace.create(fmt or self.fmt, self.frames, name="test", violation=violation)
        space.map(MemoryRegion(Gpa(self.ram), 8 * MIB, RWX, MapType.MAP_ALLOC))
        for region in regions:
            space.map(region)
        self.vm = Vm("test", 1, self.kind.ARCH, space, cpu_count=cpus)
        self.vm.boot = Boot(Gpa(self.entry))
        self.tables()
        return self.vm

    def tables(self) -> None:
        """Write the stage-1 tables that guests begin with, if they need any."""

    def run_image(self, vm: Vm, image: bytes, stop_at: int | None) -> RunResult:
        """Run a guest.

        Args:
            stop_at: a GPA; once the guest has written a word there, the machine is stopped from another thread.
        """
        vm.memory.write(Gpa(self.entry), image)
        if stop_at is not None:
            self.put(stop_at, 0)
        self.machine = self.kind(vm)
        over = threading.Event()
        watcher = threading.Thread(target=self._stop, args=(self.machine, stop_at, over))
        watcher.start()
        try:
            return self.machine.run()
        finally:
            over.set()
            watcher.join()

    def _stop(self, machine: M, stop_at: int | None, over: threading.Event) -> None:
        gives_up = time.monotonic() + HANG_S
        while not over.wait(0.01):
            if stop_at is not None and self.word(stop_at):
                return machine.stop("interrupted", "the guest is at work")
            if time.monotonic() > gives_up:
                return machine.stop("time limit", "the guest hangs")
        return None

    def put(self, gpa: int, *words: int) -> None:
        for number, word in enumerate(words):
            self.vm.memory.write(Gpa(gpa + 8 * number), word.to_bytes(8, "little"))

    def word(self, gpa: int) -> int:
        return int.from_bytes(self.vm.memory.read(Gpa(gpa), 8), "little")

    def close(self) -> None:
        if self.machine is not None:
            self.machine.close()
        self.vm.close()
        assert self.frames.used_bytes == 0
        self.memory.close()


def passed_through_serial() -> MemoryRegion:
    """A region that shows the host's own device to a guest, which no engine can."""
    return MemoryRegion(
        Gpa(0x1000_0000), 4096, MappingFlags.READ | MappingFlags.WRITE, MapType.MMIO, Hpa(0x900_0000), name="serial"
    )


def require_refused_device(result: RunResult) -> None:
    assert result.exit == "error"
    assert "GPA 0x10000000 is a passed-through device" in result.reason


def require_moved_register_noticed(patch: pytest.MonkeyPatch, abi: ModuleType, name: str, bench: GuestBench[M]) -> None:
    """No machine is made when the library has one of its fields elsewhere."""
    vm = bench.vm_with()
    patch.setattr(abi, name, getattr(abi, name) + 8)
    with pytest.raises(EngineError, match="another build"):
        bench.kind(vm)


def require_moved_record_noticed(patch: pytest.MonkeyPatch, abi: ModuleType, name: str) -> None:
    """The library's record of exceptions is checked, and found to be elsewhere."""
    patch.setattr(abi, name, getattr(abi, name) + 8)
    abi.check_exception_record.cache_clear()
    try:
        with pytest.raises(EngineError, match="another build"):
            abi.check_exception_record()
    finally:
        abi.check_exception_record.cache_clear()
