"""What every GIC does: which interrupt a CPU is told of, and what becomes of it.

Arm IHI 0069 (GICv3), chapter 4: states and their changes (4.1), grouping (4.6), enabling (4.7), prioritization (4.8);
IHI 0048 (GICv2), 3.2 and 3.3, with the same rules. Chapter 6 and 5 of these for list registers.

Each VM has threads of its own, and its CPUs may be on several cores: all calls take one lock. An engine that puts
interrupts into list registers takes them back before it lets the same CPU access a register of the GIC.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from ...errors import EngineError, OutOfRangeError
from .bank import FIRST_SPECIAL, IDLE, PRIVATE, SGIS, Bank, Kind, bits, locate


@dataclass(frozen=True, slots=True)
class Signal:
    """An interrupt that a CPU is told of.

    Args:
        intid: which one.
        priority: 0 is the highest.
        group: 0 or 1.
    """

    intid: int
    priority: int
    group: int


@dataclass(frozen=True, slots=True)
class Listed:
    """An interrupt for a list register.

    Args:
        intid, priority, group: as in `Signal`.
        pending, active: its state.
        resample: the hypervisor must be told of its end (EOI maintenance): its line may be raised still, or another
            CPU has sent the same SGI.
        source: of a GICv2's SGI the CPU that sent it.
    """

    intid: int
    priority: int
    group: int
    pending: bool
    active: bool
    resample: bool
    source: int = 0


class Gic(ABC):
    """An interrupt controller.

    Args:
        cpus: how many CPU interfaces.
        spis: shared peripheral interrupts, from INTID 32 on; a multiple of 32.
        software: whether ISPENDR and ICPENDR write SGIs too.
        notify: called with a CPU's number when something changed that it may have to be told of; on any thread, without
            the lock.
    """

    SENDERS: ClassVar[bool] = False
    """Whether an SGI is pending for each CPU that sent it."""

    def __init__(self, cpus: int, spis: int, *, software: bool, notify: Callable[[int], None] | None) -> None:
        if not cpus > 0:
            raise OutOfRangeError(f"a GIC has at least one CPU interface, not {cpus}")
        if spis % 32 or not 0 < spis <= FIRST_SPECIAL // 32 * 32 - PRIVATE:
            raise OutOfRangeError(f"a GIC has 32 to 960 SPIs, in steps of 32, not {spis}")
        self.cpus, self.spis = cpus, spis
        self.notify = notify
        self.groups = 0
        """Which groups the distributor forwards: bit 0 for group 0, bit 1 for group 1."""
        self._own = [Bank(0, PRIVATE, software=software) for _ in range(cpus)]
        self._shared = Bank(PRIVATE, spis)
        self._routed = [0] * cpus
        """Of each CPU, the bits of the SPIs that go to it."""
        self._held: list[dict[int, int]] = [{} for _ in range(cpus)]
        """Of each CPU, what is in its list registers: INTID to the sender of an SGI."""
        self._served_by: dict[int, int] = {}
        """Of active SPIs, the CPU that acknowledged it."""
        self._lock = threading.Lock()
        self._changed: set[int] = set()

    # --- peripherals -------------------------------------------------------------------------------------------

    def set_level(self, cpu: int, intid: int, level: bool) -> None:
        """A peripheral's signal.

        Args:
            cpu: whose interrupt it is; of no matter for an SPI.
            intid: 16 or above.
            level: whether it is raised. Of an edge-triggered interrupt, being raised is what counts.

        Raises:
            OutOfRangeError: there is no such line.
        """
        bank, bit = self._line(cpu, intid)
        with self._edit():
            if bank.set_line(bit, level=level):
                self._touch(bank, cpu, bit)

    def pulse(self, cpu: int, intid: int) -> None:
        """Raise a signal and lower it: one edge.

        Raises:
            OutOfRangeError: there is no such line.
        """
        bank, bit = self._line(cpu, intid)
        with self._edit():
            bank.set_line(bit, level=True)
            bank.set_line(bit, level=False)
            self._touch(bank, cpu, bit)

    def is_active(self, cpu: int, intid: int) -> bool:
        """Whether a CPU is in the midst of an interrupt: it was acknowledged and is not deactivated."""
        with self._lock:
            bank, bit = self._of(cpu, intid)
            return bool(bank.active & bit)

    def _line(self, cpu: int, intid: int) -> tuple[Bank, int]:
        if not 0 <= cpu < self.cpus or not SGIS <= intid < PRIVATE + self.spis:
            raise OutOfRangeError(
                f"no line has INTID {intid} of CPU {cpu}: there are {self.cpus} CPUs, and INTIDs from {SGIS} to "
                f"{PRIVATE + self.spis - 1}"
            )
        return self._of(cpu, intid)

    # --- a CPU interface ---------------------------------------------------------------------------------------

    def best(self, cpu: int, mask: int = IDLE + 1) -> Signal | None:
        """The interrupt of the highest priority that is pending, enabled and not active; of equals the lowest INTID.

        Args:
            cpu: whose.
            mask: only priorities below this number (a priority mask); none is left out by default.
        """
        with self._lock:
            return self._best(cpu, mask)

    def _best(self, cpu: int, mask: int) -> Signal | None:
        if self._asleep(cpu):
            return None
        found: tuple[int, int] | None = None
        for bank, reaching in self._banks(cpu):
            for number in bits(bank.deliverable(self.groups) & reaching):
                key = bank.priority[number], bank.first + number
                if key[0] < mask and (found is None or key < found):
                    found = key
        if found is None:
            return None
        bank, bit = self._of(cpu, found[1])
        return Signal(found[1], found[0], int(bool(bank.group & bit)))

    def acknowledge(self, cpu: int, intid: int) -> int | None:
        """A CPU takes an interrupt that `best` told of: it becomes active, and pending no more unless its line says so.

        Returns:
            The CPU that sent it, for a GICv2's SGI; otherwise 0. None where it cannot be taken any more, since another
            CPU was faster or its line is lowered.
        """
        bank, bit = self._of(cpu, intid)
        with self._edit():
            if not bank.deliverable(self.groups) & bit:
                return None
            source = self._take(cpu, bank, intid)
            bank.active |= bit
            self._serve(cpu, intid)
            self._note_source(cpu, intid, source)
            if bank is self._shared:
                self._touch(bank, cpu, bit)
            return source

    def deactivate(self, cpu: int, intid: int) -> None:
        """End the active state of an interrupt; nothing happens where it is none."""
        if not 0 <= intid < PRIVATE + self.spis:
            return
        bank, bit = self._of(cpu, intid)
        with self._edit():
            bank.deactivate(bit)
            self._touch(bank, cpu, bit)

    # --- list registers ----------------------------------------------------------------------------------------

    def fill(self, cpu: int, count: int) -> tuple[list[Listed], bool]:
        """Hand out interrupts for a CPU's list registers, the highest priority first.

        Args:
            cpu: whose.
            count: how many list registers there are.

        Returns:
            The interrupts, and whether others had to be left out: then the hypervisor wants to be told when list
            registers are free (underflow, or no pending interrupt in them).

        Raises:
            EngineError: what was handed out before has not been taken back.
        """
        with self._lock:
            if self._held[cpu]:
                raise EngineError(f"list registers of CPU {cpu} were filled and not taken back")
            wanted = sorted(self._listable(cpu))
            return [self._hand_out(cpu, intid) for *_, intid in wanted[:count]], len(wanted) > count

    def _listable(self, cpu: int) -> Iterator[tuple[int, bool, int]]:
        """(priority, not active, INTID) of what a list register may hold."""
        for bank, reaching in self._banks(cpu):
            pending = 0 if self._asleep(cpu) else bank.deliverable(self.groups) & reaching
            mine = bank.active & ~bank.listed
            if bank is self._shared:
                mine = sum(1 << n for n in bits(mine) if self._server(bank.first + n) == cpu)
            for number in bits(pending | mine):
                yield bank.priority[number], not mine >> number & 1, bank.first + number

    def _hand_out(self, cpu: int, intid: int) -> Listed:
        bank, bit = self._of(cpu, intid)
        active, level = bool(bank.active & bit), not bank.edge & bit
        # While it is active, one that its line keeps pending is left out, since the line may be lowered meanwhile; and
        # so is an SGI that another CPU has sent again, since a list register names one sender.
        pending = not active
        if active and not level and not (self.SENDERS and intid < SGIS):
            bank.active &= ~bit
            pending = bool(bank.deliverable(self.groups) & bit)
            bank.active |= bit
        latch = pending and bool(bank.latched & bit)
        source = self._take(cpu, bank, intid) if pending else self._source(cpu, intid)
        again = bool(bank.latched & bit)
        bank.listed |= bit
        if latch:
            bank.listed_pending |= bit
        self._held[cpu][intid] = source
        group = int(bool(bank.group & bit))
        return Listed(intid, bank.priority[intid - bank.first], group, pending, active, level or again, source)

    def take_back(self, cpu: int, states: Iterable[tuple[int, bool, bool]]) -> None:
        """Take what has become of the interrupts that `fill` handed out.

        Args:
            cpu: whose.
            states: INTID, pending, active of each list register that is in use still; those that are missing are
                inactive.
        """
        with self._edit():
            became = {intid: (pending, active) for intid, pending, active in states}
            held, self._held[cpu] = self._held[cpu], {}
            for intid, source in held.items():
                bank, bit = self._of(cpu, intid)
                pending, active = became.get(intid, (False, False))
                wanted = bool(bank.listed_pending & bit)
                active = active and not bank.dropped & bit
                bank.listed &= ~bit
                bank.listed_pending &= ~bit
                bank.dropped &= ~bit
                if pending and wanted:
                    self._put(cpu, bank, intid, source)
                bank.active = bank.active | bit if active else bank.active & ~bit
                if active:
                    self._serve(cpu, intid)
                    self._note_source(cpu, intid, source)
                if bank is self._shared:
                    self._touch(bank, cpu, bit)

    def end_unlisted(self, cpu: int, count: int) -> None:
        """The guest has ended interrupts that no list register held (EOIcount of ICH_HCR_EL2 or GICH_HCR).

        Args:
            cpu: whose.
            count: how many: those of the highest priority.
        """
        with self._edit():
            active = sorted(key for key in self._listable(cpu) if not key[1])
            for *_, intid in active[:count]:
                bank, bit = self._of(cpu, intid)
                bank.deactivate(bit)
                self._touch(bank, cpu, bit)

    # --- registers ---------------------------------------------------------------------------------------------

    def _read_common(self, cpu: int | None, offset: int, width: int) -> int | None:
        """A register that `bank` knows.

        Args:
            cpu: whose private interrupts are seen; None for nobody's.
            offset, width: the access.

        Returns:
            Its value; None for another register, or an access that it does not take.
        """
        found = locate(offset, width)
        if found is None:
            return None
        kind, intid, count = found
        bank = self._seen(cpu, intid)
        return 0 if bank is None else bank.read(kind, intid, count)

    def _write_common(self, cpu: int | None, offset: int, width: int, value: int) -> bool:
        """Write such a register; False for another one. Call it within `_edit`."""
        found = locate(offset, width)
        if found is None:
            return False
        kind, intid, count = found
        bank = self._seen(cpu, intid)
        if bank is not None:
            touched = bank.write(kind, intid, count, value)
            if kind is Kind.SET_ACTIVE and bank is self._shared:
                for number in bits(touched):
                    self._served_by.pop(bank.first + number, None)
            self._touch(bank, cpu or 0, touched)
        return True

    def _seen(self, cpu: int | None, intid: int) -> Bank | None:
        if intid < PRIVATE:
            return None if cpu is None else self._own[cpu]
        return self._shared if intid < PRIVATE + self.spis else None

    # --- what the architectures differ in ------------------------------------------------------------------------

    @abstractmethod
    def _asleep(self, cpu: int) -> bool:
        """Whether nothing is forwarded to a CPU, whatever is pending."""

    def _take(self, cpu: int, bank: Bank, intid: int) -> int:
        """Take an interrupt's latch; the CPU that sent it, where that is told."""
        bank.latched &= ~(1 << intid - bank.first)
        return 0

    def _put(self, cpu: int, bank: Bank, intid: int, source: int) -> None:
        """Put it back."""
        bank.latched |= 1 << intid - bank.first

    def _note_source(self, cpu: int, intid: int, source: int) -> None:
        """An interrupt is active that a CPU sent."""
        return None

    def _source(self, cpu: int, intid: int) -> int:
        """Who sent an active interrupt."""
        return 0

    # --- the rest ------------------------------------------------------------------------------------------------

    def _of(self, cpu: int, intid: int) -> tuple[Bank, int]:
        bank = self._own[cpu] if intid < PRIVATE else self._shared
        return bank, 1 << intid - bank.first

    def _banks(self, cpu: int) -> tuple[tuple[Bank, int], ...]:
        own = self._own[cpu]
        return (own, own.all), (self._shared, self._routed[cpu])

    def _serve(self, cpu: int, intid: int) -> None:
        if intid >= PRIVATE:
            self._served_by[intid] = cpu

    def _server(self, intid: int) -> int:
        """The CPU that an active SPI is with: one that software made active is with the first that it goes to."""
        bit = 1 << intid - PRIVATE
        first = next((cpu for cpu, routed in enumerate(self._routed) if routed & bit), 0)
        return self._served_by.get(intid, first)

    def _touch(self, bank: Bank, cpu: int, touched: int) -> None:
        """Something changed of these interrupts of a bank: its CPUs are to look."""
        if bank is not self._shared:
            self._changed.add(cpu)
            return
        for number, routed in enumerate(self._routed):
            if routed & touched or any(1 << intid - PRIVATE & touched for intid in self._held[number] if intid >= 32):
                self._changed.add(number)

    def tell(self, cpu: int) -> None:
        """A CPU's interface has changed: it may have to be told of something else, or of nothing more."""
        if self.notify is not None:
            self.notify(cpu)

    def _touch_all(self) -> None:
        self._changed.update(range(self.cpus))

    @contextmanager
    def _edit(self) -> Iterator[None]:
        """The lock; when it is given back, who is to look is told."""
        with self._lock:
            yield
            changed, self._changed = self._changed, set()
        if self.notify is not None:
            for cpu in changed:
                self.notify(cpu)
