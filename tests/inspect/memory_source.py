"""A memory source over tables that a test makes in physical memory of ours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stage2.address import Range
from stage2.inspect.source import Cpu, MemorySource
from stage2.memory.physical import PhysicalMemory
from stage2.prove.packing import U64Array
from stage2.prove.source import HostTables


class Memory(MemorySource):
    """Physical memory that a test made.

    Args:
        memory: it.
        arch: what it is the memory of.
        registers: of its only CPU.
    """

    def __init__(
        self, memory: PhysicalMemory, arch: str | None = None, registers: dict[str, int] | None = None
    ) -> None:
        super().__init__("a test's memory")
        self._memory, self._tables = memory, HostTables(memory)
        self._arch, self._registers = arch, registers

    def ranges(self) -> tuple[Range, ...]:
        return self._memory.ranges

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        return self._tables.bytes_at(hpa, size)

    def holds(self, addresses: U64Array, size: int) -> npt.NDArray[np.bool_]:
        return self._tables.holds(addresses, size)

    def registers(self) -> tuple[Cpu, ...]:
        return () if self._registers is None else (Cpu(0, self._registers),)

    @property
    def arch(self) -> str | None:
        return self._arch
