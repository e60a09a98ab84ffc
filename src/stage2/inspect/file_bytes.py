"""The bytes of a file, seen without reading it: mapped read-only, as long as it was when it was opened."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import SourceError

_MOST_EXTENTS = 1 << 16
"""Limit: stretches of a sparse file; what comes behind counts as one."""
Octets = npt.NDArray[np.uint8]


class FileBytes:
    """Bytes that are there, and how messages call them.

    Args:
        name: the file as the user named it.
        octets: its bytes, read-only.
        notices: what is already known to be missing of it, a sentence each.
        extents: (first, end) of the stretches that may hold anything but zeros, in order; None for all of it.
    """

    def __init__(
        self,
        name: str,
        octets: Octets,
        notices: tuple[str, ...] = (),
        extents: tuple[tuple[int, int], ...] | None = None,
    ) -> None:
        self.name, self.octets, self.notices, self.extents = name, octets, notices, extents
        self.size = len(octets)

    @classmethod
    def of(cls, name: str, data: bytes | bytearray | memoryview) -> FileBytes:
        """Bytes in memory."""
        return cls(name, np.frombuffer(data, np.uint8))

    @classmethod
    def open(cls, path: str | Path) -> FileBytes:
        """A regular file. Nothing of it is read here, however large it is.

        Raises:
            SourceError: it is missing, unreadable, no regular file, or empty.
        """
        name = str(path)
        try:
            # A pipe that nobody writes to must not hang us.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise SourceError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        try:
            return cls.mapped(name, descriptor)
        finally:
            os.close(descriptor)

    @classmethod
    def mapped(cls, name: str, descriptor: int, notices: tuple[str, ...] = ()) -> FileBytes:
        """An open file, which may be closed afterwards.

        Raises:
            SourceError: it is no regular file, empty, or cannot be mapped.
        """
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SourceError(f"{name} is no regular file: memory is looked at in files that have an end")
        if not found.st_size:
            raise SourceError(f"{name} is empty")
        try:
            data = mmap.mmap(descriptor, found.st_size, access=mmap.ACCESS_READ)
            return cls(name, np.frombuffer(data, np.uint8), notices, _extents(descriptor, found.st_size))
        except (OSError, ValueError, OverflowError) as error:
            # Such as /proc/kcore, which has a size and cannot be mapped.
            reason = getattr(error, "strerror", None) or error
            raise SourceError(f"{name} cannot be mapped into memory ({reason}): give a copy of it") from None

    def part(self, at: int, size: int) -> bytes:
        """Bytes from an offset on; fewer where the file ends."""
        return self.octets[at : at + size].tobytes() if at < self.size else b""


def _extents(descriptor: int, size: int) -> tuple[tuple[int, int], ...] | None:
    """The stretches of a file that its file system holds; None for all of it, and where it does not say."""
    found: list[tuple[int, int]] = []
    at = 0
    try:
        while at < size and len(found) < _MOST_EXTENTS:
            try:
                first = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # there is no more
                    at = size
                    break
                raise
            at = min(os.lseek(descriptor, first, os.SEEK_HOLE), size)
            found.append((first, at))
    except OSError:
        return None
    if at < size:
        found.append((at, size))
    return None if found == [(0, size)] else tuple(found)
