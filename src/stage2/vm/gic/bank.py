"""The state of interrupts with consecutive numbers, a bit each, and the registers that show it.

Arm IHI 0069 (GICv3): chapter 4, and GICD_IGROUPR to GICD_ICFGR of chapter 12; IHI 0048 (GICv2): 3.2 and 4.3. Both lay
these registers out alike, in the distributor and in a redistributor's SGI frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum

from ..devices import octets

SGIS = 16
"""INTIDs 0 to 15 are software generated interrupts."""
PRIVATE = 32
"""INTIDs below are a CPU's own: SGIs, and peripherals' from 16 on (PPIs)."""
VIRTUAL_TIMER = 27
"""The INTID of the virtual timer (Arm BSA, "PPI assignments")."""
FIRST_SPECIAL = 1020
SPURIOUS = 1023
PRIORITY_BITS = 5
"""Implemented bits of a priority: those that a list register of GICv2 has, and any of GICv3."""
PRIORITY_MASK = 0xFF << 8 - PRIORITY_BITS & 0xFF
IDLE = 0xFF
"""The running priority of a CPU that serves no interrupt."""


class Kind(IntEnum):
    """What a register shows, by the number of its block: those of one bit each are 0x80 bytes."""

    GROUP = 1
    SET_ENABLE = 2
    CLEAR_ENABLE = 3
    SET_PENDING = 4
    CLEAR_PENDING = 5
    SET_ACTIVE = 6
    CLEAR_ACTIVE = 7
    PRIORITY = 8
    CONFIG = 0x18


_SAVED = ("group", "enabled", "latched", "line", "active", "edge")
"""What of a bank is a bit for each interrupt, and no matter of list registers."""
_BIT_BLOCKS = range(0x80, 0x400)
_PRIORITIES = range(0x400, 0x800)
_CONFIGS = range(0xC00, 0xD00)
_EDGE = 2
"""Of the two bits that ICFGR has for each interrupt."""


def locate(offset: int, width: int) -> tuple[Kind, int, int] | None:
    """Which interrupts a register is about.

    Args:
        offset: in the distributor, or in the SGI frame.
        width: bytes of the access. Words are 4 bytes; priorities may be accessed by single bytes too, all else may not
            (IHI 0069, 12.1; IHI 0048, 4.1.4).

    Returns:
        What it shows, the first INTID and how many; None for another register, or an access that it does not take.
    """
    if offset % width:
        return None
    if offset in _PRIORITIES and width in (1, 4):
        return Kind.PRIORITY, offset - _PRIORITIES.start, width
    if width != 4:
        return None
    if offset in _BIT_BLOCKS:
        return Kind(offset >> 7), (offset & 0x7F) * 8, 32
    if offset in _CONFIGS:
        return Kind.CONFIG, (offset - _CONFIGS.start) * 4, 16
    return None


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


class Bank:
    """Interrupts with consecutive INTIDs; bit n of every word is INTID `first` + n.

    Args:
        first: the first INTID, a multiple of 32.
        count: how many, a multiple of 32.
        software: of which ones SGIs' pending state is no matter of ISPENDR and ICPENDR: all of them where it is True.
    """

    def __init__(self, first: int, count: int, *, software: bool = True) -> None:
        self.first, self.count = first, count
        self.all = (1 << count) - 1
        own = (1 << SGIS) - 1 if first == 0 else 0
        self.group = 0
        """Set for group 1."""
        self.enabled = 0
        self.latched = 0
        """Pending by an edge, or by software; on a level-sensitive one beside what its line says."""
        self.line = 0
        """The signals of the peripherals."""
        self.active = 0
        self.edge = own
        """Set where it is edge-triggered; SGIs always are."""
        self.priority = bytearray(count)
        self.listed = 0
        """Handed out to list registers, which have the truth of pending and active meanwhile."""
        self.listed_pending = 0
        """Of those, whose latch went with it."""
        self.dropped = 0
        """Of those, which software has deactivated since."""
        self._configurable = self.all & ~own
        self._settable = self.all if software else self.all & ~own

    @property
    def pending(self) -> int:
        """A level-sensitive interrupt is pending by its line, or its latch (IHI 0048, figure 4-10)."""
        return self.latched | self.listed_pending | self.line & ~self.edge

    def deliverable(self, groups: int) -> int:
        """The interrupts that a CPU could be told of.

        Args:
            groups: which are forwarded: bit 0 for group 0, bit 1 for group 1.
        """
        forwarded = (self.group if groups & 2 else 0) | (~self.group if groups & 1 else 0)
        return self.pending & self.enabled & ~self.active & ~self.listed & forwarded & self.all

    def set_line(self, bit: int, *, level: bool) -> bool:
        """Let a peripheral raise or lower its signal; whether that changed anything."""
        if bool(self.line & bit) == level:
            return False
        self.line ^= bit
        if level:
            self.latched |= bit & self.edge
        return True

    # --- saved and put back --------------------------------------------------------------------------------------

    def save(self) -> dict[str, str]:
        """Its state, as JSON has it; nothing is in list registers."""
        return {name: hex(getattr(self, name)) for name in _SAVED} | {"priority": self.priority.hex()}

    def parsed(self, state: Mapping[str, str]) -> dict[str, int | bytearray]:
        """A state that was saved, for `load`.

        Raises:
            ValueError, KeyError, TypeError: it is none of such a bank.
        """
        found: dict[str, int | bytearray] = {}
        for name in _SAVED:
            found[name] = value = int(state[name], 16)
            if value & ~self.all:
                raise ValueError(f"{name} {value:#x} of {self.count} interrupts")
        priority = octets(state["priority"], self.count)
        if any(value & ~PRIORITY_MASK for value in priority):
            raise ValueError(f"priorities {priority.hex()}")
        return found | {"priority": priority}

    def load(self, parsed: Mapping[str, int | bytearray]) -> None:
        """Put a state back."""
        for name, value in parsed.items():
            setattr(self, name, value)

    # --- registers ---------------------------------------------------------------------------------------------

    def read(self, kind: Kind, intid: int, count: int) -> int:
        """A register.

        Args:
            kind, intid, count: as `locate` says.
        """
        at = intid - self.first
        if kind is Kind.PRIORITY:
            return int.from_bytes(self.priority[at : at + count], "little")
        if kind is Kind.CONFIG:
            edges = self.edge >> at & (1 << count) - 1
            return sum(_EDGE << 2 * number for number in bits(edges))
        word = {
            Kind.GROUP: self.group,
            Kind.SET_ENABLE: self.enabled,
            Kind.CLEAR_ENABLE: self.enabled,
            Kind.SET_PENDING: self.pending,
            Kind.CLEAR_PENDING: self.pending,
            Kind.SET_ACTIVE: self.active,
            Kind.CLEAR_ACTIVE: self.active,
        }[kind]
        return word >> at & (1 << count) - 1

    def write(self, kind: Kind, intid: int, count: int, value: int) -> int:
        """Write a register.

        Returns:
            The interrupts that it was about, as bits.
        """
        at = intid - self.first
        field = (1 << count) - 1 << at
        if kind is Kind.PRIORITY:
            for number, byte in enumerate(value.to_bytes(count, "little")):
                self.priority[at + number] = byte & PRIORITY_MASK
            return field
        if kind is Kind.CONFIG:
            field &= self._configurable
            edges = sum(1 << number for number in range(count) if value >> 2 * number & _EDGE)
            self.edge = self.edge & ~field | edges << at & field
            return field
        mask = value << at & field
        if kind is Kind.GROUP:
            self.group = self.group & ~field | mask
            return field
        if kind is Kind.SET_ENABLE:
            self.enabled |= mask
        elif kind is Kind.CLEAR_ENABLE:
            self.enabled &= ~mask
        elif kind is Kind.SET_PENDING:
            self.latched |= mask & self._settable
        elif kind is Kind.CLEAR_PENDING:
            # A line that is raised keeps a level-sensitive interrupt pending.
            self.latched &= ~(mask & self._settable)
            self.listed_pending &= ~(mask & self._settable)
        elif kind is Kind.SET_ACTIVE:
            self.active |= mask
            self.dropped &= ~mask
        else:
            self.deactivate(mask)
        return mask

    def deactivate(self, mask: int) -> None:
        """End the active state of interrupts."""
        self.active &= ~mask
        self.dropped |= mask & self.listed
