"""Where a running QEMU listens, as users write it: `qmp:/run/vm.sock`, `gdb:127.0.0.1:1234`, or both with a comma."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from dataclasses import dataclass

from ...errors import SourceError

PROTOCOLS = ("qmp", "gdb")
_BETWEEN = re.compile(r",(?=(?:qmp|gdb):)")
_TCP = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})")
_USAGE = (
    "write qmp:/path/of.sock, qmp:127.0.0.1:4444, gdb:/path/of.sock, gdb:127.0.0.1:1234, or one of each and a comma"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A socket on which a QEMU listens.

    Args:
        protocol: "qmp" or "gdb".
        place: the path of a Unix socket, or (host, port) of this machine.
    """

    protocol: str
    place: str | tuple[str, int]

    def __str__(self) -> str:
        where = self.place if isinstance(self.place, str) else "{}:{}".format(*self.place)
        return f"{self.protocol}:{where}"

    def connect(self, seconds: float) -> socket.socket:
        """A connection to it.

        Args:
            seconds: how long that, and everything on the socket afterwards, may take.

        Raises:
            SourceError: nobody listens there, or it may not be opened.
        """
        local = isinstance(self.place, str)
        family = socket.AF_UNIX if local else socket.AF_INET6 if ":" in self.place[0] else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            made.settimeout(seconds)
            made.connect(self.place)
            if not local:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            made.close()
            reason = error.strerror or str(error)
            raise SourceError(f"{self}: {reason}: does a QEMU listen there? ({_how(self.protocol)})") from None
        return made


def _how(protocol: str) -> str:
    return "-qmp unix:PATH,server=on,wait=off" if protocol == "qmp" else "-gdb unix:PATH,server=on,wait=off"


def parse_endpoints(text: str) -> dict[str, Endpoint]:
    """Endpoints by their protocol.

    Raises:
        SourceError: the text is none, names a protocol twice, or names another machine.
    """
    found: dict[str, Endpoint] = {}
    for part in _BETWEEN.split(text):
        protocol, colon, where = part.partition(":")
        if not colon or protocol not in PROTOCOLS or not where or "\0" in where:
            raise SourceError(f"{part!r} is no live QEMU: {_USAGE}")
        if protocol in found:
            raise SourceError(f"{text!r} names {protocol} twice: {_USAGE}")
        found[protocol] = Endpoint(protocol, _place(part, where))
    return found


def _place(whole: str, where: str) -> str | tuple[str, int]:
    tcp = _TCP.fullmatch(where)
    if tcp is None:
        return where
    host, port = tcp["host"].strip("[]"), int(tcp["port"])
    host = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback or not 0 < port < 1 << 16:
        # Neither protocol has passwords: who reaches the port has the machine.
        raise SourceError(f"{whole}: only ports of this machine itself: 127.0.0.1:PORT, [::1]:PORT")
    return host, port


def peer_pid(connection: socket.socket) -> int | None:
    """The process that listens at the other end of a Unix socket; None if that cannot be told."""
    if connection.family != socket.AF_UNIX:
        return None
    try:
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return None
    pid: int = struct.unpack("3i", told)[0]
    return pid if pid > 0 else None  # 0: a process that our PID namespace does not see
