"""The I/O ports of an x86 guest that are emulated: a serial port, and the way to power off.

COM1 at 0x3f8 is the console. Power off is a write of 0x2000 to port 0x604, the ACPI PM1a control register of QEMU's
machines, which AxVisor takes as the end of a guest too; a reset is a write with bit 2 set to port 0xcf9. Nothing
answers at other ports: they read as ones and take writes.
"""

from __future__ import annotations

from collections.abc import Callable

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
        self.enabled = 0
        """Events that are to interrupt: what the guest wrote to the enable register."""
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
            return self.enabled >> 8 * (port - ENABLE) & (1 << 8 * width) - 1
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
            self.enabled = (self.enabled & ~mask | value << 8 * (port - ENABLE) & mask) & 0xFFFF
        elif port == POWER and value & _SLEEP_ENABLE:
            self._end("shutdown")
        elif port == RESET and value & _RESET_CPU:
            self._end("reboot")

    @property
    def serial(self) -> Uart:
        """COM1."""
        return self._serial

    def _end(self, what: str) -> None:
        self.is_off = True
        self._power_off(what)
