"""A GICv2: a distributor and CPU interfaces, both as registers in memory.

Arm IHI 0048B, 4.3 (GICD_*) and 4.4 (GICC_*), without the Security Extensions. What is reserved reads as zero and takes
writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ...errors import EngineError, OutOfRangeError
from ..devices import BankedDevice, octets
from .bank import PRIVATE, SGIS, Bank, bits
from .gic import Gic
from .interface import CpuInterface

DISTRIBUTOR_BYTES = 0x1000
CPU_INTERFACE_BYTES = 0x2000
MOST_CPUS = 8

_CTLR, _TYPER = 0x0, 0x4
_ITARGETSR = range(0x800, 0xC00)
_SGIR = 0xF00
_CPENDSGIR, _SPENDSGIR = range(0xF10, 0xF20), range(0xF20, 0xF30)
_ICPIDR2 = 0xFE8
_ARCH_REV = 2 << 4
_GROUPS = 0b11

_C_CTLR, _C_PMR, _C_BPR, _C_IAR, _C_EOIR, _C_RPR, _C_HPPIR = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18
_C_ABPR, _C_AIAR, _C_AEOIR, _C_AHPPIR = 0x1C, 0x20, 0x24, 0x28
_C_APR, _C_NSAPR, _C_IIDR, _C_DIR = 0xD0, 0xE0, 0xFC, 0x1000
_ACK_CONTROL, _FIQ_ENABLE, _COMMON_BINARY, _EOI_MODE = 1 << 2, 1 << 3, 1 << 4, 1 << 9
_C_CONTROLS = _GROUPS | _ACK_CONTROL | _FIQ_ENABLE | _COMMON_BINARY | 0xF << 5 | _EOI_MODE
"""With the bypass bits, of which there is nothing to bypass to."""
_C_VERSION = 2 << 16
_SENDER = 10
"""Where an acknowledge register has the CPU that sent an SGI."""


class GicV2(Gic):
    """A GICv2.

    Args:
        cpus: 1 to 8.
        spis: shared peripheral interrupts, a multiple of 32.
        notify: see `Gic`.
    """

    SENDERS: ClassVar[bool] = True

    def __init__(self, cpus: int = 1, spis: int = 96, *, notify: Callable[[int], None] | None = None) -> None:
        if cpus > MOST_CPUS:
            raise OutOfRangeError(f"a GICv2 has at most {MOST_CPUS} CPU interfaces, not {cpus}")
        super().__init__(cpus, spis, software=False, notify=notify)
        self._senders = [bytearray(SGIS) for _ in range(cpus)]
        """Of each CPU and SGI, who has sent it and was not acknowledged: a bit for each CPU."""
        self._answered = [bytearray(SGIS) for _ in range(cpus)]
        """The same of the active one: its sender."""
        if cpus == 1:
            self._routed[0] = self._shared.all
        self.distributor = _Distributor(self)
        self.interfaces = [CpuInterface(self, cpu) for cpu in range(cpus)]
        self.cpu_interface = _CpuInterfaces(self)
        """The CPU interfaces as a device: each CPU sees its own."""

    def interrupts(self, cpu: int) -> tuple[bool, bool]:
        """Whether a CPU's IRQ and its FIQ are raised."""
        found = self.interfaces[cpu].signal()
        fast = found is not None and not found.group and bool(self.cpu_interface.controls[cpu] & _FIQ_ENABLE)
        return found is not None and not fast, fast

    # --- saved and put back --------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """The state of distributor and CPU interfaces, as JSON has it.

        Raises:
            EngineError: interrupts are in list registers; whoever put them there takes them back first.
        """
        with self._lock:
            if any(self._held):
                raise EngineError("interrupts are in list registers, which are no part of the controller's state")
            return {
                "groups": self.groups,
                "banks": [bank.save() for bank in (*self._own, self._shared)],
                "routed": [hex(routed) for routed in self._routed],
                "served_by": [[intid, cpu] for intid, cpu in self._served_by.items()],
                "senders": [senders.hex() for senders in self._senders],
                "answered": [answered.hex() for answered in self._answered],
                "controls": list(self.cpu_interface.controls),
                "interfaces": [interface.save() for interface in self.interfaces],
            }

    def load(self, state: Mapping[str, Any]) -> None:
        """Put a state back; nobody is told of anything.

        Raises:
            ValueError, KeyError, TypeError: it is none of such a controller; nothing changed.
        """
        count = self.cpus
        groups = int(state["groups"]) & _GROUPS
        banks = (*self._own, self._shared)
        parsed = [bank.parsed(one) for bank, one in zip(banks, state["banks"], strict=True)]
        routed = [int(one, 16) & self._shared.all for one in state["routed"]]
        served = {int(intid): int(cpu) for intid, cpu in state["served_by"]}
        senders, answered = ([octets(one, SGIS) for one in state[name]] for name in ("senders", "answered"))
        controls = [int(one) & _C_CONTROLS for one in state["controls"]]
        puts = [own.parsed(one) for own, one in zip(self.interfaces, state["interfaces"], strict=True)]
        if not len(routed) == len(senders) == len(answered) == len(controls) == count:
            raise ValueError(f"it is not of {count} CPUs")
        if not all(PRIVATE <= intid < PRIVATE + self.spis and 0 <= cpu < count for intid, cpu in served.items()):
            raise ValueError(f"active interrupts are with {served}")
        everybody = (1 << count) - 1
        strange = any(byte & ~everybody for one in senders for byte in one)
        if strange or any(byte >= count for one in answered for byte in one):
            raise ValueError("it has interrupts of CPUs that there are not")
        with self._lock:
            self.groups, self._routed, self._served_by = groups, routed, served
            self._senders, self._answered = senders, answered
            for bank, one in zip(banks, parsed, strict=True):
                bank.load(one)
            self.cpu_interface.controls = controls
            for put in puts:
                put()

    # --- SGIs are pending for each sender ------------------------------------------------------------------------

    def _asleep(self, cpu: int) -> bool:
        return False

    def _take(self, cpu: int, bank: Bank, intid: int) -> int:
        if intid >= SGIS:
            return super()._take(cpu, bank, intid)
        senders = self._senders[cpu][intid]
        lowest = senders & -senders
        self._set_senders(cpu, intid, senders ^ lowest)
        return max(lowest.bit_length() - 1, 0)

    def _put(self, cpu: int, bank: Bank, intid: int, source: int) -> None:
        if intid >= SGIS:
            super()._put(cpu, bank, intid, source)
        else:
            self._set_senders(cpu, intid, self._senders[cpu][intid] | 1 << source)

    def _set_senders(self, cpu: int, intid: int, senders: int) -> None:
        bank, bit = self._own[cpu], 1 << intid
        self._senders[cpu][intid] = senders
        bank.latched = bank.latched | bit if senders else bank.latched & ~bit
        self._touch(bank, cpu, bit)

    def _note_source(self, cpu: int, intid: int, source: int) -> None:
        if intid < SGIS:
            self._answered[cpu][intid] = source

    def _source(self, cpu: int, intid: int) -> int:
        return self._answered[cpu][intid] if intid < SGIS else 0

    def send_sgi(self, cpu: int, value: int) -> None:
        """A CPU writes GICD_SGIR.

        Args:
            cpu: who.
            value: what it writes: INTID in 3:0, CPUTargetList in 23:16, TargetListFilter in 25:24.
        """
        with self._edit():
            self._send(cpu, value)

    def _send(self, cpu: int, value: int) -> None:
        everybody = (1 << self.cpus) - 1
        targets = (value >> 16 & 0xFF, everybody & ~(1 << cpu), 1 << cpu, 0)[value >> 24 & 3]
        for target in bits(targets & everybody):
            self._set_senders(target, value & 0xF, self._senders[target][value & 0xF] | 1 << cpu)

    # --- GICD_* --------------------------------------------------------------------------------------------------

    def read_distributor(self, cpu: int, offset: int, width: int) -> int:
        """A register of the distributor, as a CPU sees it."""
        with self._lock:
            if offset in _ITARGETSR or offset in _CPENDSGIR or offset in _SPENDSGIR:
                return self._read_bytes(cpu, offset, width)
            if width == 4:
                if offset == _CTLR:
                    return self.groups
                if offset == _TYPER:
                    return (self.cpus - 1) << 5 | self.spis // 32
                if offset == _ICPIDR2:
                    return _ARCH_REV
            return self._read_common(cpu, offset, width) or 0

    def write_distributor(self, cpu: int, offset: int, width: int, value: int) -> None:
        """Write one."""
        with self._edit():
            if offset in _ITARGETSR or offset in _CPENDSGIR or offset in _SPENDSGIR:
                self._write_bytes(cpu, offset, width, value)
            elif offset == _CTLR and width == 4:
                self.groups = value & _GROUPS
                self._touch_all()
            elif offset == _SGIR and width == 4:
                self._send(cpu, value)
            else:
                self._write_common(cpu, offset, width, value)

    def _read_bytes(self, cpu: int, offset: int, width: int) -> int:
        """Registers of a byte for each interrupt: bytes and words may be accessed."""
        if width not in (1, 4) or offset % width:
            return 0
        found = [self._byte(cpu, offset + number) for number in range(width)]
        return int.from_bytes(bytes(found), "little")

    def _byte(self, cpu: int, offset: int) -> int:
        if offset in _ITARGETSR:
            intid = offset - _ITARGETSR.start
            if self.cpus == 1 or intid >= PRIVATE + self.spis:
                return 0
            if intid < PRIVATE:
                return 1 << cpu
            return sum(1 << number for number, routed in enumerate(self._routed) if routed >> intid - PRIVATE & 1)
        intid = offset & 0xF
        listed = self._own[cpu].listed_pending >> intid & 1
        return self._senders[cpu][intid] | (listed << self._held[cpu].get(intid, 0))

    def _write_bytes(self, cpu: int, offset: int, width: int, value: int) -> None:
        if width not in (1, 4) or offset % width:
            return
        for number, byte in enumerate(value.to_bytes(width, "little")):
            intid = (offset + number) & (0x3FF if offset in _ITARGETSR else 0xF)
            if offset in _ITARGETSR:
                self._aim(intid, byte)
            elif offset in _SPENDSGIR:
                mask = byte & (1 << self.cpus) - 1
                self._set_senders(cpu, intid, self._senders[cpu][intid] | mask)
            else:
                self._set_senders(cpu, intid, self._senders[cpu][intid] & ~byte)
                if byte >> self._held[cpu].get(intid, 0) & 1:
                    self._own[cpu].listed_pending &= ~(1 << intid)

    def _aim(self, intid: int, targets: int) -> None:
        """Let an SPI go to CPUs; a private interrupt's target, and that of the only CPU, cannot be changed."""
        if self.cpus == 1 or not PRIVATE <= intid < PRIVATE + self.spis:
            return
        bit = 1 << intid - PRIVATE
        self._touch(self._shared, 0, bit)
        for cpu in range(self.cpus):
            here = targets >> cpu & 1
            self._routed[cpu] = self._routed[cpu] | bit if here else self._routed[cpu] & ~bit
        self._touch(self._shared, 0, bit)


class _Distributor(BankedDevice):
    def __init__(self, gic: GicV2) -> None:
        self.name = "gic-distributor"
        self._gic = gic

    def save(self) -> dict[str, Any]:
        return self._gic.save()

    def load(self, state: Mapping[str, Any]) -> None:
        self._gic.load(state)

    def read_by(self, cpu: int, offset: int, width: int) -> int:
        return self._gic.read_distributor(cpu, offset, width)

    def write_by(self, cpu: int, offset: int, width: int, value: int) -> None:
        self._gic.write_distributor(cpu, offset, width, value)


class _CpuInterfaces(BankedDevice):
    """GICC_*; its registers are words."""

    def __init__(self, gic: GicV2) -> None:
        self.name = "gic-cpu-interface"
        self._gic = gic
        self.controls = [0] * gic.cpus

    def save(self) -> dict[str, Any]:
        # The distributor's state has it all.
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        return None

    def read_by(self, cpu: int, offset: int, width: int) -> int:
        own = self._gic.interfaces[cpu]
        if width != 4:
            return 0
        either = bool(self.controls[cpu] & _ACK_CONTROL)
        if offset in (_C_IAR, _C_AIAR):
            alias = offset == _C_AIAR
            intid, sender = own.acknowledge(int(alias), either=either and not alias)
            self._gic.tell(cpu)
            return intid | sender << _SENDER
        if offset in (_C_HPPIR, _C_AHPPIR):
            alias = offset == _C_AHPPIR
            return own.highest(int(alias), either=either and not alias)
        found = {
            _C_CTLR: self.controls[cpu],
            _C_PMR: own.mask,
            _C_BPR: own.binary_point(0),
            _C_ABPR: own.binary_point(1),
            _C_RPR: own.running,
            _C_APR: own.active[0],
            _C_NSAPR: own.active[1],
            _C_IIDR: _C_VERSION,
        }
        return found.get(offset, 0)

    def write_by(self, cpu: int, offset: int, width: int, value: int) -> None:
        own = self._gic.interfaces[cpu]
        if width != 4:
            return
        if offset == _C_CTLR:
            self.controls[cpu] = value & _C_CONTROLS
            own.groups = value & _GROUPS
            own.common_binary_point = bool(value & _COMMON_BINARY)
            own.split = bool(value & _EOI_MODE)
        elif offset == _C_PMR:
            own.set_mask(value)
        elif offset in (_C_BPR, _C_ABPR):
            own.set_binary_point(int(offset == _C_ABPR), value)
        elif offset in (_C_EOIR, _C_AEOIR):
            own.end(value & 0x3FF)
        elif offset == _C_DIR:
            own.deactivate(value & 0x3FF)
        elif offset in (_C_APR, _C_NSAPR):
            own.active[offset == _C_NSAPR] = value
        self._gic.tell(cpu)
