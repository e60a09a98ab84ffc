"""The RISC-V Supervisor Binary Interface, as the guest's kernel sees its firmware (SBI specification 2.0)."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from ..address import Gpa
from ..errors import ChannelError, OutOfMemoryError, Stage2Error
from ..flags import MappingFlags
from ..guest.memory import GuestMemory
from .channels import READ_WRITE, ChannelTable
from .console import Console
from .exits import Hypercall

_MASK = (1 << 64) - 1
VERSION = 2 << 24
IMPLEMENTATION_ID = 0x5332
"""Not assigned to anybody: "S2"."""
CHANNELS = 0x0A00_0000 | IMPLEMENTATION_ID
"""Channels between VMs, a firmware-specific extension: its id is made of the implementation's (chapter
"Firmware Specific Extension Space")."""
_LARGEST_WRITE = 1 << 20
_RETENTIVE, _NON_RETENTIVE = 0, 0x8000_0000
"""The default suspend types of a hart."""


class Error(IntEnum):
    """Standard SBI errors (chapter "Binary Encoding")."""

    SUCCESS = 0
    FAILED = -1
    NOT_SUPPORTED = -2
    INVALID_PARAM = -3
    DENIED = -4
    INVALID_ADDRESS = -5
    ALREADY_AVAILABLE = -6
    ALREADY_STARTED = -7
    ALREADY_STOPPED = -8


class HartState(IntEnum):
    """Hart states of the HSM extension."""

    STARTED = 0
    STOPPED = 1
    START_PENDING = 2


class Harts(Protocol):
    """What the firmware asks of the machine; every call is for one hart by its number."""

    count: int

    def set_timer(self, hart: int, deadline: int) -> None:
        """Raise the supervisor timer interrupt when `time` reaches `deadline` (ticks); clears a pending one."""

    def send_ipi(self, hart: int) -> None:
        """Make the supervisor software interrupt pending."""

    def flush(self, hart: int) -> None:
        """Drop all translations a hart may hold, and code translated from changed memory."""

    def start(self, hart: int, address: int, opaque: int) -> None:
        """Start a stopped hart in S-mode with a0 its number and a1 `opaque`."""

    def stop_hart(self, hart: int) -> None:
        """Stop a hart."""

    def state(self, hart: int) -> HartState:
        """Whether a hart runs."""

    def power_off(self, reason: str) -> None:
        """End the machine: "shutdown", "reboot" or "failure"."""


class Sbi:
    """The firmware of one VM.

    Args:
        harts: the machine.
        memory: the guest's memory, for the debug console.
        console: where the debug console goes.
        channels: channels between VMs, and this VM's id among them; None where there are none.
    """

    def __init__(
        self, harts: Harts, memory: GuestMemory, console: Console, channels: tuple[ChannelTable, int] | None = None
    ) -> None:
        self._harts, self._memory, self._console = harts, memory, console
        self.calls = 0
        self._extensions: dict[int, Callable[[int, int, tuple[int, ...]], tuple[int, int]]] = {
            0x10: self._base,
            0x54494D45: self._time,
            0x735049: self._ipi,
            0x52464E43: self._remote_fence,
            0x48534D: self._hart_state,
            0x53525354: self._reset,
            0x4442434E: self._debug_console,
            0x00: self._legacy_timer,
            0x01: self._legacy_putchar,
            0x08: self._legacy_shutdown,
        }
        if channels is not None:
            self._channels, self._vm = channels
            self._extensions[CHANNELS] = self._channel

    def call(self, exit_: Hypercall) -> tuple[int, int | None]:
        """Serve a call: arguments a0-a7.

        Returns:
            What goes into a0 (and a1; None leaves it, as the legacy calls demand).
        """
        self.calls += 1
        extension, function = exit_.arguments[7], exit_.arguments[6]
        handler = self._extensions.get(extension)
        if handler is None:
            return Error.NOT_SUPPORTED & _MASK, 0
        error, value = handler(exit_.vcpu, function, exit_.arguments)
        return error & _MASK, None if extension < 0x10 else value & _MASK

    def _base(self, hart: int, function: int, a: tuple[int, ...]) -> tuple[int, int]:
        if function == 3:
            return Error.SUCCESS, int(a[0] in self._extensions)
        # Version, implementation, its version, then mvendorid, marchid and mimpid, which may read as zero.
        values = {0: VERSION, 1: IMPLEMENTATION_ID, 2: 1, 4: 0, 5: 0, 6: 0}
        return (Error.SUCCESS, values[function]) if function in values else (Error.NOT_SUPPORTED, 0)

    def _time(self, hart: int, function: int, a: tuple[int, ...]) -> tuple[int, int]:
        if function != 0:
            return Error.NOT_SUPPORTED, 0
        self._harts.set_timer(hart, a[0])
        return Error.SUCCESS, 0

    def _ipi(self, hart: int, function: int, a: tuple[int, ...]) -> tuple[int, int]:
        if function != 0:
            return Error.NOT_SUPPORTED, 0
        return self._for_each(a[0], a[1], self._harts.send_ipi)

    def _remote_fence(self, hart: int, function: int, a: tuple[int, ...]) -> tuple[int, int]:
        # FENCE.I and the SFENCE.VMA forms; the HFENCE forms are for guests with the hypervisor extension.
        if function > 2:
            return Error.NOT_SUPPORTED, 0
        return self._for_each(a[0], a[1], self._harts.flush)

    def _hart_state(self, hart: int, function: int, a: tuple[int, ...]) -> tuple[int, int]:
        harts = self._harts
        if function == 1:
            harts.stop_hart(hart)
            return Error.SUCCESS, 0
        if function == 3:
            return self._suspend(a[0] & 0xFFFF_FFFF), 0
        if function not in (0, 2):
            return Error.NOT_SUPPORTED, 0
        if a[0] >= harts.count:
            return Error.INVALID_PARAM, 0
        if function == 2:
            return Error.SUCCESS, harts.state(a[0])
        if not self._executable(a[1]):
            return Error.INVALID_ADDRESS, 0
        if harts.state(a[0]) is not HartState.STOPPED:
            return Error.ALREADY_AVAILABLE, 0
        harts.start(a[0], a[1], a[2])
        return Error.SUCCESS, 0

    @staticmethod
    def _suspend(kind: int) -> Error:
        """What a suspend type of 32 bits comes to ("Hart suspend", tables of its types and errors).

        A retentive suspend is a wait; resuming at another address is not offered. The other types are reserved, or a
        platform's own, of which there are none.
        """
        if kind == _RETENTIVE:
            return Error.SUCCESS
        return Error.NOT_SUPPORTED if kind == _NON_RETENTIVE else Error.INVALID_PARAM

    def _executable(self, address: int) -> bool:
        """Whether a hart can begin at a GPA ("Hart start", SBI_ERR_INVALID_ADDRESS)."""
        region = self._memory.space.region_at(address)
        return region is not None and bool(region.flags & MappingFlags.EXECUTE)

    def _reset(self, hart: int, function: int, a: tuple[int, ...]) -> tuple[int, int]:
        if function != 0:
            return Error.NOT_SUPPORTED, 0
        if a[0] > 2 or a[1] > 1:
            return Error.INVALID_PARAM, 0
        self._harts.power_off("failure" if a[1] == 1 else "shutdown" if a[0] == 0 else "reboot")
        return Error.SUCCESS, 0

    def _debug_console(self, hart: int, function: int, a: tuple[int, ...]) -> tuple[int, int]:
        if function == 0:
            size = min(a[0], _LARGEST_WRITE)
            try:
                self._console.write(self._memory.read(Gpa(a[2] << 64 | a[1]), size))
            except Stage2Error:
                return Error.INVALID_PARAM, 0
            return Error.SUCCESS, size
        if function == 1:
            return Error.SUCCESS, 0
        if function == 2:
            self._console.write(bytes([a[0] & 0xFF]))
            return Error.SUCCESS, 0
        return Error.NOT_SUPPORTED, 0

    def _channel(self, hart: int, function: int, a: tuple[int, ...]) -> tuple[int, int]:
        # No call takes a pointer: what is answered fits a register, so a bad address cannot undo half a call.
        table, vm = self._channels, self._vm
        try:
            if function == 0:
                if a[2] & ~1:
                    return Error.INVALID_PARAM, 0
                return Error.SUCCESS, table.publish(vm, a[0], a[1], READ_WRITE if a[2] else MappingFlags.READ)
            if function == 1:
                return Error.SUCCESS, table.subscribe(vm, a[0], a[1])
            if function == 2:
                table.unpublish(vm, a[0])
            elif function == 3:
                table.unsubscribe(vm, a[0], a[1])
            elif function == 4:
                return Error.SUCCESS, table.size(vm, a[0], a[1])
            else:
                return Error.NOT_SUPPORTED, 0
        except ChannelError:
            return Error.DENIED, 0
        except OutOfMemoryError:
            return Error.FAILED, 0
        return Error.SUCCESS, 0

    def _legacy_timer(self, hart: int, function: int, a: tuple[int, ...]) -> tuple[int, int]:
        self._harts.set_timer(hart, a[0])
        return Error.SUCCESS, 0

    def _legacy_putchar(self, hart: int, function: int, a: tuple[int, ...]) -> tuple[int, int]:
        self._console.write(bytes([a[0] & 0xFF]))
        return Error.SUCCESS, 0

    def _legacy_shutdown(self, hart: int, function: int, a: tuple[int, ...]) -> tuple[int, int]:
        self._harts.power_off("shutdown")
        return Error.SUCCESS, 0

    def _for_each(self, mask: int, base: int, action: Callable[[int], None]) -> tuple[int, int]:
        """Apply an action to the harts of an SBI hart mask (a base of all ones means every hart)."""
        count = self._harts.count
        if base == _MASK:
            chosen = list(range(count))
        else:
            chosen = [base + bit for bit in range(64) if mask >> bit & 1]
            if any(hart >= count for hart in chosen):
                return Error.INVALID_PARAM, 0
        for hart in chosen:
            action(hart)
        return Error.SUCCESS, 0
