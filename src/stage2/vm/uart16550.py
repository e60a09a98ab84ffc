"""A 16550, as a guest prints to it and is interrupted by it. Register numbers as in the PC16550D data sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .console import Console
from .devices import octets

_DATA, _IER, _IIR, _LCR, _MCR, _LSR, _MSR, _SCRATCH = range(8)
_DIVISOR_ACCESS = 1 << 7
"""LCR: registers 0 and 1 are the divisor."""
_RECEIVED, _EMPTY = 1 << 0, 1 << 1
"""IER: data is there; the transmitter is empty."""
_DATA_READY, _TRANSMITTER_EMPTY = 1 << 0, 0x60
"""LSR."""
_NONE_PENDING, _EMPTY_PENDING, _RECEIVED_PENDING = 1, 2, 4
_FIFOS = 0xC0
"""IIR."""
_LOOPBACK = 1 << 4
"""MCR: outputs are led to the inputs."""
_CONNECTED = 0xB0
"""MSR: carrier, ready, clear to send."""


class Uart:
    """A 16550 whose transmitter is never busy; its registers are one byte apart.

    Args:
        name: what reports call it.
        console: where what it sends goes.
        line: its interrupt.
    """

    def __init__(self, name: str, console: Console, line: Callable[[bool], None] | None = None) -> None:
        self.name = name
        self._console, self._line = console, line
        self._registers = bytearray(8)
        self._divisor = bytearray(2)
        self._fifos = 0
        self._received = bytearray()
        self._emptied = False
        """The transmitter has become empty, and nobody was told yet."""

    def receive(self, data: bytes) -> None:
        """Bytes come in from outside."""
        self._received += data
        self._update()

    def read(self, offset: int, width: int) -> int:
        if offset in (_DATA, _IER) and self._registers[_LCR] & _DIVISOR_ACCESS:
            return self._divisor[offset]
        if offset == _DATA:
            value = self._received.pop(0) if self._received else 0
            self._update()
            return value
        if offset == _IIR:
            pending = self._pending
            if pending == _EMPTY_PENDING:
                self._emptied = False
                self._update()
            return pending | self._fifos
        if offset == _LSR:
            return _TRANSMITTER_EMPTY | (_DATA_READY if self._received else 0)
        if offset == _MSR:
            out = self._registers[_MCR]
            if not out & _LOOPBACK:
                return _CONNECTED
            # CTS, DSR, RI and DCD are RTS, DTR, OUT1 and OUT2.
            return (out & 2) << 3 | (out & 1) << 5 | (out & 4) << 4 | (out & 8) << 4
        return self._registers[offset] if offset <= _SCRATCH else 0

    def write(self, offset: int, width: int, value: int) -> None:
        value &= 0xFF
        if offset in (_DATA, _IER) and self._registers[_LCR] & _DIVISOR_ACCESS:
            self._divisor[offset] = value
        elif offset == _DATA:
            if self._registers[_MCR] & _LOOPBACK:
                self._received.append(value)
            else:
                self._console.write(bytes([value]))
            self._emptied = True
        elif offset == _IIR:
            self._fifos = _FIFOS if value & 1 else 0
        elif offset == _IER:
            if value & _EMPTY and not self._registers[_IER] & _EMPTY:
                self._emptied = True
            self._registers[_IER] = value & 0xF
        elif offset in (_LCR, _MCR, _SCRATCH):
            self._registers[offset] = value
        self._update()

    def save(self) -> dict[str, Any]:
        return {
            "registers": self._registers.hex(),
            "divisor": self._divisor.hex(),
            "fifos": bool(self._fifos),
            "received": self._received.hex(),
            "emptied": self._emptied,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        # Its line is the interrupt controller's to remember.
        registers, divisor, received = (
            octets(state["registers"], 8), octets(state["divisor"], 2), octets(state["received"]),
        )  # fmt: skip
        fifos, emptied = bool(state["fifos"]), bool(state["emptied"])
        self._registers, self._divisor, self._received = registers, divisor, received
        self._fifos, self._emptied = _FIFOS if fifos else 0, emptied

    @property
    def _pending(self) -> int:
        """IIR, less the bits of the FIFOs: the highest of what is enabled and pending."""
        enabled = self._registers[_IER]
        if enabled & _RECEIVED and self._received:
            return _RECEIVED_PENDING
        return _EMPTY_PENDING if enabled & _EMPTY and self._emptied else _NONE_PENDING

    def _update(self) -> None:
        if self._line is not None:
            self._line(self._pending != _NONE_PENDING)
