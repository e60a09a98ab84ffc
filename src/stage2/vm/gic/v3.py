"""A GICv3: a distributor, and a redistributor for each CPU.

Arm IHI 0069, chapter 12 (12.9 for GICD_*, 12.11 for GICR_*). Affinity routing always, one security state (GICD_CTLR.DS
is one), no LPIs, no message-based SPIs, no 1 of N distribution; what is left out reads as zero and takes writes, as
reserved registers do. CPU interfaces are system registers (ICC_*_EL1): the hardware's, over list registers, or
`interface.CpuInterface`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...errors import OutOfRangeError
from ..devices import RegisterBlock
from .gic import Gic

DISTRIBUTOR_BYTES = 0x1_0000
FRAME = 0x1_0000
REDISTRIBUTOR_BYTES = 2 * FRAME
"""RD_base, and SGI_base behind it."""

_CTLR, _TYPER = 0x0, 0x4
_IROUTER = range(0x6100, 0x7FE0)
"""From that of INTID 32 on, 8 bytes each."""
_PIDR2 = 0xFFE8
_ARCH_REV = 3 << 4
_ALWAYS = 1 << 6 | 1 << 4
"""GICD_CTLR.DS and ARE."""
_GROUPS = 0b11
"""GICD_CTLR.EnableGrp1 and EnableGrp0."""
_NO_1_OF_N = 1 << 25
_ID_BITS = 9 << 19
"""GICD_TYPER.IDbits: INTIDs have 10."""
_AFFINITY = 0xFF_00FF_FFFF
"""Aff3, and Aff2 to Aff0, as in MPIDR_EL1 and GICD_IROUTER."""

_R_TYPER, _R_TYPER_HIGH, _R_WAKER = 0x8, 0xC, 0x14
_LAST = 1 << 4
_PROCESSOR_SLEEP, _CHILDREN_ASLEEP = 1 << 1, 1 << 2


def affinities_of(cpus: int) -> list[int]:
    """Affinities of so many CPUs: 16 in a cluster, so that one SGI may reach all of a cluster (ICC_SGI1R_EL1)."""
    return [number // 16 << 8 | number % 16 for number in range(cpus)]


class GicV3(Gic):
    """A GICv3.

    Args:
        affinities: of each CPU its affinity as in MPIDR_EL1: Aff3 in bits 39:32, Aff2 to Aff0 in 23:0.
        spis: shared peripheral interrupts, a multiple of 32.
        awake: whether firmware has woken the CPUs' redistributors (GICR_WAKER) before the guest begins.
        notify: see `Gic`.
    """

    def __init__(
        self,
        affinities: Sequence[int] = (0,),
        spis: int = 96,
        *,
        awake: bool = False,
        notify: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(len(affinities), spis, software=True, notify=notify)
        if len(set(affinities)) != len(affinities) or any(value & ~_AFFINITY for value in affinities):
            raise OutOfRangeError(f"the CPUs of a GIC have affinities of their own, not {[*map(hex, affinities)]}")
        self.affinities = tuple(affinities)
        self._sleeps = [not awake] * self.cpus
        self._routes = [0] * spis
        for number in range(spis):
            self._route(number, 0)
        self.distributor = RegisterBlock("gic-distributor", self.read_distributor, self.write_distributor)
        self.redistributors = RegisterBlock("gic-redistributors", self._read_all, self._write_all)
        """The redistributors of all CPUs, one behind the other."""

    @property
    def redistributors_bytes(self) -> int:
        """Bytes of all redistributors, one behind the other."""
        return self.cpus * REDISTRIBUTOR_BYTES

    def send_sgi(self, cpu: int, value: int, *, group: int = 1) -> None:
        """A CPU writes ICC_SGI1R_EL1, or ICC_SGI0R_EL1.

        Args:
            cpu: who.
            value: what it writes: TargetList in 15:0, Aff1 in 23:16, INTID in 27:24, Aff2 in 39:32, IRM in 40, RS in
                47:44, Aff3 in 55:48.
            group: 1 or 0; a target takes the SGI where it is of this group there.
        """
        bit = 1 << (value >> 24 & 0xF)
        others = bool(value >> 40 & 1)
        upper = (value >> 48 & 0xFF) << 32 | (value >> 32 & 0xFF) << 16 | (value >> 16 & 0xFF) << 8
        first = (value >> 44 & 0xF) * 16
        with self._edit():
            for target, affinity in enumerate(self.affinities):
                place = (affinity & 0xFF) - first
                named = affinity & ~0xFF == upper and 0 <= place < 16 and bool(value >> place & 1)
                bank = self._own[target]
                if (target != cpu if others else named) and bool(bank.group & bit) == bool(group):
                    bank.latched |= bit
                    self._touch(bank, target, bit)

    def _asleep(self, cpu: int) -> bool:
        return self._sleeps[cpu]

    def _route(self, number: int, affinity: int) -> None:
        """Let an SPI go to the CPU with an affinity; where there is none, it goes nowhere."""
        self._routes[number] = affinity
        bit = 1 << number
        for cpu, one in enumerate(self.affinities):
            self._routed[cpu] = self._routed[cpu] | bit if one == affinity else self._routed[cpu] & ~bit

    # --- GICD_* --------------------------------------------------------------------------------------------------

    def _read_distributor(self, offset: int, width: int) -> int:
        if offset in _IROUTER and width in (4, 8) and not offset % width:
            number, low = divmod(offset - _IROUTER.start, 8)
            return self._routes[number] >> 8 * low if number < self.spis else 0
        if width == 4:
            if offset == _CTLR:
                return _ALWAYS | self.groups
            if offset == _TYPER:
                return _NO_1_OF_N | _ID_BITS | self.spis // 32
            if offset == _PIDR2:
                return _ARCH_REV
        return self._read_common(None, offset, width) or 0

    def _write_distributor(self, offset: int, width: int, value: int) -> None:
        if offset in _IROUTER and width in (4, 8) and not offset % width:
            number, low = divmod(offset - _IROUTER.start, 8)
            if number < self.spis:
                mask = (1 << 8 * width) - 1 << 8 * low
                before = self._routes[number]
                self._touch(self._shared, 0, 1 << number)
                self._route(number, (before & ~mask | value << 8 * low) & _AFFINITY)
                self._touch(self._shared, 0, 1 << number)
        elif offset == _CTLR and width == 4:
            self.groups = value & _GROUPS
            self._touch_all()
        else:
            self._write_common(None, offset, width, value)

    # --- GICR_* --------------------------------------------------------------------------------------------------

    def _typer(self, cpu: int) -> int:
        affinity = self.affinities[cpu]
        packed = affinity >> 32 << 24 | affinity & 0xFF_FFFF
        return packed << 32 | cpu << 8 | (_LAST if cpu == self.cpus - 1 else 0)

    def _read_redistributor(self, cpu: int, offset: int, width: int) -> int:
        if offset >= FRAME:
            return self._read_common(cpu, offset - FRAME, width) or 0
        if offset == _R_TYPER and width in (4, 8):
            return self._typer(cpu)
        if width == 4:
            if offset == _R_TYPER_HIGH:
                return self._typer(cpu) >> 32
            if offset == _R_WAKER:
                return _PROCESSOR_SLEEP | _CHILDREN_ASLEEP if self._sleeps[cpu] else 0
            if offset == _PIDR2:
                return _ARCH_REV
        return 0

    def _write_redistributor(self, cpu: int, offset: int, width: int, value: int) -> None:
        if offset >= FRAME:
            self._write_common(cpu, offset - FRAME, width, value)
        elif offset == _R_WAKER and width == 4:
            self._sleeps[cpu] = bool(value & _PROCESSOR_SLEEP)
            self._changed.add(cpu)

    # --- for the devices -----------------------------------------------------------------------------------------

    def read_distributor(self, offset: int, width: int) -> int:
        """A register of the distributor."""
        with self._lock:
            return self._read_distributor(offset, width)

    def write_distributor(self, offset: int, width: int, value: int) -> None:
        """Write one."""
        with self._edit():
            self._write_distributor(offset, width, value)

    def read_redistributor(self, cpu: int, offset: int, width: int) -> int:
        """A register of a CPU's redistributor."""
        with self._lock:
            return self._read_redistributor(cpu, offset, width)

    def write_redistributor(self, cpu: int, offset: int, width: int, value: int) -> None:
        """Write one."""
        with self._edit():
            self._write_redistributor(cpu, offset, width, value)

    def _read_all(self, offset: int, width: int) -> int:
        cpu, within = divmod(offset, REDISTRIBUTOR_BYTES)
        return self.read_redistributor(cpu, within, width) if cpu < self.cpus else 0

    def _write_all(self, offset: int, width: int, value: int) -> None:
        cpu, within = divmod(offset, REDISTRIBUTOR_BYTES)
        if cpu < self.cpus:
            self.write_redistributor(cpu, within, width, value)
