"""PSCI, the firmware interface of an Arm guest, called by HVC or SMC (Arm DEN0022, version 1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..formats.u64 import MASK_64

VERSION = 0x8400_0000
CPU_OFF = 0x8400_0002
CPU_ON_32, CPU_ON_64 = 0x8400_0003, 0xC400_0003
AFFINITY_INFO_32, AFFINITY_INFO_64 = 0x8400_0004, 0xC400_0004
SYSTEM_OFF = 0x8400_0008
SYSTEM_RESET = 0x8400_0009
FEATURES = 0x8400_000A

SUCCESS = 0
NOT_SUPPORTED = -1
INVALID_PARAMETERS = -2
ALREADY_ON = -4
ON, OFF = 0, 1
"""What AFFINITY_INFO answers (5.7.2)."""
_VERSION_1_1 = 1 << 16 | 1
_AFFINITY = 0xFF_00FF_FFFF
"""The affinity fields of MPIDR_EL1 (5.1.4)."""
_PRESENT = (
    VERSION, CPU_OFF, CPU_ON_32, CPU_ON_64, AFFINITY_INFO_32, AFFINITY_INFO_64, SYSTEM_OFF, SYSTEM_RESET, FEATURES,
)  # fmt: skip


class Cpus(Protocol):
    """The CPUs of a guest, as its firmware sees them."""

    @property
    def affinities(self) -> Sequence[int]:
        """The affinity of each: the fields of its MPIDR_EL1."""

    def cpu_on(self, cpu: int, entry: int, context: int) -> None:
        """Let one that is off start at a GPA, with a value in x0."""

    def cpu_off(self, cpu: int) -> None:
        """One has gone: it executes nothing until it is started again."""

    def power_off(self, reason: str) -> None:
        """The guest is done: "shutdown" or "reboot"."""


class Psci:
    """The firmware of a guest.

    Args:
        cpus: its CPUs, of which the first is on.
    """

    def __init__(self, cpus: Cpus) -> None:
        self._cpus = cpus
        self.on = {0}
        """Which CPUs were started, by their numbers."""

    def call(self, arguments: tuple[int, ...], cpu: int = 0) -> int | None:
        """Answer a call.

        Args:
            arguments: x0 to x3; the function identifier is the low half of x0 (SMC calling convention).
            cpu: who calls.

        Returns:
            x0, as an unsigned number of 64 bits; None where the call does not return.
        """
        function = arguments[0] & 0xFFFF_FFFF
        answer = NOT_SUPPORTED
        if function == VERSION:
            answer = _VERSION_1_1
        elif function == FEATURES:
            answer = 0 if arguments[1] & 0xFFFF_FFFF in _PRESENT else NOT_SUPPORTED
        elif function in (CPU_ON_32, CPU_ON_64):
            answer = self._start(arguments)
        elif function in (AFFINITY_INFO_32, AFFINITY_INFO_64):
            target = self._find(arguments[1])
            answer = INVALID_PARAMETERS if target is None or arguments[2] else ON if target in self.on else OFF
        elif function == CPU_OFF:
            if len(self.on) > 1:
                self.on.discard(cpu)
                self._cpus.cpu_off(cpu)
                return None
            # Nobody would be left to start anything again.
            self._cpus.power_off("shutdown")
        elif function == SYSTEM_OFF:
            self._cpus.power_off("shutdown")
        elif function == SYSTEM_RESET:
            self._cpus.power_off("reboot")
        return answer & MASK_64

    def _start(self, arguments: tuple[int, ...]) -> int:
        target = self._find(arguments[1])
        if target is None:
            return INVALID_PARAMETERS
        if target in self.on:
            return ALREADY_ON
        self.on.add(target)
        self._cpus.cpu_on(target, arguments[2], arguments[3])
        return SUCCESS

    def _find(self, affinity: int) -> int | None:
        """The CPU of an affinity."""
        known = list(self._cpus.affinities)
        wanted = affinity & _AFFINITY
        return known.index(wanted) if wanted in known else None
