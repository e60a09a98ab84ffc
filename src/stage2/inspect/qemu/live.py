"""A live QEMU as a memory source.

The machine is disturbed as little as can be: by its monitor alone it runs on, and what is read may change meanwhile. A
gdb stub stops it for as long as somebody is connected. However it was found, it is left so.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import numpy as np

from ...address import Range
from ...errors import SourceError
from ...prove.packing import U64Array
from ..source import Cpu, MemorySource
from . import monitor_text
from .cpu_registers import ARCHITECTURES, cpus_of
from .endpoint import parse_endpoints
from .gdbstub import GdbStub
from .monitor_text import Section
from .qmp import COMMAND_S, Qmp
from .readers import ByFile, ByProcess, ByStub, ByWords, Reader

_SILENT_SINCE = (8, 1)
"""The QEMU whose stub no longer says by itself that it stopped the machine."""
Way = Literal["process", "stub", "file", "words"]


def open_live(text: str, *, stop: bool = False, way: Way | None = None, seconds: float = COMMAND_S) -> LiveSource:
    """Look into a live QEMU.

    Args:
        text: `qmp:/path.sock`, `qmp:127.0.0.1:4444`, `gdb:/path.sock`, `gdb:127.0.0.1:1234`, or one of each and
            a comma.
        stop: let the machine stand still until the source is closed, so that all that is read is of one moment.
        way: how to read memory; None takes the best there is.
        seconds: how long QEMU may take for an answer.

    Raises:
        SourceError: nobody answers there, QEMU does not tell what is needed, or the way is not to be had.
    """
    endpoints = parse_endpoints(text)
    qmp = Qmp(endpoints["qmp"], seconds=seconds) if "qmp" in endpoints else None
    stub = None
    ran: bool | None = None
    try:
        if qmp is not None:
            ran = qmp.running
            if stop and ran:
                qmp.execute("stop")
        if "gdb" in endpoints:
            stub = GdbStub(endpoints["gdb"], seconds=seconds)
            ran = _ran(stub) if qmp is None else ran
        return LiveSource(text, qmp, stub, ran=ran, stop=stop, way=way)
    except BaseException:
        _leave(qmp, stub, ran)
        raise


def _ran(stub: GdbStub) -> bool | None:
    """Whether a machine ran until its stub was asked; None where nothing tells."""
    if stub.was_running:
        return True
    version = re.match(r"(\d{1,4})\.(\d{1,4})", stub.monitor("info version"))
    told = version is not None and (int(version[1]), int(version[2])) < _SILENT_SINCE
    return False if told else None


def _leave(qmp: Qmp | None, stub: GdbStub | None, ran: bool | None) -> None:
    """Leave a machine as it was found, as far as it is still there."""
    with suppress(SourceError):
        if stub is not None:
            # Where nothing tells whether it ran, it most likely did.
            stub.close() if ran is False else stub.detach()
    if qmp is not None:
        with suppress(SourceError):
            if ran and not qmp.running:
                qmp.execute("cont")
        qmp.close()


class LiveSource(MemorySource):
    """The memory and the registers of a live QEMU. `open_live` makes it.

    Where memory is, and the registers, are as they were when it was opened.

    Args:
        name: what the user called it.
        qmp, stub: the connections, one at least; they are the source's from now on.
        ran: whether the machine ran before; None where nothing tells.
        stop: keep it stopped.
        way: how to read memory; None takes the best there is.

    Raises:
        SourceError: QEMU does not tell what is needed, or the way is not to be had.
    """

    def __init__(
        self, name: str, qmp: Qmp | None, stub: GdbStub | None, *, ran: bool | None, stop: bool, way: Way | None
    ) -> None:
        super().__init__(name)
        self._qmp, self._stub, self._ran = qmp, stub, ran
        self._closed = False
        self._notices: list[str] = []
        asked = qmp or stub
        assert asked is not None
        self._monitor = asked.monitor
        self._sections = monitor_text.memory_of(self._monitor("info mtree -f"), name)
        self._ranges = _joined(self._sections)
        self._firsts = [section.range.start for section in self._sections]
        self._section_starts = np.array(self._firsts, np.uint64)
        self._section_ends = self._section_starts + np.array([s.range.size for s in self._sections], np.uint64)
        self._arch = self._told_arch()
        self._registers = monitor_text.registers(self._monitor("info registers -a"))
        if stub is not None:
            # The monitor alone tells whether a RISC-V hart runs a guest: most stubs have no `virt`.
            printed = {cpu.number: cpu.values for cpu in self._registers}
            told = cpus_of(stub)
            self._registers = tuple(Cpu(cpu.number, {**printed.get(cpu.number, {}), **cpu.values}) for cpu in told)
        if qmp is not None and stub is not None and ran and not stop and way != "stub":
            stub.detach()  # its registers are had, and the monitor does the rest while the machine runs
            self._stub = stub = None
        self._reader = self._reads(way)
        self._say()

    def _told_arch(self) -> str | None:
        if self._qmp is not None:
            return self._qmp.arch
        return None if self._stub is None else ARCHITECTURES.get(self._stub.description.architecture)

    def _reads(self, way: Way | None) -> Reader:
        """The way that was asked for, or the first that there is."""
        ways: tuple[Way, ...] = ("process", "stub", "file", "words") if way is None else (way,)
        why: list[str] = []
        for one in ways:
            try:
                return self._reader_by(one)
            except SourceError as error:
                if self._monitor_is_gone():
                    raise
                why.append(str(error))
                if one == "process":
                    self._notices.append(f"the fast way is not to be had: {error}")
        raise SourceError("; ".join(why))

    def _monitor_is_gone(self) -> bool:
        try:
            self._monitor("info version")
        except SourceError:
            return True
        return False

    def _reader_by(self, way: Way) -> Reader:
        if way == "process":
            pid = next((one.pid for one in (self._qmp, self._stub) if one is not None and one.pid is not None), None)
            if pid is None:
                raise SourceError(f"{self.name}: a TCP port does not tell the process; a Unix socket does")
            return ByProcess(pid, self._sections, self._monitor, self.name)
        if way == "stub" and self._stub is not None:
            return ByStub(self._stub)
        if way == "file" and self._qmp is not None:
            return ByFile(self._qmp, self._sections)
        if way == "words":
            return ByWords(self._monitor, self.name)
        raise SourceError(f"{self.name}: reading by {way} needs the other socket")

    def _say(self) -> None:
        self._notices.append(f"memory is read {self._reader.way}")
        if self._qmp is not None and self._stub is None and self._ran and self._qmp.running:
            self._notices.append("the machine runs on: what is read may change meanwhile")
        elif self._ran is None:
            self._notices.append("the gdb stub does not tell whether the machine ran before; it will run afterwards")
        elif self._ran:
            self._notices.append("the machine stands still until this is closed")

    # --- the source --------------------------------------------------------------------------------------

    def ranges(self) -> tuple[Range, ...]:
        return self._ranges

    @property
    def arch(self) -> str | None:
        return self._arch

    @property
    def notices(self) -> tuple[str, ...]:
        return tuple(self._notices)

    def registers(self) -> tuple[Cpu, ...]:
        return self._registers

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        if not self.contains(hpa, size):
            return None
        if size == 0:
            return b""
        self._require_open()
        parts = []
        index = bisect_right(self._firsts, hpa) - 1
        while size:  # ranges are joined, sections are not
            step = min(size, self._sections[index].range.end - hpa)
            parts.append(self._reader.read(hpa, step))
            hpa, size, index = hpa + step, size - step, index + 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def tables(self, addresses: U64Array, entries: int) -> U64Array:
        self._require_open()
        size = 8 * entries
        if not len(addresses) or not entries:
            return np.empty((len(addresses), entries), np.uint64)
        index = np.searchsorted(self._section_starts, addresses, side="right") - 1
        if np.all(self._section_ends[np.maximum(index, 0)] - addresses >= np.uint64(size)) and np.all(index >= 0):
            found: U64Array = self._reader.rows(addresses, size).view("<u8").astype(np.uint64, copy=False)
            return found
        return super().tables(addresses, entries)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._reader.close()
        _leave(self._qmp, self._stub, self._ran)

    def _require_open(self) -> None:
        if self._closed:
            raise SourceError(f"{self.name}: closed")


def _joined(sections: Sequence[Section]) -> tuple[Range, ...]:
    made: list[Range] = []
    for section in sections:
        if made and made[-1].end == section.range.start:
            made[-1] = Range(made[-1].start, section.range.end)
        else:
            made.append(section.range)
    return tuple(made)
