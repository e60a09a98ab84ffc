"""The I/O ports of an x86 guest that are emulated: a serial port, and the way to power off.

COM1 at 0x3f8 is the console. Power off is a write of 0x2000 to port 0x604, the ACPI PM1a control register of QEMU's
machines, which AxVisor takes as the end of a guest too; a reset is a write with bit 2 set to port 0xcf9. Nothing
answers at other ports: they read as ones and take writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..address import Gpa, Range
from .devices import DeviceBus
from .uart16550 import Uart
from .vm import Vm

COM1 = Range.sized(0x3F8, 8)
EVENTS = 0x600
"""The PM1a event block: status and enable registers (ACPI Specification 6.5, 4.8.3.1). No event ever happens."""
ENABLE = EVENTS + 2
POWER = 0x604
_SLEEP_ENABLE = 1 << 13
_ACPI_MODE = 1 << 0
"""SCI_EN (4.8.3.2.1): the machine is in ACPI mode."""
RESET = 0xCF9
_RESET_CPU = 1 << 2
RESET_VALUE = 1 << 1 | _RESET_CPU


class Ports:
    """The ports of one VM.

    Args:
        vm: whose console COM1 prints to.
        power_off: called with what the guest asked for.
    """

    def __init__(self, vm: Vm, power_off: Callable[[str], None]) -> None:
        self._power_off = power_off
        self.is_off = False
        """The guest has asked for its end."""
        self._enabled = 0
        """Events that are to interrupt."""
        self._bus = DeviceBus()
        # The report counts accesses of ports and of memory alike.
        self._bus.accesses = vm.bus.accesses
        self._serial = Uart("com1", vm.console)
        self._bus.attach(COM1, self._serial)

    def read(self, port: int, width: int) -> int:
        """What `width` (1, 2 or 4) bytes of an IN instruction are."""
        if EVENTS <= port < ENABLE:
            return 0
        if ENABLE <= port < POWER:
            return self._enabled >> 8 * (port - ENABLE) & (1 << 8 * width) - 1
        if port == POWER:
            return _ACPI_MODE
        value = self._bus.read(Gpa(port), width)
        return (1 << 8 * width) - 1 if value is None else value

    def write(self, port: int, width: int, value: int) -> None:
        """Take `width` bytes of an OUT instruction."""
        if self._bus.write(Gpa(port), width, value):
            return
        if ENABLE <= port < POWER:
            mask = (1 << 8 * width) - 1 << 8 * (port - ENABLE)
            self._enabled = (self._enabled & ~mask | value << 8 * (port - ENABLE) & mask) & 0xFFFF
        elif port == POWER and value & _SLEEP_ENABLE:
            self._end("shutdown")
        elif port == RESET and value & _RESET_CPU:
            self._end("reboot")

    def save(self) -> dict[str, Any]:
        """The state of COM1 and of what is to interrupt, as JSON has it."""
        return {"com1": self._serial.save(), "events": self._enabled}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put a state back.

        Raises:
            ValueError, KeyError, TypeError: it is none of these ports; nothing changed.
        """
        enabled = int(state["events"])
        if not 0 <= enabled <= 0xFFFF:
            raise ValueError(f"events {enabled:#x}")
        self._serial.load(state["com1"])
        self._enabled = enabled

    def _end(self, what: str) -> None:
        self.is_off = True
        self._power_off(what)
