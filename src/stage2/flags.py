"""Permissions, memory types, kinds of access and kinds of mapping, common to every architecture."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, EnumType, IntEnum, IntFlag

from .errors import EncodingError


class Terse(EnumType):
    """Makes `help` and `dir` of an enumeration of numbers or texts tell of it alone, not of every number."""

    def __dir__(cls) -> list[str]:
        own = (name for name in vars(cls) if not name.startswith("_"))
        return sorted({*cls.__members__, *own, "__class__", "__doc__", "__members__", "__module__", "__name__"})


class MappingFlags(IntFlag, metaclass=Terse):
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


class Access(IntEnum, metaclass=Terse):
    """What the CPU is doing at an address; the value is the bit number in a permission mask."""

    READ = 0
    WRITE = 1
    FETCH = 2

    @property
    def flag(self) -> MappingFlags:
        """The permission this access needs."""
        return MappingFlags(1 << self)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapTypeInfo:
    """What is to be known of a map type, a row of `_MAP_TYPES`; `MapType` has each fact as a property."""

    number: int | None = None
    noun: str
    meaning: str
    is_mapped: bool = True
    is_ram: bool = False
    holds_bytes: bool = False
    takes_images: bool = False
    may_execute: bool = False
    may_be_lazy: bool = False
    is_identity: bool = False
    names_hpa: bool = False
    fixed_hpa: bool = False
    takes_frames: bool = False
    owns_frames: bool = False


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
    def noun(self) -> str:
        """What messages call such a region: "RAM", "passed-through device"."""
        return _MAP_TYPES[self].noun

    @property
    def meaning(self) -> str:
        """One sentence for a reader of a report."""
        return _MAP_TYPES[self].meaning

    @property
    def is_mapped(self) -> bool:
        """Whether the stage-2 table has leaves for it; where not, every access traps."""
        return _MAP_TYPES[self].is_mapped

    @property
    def is_ram(self) -> bool:
        """Whether the guest takes it for RAM."""
        return _MAP_TYPES[self].is_ram

    @property
    def holds_bytes(self) -> bool:
        """Whether it is memory, which the host may read and write too; an access to a device has effects."""
        return _MAP_TYPES[self].holds_bytes

    @property
    def takes_images(self) -> bool:
        """Whether the host puts images there before the guest runs."""
        return _MAP_TYPES[self].takes_images

    @property
    def may_execute(self) -> bool:
        """Whether the guest may be allowed to fetch code there, and so begin there."""
        return _MAP_TYPES[self].may_execute

    @property
    def may_be_lazy(self) -> bool:
        """Whether its frames may come at the guest's first access to each page."""
        return _MAP_TYPES[self].may_be_lazy

    @property
    def is_identity(self) -> bool:
        """Whether its HPA is its GPA."""
        return _MAP_TYPES[self].is_identity

    @property
    def names_hpa(self) -> bool:
        """Whether a region of this type says its HPA itself."""
        return _MAP_TYPES[self].names_hpa

    @property
    def fixed_hpa(self) -> bool:
        """Whether its HPA is settled by what the user wrote, so that it is claimed before anything is allocated."""
        return _MAP_TYPES[self].fixed_hpa

    @property
    def takes_frames(self) -> bool:
        """Whether it gets frames that the allocator chooses, which count against the VM's limit."""
        return _MAP_TYPES[self].takes_frames

    @property
    def owns_frames(self) -> bool:
        """Whether the host memory behind it is the VM's own and goes back, zeroed, when it is unmapped."""
        return _MAP_TYPES[self].owns_frames

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
    MapType.MAP_ALLOC: MapTypeInfo(
        number=0,
        noun="RAM",
        meaning="guest RAM on frames taken from host memory",
        is_ram=True,
        holds_bytes=True,
        takes_images=True,
        may_execute=True,
        may_be_lazy=True,
        takes_frames=True,
        owns_frames=True,
    ),
    MapType.MAP_IDENTICAL: MapTypeInfo(
        number=1,
        noun="RAM",
        meaning="guest RAM whose HPA equals its GPA, claimed from host memory",
        is_ram=True,
        holds_bytes=True,
        takes_images=True,
        may_execute=True,
        is_identity=True,
        fixed_hpa=True,
        owns_frames=True,
    ),
    MapType.MAP_RESERVED: MapTypeInfo(
        number=2,
        noun="reserved RAM",
        meaning="identity mapping of host memory that is reserved, not allocated",
        is_ram=True,
        holds_bytes=True,
        takes_images=True,
        may_execute=True,
        is_identity=True,
        fixed_hpa=True,
    ),
    MapType.MMIO: MapTypeInfo(
        noun="passed-through device",
        meaning="a device's registers, passed through to the guest",
        names_hpa=True,
        fixed_hpa=True,
    ),
    MapType.EMULATED: MapTypeInfo(
        noun="emulated device",
        meaning="an emulated device: unmapped, so every access traps",
        is_mapped=False,
    ),
    MapType.ROM: MapTypeInfo(
        noun="ROM",
        meaning="read-only memory holding an image of the host's",
        holds_bytes=True,
        takes_images=True,
        may_execute=True,
        takes_frames=True,
        owns_frames=True,
    ),
    MapType.SHARE: MapTypeInfo(
        noun="share",
        meaning="memory that several VMs reach by declaration",
        holds_bytes=True,
        names_hpa=True,
    ),
}
