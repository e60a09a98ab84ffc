"""PSCI, the firmware interface of an Arm guest, called by HVC or SMC (Arm DEN0022, version 1.1)."""

from __future__ import annotations

from collections.abc import Callable

MASK_64 = (1 << 64) - 1
VERSION = 0x8400_0000
CPU_ON_32, CPU_ON_64 = 0x8400_0003, 0xC400_0003
SYSTEM_OFF = 0x8400_0008
SYSTEM_RESET = 0x8400_0009
FEATURES = 0x8400_000A

NOT_SUPPORTED = -1
ALREADY_ON = -4
_VERSION_1_1 = 1 << 16 | 1
_PRESENT = (VERSION, CPU_ON_32, CPU_ON_64, SYSTEM_OFF, SYSTEM_RESET, FEATURES)


class Psci:
    """The firmware of a guest with one CPU.

    Args:
        power_off: called with what the guest asked for.
    """

    def __init__(self, power_off: Callable[[str], None]) -> None:
        self._power_off = power_off

    def call(self, arguments: tuple[int, ...]) -> int:
        """Answer a call.

        Args:
            arguments: x0 to x3; the function identifier is the low half of x0 (SMC calling convention).

        Returns:
            x0, as an unsigned number of 64 bits.
        """
        function = arguments[0] & 0xFFFF_FFFF
        answer = NOT_SUPPORTED
        if function == VERSION:
            answer = _VERSION_1_1
        elif function == FEATURES:
            answer = 0 if arguments[1] & 0xFFFF_FFFF in _PRESENT else NOT_SUPPORTED
        elif function in (CPU_ON_32, CPU_ON_64):
            # The only CPU there is makes the call. Another's affinity is an invalid parameter, which is -2.
            answer = ALREADY_ON if not arguments[1] & 0xFF_00FF_FFFF else -2
        elif function == SYSTEM_OFF:
            self._power_off("shutdown")
        elif function == SYSTEM_RESET:
            self._power_off("reboot")
        return answer & MASK_64
