"""Reading and writing a guest's memory by GPA, as the hypervisor does: images in, console buffers out.

Works on whole runs of the table, never page by page. Memory that is declared but not yet there reads as zero and
is populated by a write, as if the guest had touched it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..address import Gpa, Hpa, Range, align_down, align_up
from ..errors import OutOfRangeError
from ..flags import MapType

if TYPE_CHECKING:
    from .address_space import AddressSpace

_MEMORY = (MapType.MAP_ALLOC, MapType.MAP_IDENTICAL, MapType.MAP_RESERVED, MapType.ROM, MapType.SHARE)


class GuestMemory:
    """Host access to the memory of an address space, across pages, frames and adjacent regions.

    The guest's permissions do not bind the host (it loads ROMs), but what is no memory cannot be accessed.
    """

    def __init__(self, space: AddressSpace) -> None:
        self._space = space

    def read(self, gpa: Gpa | int, size: int) -> bytes:
        """`size` bytes from a GPA.

        Raises:
            OutOfRangeError: part of them is not declared as memory, or has no host memory behind it.
        """
        if not size:
            return b""
        span = self._require_memory(gpa, size)
        data = bytearray(size)
        for start, hpa, length in self._runs(span):
            data[start - gpa : start - gpa + length] = self._space.frames.memory.read(Hpa(hpa), length)
        return bytes(data)

    def write(self, gpa: Gpa | int, data: bytes | bytearray | memoryview) -> None:
        """Put bytes at a GPA, populating what is not there yet.

        Raises:
            OutOfRangeError: part of the range is not declared as memory, or has no host memory behind it; nothing is
                written.
            OutOfMemoryError: there are no frames for it; nothing is written.
        """
        size = len(data)
        if not size:
            return
        span = self._require_memory(gpa, size)
        self._space.populate_range(span)
        view = memoryview(data)
        memory = self._space.frames.memory
        runs = self._runs(span)
        for start, hpa, length in runs:
            if not memory.contains(hpa, length):
                raise OutOfRangeError(f"GPA {start:#x} of VM {self._space.name} leads to HPA {hpa:#x}, no host memory")
        for start, hpa, length in runs:
            memory.write(Hpa(hpa), view[start - gpa : start - gpa + length])

    def _require_memory(self, gpa: int, size: int) -> Range:
        span = Range.sized(gpa, size)
        for gap in self._space.undeclared(span):
            raise OutOfRangeError(f"{span} of VM {self._space.name} is not all memory: nothing is declared in {gap}")
        for region in self._space.regions_in(span):
            if region.map_type not in _MEMORY:
                raise OutOfRangeError(f"{span} of VM {self._space.name} is not all memory: {region} is a device")
        return span

    def _runs(self, span: Range) -> list[tuple[int, int, int]]:
        """(GPA, HPA, size) of what is mapped in `span`, clipped to it."""
        page = self._space.format.page_size
        first, end = align_down(span.start, page), align_up(span.end, page)
        runs = []
        for start, hpa, size, _ in self._space.page_table.rows(first, end - first).tolist():
            low, high = max(start, span.start), min(start + size, span.end)
            if low < high:
                runs.append((low, hpa + low - start, high - low))
        return runs
