"""Host physical memory: several ranges of it, sparse, as bytes, words and numpy views."""

from __future__ import annotations

import os
import weakref
from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..address import ADDRESS_LIMIT, SIZE_4K, Hpa, Hva, Range, align_down, align_up, format_size, require_aligned
from ..errors import EmptyRangeError, FrameError, MisalignedError, OutOfRangeError, OverlapError
from .hostmap import HostMapping, create_memfd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    import numpy.typing as npt

PHYSICAL_LIMIT = 1 << 56
"""One past the largest physical address of any architecture (RISC-V: 44 bits of PPN above 12 of offset)."""

_GIVE_BACK = 64 * 1024
"""Bytes from which on returning pages to the host is cheaper than filling them with zeroes."""


class PhysicalMemory:
    """Host physical memory of several ranges, sparse: a page costs nothing until it is touched.

    All ranges lie in one stretch of host addresses, at the distances they have in physical memory: the byte at
    an HPA is at `hva + (hpa - base)`. The holes between them are reserved and cannot be touched.

    Args:
        ranges: where there is memory, in any order, multiples of 4 KiB; touching ones are joined.
        backing: "anonymous", or "memfd" for memory that another process can map (`fileno`; the byte at an HPA is
            byte `hpa - base` of the file).

    Raises:
        MisalignedError: a range is no whole pages.
        OverlapError: two ranges overlap.
        OutOfRangeError: a range reaches beyond 56 bits.
        EmptyRangeError: there is no range.
        OutOfMemoryError: the host cannot reserve the span.
    """

    def __init__(self, ranges: Iterable[Range], *, backing: Literal["anonymous", "memfd"] = "anonymous") -> None:
        self.ranges = _join(ranges)
        """Where there is memory: sorted, touching ones joined."""
        self.base = Hpa(self.ranges[0].start)
        """The lowest HPA."""
        self.span: int = self.ranges[-1].end - self.base
        """Bytes from `base` to the end of the last range, holes included."""
        self.size = sum(part.size for part in self.ranges)
        """Bytes of memory, holes not included."""
        self.range_table: npt.NDArray[np.uint64] = np.array(
            [(part.start, part.end) for part in self.ranges], dtype=np.uint64
        )
        """[start, end) of every range as HPA, shape (n, 2), C-contiguous: kernels check addresses against it."""
        self.fileno: int | None = create_memfd(self.span) if backing == "memfd" else None
        """Descriptor of the memory file, or None."""
        self._close_file = _close_later(self, self.fileno)
        parts = [Range(part.start - self.base, part.end - self.base) for part in self.ranges]
        try:
            mapping = HostMapping(self.span, parts, phase=self.base % (2 << 20), fd=self.fileno)
        except BaseException:
            self._close_file()
            raise
        self._mapping: HostMapping | None = mapping
        self.hva = Hva(mapping.address)
        """The host virtual address at which `base` appears."""
        self._bytes: npt.NDArray[np.uint8] = np.asarray(mapping)
        self.mapped: npt.NDArray[np.uint64] | None = self._bytes.view(np.uint64)
        """`words`, None after `close`: for those who ask often. Whoever holds it keeps the memory mapped."""
        # Memory views read and write single words and short strings several times faster than arrays do.
        self._octet_view = self._bytes.data
        self._word_view = self.mapped.data
        self._starts = [part.start for part in self.ranges]
        self._ends = [part.end for part in self.ranges]
        self._exported: weakref.WeakValueDictionary[int, npt.NDArray[np.uint8]] = weakref.WeakValueDictionary()
        self._exports = 0

    @property
    def words(self) -> npt.NDArray[np.uint64]:
        """The 64-bit words of the whole span: the word at an HPA has the index `(hpa - base) >> 3`.

        A word in a hole must not be touched: the host ends the process. The array stays valid as long as anyone
        holds it, also after `close`.
        """
        if self.mapped is None:
            raise self._closed_error()
        return self.mapped

    def contains(self, address: int, size: int = 1) -> bool:
        """True when `size` bytes from the HPA `address` lie in one range."""
        index = bisect_right(self._starts, address) - 1
        return index >= 0 and size >= 0 and address + size <= self._ends[index]

    def read(self, hpa: Hpa, size: int) -> bytes:
        """A copy of `size` bytes.

        Raises:
            OutOfRangeError: they are not all in one range of memory.
        """
        offset = self._offset(hpa, size)
        return bytes(self._octet_view[offset : offset + size])

    def write(self, hpa: Hpa, data: bytes | bytearray | memoryview | npt.NDArray[Any]) -> None:
        """Store the bytes of `data`, an array in C order.

        Raises:
            OutOfRangeError: they do not all fit in one range of memory; nothing was written.
        """
        if isinstance(data, np.ndarray):
            source = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        else:
            source = memoryview(data)
            source = source.cast("B") if source.c_contiguous else memoryview(source.tobytes())
        offset = self._offset(hpa, source.nbytes)
        self._octet_view[offset : offset + source.nbytes] = source

    def load_u64(self, hpa: Hpa) -> int:
        """The 64-bit word at `hpa`, a multiple of 8, by one load.

        Raises:
            MisalignedError, OutOfRangeError: no aligned word is there.
        """
        if hpa & 7:
            raise MisalignedError(f"HPA {hpa:#x} of a 64-bit word is not a multiple of 8")
        return self._word_view[self._offset(hpa, 8) >> 3]

    def word_at(self, hpa: int) -> int | None:
        """The 64-bit word at `hpa`, a multiple of 8; None where there is no memory.

        Raises:
            MisalignedError: it is no multiple of 8.
        """
        index = bisect_right(self._starts, hpa) - 1
        if index < 0 or hpa + 8 > self._ends[index]:
            return None
        if hpa & 7:
            raise MisalignedError(f"HPA {hpa:#x} of a 64-bit word is not a multiple of 8")
        word: int = self._word_view[(hpa - self.base) >> 3]
        return word

    def store_u64(self, hpa: Hpa, value: int) -> None:
        """Publish a 64-bit word at `hpa`, a multiple of 8, by one aligned store.

        Raises:
            MisalignedError, OutOfRangeError: no aligned word is there, or `value` is wider than 64 bits.
        """
        if hpa & 7:
            raise MisalignedError(f"HPA {hpa:#x} of a 64-bit word is not a multiple of 8")
        if not 0 <= value < ADDRESS_LIMIT:
            raise OutOfRangeError(f"value {value:#x} for HPA {hpa:#x} does not fit in 64 bits")
        self._word_view[self._offset(hpa, 8) >> 3] = value

    def view(self, hpa: Hpa, size: int) -> memoryview:
        """The bytes themselves, writable, without a copy; `close` is refused until it is released.

        Raises:
            OutOfRangeError: they are not all in one range of memory.
        """
        offset = self._offset(hpa, size)
        part = self._bytes[offset : offset + size]
        self._exports += 1
        self._exported[self._exports] = part
        return part.data

    def zero(self, span: Range) -> None:
        """Make every byte of `span` zero; long runs of whole pages are given back to the host.

        Raises:
            OutOfRangeError: the span is not in one range of memory.
            FrameError: the host refuses to take pages back.
        """
        offset = self._offset(span.start, span.size)
        end = offset + span.size
        first, last = align_up(offset, SIZE_4K), align_down(end, SIZE_4K)
        if last - first < _GIVE_BACK:
            self._bytes[offset:end] = 0
            return
        self._bytes[offset:first] = 0
        self._bytes[last:end] = 0
        self._open_mapping().give_back(first, last - first)

    def advise_huge(self, span: Range) -> None:
        """Ask the host for huge pages behind `span`; best effort.

        Raises:
            OutOfRangeError: the span is not in one range of memory.
        """
        self._open_mapping().advise_huge(self._offset(span.start, span.size), span.size)

    def resident_bytes(self) -> int:
        """Bytes of host memory really in use; reads a file of the host, so not for hot paths."""
        mapping = self._open_mapping()
        if self.fileno is not None:
            return os.fstat(self.fileno).st_blocks * 512
        return mapping.resident_bytes()

    def close(self) -> None:
        """Give the memory up; again is harmless.

        The host gets it back at once, or when the last array made from `words` is gone.

        Raises:
            FrameError: a view made by `view` is still in use; nothing changed.
        """
        if self._mapping is None:
            return
        if self._exported:
            raise FrameError(
                f"physical memory cannot be closed: {len(self._exported)} of its views are still in use; release them"
            )
        # The tables of ranges go first: a thread that looks up an address now finds nothing.
        self._starts, self._ends = [], []
        self._octet_view, self._word_view = memoryview(b""), memoryview(b"")
        self._bytes = np.empty(0, dtype=np.uint8)
        self.mapped = self._mapping = None
        self._close_file()
        self.fileno = None

    def __enter__(self) -> PhysicalMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not self._exported:
            self.close()
        # Otherwise the error counts for more than the views its traceback still holds.

    def __repr__(self) -> str:
        where = ", ".join(str(part) for part in self.ranges)
        return f"PhysicalMemory({format_size(self.size)} at {where})"

    def _offset(self, hpa: int, size: int) -> int:
        """Bytes from `base` of a checked piece of memory."""
        index = bisect_right(self._starts, hpa) - 1
        if index < 0 or size < 0 or hpa + size > self._ends[index]:
            raise self._outside(hpa, size)
        return hpa - self.base

    def _outside(self, hpa: int, size: int) -> FrameError | OutOfRangeError:
        if self._mapping is None:
            return self._closed_error()
        shown = ", ".join(str(part) for part in self.ranges[:4]) + (", ..." if len(self.ranges) > 4 else "")
        return OutOfRangeError(f"{size} bytes at HPA {hpa:#x} are not all in host memory, which is {shown}")

    def _open_mapping(self) -> HostMapping:
        if self._mapping is None:
            raise self._closed_error()
        return self._mapping

    @staticmethod
    def _closed_error() -> FrameError:
        return FrameError("this physical memory is closed")


def _close_later(memory: PhysicalMemory, fd: int | None) -> Callable[[], object]:
    """A function that closes the memory file, once; it is called with the end of the memory at the latest."""
    return weakref.finalize(memory, os.close, fd) if fd is not None else lambda: None


def _join(ranges: Iterable[Range]) -> tuple[Range, ...]:
    ordered = sorted(ranges)
    if not ordered:
        raise EmptyRangeError("physical memory needs at least one range")
    for part in ordered:
        require_aligned("start of memory range", part.start, SIZE_4K)
        require_aligned("end of memory range", part.end, SIZE_4K)
        if part.end > PHYSICAL_LIMIT:
            raise OutOfRangeError(f"memory range {part} reaches beyond 56 bits, the widest physical address there is")
    for low, high in pairwise(ordered):
        if low.overlaps(high):
            raise OverlapError(f"memory ranges {low} and {high} overlap")
    joined = [ordered[0]]
    for part in ordered[1:]:
        if part.start == joined[-1].end:
            joined[-1] = Range(joined[-1].start, part.end)
        else:
            joined.append(part)
    return tuple(joined)
