"""The bytes of a file, seen without reading it: mapped read-only, as long as it was when it was opened."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import SourceError

Octets = npt.NDArray[np.uint8]


class FileBytes:
    """Bytes that are there, and how messages call them.

    Args:
        name: the file as the user named it.
        octets: its bytes, read-only.
        notices: what is already known to be missing of it, a sentence each.
    """

    def __init__(self, name: str, octets: Octets, notices: tuple[str, ...] = ()) -> None:
        self.name, self.octets, self.notices = name, octets, notices
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
            return cls(name, np.frombuffer(data, np.uint8), notices)
        except (OSError, ValueError, OverflowError) as error:
            # Such as /proc/kcore, which has a size and cannot be mapped.
            reason = getattr(error, "strerror", None) or error
            raise SourceError(f"{name} cannot be mapped into memory ({reason}): give a copy of it") from None

    def part(self, at: int, size: int) -> bytes:
        """Bytes from an offset on; fewer where the file ends."""
        return self.octets[at : at + size].tobytes() if at < self.size else b""
