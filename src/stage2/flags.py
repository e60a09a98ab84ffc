"""Permissions, memory types, kinds of access and kinds of mapping, common to every architecture."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag

from .errors import EncodingError


class MappingFlags(IntFlag):
    """What a mapping allows and how its memory behaves; the bits are AxVisor's (TOML and `MappingFlags`)."""

    READ = 1 << 0
    WRITE = 1 << 1
    EXECUTE = 1 << 2
    USER = 1 << 3
    DEVICE = 1 << 4
    UNCACHED = 1 << 5

    @property
    def permissions(self) -> MappingFlags:
        """Only the R, W and X of these flags."""
        return self & RWX

    @property
    def memory_type(self) -> MemoryType:
        """The memory type these flags ask for: DEVICE wins over UNCACHED, otherwise write-back."""
        if self & MappingFlags.DEVICE:
            return MemoryType.DEVICE
        return MemoryType.UNCACHED if self & MappingFlags.UNCACHED else MemoryType.WRITE_BACK

    @property
    def short(self) -> str:
        """Six characters in the order R W X U D N, a dash where the bit is clear: `rwx---`."""
        return "".join(letter if self & (1 << bit) else "-" for bit, letter in enumerate("rwxudn"))

    @classmethod
    def from_bits(cls, bits: int) -> MappingFlags:
        """Flags from a number of a configuration file.

        Raises:
            EncodingError: a bit above 5 is set.
        """
        if bits < 0 or bits >> 6:
            raise EncodingError(
                f"flags {bits:#x} have bits that mean nothing: 0 read, 1 write, 2 execute, 3 user, 4 device, "
                "5 uncached are all there are"
            )
        return cls(bits)


RWX = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE


class MemoryType(Enum):
    """How the CPU may cache and reorder accesses to memory."""

    WRITE_BACK = "write-back"
    WRITE_THROUGH = "write-through"
    WRITE_COMBINING = "write-combining"
    WRITE_PROTECTED = "write-protected"
    UNCACHED = "uncached"
    DEVICE = "device"


class Access(IntEnum):
    """What the CPU is doing at an address; the value is the bit number in a permission mask."""

    READ = 0
    WRITE = 1
    FETCH = 2

    @property
    def flag(self) -> MappingFlags:
        """The permission this access needs."""
        return MappingFlags(1 << self)


@dataclass(frozen=True, slots=True)
class MapTypeInfo:
    """What is to be known of a map type: its number in upstream's TOML, if it has one, and one sentence."""

    number: int | None
    meaning: str


class MapType(Enum):
    """Where the memory behind a region comes from.

    Upstream's TOML knows numbers for the first three only; the others are made by its device lists or by our
    own tables, and have no number.
    """

    MAP_ALLOC = "MAP_ALLOC"
    MAP_IDENTICAL = "MAP_IDENTICAL"
    MAP_RESERVED = "MAP_RESERVED"
    MMIO = "MMIO"
    EMULATED = "EMULATED"
    ROM = "ROM"
    SHARE = "SHARE"

    @property
    def number(self) -> int | None:
        """The number in upstream's `memory_regions`, or None."""
        return _MAP_TYPES[self].number

    @property
    def meaning(self) -> str:
        """One sentence for a reader of a report."""
        return _MAP_TYPES[self].meaning

    @classmethod
    def from_number(cls, number: int) -> MapType:
        """The map type a `memory_regions` entry names.

        Raises:
            EncodingError: upstream knows no such number.
        """
        for kind, info in _MAP_TYPES.items():
            if info.number == number:
                return kind
        raise EncodingError(f"map_type {number} does not exist: 0 is MAP_ALLOC, 1 MAP_IDENTICAL, 2 MAP_RESERVED")


_MAP_TYPES = {
    MapType.MAP_ALLOC: MapTypeInfo(0, "guest RAM on frames taken from host memory"),
    MapType.MAP_IDENTICAL: MapTypeInfo(1, "guest RAM whose HPA equals its GPA, claimed from host memory"),
    MapType.MAP_RESERVED: MapTypeInfo(2, "identity mapping of host memory that is reserved, not allocated"),
    MapType.MMIO: MapTypeInfo(None, "a device's registers, passed through to the guest"),
    MapType.EMULATED: MapTypeInfo(None, "an emulated device: unmapped, so every access traps"),
    MapType.ROM: MapTypeInfo(None, "read-only memory holding an image of the host's"),
    MapType.SHARE: MapTypeInfo(None, "memory that several VMs reach by declaration"),
}
