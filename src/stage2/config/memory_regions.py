"""`memory_regions`: the guest's RAM, of every generation."""

from __future__ import annotations

from ..errors import EncodingError
from ..flags import RWX, MappingFlags, MapType
from ..place import Rewrite
from .document import Item, Table
from .extensions import RegionDeclaration
from .extent import read_flags, read_pages
from .generation import Generation
from .wording import shown

REGION_SHAPE = "[gpa, size, flags, map_type]"


_ALL = RWX | MappingFlags.USER
"""What RAM is mapped with since head."""


def read_memory_regions(kernel: Table, generation: Generation) -> tuple[RegionDeclaration, ...]:
    """Read `memory_regions`. Since head upstream does not use their flags.

    Raises:
        ConfigError: an entry is wrong.
    """
    regions: list[RegionDeclaration] = []
    counts: dict[str, int] = {}
    for entry in kernel.elements("memory_regions", f"an array of {REGION_SHAPE}"):
        gpa_item, size_item, flags_item, type_item = entry.tuple_of(REGION_SHAPE, 4)
        map_type = _map_type(type_item)
        flags = _unused_flags(flags_item) if generation.moves_identical else read_flags(flags_item)
        gpa, size = read_pages(gpa_item, size_item, hpa=map_type.is_identity)
        hpa = None
        kind = "reserved" if map_type is MapType.MAP_RESERVED else "ram"
        if flags & MappingFlags.DEVICE:
            map_type, hpa, kind, flags = MapType.MMIO, gpa, "device", _device_flags(flags_item, flags, map_type)
        number = counts[kind] = counts.get(kind, -1) + 1
        regions.append(RegionDeclaration(f"{kind}{number}", gpa, size, flags, map_type, entry.place, hpa))
    return tuple(regions)


def _map_type(item: Item) -> MapType:
    try:
        return MapType.from_number(item.integer())
    except EncodingError:
        raise item.error(
            f"map_type {shown(item.value)} does not exist: 0 is MAP_ALLOC, 1 MAP_IDENTICAL, 2 MAP_RESERVED"
        ) from None


def _unused_flags(item: Item) -> MappingFlags:
    """What RAM is mapped with, whatever its flags say."""
    number = item.integer()
    try:
        flags = MappingFlags.from_bits(number)
        differ = flags | MappingFlags.USER != _ALL
        seed = "leave this region out" if flags & MappingFlags.DEVICE else f"map it {flags.short}"
    except EncodingError:
        differ, seed = True, "refuse them"
    if differ:
        item.notice(
            f"flags {shown(number)} are not used since head: RAM is {_ALL.short}; the seed would {seed}",
            "unused-flags",
            Rewrite(item.place, f"{int(RWX):#x}"),
        )
    return _ALL


def _device_flags(item: Item, flags: MappingFlags, map_type: MapType) -> MappingFlags:
    """The flags of a region that has the device bit, which makes it a passed-through device."""
    if map_type is MapType.MAP_ALLOC:
        raise item.error(
            f"flags {int(flags):#x} have the device bit (0x10), but map_type 0 makes RAM: "
            "drop the bit, or use map_type 1 for the device memory at this address"
        )
    item.notice(
        "has the device bit: mapped one to one as a passed-through device, never executable "
        "(upstream leaves it out with a warning)",
        "device-flag",
    )
    flags &= ~MappingFlags.EXECUTE
    if not flags.permissions:
        raise item.error("device memory must be readable")
    return flags
