"""A machine in QEMU that runs what others wrote: its console, its registers by QEMU's gdbstub, and a dump of it."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stage2.errors import MachineError
from stage2.machines.emulator import OWN_QEMU, Emulator
from stage2.machines.process import Child

_ANSWER_S = 120.0
_CHUNK = 1 << 16
PACKAGES = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm", "riscv64": "qemu-system-misc"}


class Emulated:
    """A QEMU that runs until it is closed, and ends with us. Console, QMP and gdbstub are socket pairs without names.

    Args:
        arch: which QEMU.
        arguments: board, CPU and what it boots.
        emulator: its generation.

    Raises:
        HostToolError: it is not installed.
    """

    def __init__(self, arch: str, arguments: Sequence[str], emulator: Emulator = OWN_QEMU) -> None:
        program = emulator.program(f"qemu-system-{arch}", PACKAGES[arch])
        self.version = program.version
        self.console = ""
        self._near: list[socket.socket] = []
        far: list[socket.socket] = []
        devices: list[str] = []
        for name in ("console", "qmp", "gdb"):
            near, other = socket.socketpair()
            self._near.append(near)
            far.append(other)
            devices += ["-chardev", f"socket,id={name},fd={other.fileno()}"]
        data = [word for folder in program.share("qemu", "seabios", "opensbi") for word in ("-L", str(folder))]
        ways = ["-serial", "chardev:console", "-mon", "chardev=qmp,mode=control", "-gdb", "chardev:gdb"]
        # A gdbstub loses the first byte it is sent while the machine runs, so it begins stopped.
        outside = ["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-S"]
        command = [*program.command, *data, *devices, *ways, *outside, *arguments]
        self._child = Child(command, keep=[end.fileno() for end in far])
        for end in far:
            end.close()
        self._console, qmp, gdb = self._near
        qmp.settimeout(_ANSWER_S)
        gdb.settimeout(_ANSWER_S)
        self._monitor = qmp.makefile("rw", encoding="utf-8")
        try:
            self._answer()
            self.ask("qmp_capabilities")
            self.stub = Stub(gdb)
            self.ask("cont")
        except BaseException:
            self.close()
            raise

    def wait_for(self, pattern: str, seconds: float) -> None:
        """Wait until the console has shown what a pattern matches.

        Raises:
            MachineError: not within that time, or it says that it failed.
        """
        deadline = time.monotonic() + seconds
        while re.search(pattern, self.console, re.MULTILINE) is None:
            self._console.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                got = self._console.recv(_CHUNK)
            except TimeoutError:
                got = b""
            self.console += got.decode("utf-8", "replace")
            if not got or re.search("lab: failed.*\n|Kernel panic|^Panic on CPU", self.console):
                raise MachineError(f"no {pattern!r} on the console within {seconds:g} s: {self.console[-3000:]}")

    def ask(self, command: str, **arguments: object) -> Any:
        """What QEMU answers to a command of QMP.

        Raises:
            MachineError: it refuses, or has ended.
        """
        self._monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._monitor.flush()
        while True:
            answer = self._answer()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise MachineError(f"QEMU refuses {command}: {answer['error']['desc']}")

    def dump(self, path: Path) -> None:
        """Write the machine's memory as an ELF core; the machine is stopped."""
        self.ask("dump-guest-memory", paging=False, protocol=f"file:{path}")

    def _answer(self) -> dict[str, Any]:
        line = self._monitor.readline()
        if not line:
            raise MachineError(f"QEMU {self._child.how_it_ended(1)}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End it. Harmless when repeated."""
        self._child.end()
        self._monitor.close()
        for end in self._near:
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stub:
    """QEMU's gdbstub as far as registers go: numbers from its target description, values by `p` (GDB manual, appendix
    E, "Packets", "qXfer target description read").

    Args:
        peer: the connection.
    """

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._held = b""
        self._send("qSupported:xmlRegisters=i386;qXfer:features:read+")
        self._numbers: dict[str, int] = {}
        following = 0
        for document in re.findall(r'href="([^"]+)"', self._description("target.xml")):
            for register in re.findall(r"<reg\b[^>]*>", self._description(document)):
                says = dict(re.findall(r'(\w+)="([^"]*)"', register))
                following = int(says.get("regnum", following))
                self._numbers[says["name"]] = following
                following += 1

    def registers(self, names: Iterable[str]) -> dict[str, int]:
        """Registers of the first CPU, as far as the stub knows them, by the names asked for; the machine is stopped.

        Args:
            names: by the manual; the stub has some in small letters, and some of EL1 without their ending.
        """
        found = {}
        for name in names:
            aliases = (name, name.lower(), name.removesuffix("_EL1"))
            number = next((self._numbers[alias] for alias in aliases if alias in self._numbers), None)
            if number is not None:
                answer = self._send(f"p{number:x}")
                if not answer.startswith("E"):
                    found[name] = int.from_bytes(bytes.fromhex(answer), "little")
        return found

    def _description(self, document: str) -> str:
        text = ""
        while True:
            answer = self._send(f"qXfer:features:read:{document}:{len(text):x},ffb")
            text += answer[1:]
            if not answer.startswith("m"):
                # x86's has registers in a comment, which have no number.
                return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)

    def _send(self, packet: str) -> str:
        data = packet.encode()
        self._peer.sendall(b"$" + data + b"#%02x" % (sum(data) & 0xFF))
        while True:
            answer = self._packet()
            # QEMU 7 tells of every stop, whether or not anybody asked.
            if not re.match(rb"T\d\d", answer):
                return re.sub(rb"\}(.)", _unescaped, answer, flags=re.DOTALL).decode()

    def _packet(self) -> bytes:
        while (found := re.search(rb"\$([^#]*)#[0-9a-f]{2}", self._held)) is None:
            got = self._peer.recv(_CHUNK)
            if not got:
                raise MachineError("QEMU's gdbstub has gone")
            self._held += got
        self._held = self._held[found.end() :]
        self._peer.sendall(b"+")
        return found[1]


def _unescaped(escaped: re.Match[bytes]) -> bytes:
    return bytes([escaped[1][0] ^ 0x20])
