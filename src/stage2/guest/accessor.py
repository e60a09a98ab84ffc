"""Access to a VM's memory: bytes, integers, structures and views, whatever kind of address leads there.

Works on whole runs of the tables, never page by page. Memory that is declared but not there yet reads as zero, and is
populated by a write or a view as if the guest had touched it.
"""

from __future__ import annotations

import ctypes
import struct
from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from ..address import ADDRESS_LIMIT, SIZE_4K, Hpa, Range, align_offset
from ..errors import (
    EncodingError,
    GuestAccessError,
    GuestDeniedError,
    GuestEndOfRegionError,
    GuestNotContiguousError,
    GuestNotMemoryError,
    GuestUnmappedError,
    OutOfRangeError,
)
from ..flags import Access
from ..space.region import MemoryRegion
from ..tables.result import Fault
from .runs import Octets, Runs
from .structure import Layout, pack, size_of, unpack

if TYPE_CHECKING:
    from ..space.address_space import AddressSpace

Source: TypeAlias = "bytes | bytearray | memoryview | npt.NDArray[Any]"
C = TypeVar("C", bound="ctypes.Structure | ctypes.Union")
_WORDS = {size: np.dtype(f"<u{size}") for size in (1, 2, 4, 8)}


class Actor(Enum):
    """In whose name memory is accessed, hence whose permissions count."""

    HOST = "host"
    """The hypervisor: no permission binds it, so that it can load a ROM."""
    GUEST = "guest"
    """The guest's kernel (privileged)."""
    USER = "user"
    """The guest's user mode. By GPA the same as GUEST: stage 2 does not tell them apart."""


class MemoryAccessor(ABC):
    """Access to the memory of an address space across pages, frames and adjacent regions.

    Every access is judged as a whole before a byte moves. The lowest byte that is refused decides the error:

    * GuestUnmappedError: the first byte is not declared (by GVA: does not translate).
    * GuestEndOfRegionError: a later byte is not.
    * GuestDeniedError: the guest may not; never raised for the host.
    * GuestNotMemoryError: a device, or an HPA outside host memory. What is declared is judged before what is behind it.
    * OutOfRangeError: the range leaves the 64-bit address space, or is larger than host memory altogether.

    An access of no bytes is allowed anywhere. Edits of the space wait for the end of an access, but not for views.
    Tracked writes are noted; the dirty bits of hardware stay as they are.

    Args:
        space: whose memory.
        actor: whose permissions count.
    """

    kind: ClassVar[str]
    """What its addresses are: GPA or GVA."""

    def __init__(self, space: AddressSpace, actor: Actor = Actor.HOST) -> None:
        self.space, self.actor = space, actor
        self._memory = space.frames.memory

    # --- bytes -------------------------------------------------------------------------------------------

    def read(self, address: int, size: int, *, access: Access = Access.READ) -> bytes:
        """A copy of `size` bytes.

        Args:
            access: what the actor is asked to be allowed: READ, or FETCH to read instructions as a CPU does.

        Raises: as the class says.
        """
        if not size:
            return b""
        with self.space.lock:
            runs = self._reach(address, size, access)
            hpa = runs.single
            if hpa is not None:
                return self._memory.read(Hpa(hpa), size)
            data = np.zeros(size, np.uint8)
            runs.load(self._memory, data)
            return data.tobytes()

    def read_into(self, address: int, buffer: bytearray | memoryview | npt.NDArray[Any]) -> None:
        """Fill a writable buffer, an array in C order, from guest memory; a failed read leaves it as it was.

        Raises: as the class says, and EncodingError for a buffer that cannot be filled.
        """
        into = _octets_of(buffer, "a buffer to read into")
        if not into.flags.writeable:
            raise EncodingError(f"a buffer to read {self.kind} {address:#x} into is read-only")
        if not len(into):
            return
        with self.space.lock:
            runs = self._reach(address, len(into), Access.READ)
            if not runs.complete:
                into[:] = 0
            runs.load(self._memory, into)

    def write(self, address: int, data: Source) -> None:
        """Store bytes, populating what is not there yet.

        Args:
            data: bytes, or an array in C order.

        Raises: as the class says, and OutOfMemoryError when there are no frames. In all cases nothing is written.
        """
        source = _octets_of(data, "data to write")
        if not len(source):
            return
        with self.space.lock:
            runs = self._reach(address, len(source), Access.WRITE, populate=True)
            runs.store(self._memory, source)
            self._note_writes(runs)

    # --- integers ----------------------------------------------------------------------------------------

    def read_u8(self, address: int) -> int:
        """One byte."""
        return self._read_word(address, 1)

    def read_u16(self, address: int) -> int:
        """A little-endian 16-bit number; an aligned one is read by one load."""
        return self._read_word(address, 2)

    def read_u32(self, address: int) -> int:
        """A little-endian 32-bit number; an aligned one is read by one load."""
        return self._read_word(address, 4)

    def read_u64(self, address: int) -> int:
        """A little-endian 64-bit number; an aligned one is read by one load."""
        return self._read_word(address, 8)

    def write_u8(self, address: int, value: int) -> None:
        """One byte."""
        self._write_word(address, value, 1)

    def write_u16(self, address: int, value: int) -> None:
        """A little-endian 16-bit number; an aligned one is published by one store."""
        self._write_word(address, value, 2)

    def write_u32(self, address: int, value: int) -> None:
        """A little-endian 32-bit number; an aligned one is published by one store."""
        self._write_word(address, value, 4)

    def write_u64(self, address: int, value: int) -> None:
        """A little-endian 64-bit number; an aligned one is published by one store."""
        self._write_word(address, value, 8)

    # --- structures --------------------------------------------------------------------------------------

    @overload
    def read_struct(self, address: int, layout: str | struct.Struct) -> tuple[Any, ...]: ...
    @overload
    def read_struct(self, address: int, layout: type[C]) -> C: ...
    @overload
    def read_struct(self, address: int, layout: np.dtype[Any] | type[np.generic]) -> Any: ...
    def read_struct(self, address: int, layout: Any) -> Any:
        """A copy of a structure.

        Args:
            layout: a `struct` format (without a byte order: little-endian, no padding), a ctypes structure or union,
                or a NumPy dtype.

        Returns:
            A tuple, an instance of the ctypes class, or a NumPy scalar (an array for a dtype that is one).

        Raises: as `read`, and EncodingError for what is no layout.
        """
        return unpack(layout, self.read(address, size_of(layout)))

    def write_struct(self, address: int, value: Any, layout: Layout | None = None) -> None:
        """Store a structure.

        Args:
            value: a ctypes instance, a NumPy scalar or array; or what fits `layout`.
            layout: as in `read_struct`; may be left out where the value knows its own.

        Raises: as `write`, and EncodingError when the value does not fit; nothing is written.
        """
        self.write(address, pack(value, layout))

    # --- without a copy ----------------------------------------------------------------------------------

    def view(self, address: int, size: int, *, writable: bool = True) -> memoryview:
        """The bytes themselves as one view; what is not there yet is populated.

        It is read-only if the actor may not write all of it. It must be released before the range is unmapped, for
        then its frames go to others. Writes through it count as made now, for write tracking.

        Args:
            writable: False asks for a read-only view, which is no write.

        Raises: as `write`, and GuestNotContiguousError, whose `available` is how many bytes are contiguous.
        """
        if not size:
            return memoryview(b"")
        with self.space.lock:
            runs = self._reach(address, size, Access.READ, populate=True)
            hpa = runs.single
            if hpa is None:
                first = int(runs.sizes[0])
                raise GuestNotContiguousError(
                    f"{size:#x} bytes at {self._named(address)} are not contiguous in host memory: "
                    f"the first {first:#x} are",
                    address=address + first,
                    available=first,
                )
            allowed = writable and all(may for _, _, may in self._writable_parts(address, size))
            if allowed:
                self._note_writes(runs)
            return self._view(hpa, size, allowed)

    def views(self, address: int, size: int, *, writable: bool = True) -> list[memoryview]:
        """The bytes themselves as views in order of address, as few as host memory and permissions allow.

        As `view`, but for each part by itself: read-only where the actor may not write.

        Raises: as `write`.
        """
        if not size:
            return []
        with self.space.lock:
            runs = self._reach(address, size, Access.READ, populate=True)
            parts = self._writable_parts(address, size) if writable else [(0, size, False)]
            if any(may for _, _, may in parts):
                self._note_writes(runs)
            return [
                self._view(hpa, length, may)
                for first, part_size, may in parts
                for hpa, length in runs.clip(first, part_size)
            ]

    def contiguous(self, address: int) -> tuple[Hpa, int] | None:
        """Where the byte at an address is, and how many bytes from it on follow each other in host memory.

        The count goes from this byte, not from the start of its region; it ends where frames, permissions or
        declarations do.

        Returns:
            None where there is no memory, the actor may not read, or the page is not there yet.
        """
        size = SIZE_4K - align_offset(address, SIZE_4K)
        ends = False
        with self.space.lock:
            while True:
                try:
                    runs = self._reach(address, size, Access.READ)
                except GuestAccessError as error:
                    if not error.available:
                        return None
                    size, ends = error.available, True
                    continue
                if not len(runs.sizes) or runs.offsets[0]:
                    return None
                if ends or int(runs.sizes[0]) < size or size == ADDRESS_LIMIT - address:
                    return Hpa(int(runs.hpas[0])), int(runs.sizes[0])
                # Twice as far, so that the cost stays near that of the answer.
                size = min(2 * size, self._memory.size, ADDRESS_LIMIT - address)
                ends = size == self._memory.size

    # --- for those that know the kind of address ---------------------------------------------------------

    @abstractmethod
    def _resolve(self, address: int, size: int, access: Access) -> Runs:
        """Judge an access by declarations and permissions, and find what of it is there."""

    @abstractmethod
    def _writable_parts(self, address: int, size: int) -> list[tuple[int, int, bool]]:
        """(offset, size, whether the actor may write it) of the parts of a range that is known to be memory."""

    def _named(self, address: int) -> str:
        return f"{self.kind} {address:#x} of VM {self.space.name}"

    def _refused(
        self,
        error: type[GuestAccessError],
        address: int,
        size: int,
        offset: int,
        why: str,
        fault: Fault | None = None,
    ) -> GuestAccessError:
        """The error for an access whose byte `offset` is the lowest refused; undeclared later on is the end."""
        if error is GuestUnmappedError and offset:
            error = GuestEndOfRegionError
            problem = f"{size:#x} bytes at {self._named(address)} run beyond its memory, which ends after {offset:#x}"
        else:
            problem = self._named(address + offset)
        return error(f"{problem}: {why}", address=address + offset, available=offset, fault=fault)

    # --- inside ------------------------------------------------------------------------------------------

    def _reach(self, address: int, size: int, access: Access, *, populate: bool = False) -> Runs:
        """The runs of an access that is allowed; all of it is there if `populate`."""
        Range.sized(address, size)
        bounded = min(size, self._memory.size)
        runs = self._in_host_memory(address, self._resolve(address, bounded, access))
        if size > bounded:
            raise OutOfRangeError(
                f"{size:#x} bytes at {self._named(address)} are more than all of host memory, {bounded:#x}"
            )
        if populate and not runs.complete:
            for span in runs.touched:
                self.space.populate_range(span)
            runs = self._in_host_memory(address, self._resolve(address, size, access))
            if not runs.complete:
                raise GuestNotMemoryError(f"{self._named(address)} could not be populated", address=address)
        return runs

    def _in_host_memory(self, address: int, runs: Runs) -> Runs:
        outside = runs.outside(self._memory)
        if outside is None:
            return runs
        offset, hpa = outside
        why = f"it leads to HPA {hpa:#x}, where there is no host memory"
        raise self._refused(GuestNotMemoryError, address, runs.total, offset, why)

    def _note_writes(self, runs: Runs) -> None:
        """What the host writes is written: who tracks writes must see it."""
        for span in runs.touched:
            self.space.note_writes(span)

    def _read_word(self, address: int, size: int) -> int:
        with self.space.lock:
            hpa = self._reach(address, size, Access.READ).single
            if hpa is not None and not hpa % size:
                return int(self._words(size)[(hpa - self._memory.base) // size])
        return int.from_bytes(self.read(address, size), "little")

    def _write_word(self, address: int, value: int, size: int) -> None:
        if not 0 <= value < 1 << 8 * size:
            raise OutOfRangeError(f"value {value:#x} for {self._named(address)} does not fit in {8 * size} bits")
        with self.space.lock:
            runs = self._reach(address, size, Access.WRITE, populate=True)
            hpa = runs.single
            if hpa is not None and not hpa % size:
                self._words(size)[(hpa - self._memory.base) // size] = value
                self._note_writes(runs)
                return
        self.write(address, value.to_bytes(size, "little"))

    def _words(self, size: int) -> npt.NDArray[Any]:
        return self._memory.words.view(_WORDS[size])

    def _view(self, hpa: int, size: int, writable: bool) -> memoryview:
        view = self._memory.view(Hpa(hpa), size)
        return view if writable else view.toreadonly()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.space.name!r}, {self.actor.name.lower()})"


def refusal(region: MemoryRegion, access: Access, actor: Actor) -> type[GuestAccessError] | None:
    """Why an actor may not access a region; None when it may. Stage 2 only: user mode is no matter here."""
    if not region.map_type.holds_bytes:
        return GuestNotMemoryError
    if actor is not Actor.HOST and not region.flags & access.flag:
        return GuestDeniedError
    return None


def refusal_text(region: MemoryRegion, error: type[GuestAccessError], access: Access) -> str:
    """One clause for the error."""
    if error is GuestNotMemoryError:
        return f"{region} is a device, not memory"
    return f"{region} does not allow to {access.name.lower()}"


def _octets_of(data: Any, what: str) -> Octets:
    """The bytes of a buffer as an array that shares them."""
    view = memoryview(data)
    if not view.c_contiguous or "O" in view.format:
        raise EncodingError(f"{what} must be plain bytes in C order; copy it first")
    return np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8)
