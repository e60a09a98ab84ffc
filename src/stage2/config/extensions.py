"""Tables of our own in a VM file: `[stage2]`, `[[region]]`, `[[rom]]`, `[[share]]`.

They say what upstream's format has no words for, without inventing numbers that upstream might give another meaning.
They stand in `NAME.stage2.toml` beside `NAME.toml`; in the formats before the present one upstream's parser ignores
keys it does not know, and there they may stand in the file itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..address import SIZE_4K, is_power_of_two
from ..flags import MappingFlags, MapType
from ..place import Place
from ..space.policy import FaultAround
from ..space.region import Populate, ViolationPolicy
from .conflict import Claim, ConflictError
from .cpu import NamedCpu
from .document import Item, Table
from .extent import GPA_LIMIT, HPA_LIMIT, read_flags, read_pages, require_below, require_pages, without_flags
from .generation import GENERATIONS, Generation
from .images import ImagePath
from .stage2_format import NamedFormat, named_format
from .wording import shown

ARCHITECTURES = {"riscv64": "riscv64", "aarch64": "aarch64", "x86_64": "x86_64"}
"""The architectures a file may name."""
PAGE_SIZES = {"auto": None, "4k": 1 << 12, "2m": 1 << 21, "1g": 1 << 30}
"""`[stage2] page_size`: the largest leaf that may be made, in bytes; None leaves it to us."""

OUR_TABLES = ("stage2", "region", "rom", "share")
"""Top-level keys that are ours."""

TIMER_EVENTS = 256
"""Timers of a CPU where no file says otherwise; their events fill one frame."""

_POPULATE = {policy.value: policy for policy in Populate}
_VIOLATION = {policy.value: policy for policy in ViolationPolicy}
_REGION_TYPES = {
    "alloc": MapType.MAP_ALLOC,
    "identical": MapType.MAP_IDENTICAL,
    "reserved": MapType.MAP_RESERVED,
    "mmio": MapType.MMIO,
    "emulated": MapType.EMULATED,
}
_ACCESS = {"r": MappingFlags.READ, "rw": MappingFlags.READ | MappingFlags.WRITE}
_RAM_FLAGS = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE
_MMIO_FLAGS = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.DEVICE


@dataclass(frozen=True, slots=True)
class DmaStatement:
    """What a file says of a device's DMA.

    Args:
        device: the name of its entry, or a node of the host's tree.
        masters: whether it reads and writes memory by itself.
        place: where that stands.
    """

    device: str
    masters: bool
    place: Place


@dataclass(frozen=True, slots=True)
class SpaceOptions:
    """`[stage2]`: defaults for the whole address space; None leaves them to the command line or to us.

    Args:
        populate: when regions get their frames.
        violation: what an access does that no region allows.
        page_size: the largest leaf in bytes, None for the largest that fits.
        generation: which of upstream's formats the file is in.
        memory_limit: bytes of frames the VM may hold in all, None for no limit.
        fault_around: bytes of the aligned window that a fault populates, or "adaptive"; None leaves it to us.
        promote: make a block of pages once all of it is populated.
        format: the format of the stage-2 tables, None for the narrowest of the architecture that is wide enough.
        cpu: the processor that the tables are for, None for no particular one.
        timer_events: room for timers on each of its CPUs.
        arch: the guest's architecture; in a file of an older format `[base] arch` may say it too.
        dma: which passed-through devices read and write memory by themselves, as far as the file says; by name.
        write_xor_execute: nothing that the guest may write may it execute, through any of its mappings.
    """

    populate: Populate | None = None
    violation: ViolationPolicy | None = None
    page_size: int | None = None
    generation: Generation | None = None
    memory_limit: int | None = None
    fault_around: FaultAround | None = None
    promote: bool = False
    format: NamedFormat | None = None
    cpu: NamedCpu | None = None
    timer_events: int = TIMER_EVENTS
    arch: str | None = None
    dma: Mapping[str, DmaStatement] = field(default_factory=dict)
    write_xor_execute: bool = False


@dataclass(frozen=True, slots=True)
class RegionDeclaration:
    """A region, from `memory_regions` or from `[[region]]`; the arguments are MemoryRegion's."""

    name: str
    gpa: int
    size: int
    flags: MappingFlags
    map_type: MapType
    place: Place
    hpa: int | None = None
    populate: Populate | None = None
    violation: ViolationPolicy | None = None


@dataclass(frozen=True, slots=True)
class RomDeclaration:
    """`[[rom]]`: read-only memory filled from an image of the host's.

    Args:
        name: what reports call it.
        gpa: first address.
        size: bytes; None for the image's own size, rounded up to pages.
        flags: R, or R and X.
        image: what is in it.
        on_write: what a write of the guest does.
        place: where it was declared.
    """

    name: str
    gpa: int
    size: int | None
    flags: MappingFlags
    image: ImagePath
    on_write: ViolationPolicy | None
    place: Place


@dataclass(frozen=True, slots=True)
class ShareDeclaration:
    """`[[share]]`: memory that other VMs reach too, when every one of them declares it.

    Args:
        name: the same in every VM that takes part.
        gpa: where this VM sees it.
        size: bytes, the same in every VM.
        flags: R, or R and W.
        peers: names or ids of the other VMs.
        place: where it was declared.
    """

    name: str
    gpa: int
    size: int
    flags: MappingFlags
    peers: tuple[str | int, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Extensions:
    """Everything our own tables say."""

    options: SpaceOptions
    regions: tuple[RegionDeclaration, ...]
    roms: tuple[RomDeclaration, ...]
    shares: tuple[ShareDeclaration, ...]


def read_options(root: Table) -> SpaceOptions:
    """Read `[stage2]`."""
    table = root.table("stage2")
    options = SpaceOptions(
        table.optional_choice("populate", _POPULATE),
        table.optional_choice("on_violation", _VIOLATION),
        table.optional_choice("page_size", PAGE_SIZES),
        table.optional_choice("generation", GENERATIONS),
        _bytes(table.find("memory_limit"), power_of_two=False),
        _fault_around(table.find("fault_around")),
        _promote(table),
        None if (item := table.find("format")) is None else named_format(item.text(), item.place),
        None if (item := table.find("cpu")) is None else NamedCpu(item.text(), item.place),
        table.integer("timer_events", TIMER_EVENTS, 1, 1 << 20),
        table.optional_choice("arch", ARCHITECTURES),
        {said.device: said for said in _dma(table.table("dma"))},
        (item := table.find("write_xor_execute")) is not None and item.boolean(),
    )
    table.note_unknown()
    return options


def _dma(table: Table) -> Iterator[DmaStatement]:
    for name in table.unknown():
        item = table.need(name)
        yield DmaStatement(name, item.boolean(), item.place)


def _promote(table: Table) -> bool:
    item = table.find("promote")
    promote = item is not None and item.boolean()
    if item is not None and promote and table.optional_choice("page_size", PAGE_SIZES) == PAGE_SIZES["4k"]:
        raise item.error('promote makes larger leaves of pages, which page_size = "4k" forbids: drop one of them')
    return promote


def _fault_around(item: Item | None) -> FaultAround | None:
    if item is not None and isinstance(item.value, str):
        return item.choice({"adaptive": "adaptive"})
    return _bytes(item, power_of_two=True)


def _bytes(item: Item | None, *, power_of_two: bool) -> int | None:
    """A number of bytes in whole pages, above 0."""
    if item is None:
        return None
    value = item.integer(SIZE_4K, GPA_LIMIT)
    require_pages(item, value)
    if power_of_two and not is_power_of_two(value):
        raise item.error(f"{value:#x} is not a power of two: a window of 0x1000, 0x2000, 0x4000, ... bytes is wanted")
    return value


def read_extensions(root: Table, options: SpaceOptions) -> Extensions:
    """Read `[[region]]`, `[[rom]]` and `[[share]]`.

    Raises:
        ConfigError: an entry is wrong, or two have the same name.
    """
    regions = tuple(_region(table) for table in root.tables("region"))
    roms = tuple(_rom(table) for table in root.tables("rom"))
    shares = tuple(_share(table) for table in root.tables("share"))
    seen: dict[str, Place] = {}
    named: tuple[RegionDeclaration | RomDeclaration | ShareDeclaration, ...] = (*regions, *roms, *shares)
    for declared in named:
        if declared.name in seen:
            raise declared.place.error(
                f"the name {shown(declared.name)} is taken by {seen[declared.name]}: give each its own"
            )
        seen[declared.name] = declared.place
    return Extensions(options, regions, roms, shares)


def _region(table: Table) -> RegionDeclaration:
    name = table.need("name").name()
    map_type = _region_type(table.find("type"))
    gpa_item, size_item = table.need("gpa"), table.need("size", "bytes, a multiple of 0x1000")
    gpa, size = read_pages(gpa_item, size_item, hpa=map_type.is_identity)
    hpa = _region_hpa(table, map_type, gpa, size)
    flags = _region_flags(table.find("flags"), map_type)
    populate = table.find("populate")
    if populate is not None and not map_type.owns_frames:
        raise populate.error('only regions of type "alloc" and "identical" get frames')
    declaration = RegionDeclaration(
        name,
        gpa,
        size,
        flags,
        map_type,
        table.place,
        hpa,
        None if populate is None else populate.choice(_POPULATE),
        table.optional_choice("on_violation", _VIOLATION),
    )
    table.note_unknown()
    return declaration


def _region_type(item: Item | None) -> MapType:
    if item is None:
        return MapType.MAP_ALLOC
    if item.value in ("rom", "share"):
        raise item.error(f'"{item.value}" has a table of its own: write [[{item.value}]]')
    return item.choice(_REGION_TYPES)


def _region_hpa(table: Table, map_type: MapType, gpa: int, size: int) -> int | None:
    item = table.find("hpa")
    if map_type is not MapType.MMIO:
        if item is not None:
            raise item.error('only a region of type "mmio" says where it is in the host')
        return None
    if item is None:
        require_below(table.need("gpa"), gpa, size, HPA_LIMIT)
        return gpa
    hpa = item.integer()
    require_pages(item, hpa)
    require_below(item, hpa, size, HPA_LIMIT)
    return hpa


def _region_flags(item: Item | None, map_type: MapType) -> MappingFlags:
    if map_type is MapType.EMULATED:
        if item is not None:
            raise item.error("an emulated region is not mapped: it has no flags")
        return MappingFlags(0)
    if item is None:
        return _MMIO_FLAGS if map_type is MapType.MMIO else _RAM_FLAGS
    flags = read_flags(item)
    if map_type is MapType.MMIO:
        _refuse_execute(item, flags, "a device")
        return flags | MappingFlags.DEVICE
    if flags & MappingFlags.DEVICE:
        raise item.error('RAM is no device: use type = "mmio", or drop the device flag')
    return flags


def _rom(table: Table) -> RomDeclaration:
    name = table.need("name").name()
    gpa_item, size_item = table.need("gpa"), table.find("size")
    size = None
    if size_item is None:
        gpa = gpa_item.integer()
        require_pages(gpa_item, gpa)
    else:
        gpa, size = read_pages(gpa_item, size_item)
    flags_item = table.find("flags")
    flags = MappingFlags.READ | MappingFlags.EXECUTE
    if flags_item is not None:
        flags = read_flags(flags_item)
        if flags & (MappingFlags.WRITE | MappingFlags.DEVICE):
            problem = 'a ROM is read-only memory: "r" and "rx" are allowed'
            claim, meant = Claim(f"ROM {shown(name)}", flags_item.place), MappingFlags.WRITE | MappingFlags.DEVICE
            raise ConflictError("writable-rom", problem, (claim,), rewrite=without_flags(flags_item, meant))
    image = table.need("image", "the file the ROM holds")
    on_write = table.optional_choice("on_write", _VIOLATION)
    declaration = RomDeclaration(name, gpa, size, flags, ImagePath.read(image), on_write, table.place)
    table.note_unknown()
    return declaration


def _share(table: Table) -> ShareDeclaration:
    name = table.need("name").name()
    gpa, size = read_pages(table.need("gpa"), table.need("size", "bytes, a multiple of 0x1000"))
    flags = table.need("access", '"r" or "rw"').choice(_ACCESS)
    item = table.need("peers", "the names or ids of the other VMs")
    peers = tuple(
        peer.integer(maximum=0xFFFF_FFFF) if isinstance(peer.value, int) else peer.name()
        for peer in item.elements("an array of names or ids of VMs")
    )
    if not peers:
        raise item.error("a share needs another VM: give the names or ids of those that declare it too")
    declaration = ShareDeclaration(name, gpa, size, flags, peers, table.place)
    table.note_unknown()
    return declaration


def _refuse_execute(item: Item, flags: MappingFlags, what: str) -> None:
    if flags & MappingFlags.EXECUTE:
        problem = f"{what} must not be executable: drop the execute flag"
        rewrite = without_flags(item, MappingFlags.EXECUTE)
        raise ConflictError("executable-device", problem, (Claim(what, item.place),), rewrite=rewrite)
