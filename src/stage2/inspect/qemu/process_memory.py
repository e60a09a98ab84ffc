"""The memory of another process of this machine, read in bulk: the fast way into a QEMU's guest.

A page costs about a microsecond, where a monitor's command costs a thousand. The kernel allows it to root, and to the
same user where no security module (Yama's `ptrace_scope`) says otherwise.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import SourceError
from ...prove.packing import U64Array

_IOV_MAX = 1024
_PIECE = 256 << 20
"""What one call reads at most; the kernel's own limit is just under 2 GiB."""
_BULK_FROM = 4
"""Rows from which one call for all is sooner done than one each."""


class NotAllowedError(SourceError):
    """The kernel does not let us read that process."""


class ProcessMemory:
    """A process whose memory is read.

    Args:
        pid: it.
        name: what it is, for errors.

    Raises:
        NotAllowedError: the kernel forbids it.
        SourceError: there is no such process.
    """

    def __init__(self, pid: int, name: str) -> None:
        self._pid, self._name = pid, name
        try:
            self._file = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            raise NotAllowedError(
                f"{name}: process {pid} is not ours to read: that takes root, or the same user and ptrace_scope 0"
            ) from None
        except OSError as error:
            raise SourceError(f"{name}: process {pid}: {error.strerror or error}") from None
        self._readv: Any = getattr(ctypes.CDLL(None, use_errno=True), "process_vm_readv", None)
        if self._readv is not None:
            words = (ctypes.c_void_p, ctypes.c_ulong)
            self._readv.restype, self._readv.argtypes = ctypes.c_ssize_t, (ctypes.c_int, *words, *words, ctypes.c_ulong)

    def holds(self, address: int, size: int) -> bool:
        """Whether a mapping of the process, or several that touch, have all `size` bytes at an HVA."""
        try:
            with open(f"/proc/{self._pid}/maps") as lines:
                for line in lines:
                    first, _, rest = line.partition("-")
                    start, end = int(first, 16), int(rest.split(" ", 1)[0], 16)
                    if start <= address < end:
                        size -= end - address
                        address = end
                        if size <= 0:
                            return True
        except (OSError, ValueError):
            return False
        return False

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an HVA.

        Raises:
            SourceError: they are not there: the process has ended, or given its memory back.
        """
        parts = []
        while size:
            try:
                part = os.pread(self._file, min(size, _PIECE), address)
            except OSError:
                part = b""
            if not part:
                raise self._gone()
            parts.append(part)
            address, size = address + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def rows(self, addresses: U64Array, size: int) -> npt.NDArray[np.uint8]:
        """So many bytes at each of many HVAs, a row each.

        Raises:
            SourceError: as `read`.
        """
        made = np.empty((len(addresses), size), np.uint8)
        if self._readv is None or len(addresses) < _BULK_FROM:
            for row, address in enumerate(addresses.tolist()):
                made[row] = np.frombuffer(self.read(address, size), np.uint8)
            return made
        there = np.empty((len(addresses), 2), np.uint64)
        there[:, 0], there[:, 1] = addresses, size
        step = max(1, min(_IOV_MAX, _PIECE // max(size, 1)))
        for first in range(0, len(addresses), step):
            count = min(step, len(addresses) - first)
            here = np.array([made.ctypes.data + first * size, count * size], np.uint64)
            done = self._readv(self._pid, here.ctypes.data, 1, there[first:].ctypes.data, count, 0)
            if done < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
                self._readv = None  # a filter of system calls, as containers have them: the file does it, too
                return self.rows(addresses, size)
            if done != count * size:
                raise self._gone()
        return made

    def close(self) -> None:
        """Harmless when repeated."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _gone(self) -> SourceError:
        return SourceError(f"{self._name}: QEMU has ended, or given its memory back (process {self._pid})")
