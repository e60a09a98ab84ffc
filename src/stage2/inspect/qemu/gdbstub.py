"""QEMU's gdb stub: registers of every CPU by name, and memory by physical or virtual address.

It is the remote serial protocol (gdb's manual, appendix E) as far as QEMU speaks it. Whoever connects stops the
machine; `detach` lets it run on, `close` alone leaves it stopped.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property

from ...errors import SourceError
from .endpoint import Endpoint, peer_pid
from .target_description import Description, read_description

ANSWER_S = 30.0
"""How long the stub may take to answer a packet."""
_LONGEST_PACKET = 1 << 20
_LONGEST_TEXT = 64 << 20
"""What a document or a monitor's line may print, in bytes."""
_MOST_CPUS = 4096
_PACKET = re.compile(rb"\$([^#$]*)#([0-9a-fA-F]{2})")
_ESCAPED = re.compile(rb"\}(.)", re.DOTALL)
_THREAD = re.compile(r"(?:p([0-9a-f]+)\.)?([0-9a-f]+)")


class GdbStub:
    """A connection to a gdb stub. The machine stands still as long as it lasts.

    Args:
        endpoint: where it listens. A stub serves one client at a time.
        seconds: how long an answer may take.

    Raises:
        SourceError: nobody answers there as a stub does.
    """

    def __init__(self, endpoint: Endpoint, *, seconds: float = ANSWER_S) -> None:
        self.name, self._seconds = str(endpoint), seconds
        self._buffer = bytearray()
        self._broken: str | None = None
        self._acknowledges = True
        self._physical = False
        self._processes: set[str] = set()
        self.was_running: bool | None = None
        """True where the stub said, as before QEMU 8.1, that it stopped the machine when we came; else None."""
        self._socket = endpoint.connect(seconds)
        self.pid = peer_pid(self._socket)
        """The process that listens, of a Unix socket."""
        try:
            told = self.ask("qSupported:multiprocess+;xmlRegisters=i386").split(";")
            features = dict(one.partition("=")[::2] for one in told)
            size = features.get("PacketSize", "")
            # The stub's own limit is on the text, which has two digits for a byte.
            self._chunk = min(max(int(size, 16) // 2, 16), 1 << 16) if re.fullmatch("[0-9a-f]{1,6}", size) else 1024
            if "qXfer:features:read+" not in features:
                raise SourceError(f"{self.name} has no target description: is that QEMU's gdb stub?")
            if "QStartNoAckMode+" in features and self.ask("QStartNoAckMode") == "OK":
                self._acknowledges = False
        except BaseException:
            self.close()
            raise

    # --- packets -----------------------------------------------------------------------------------------

    def ask(self, command: str) -> str:
        """The answer to a command; "" means that the stub does not know it.

        Raises:
            SourceError: it is gone, does not answer in time, or answers with nonsense. All that follows fails then.
        """
        return self._answer(command.encode()).decode("latin-1")

    def _answer(self, command: bytes, deadline: float | None = None) -> bytes:
        """The answer to a command; with b"", the next packet of the last answer."""
        if self._broken is not None:
            raise SourceError(self._broken)
        deadline = self._deadline() if deadline is None else deadline
        try:
            if command:
                self._socket.settimeout(self._seconds)
                self._socket.sendall(b"$%s#%02x" % (command, sum(command) & 0xFF))
            while True:
                packet = self._packet(deadline)
                # How a machine stopped may come at any time, and nothing that is asked here is answered like that.
                if packet[:1] not in (b"T", b"S"):
                    return packet
                if self.was_running is None:
                    self.was_running = True
        except TimeoutError:
            self._broken = f"{self.name}: the gdb stub does not answer within {self._seconds:g} s"
        except OSError as error:
            self._broken = f"{self.name}: QEMU has ended, or closed the connection ({error.strerror or error})"
        except SourceError as error:
            self._broken = str(error)
        raise SourceError(self._broken)

    def _deadline(self) -> float:
        return time.monotonic() + self._seconds

    def _packet(self, deadline: float) -> bytes:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            end = self._buffer.find(b"#")
            if end >= 0 and len(self._buffer) >= end + 3:
                found = _PACKET.search(self._buffer, 0, end + 3)
                if found is None:
                    raise SourceError(f"{self.name} does not speak gdb's protocol: {bytes(self._buffer[:40])!r}")
                body, checksum = bytes(found[1]), int(found[2], 16)
                del self._buffer[: end + 3]
                good = sum(body) & 0xFF == checksum
                if self._acknowledges:
                    self._socket.sendall(b"+" if good else b"-")
                elif not good:
                    raise SourceError(f"{self.name}: a packet's checksum is wrong")
                if good:
                    return _ESCAPED.sub(lambda one: bytes([one[1][0] ^ 0x20]), body)
                continue
            if len(self._buffer) > _LONGEST_PACKET:
                raise SourceError(f"{self.name}: a packet of more than {_LONGEST_PACKET} bytes")
            self._socket.settimeout(left)
            part = self._socket.recv(1 << 16)
            if not part:
                raise ConnectionResetError(None, "end of file")
            self._buffer += part

    # --- what it tells -----------------------------------------------------------------------------------

    @cached_property
    def description(self) -> Description:
        """The target's registers.

        Raises:
            SourceError: it has no such description.
        """
        return read_description(self._document)

    def _document(self, name: str) -> str:
        whole, deadline = bytearray(), self._deadline()
        while len(whole) <= _LONGEST_PACKET:
            part = self._answer(f"qXfer:features:read:{name}:{len(whole):x},{self._chunk:x}".encode(), deadline)
            whole += part[1:]
            if part[:1] == b"l":
                return whole.decode("utf-8", "replace")
            if part[:1] != b"m" or len(part) == 1:
                break
        raise SourceError(f"{self.name} has no target description {name!r}")

    def cpus(self) -> tuple[str, ...]:
        """The CPUs, by the names that the stub calls its threads.

        Raises:
            SourceError: it does not tell them.
        """
        found: list[str] = []
        answer = self.ask("qfThreadInfo")
        while answer[:1] == "m" and len(found) <= _MOST_CPUS:
            found += answer[1:].split(",")
            answer = self.ask("qsThreadInfo")
        if answer != "l" or not found or not all(_THREAD.fullmatch(one) for one in found):
            raise SourceError(f"{self.name} does not tell its CPUs: {answer[:40]!r}")
        self._processes |= {parts[1] for parts in map(_THREAD.fullmatch, found) if parts is not None and parts[1]}
        return tuple(found)

    def select(self, cpu: str) -> None:
        """Ask that CPU from now on, for registers and for memory by virtual address.

        Raises:
            SourceError: there is no such CPU.
        """
        if self.ask(f"Hg{cpu}") != "OK":
            raise SourceError(f"{self.name} has no CPU {cpu!r}")

    def registers(self, names: Iterable[str]) -> dict[str, int]:
        """Those of the selected CPU's registers that it has and tells."""
        found = {}
        for name in names:
            register = self.description.registers.get(name)
            if register is None:
                continue
            answer = self.ask(f"p{register.number:x}")
            if len(answer) == register.bits // 4 and re.fullmatch("[0-9a-f]+", answer):
                found[name] = int.from_bytes(bytes.fromhex(answer), "little")
        return found

    def physical(self, on: bool) -> None:
        """Read memory by physical address from now on, or again by virtual address.

        Raises:
            SourceError: the stub cannot do so: QEMU can since 4.1.
        """
        if self.ask(f"Qqemu.PhyMemMode:{int(on)}") != "OK":
            raise SourceError(f"{self.name} cannot read by physical address: QEMU can since 4.1")
        self._physical = on

    def memory(self, address: int, size: int) -> bytes | None:
        """Bytes of memory, by the kind of address that `physical` has chosen; None where the stub refuses.

        By virtual address the selected CPU's MMU translates, with the rights of its present mode.
        """
        whole = bytearray()
        while len(whole) < size:
            step = min(self._chunk, size - len(whole))
            answer = self.ask(f"m{address + len(whole):x},{step:x}")
            if len(answer) != 2 * step or not re.fullmatch("[0-9a-f]+", answer):
                return None
            whole += bytes.fromhex(answer)
        return bytes(whole)

    def monitor(self, line: str) -> str:
        """What a line of QEMU's monitor prints, which needs no monitor's socket.

        Raises:
            SourceError: the stub has no monitor.
        """
        printed, deadline = bytearray(), self._deadline()
        answer = self._answer(b"qRcmd," + line.encode().hex().encode(), deadline)
        while answer[:1] == b"O" and answer != b"OK":
            try:
                printed += bytes.fromhex(answer[1:].decode("ascii"))
            except ValueError:
                raise SourceError(f"{self.name}: {line} printed {answer[:40]!r}") from None
            if len(printed) > _LONGEST_TEXT:
                raise SourceError(f"{self.name}: {line} prints more than {_LONGEST_TEXT >> 20} MiB")
            answer = self._answer(b"", deadline)
        if answer != b"OK":
            raise SourceError(f"{self.name} does not let us ask QEMU's monitor")
        return printed.decode("utf-8", "replace")

    # --- its end -----------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Let the machine run on, and close.

        Raises:
            SourceError: the stub is gone.
        """
        try:
            self._restore()
            if not self._processes:
                self.cpus()
            for process in sorted(self._processes):
                self.ask(f"D;{process}")
            if not self._processes:
                self.ask("D")
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection; the machine stays stopped. Harmless when repeated."""
        if self._broken is None:
            with suppress(SourceError):
                self._restore()
            self._broken = f"{self.name}: closed"
        self._socket.close()

    def _restore(self) -> None:
        # The mode outlives a connection, and would surprise the next client.
        if self._physical:
            self.physical(False)
