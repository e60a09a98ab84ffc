"""The host's side of physical memory: reserving addresses, mapping and giving back pages.

The standard `mmap` module can neither reserve without committing nor map over a reservation, so libc is called
directly. Linux only, 4 KiB host pages.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
import weakref
from typing import TYPE_CHECKING, Any

from ..address import SIZE_2M, SIZE_4K, Range, align_down, align_up, format_size
from ..errors import FrameError, HostToolError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROT_NONE = 0
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MAP_FAILED = (1 << 64) - 1
_SMAPS_HEAD = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) [-rwxsp]{4} ")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_uint64
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
]  # fmt: skip
_libc.munmap.restype = ctypes.c_int
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.restype = ctypes.c_int
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def _mmap(address: int | None, size: int, protection: int, flags: int, fd: int, offset: int) -> int:
    got = int(_libc.mmap(address, size, protection, flags, fd, offset))
    if got == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return got


def _munmap(address: int, size: int) -> None:
    _libc.munmap(address, size)


class HostMapping:
    """Host addresses for `span` bytes, of which only the given parts can be touched.

    numpy arrays made from an instance keep it alive, and it unmaps itself when the last of them and the last
    reference are gone: an array can never point at memory that is no longer there.

    Args:
        span: bytes to reserve.
        parts: the usable parts, in bytes from the start of the span, page aligned and disjoint.
        phase: the address of the first byte modulo 2 MiB, so that huge pages of host and guest coincide.
        fd: descriptor of a file to share, byte n of the span being byte n of the file; None for private memory.

    Raises:
        OutOfMemoryError: the host has no such stretch of addresses, or refuses to map a part.
    """

    def __init__(self, span: int, parts: Sequence[Range], *, phase: int, fd: int | None) -> None:
        if mmap.PAGESIZE != SIZE_4K or sys.byteorder != "little":
            raise HostToolError(
                f"host pages of {mmap.PAGESIZE} bytes, {sys.byteorder}-endian: "
                "stage2 needs a little-endian host with 4 KiB pages"
            )
        # A page more at either end stays untouchable: overruns are caught, and smaps shows our parts alone.
        total = span + SIZE_2M + 2 * SIZE_4K
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        try:
            reserved = _mmap(None, total, _PROT_NONE, private, -1, 0)
        except (OSError, ctypes.ArgumentError, OverflowError) as error:
            raise OutOfMemoryError(
                f"the host cannot reserve {format_size(span)} of addresses for physical memory: {_reason(error)}"
            ) from None
        self.span = span
        self.address = align_up(reserved + SIZE_4K - phase, SIZE_2M) + phase
        self._shared = fd is not None
        # Not at exit: threads that still run a guest may touch the memory until the process is gone.
        self._finalizer = weakref.finalize(self, _munmap, reserved, total)
        self._finalizer.atexit = False
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "typestr": "|u1",
            "shape": (span,),
            "data": (self.address, False),
        }
        flags = _MAP_FIXED | _MAP_NORESERVE | (mmap.MAP_SHARED if self._shared else private)
        for part in parts:
            place = self.address + part.start
            try:
                _mmap(
                    place,
                    part.size,
                    mmap.PROT_READ | mmap.PROT_WRITE,
                    flags,
                    -1 if fd is None else fd,
                    part.start if self._shared else 0,
                )
            except OSError as error:
                self._finalizer()
                raise OutOfMemoryError(
                    f"the host cannot map {format_size(part.size)} of physical memory: {_reason(error)} "
                    "(vm.overcommit_memory = 2 or a limit on address space may forbid it)"
                ) from None

    def give_back(self, offset: int, size: int) -> None:
        """Return whole pages to the host; they read as zero afterwards, also through a shared file."""
        advice = mmap.MADV_REMOVE if self._shared else mmap.MADV_DONTNEED
        if _libc.madvise(self.address + offset, size, advice):
            reason = os.strerror(ctypes.get_errno())
            raise FrameError(f"the host does not take back {format_size(size)} of physical memory: {reason}")

    def advise_huge(self, offset: int, size: int) -> None:
        """Ask for huge pages; a host that has none says no, and that is no error."""
        start = align_up(self.address + offset, SIZE_4K)
        end = align_down(self.address + offset + size, SIZE_4K)
        if start < end:
            _libc.madvise(start, end - start, mmap.MADV_HUGEPAGE)

    def resident_bytes(self) -> int:
        """Bytes of private memory that have a page of the host behind them, swapped-out ones included."""
        low, high = self.address, self.address + self.span
        kilobytes = 0
        inside = False
        with open("/proc/self/smaps", "rb") as smaps:
            for line in smaps:
                head = _SMAPS_HEAD.match(line)
                if head:
                    inside = int(head[1], 16) < high and low < int(head[2], 16)
                elif inside and line.startswith((b"Rss:", b"Swap:")):
                    kilobytes += int(line.split()[1])
        return kilobytes * 1024


def create_memfd(size: int) -> int:
    """A sparse file in memory that another process can map; the caller closes it.

    Raises:
        OutOfMemoryError: the host refuses the size.
    """
    fd = os.memfd_create("stage2-memory", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
    except (OSError, OverflowError) as error:
        os.close(fd)
        raise OutOfMemoryError(f"the host cannot make a memory file of {format_size(size)}: {_reason(error)}") from None
    return fd


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
