"""Four ways to the bytes of a live machine, best first: its process, the gdb stub, files that QEMU writes, the monitor.

A read stays within one section of memory; `live` sees to that.
"""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...address import MIB, align_down, align_up
from ...errors import SourceError
from ...prove.packing import U64Array
from . import monitor_text
from .gdbstub import GdbStub
from .monitor_text import Section
from .process_memory import ProcessMemory
from .qmp import Qmp, RefusedError

_WORDS = 512
"""Words that one line of the monitor prints."""
_FEW = 64
"""Bytes up to which the monitor's words come sooner than a file."""
_FILE = 64 * MIB
"""What one file holds at most."""
_SLOWEST = 16 * MIB
"""Bytes a second that QEMU writes at least."""
_GAP = 64 << 10
"""Bytes between two reads that are read along with them sooner than apart."""
_RUN = 16 * MIB

Monitor = Callable[[str], str]


class Reader(Protocol):
    """A way to a live machine's memory."""

    @property
    def way(self) -> str:
        """What it is, for a notice."""
        ...

    def read(self, hpa: int, size: int) -> bytes:
        """Bytes within one section.

        Raises:
            SourceError: QEMU is gone, or does not answer.
        """
        ...

    def rows(self, addresses: U64Array, size: int) -> npt.NDArray[np.uint8]:
        """So many bytes at each of many HPAs, each within one section.

        Raises:
            SourceError: as `read`.
        """
        ...

    def close(self) -> None:
        """Give back what it holds; not the connection."""
        ...


class ByProcess:
    """The memory of QEMU's process.

    Args:
        pid: it.
        sections: the machine's memory.
        monitor: asks QEMU where in its process they are.
        name: of the connection, for errors.

    Raises:
        NotAllowedError: the kernel forbids it.
        SourceError: there is no such process, or it has no such memory.
    """

    def __init__(self, pid: int, sections: Sequence[Section], monitor: Monitor, name: str) -> None:
        self.way = f"from the memory of QEMU's process {pid}"
        self._memory = ProcessMemory(pid, name)
        try:
            places = [self._place(section, monitor, name) for section in sections]
        except BaseException:
            self.close()
            raise
        self._firsts, self._places = [section.range.start for section in sections], places
        self._starts = np.array(self._firsts, np.uint64)
        self._distances = np.array(places, np.uint64) - self._starts  # modulo 2^64

    def _place(self, section: Section, monitor: Monitor, name: str) -> int:
        """The HVA where a section begins."""
        ends = (section.range.start, section.range.end - 1)
        first, last = (monitor_text.host_address(monitor(f"gpa2hva {at:#x}")) for at in ends)
        size = section.range.size
        if first is None or last is None or last - first != size - 1 or not self._memory.holds(first, size):
            raise SourceError(f"{name}: the process does not have {section.name} {section.range} in one piece")
        return first

    def read(self, hpa: int, size: int) -> bytes:
        index = bisect_right(self._firsts, hpa) - 1
        return self._memory.read(hpa - self._firsts[index] + self._places[index], size)

    def rows(self, addresses: U64Array, size: int) -> npt.NDArray[np.uint8]:
        index = np.searchsorted(self._starts, addresses, side="right") - 1
        return self._memory.rows(addresses + self._distances[index], size)

    def close(self) -> None:
        self._memory.close()


class ByStub:
    """A gdb stub's physical memory.

    Raises:
        SourceError: the stub cannot do that.
    """

    way = "through the gdb stub"

    def __init__(self, stub: GdbStub) -> None:
        self._stub = stub
        stub.physical(True)

    def read(self, hpa: int, size: int) -> bytes:
        found = self._stub.memory(hpa, size)
        if found is None:
            raise SourceError(f"{self._stub.name}: the stub does not tell the {size} bytes at HPA {hpa:#x}")
        return found

    def rows(self, addresses: U64Array, size: int) -> npt.NDArray[np.uint8]:
        return _each(self.read, addresses, size)

    def close(self) -> None:
        return


class ByWords:
    """Words that the monitor prints: the slowest way, and one that every QEMU has.

    Args:
        monitor: asks it.
        name: of the connection, for errors.
    """

    way = "word by word through the monitor"

    def __init__(self, monitor: Monitor, name: str) -> None:
        self._monitor, self._name = monitor, name

    def read(self, hpa: int, size: int) -> bytes:
        start, end = align_down(hpa, 8), align_up(hpa + size, 8)
        parts = []
        for at in range(start, end, 8 * _WORDS):
            count = min(_WORDS, (end - at) // 8)
            found = monitor_text.words(self._monitor(f"xp /{count}gx {at:#x}"), count)
            if found is None:
                raise SourceError(f"{self._name}: the monitor does not tell the {8 * count} bytes at HPA {at:#x}")
            parts.append(found)
        return b"".join(parts)[hpa - start : hpa - start + size]

    def rows(self, addresses: U64Array, size: int) -> npt.NDArray[np.uint8]:
        return _each(self.read, addresses, size)

    def close(self) -> None:
        return


class ByFile:
    """Files that QEMU writes (`pmemsave`) into a private folder, and words of its monitor for what is small.

    Args:
        qmp: the monitor.
        sections: the machine's memory.

    Raises:
        SourceError: QEMU cannot write there: it runs as another user, in a container, or on another file system.
    """

    way = "by files that QEMU writes (pmemsave)"

    def __init__(self, qmp: Qmp, sections: Sequence[Section]) -> None:
        self._qmp, self._words = qmp, ByWords(qmp.monitor, qmp.name)
        self._starts = np.array([section.range.start for section in sections], np.uint64)
        self._folder = tempfile.TemporaryDirectory(prefix="stage2-live-")
        self._file = Path(self._folder.name) / "memory"
        try:
            self._saved(sections[0].range.start, min(8, sections[0].range.size))
        except BaseException:
            self.close()
            raise

    def read(self, hpa: int, size: int) -> bytes:
        if size <= _FEW and not hpa % 8 and not size % 8:
            return self._words.read(hpa, size)
        return b"".join(self._saved(at, min(_FILE, hpa + size - at)) for at in range(hpa, hpa + size, _FILE))

    def rows(self, addresses: U64Array, size: int) -> npt.NDArray[np.uint8]:
        made = np.empty((len(addresses), size), np.uint8)
        order = np.argsort(addresses, kind="stable")
        placed = addresses[order]
        # A new file where too much lies between two of them, or another section begins.
        index = np.searchsorted(self._starts, placed, side="right")
        gaps = placed[1:] - placed[:-1]
        cuts = np.flatnonzero((gaps > np.uint64(size + _GAP)) | (index[1:] != index[:-1])) + 1
        for run in np.split(np.arange(len(placed)), cuts):
            for part in np.split(run, np.flatnonzero(np.diff((placed[run] - placed[run[0]]) // _RUN)) + 1):
                first = int(placed[part[0]])
                whole = np.frombuffer(self.read(first, int(placed[part[-1]]) + size - first), np.uint8)
                for row in part.tolist():
                    offset = int(placed[row]) - first
                    made[order[row]] = whole[offset : offset + size]
        return made

    def _saved(self, hpa: int, size: int) -> bytes:
        try:
            self._qmp.execute(
                "pmemsave", val=hpa, size=size, filename=str(self._file), seconds=self._qmp.seconds + size / _SLOWEST
            )
            found = self._file.read_bytes()
        except (OSError, RefusedError) as error:
            raise SourceError(f"{self._qmp.name}: QEMU cannot write files for us: {error}") from None
        finally:
            self._file.unlink(missing_ok=True)
        if len(found) != size:
            raise SourceError(f"{self._qmp.name}: QEMU wrote {len(found)} bytes of {size} at HPA {hpa:#x}")
        return found

    def close(self) -> None:
        if os.path.isdir(self._folder.name):
            self._folder.cleanup()


def _each(read: Callable[[int, int], bytes], addresses: U64Array, size: int) -> npt.NDArray[np.uint8]:
    whole = b"".join(read(address, size) for address in addresses.tolist())
    return np.frombuffer(whole, np.uint8).reshape(len(addresses), size)
