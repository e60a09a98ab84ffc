"""A VM file of AxVisor, of both generations, with our own tables.

What the file says is kept as it is; `regions.plan_regions` makes the guest's memory of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ..errors import EncodingError
from ..flags import MappingFlags, MapType
from ..place import Place
from .devices import Devices, Generation, find_generations, read_devices
from .document import Document, Item, Notice, Table, in_order, shown
from .extensions import (
    Extensions,
    RegionDeclaration,
    RomDeclaration,
    ShareDeclaration,
    SpaceOptions,
    read_extensions,
    read_options,
)
from .extent import read_flags, read_pages
from .images import ImagePath

ARCHITECTURES = {"riscv64": "riscv64", "aarch64": "aarch64", "x86_64": "x86_64"}
"""The architectures a file may name."""
MAX_CPUS = 512
"""Limit: virtual CPUs of one VM."""
MAX_VM_ID = 0xFFFF_FFFF

_REGION_SHAPE = "[gpa, size, flags, map_type]"
_DIRECT = "the kernel is entered at entry_point"
_TG_KERNEL = {
    "enable_bios": "a BIOS is used when bios_path names one",
    "boot_protocol": _DIRECT,
    "uefi_firmware_path": _DIRECT,
}
_TG_DEVICES = {
    "address_space_policy": 'only what the file lists is mapped, as under upstream\'s policy "virtualized"',
    "passthrough_ports": "I/O ports are not passed through",
    "virtual": "emulated devices are read from emu_devices",
}


class VmType(IntEnum):
    """`base.vm_type`; upstream takes every other number for RTOS."""

    HOST = 0
    RTOS = 1
    LINUX = 2


@dataclass(frozen=True, slots=True)
class GuestImage:
    """An image to be put into the guest's memory.

    Args:
        role: `kernel`, `bios`, `dtb` or `ramdisk`.
        path: what the file names, None when it names none (a DTB is then made from the configuration).
        load_addr: GPA where it goes, None when the loader may choose.
        place: of the address, or of the path where there is no address.
    """

    role: str
    path: ImagePath | None
    load_addr: int | None
    place: Place


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """`[kernel]`, without its memory regions.

    Args:
        entry_point: GPA of the first instruction.
        entry_place: where the file says so.
        kernel, bios, dtb, ramdisk: the images; None when the file says nothing of one.
        image_location: `memory`, `fs` or None; upstream needs it, here images always are files.
        cmdline: the kernel's command line.
        disk_path: a disk image.
    """

    entry_point: int
    entry_place: Place
    kernel: GuestImage
    bios: GuestImage | None
    dtb: GuestImage | None
    ramdisk: GuestImage | None
    image_location: str | None
    cmdline: str | None
    disk_path: ImagePath | None

    @property
    def images(self) -> tuple[GuestImage, ...]:
        """All images the file speaks of."""
        return tuple(image for image in (self.kernel, self.bios, self.dtb, self.ramdisk) if image)

    @property
    def kernel_path(self) -> ImagePath | None:
        return self.kernel.path

    @property
    def kernel_load_addr(self) -> int | None:
        return self.kernel.load_addr


@dataclass(frozen=True, slots=True)
class VmConfig:
    """One VM as its file declares it.

    Args:
        file: path as the user named it.
        id, name, vm_type: from `[base]`.
        cpu_num: number of virtual CPUs.
        phys_cpu_ids, phys_cpu_sets: hardware ids, and one mask for each virtual CPU; None when not given.
        arch: `riscv64`, `aarch64`, `x86_64`, or None when the file names none (upstream's never do).
        generations: which of upstream's formats the file may be written in.
        kernel: entry point and images.
        memory: `memory_regions`, in the file's order.
        devices: the device lists.
        extensions: our own tables.
        notices: what a user should know about the file.
        place: of `[base]`, for errors about the VM as a whole.
    """

    file: str
    id: int
    name: str
    vm_type: VmType
    cpu_num: int
    phys_cpu_ids: tuple[int, ...] | None
    phys_cpu_sets: tuple[int, ...] | None
    arch: str | None
    generations: tuple[Generation, ...]
    kernel: KernelConfig
    memory: tuple[RegionDeclaration, ...]
    devices: Devices
    extensions: Extensions
    notices: tuple[Notice, ...]
    place: Place

    @property
    def options(self) -> SpaceOptions:
        """Defaults for the whole address space."""
        return self.extensions.options

    @property
    def roms(self) -> tuple[RomDeclaration, ...]:
        return self.extensions.roms

    @property
    def shares(self) -> tuple[ShareDeclaration, ...]:
        return self.extensions.shares

    @property
    def label(self) -> str:
        """How reports call the VM."""
        return f"VM {self.id} {shown(self.name)}"


def read_vm(document: Document) -> VmConfig:
    """Read a VM file. Whether its memory fits together is checked by `regions.plan_regions`.

    Raises:
        ConfigError: a key is missing or a value is wrong.
    """
    root = document.root
    base = root.need("base", "a VM file has [base], [kernel] and [devices]").table()
    kernel = root.need("kernel", "a VM file has [base], [kernel] and [devices]").table()
    devices = root.table("devices")

    vm_id = base.need("id", "a number of its own for each VM").integer(maximum=MAX_VM_ID)
    name = base.need("name").name()
    vm_type = _vm_type(base.find("vm_type"))
    cpu_num = base.integer("cpu_num", 1, 1, MAX_CPUS)
    cpu_ids = _cpu_list(base, "phys_cpu_ids", cpu_num)
    cpu_sets = _cpu_list(base, "phys_cpu_sets", cpu_num)
    arch = base.optional_choice("arch", ARCHITECTURES)

    options = read_options(root)
    memory = _memory_regions(kernel)
    extensions = read_extensions(root, options)
    if not memory and not extensions.regions:
        raise kernel.place.error(f"the VM has no memory: give memory_regions = [{_REGION_SHAPE}, ...]")
    generations = find_generations(
        devices,
        options.generation,
        newer=any(region.map_type is MapType.MAP_RESERVED for region in memory),
        newest=bool(_TG_KERNEL.keys() & set(kernel.keys) or _TG_DEVICES.keys() & set(devices.keys)),
    )
    config = _kernel(kernel)
    device_lists = read_devices(devices, generations, arch)

    kernel.note_unused(_TG_KERNEL)
    devices.note_unused(_TG_DEVICES)
    for table in (root, base, kernel, devices):
        table.note_unknown()
    return VmConfig(
        file=document.file,
        id=vm_id,
        name=name,
        vm_type=vm_type,
        cpu_num=cpu_num,
        phys_cpu_ids=cpu_ids,
        phys_cpu_sets=cpu_sets,
        arch=arch,
        generations=generations,
        kernel=config,
        memory=memory,
        devices=device_lists,
        extensions=extensions,
        notices=in_order(document.notices),
        place=base.place,
    )


def _vm_type(item: Item | None) -> VmType:
    if item is None:
        return VmType.RTOS
    number = item.integer()
    if number in tuple(VmType):
        return VmType(number)
    item.notice(f"type {shown(number)} is unknown and taken for 1 (RTOS), as upstream does; 0 is host, 2 Linux")
    return VmType.RTOS


def _cpu_list(base: Table, key: str, cpu_num: int) -> tuple[int, ...] | None:
    item = base.find(key)
    if item is None:
        return None
    numbers = tuple(element.integer() for element in item.elements("an array of integers"))
    if len(numbers) != cpu_num:
        item.notice(f"{len(numbers)} entries for {cpu_num} virtual CPUs")
    return numbers


def _memory_regions(kernel: Table) -> tuple[RegionDeclaration, ...]:
    regions: list[RegionDeclaration] = []
    counts: dict[str, int] = {}
    for entry in kernel.elements("memory_regions", f"an array of {_REGION_SHAPE}"):
        gpa_item, size_item, flags_item, type_item = entry.tuple_of(_REGION_SHAPE, 4)
        try:
            map_type = MapType.from_number(type_item.integer())
        except EncodingError:
            raise type_item.error(
                f"map_type {shown(type_item.value)} does not exist: 0 is MAP_ALLOC, 1 MAP_IDENTICAL, 2 MAP_RESERVED"
            ) from None
        flags = read_flags(flags_item)
        gpa, size = read_pages(gpa_item, size_item, hpa=map_type.is_identity)
        hpa = None
        kind = "reserved" if map_type is MapType.MAP_RESERVED else "ram"
        if flags & MappingFlags.DEVICE:
            if map_type is MapType.MAP_ALLOC:
                raise flags_item.error(
                    f"flags {int(flags):#x} have the device bit (0x10), but map_type 0 makes RAM: "
                    "drop the bit, or use map_type 1 for the device memory at this address"
                )
            flags_item.notice(
                "has the device bit: mapped one to one as a passed-through device, never executable "
                "(upstream leaves it out with a warning)"
            )
            map_type, hpa, kind = MapType.MMIO, gpa, "device"
            flags &= ~MappingFlags.EXECUTE
            if not flags.permissions:
                raise flags_item.error("device memory must be readable")
        number = counts[kind] = counts.get(kind, -1) + 1
        regions.append(RegionDeclaration(f"{kind}{number}", gpa, size, flags, map_type, entry.place, hpa))
    return tuple(regions)


def _kernel(table: Table) -> KernelConfig:
    entry = table.need("entry_point", "the GPA of the guest's first instruction")
    entry_point = entry.integer()
    load = table.need("kernel_load_addr", "the GPA where the kernel is put")
    kernel = GuestImage("kernel", _path(table, "kernel_path"), load.integer(), load.place)
    bios = _image(table, "bios")
    if bios is not None and bios.path is not None and bios.load_addr is None:
        raise bios.place.error("bios_path needs bios_load_addr, the GPA where the BIOS is put")
    location = table.find("image_location")
    if location is not None:
        location.choice({"memory": None, "fs": None})
    return KernelConfig(
        entry_point=entry_point,
        entry_place=entry.place,
        kernel=kernel,
        bios=bios,
        dtb=_image(table, "dtb"),
        ramdisk=_image(table, "ramdisk"),
        image_location=None if location is None else location.text(),
        cmdline=table.optional_text("cmdline"),
        disk_path=_path(table, "disk_path"),
    )


def _image(table: Table, role: str) -> GuestImage | None:
    path, address = _path(table, f"{role}_path"), table.find(f"{role}_load_addr")
    if path is None and address is None:
        return None
    load_addr = None if address is None else address.integer()
    place = address.place if address is not None else path.place if path is not None else table.place
    return GuestImage(role, path, load_addr, place)


def _path(table: Table, key: str) -> ImagePath | None:
    """The image at `key`; an empty string means none, as upstream's commented lines suggest."""
    item = table.find(key)
    if item is None or item.value == "":
        return None
    return ImagePath.read(item)
