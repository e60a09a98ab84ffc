"""A PL011, Arm's serial port. Registers as in Arm DDI 0183 (PrimeCell UART, r1p5), chapter 3; interrupts by 2.8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .console import Console
from .devices import octets

BYTES = 0x1000
_DR, _RSR, _FR, _LCR_H, _CR, _IFLS, _IMSC, _RIS, _MIS, _ICR = (
    0x000, 0x004, 0x018, 0x02C, 0x030, 0x034, 0x038, 0x03C, 0x040, 0x044,
)  # fmt: skip
_PLAIN = {0x020: 0xFF, 0x024: 0xFFFF, 0x028: 0x3F, _LCR_H: 0xFF, _CR: 0xFF87, _IFLS: 0x3F, _IMSC: 0x7FF, 0x048: 0x7}
"""Registers that keep what is written, and their bits: ILPR, IBRD, FBRD, LCR_H, CR, IFLS, IMSC, DMACR."""
_IDENTIFICATION = {
    0xFE0 + 4 * number: value for number, value in enumerate((0x11, 0x10, 0x34, 0x00, 0x0D, 0xF0, 0x05, 0xB1))
}
"""UARTPeriphID0 to 3 (part 0x011 of designer 0x41, revision 3), UARTPCellID0 to 3."""
_RECEIVER_EMPTY, _TRANSMITTER_FULL, _RECEIVER_FULL, _TRANSMITTER_EMPTY = 1 << 4, 1 << 5, 1 << 6, 1 << 7
_ENABLE, _LOOPBACK, _TRANSMIT, _RECEIVE = 1 << 0, 1 << 7, 1 << 8, 1 << 9
_FIFOS = 1 << 4
_RX, _TX, _RT = 1 << 4, 1 << 5, 1 << 6
"""Interrupts: the receiver's level is reached, the transmitter's; what is received was not read for a while."""
_DEPTH = 32
_LEVELS = (4, 8, 16, 24, 28)
"""UARTIFLSR.RXIFLSEL: 1/8, 1/4, 1/2, 3/4, 7/8 of the FIFO; other values are reserved."""


class Pl011:
    """A PL011 whose wire takes no time. It is enabled from the beginning, as firmware leaves it.

    Args:
        name: what reports call it.
        console: where what it sends goes.
        line: its interrupt (UARTINTR).
    """

    def __init__(self, name: str, console: Console, line: Callable[[bool], None] | None = None) -> None:
        self.name = name
        self._console, self._line = console, line
        self._registers = dict.fromkeys(_PLAIN, 0)
        self._registers |= {_CR: _ENABLE | _TRANSMIT | _RECEIVE, _IFLS: 0x12}
        self._raw = 0
        self._received = bytearray()
        self._unsent = bytearray()

    def receive(self, data: bytes) -> None:
        """Bytes come in from outside; what does not fit into the FIFO is lost."""
        if self._on(_RECEIVE):
            self._take_in(data)
            self._update()

    def read(self, offset: int, width: int) -> int:
        if offset == _DR:
            value = self._received.pop(0) if self._received else 0
            if len(self._received) < self._receive_level:
                self._raw &= ~_RX
            if not self._received:
                self._raw &= ~_RT
            self._update()
            return value
        if offset == _FR:
            return self._flags
        if offset == _RIS:
            return self._raw
        if offset == _MIS:
            return self._raw & self._registers[_IMSC]
        return self._registers.get(offset, _IDENTIFICATION.get(offset, 0))

    def write(self, offset: int, width: int, value: int) -> None:
        if offset == _DR:
            if len(self._unsent) < self._depth:
                self._unsent.append(value & 0xFF)
        elif offset == _ICR:
            self._raw &= ~value
        elif offset in _PLAIN:
            self._registers[offset] = value & _PLAIN[offset]
        self._send()
        self._update()

    def save(self) -> dict[str, Any]:
        return {
            "registers": {hex(offset): value for offset, value in self._registers.items()},
            "raw": self._raw,
            "received": self._received.hex(),
            "unsent": self._unsent.hex(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        # Its line is the interrupt controller's to remember.
        registers = {offset: int(state["registers"][hex(offset)]) & mask for offset, mask in _PLAIN.items()}
        raw, received, unsent = (
            int(state["raw"]), octets(state["received"], most=_DEPTH), octets(state["unsent"], most=_DEPTH),
        )  # fmt: skip
        self._registers, self._raw, self._received, self._unsent = registers, raw, received, unsent

    def _on(self, direction: int) -> bool:
        wanted = _ENABLE | direction
        return self._registers[_CR] & wanted == wanted

    @property
    def _depth(self) -> int:
        return _DEPTH if self._registers[_LCR_H] & _FIFOS else 1

    @property
    def _receive_level(self) -> int:
        if self._depth == 1:
            return 1
        return _LEVELS[min(self._registers[_IFLS] >> 3 & 7, len(_LEVELS) - 1)]

    @property
    def _flags(self) -> int:
        found = 0 if self._received else _RECEIVER_EMPTY
        found |= 0 if self._unsent else _TRANSMITTER_EMPTY
        found |= _TRANSMITTER_FULL if len(self._unsent) >= self._depth else 0
        return found | (_RECEIVER_FULL if len(self._received) >= self._depth else 0)

    def _send(self) -> None:
        """Send what is to be sent; the transmitter's level is passed then."""
        if not self._unsent or not self._on(_TRANSMIT):
            return
        data, self._unsent = bytes(self._unsent), bytearray()
        if self._registers[_CR] & _LOOPBACK:
            self._take_in(data)
        else:
            self._console.write(data)
        self._raw |= _TX

    def _take_in(self, data: bytes) -> None:
        self._received += data[: self._depth - len(self._received)]
        # A FIFO that is left below its level is told of by the timeout, and no time is to be waited for here.
        self._raw |= _RX if len(self._received) >= self._receive_level else _RT

    def _update(self) -> None:
        if self._line is not None:
            self._line(bool(self._raw & self._registers[_IMSC]))
