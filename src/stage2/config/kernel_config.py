"""`[kernel]`: the entry point and the images, of every generation."""

from __future__ import annotations

from dataclasses import dataclass

from ..place import Place
from .boot import Boot, read_boot
from .document import Item, Table
from .images import ImagePath


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
        boot: how the guest is started, in the present format; None in those before.
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
    boot: Boot | None = None

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


def read_kernel(table: Table) -> KernelConfig:
    """Read `[kernel]` of a format before the present one.

    Raises:
        ConfigError: a key is missing or a value is wrong.
    """
    entry = table.need("entry_point", "the GPA of the guest's first instruction")
    load = table.need("kernel_load_addr", "the GPA where the kernel is put")
    bios = _image(table, "bios")
    if bios is not None and bios.path is not None and bios.load_addr is None:
        raise bios.place.error("bios_path needs bios_load_addr, the GPA where the BIOS is put")
    return _kernel(table, entry, load, bios, None, _path(table, "disk_path"))


def read_guest_kernel(table: Table) -> KernelConfig:
    """Read `[kernel]` of the present format, in which every key may be left out.

    Raises:
        ConfigError: a value is wrong, or upstream would refuse how the guest is to be started.
    """
    boot = read_boot(table)
    bios = None
    if boot.firmware_key is None:
        for key in ("bios_path", "bios_load_addr", "uefi_firmware_path"):
            if (item := table.find(key)) is not None:
                item.notice("not used: the kernel is started directly, for enable_bios is not true")
    else:
        keys = tuple(key for key in (boot.firmware_key, "bios_path") if table.find(key) is not None)
        bios = _image(table, "bios", path_key=keys[0] if keys else "bios_path")
    return _kernel(table, table.find("entry_point"), table.find("kernel_load_addr"), bios, boot, None)


def _kernel(
    table: Table,
    entry: Item | None,
    load: Item | None,
    bios: GuestImage | None,
    boot: Boot | None,
    disk: ImagePath | None,
) -> KernelConfig:
    location = table.find("image_location")
    if location is not None:
        location.choice({"memory": None, "fs": None})
    return KernelConfig(
        entry_point=0 if entry is None else entry.integer(),
        entry_place=table.place if entry is None else entry.place,
        kernel=GuestImage(
            "kernel",
            _path(table, "kernel_path"),
            0 if load is None else load.integer(),
            table.place if load is None else load.place,
        ),
        bios=bios,
        dtb=_image(table, "dtb"),
        ramdisk=_image(table, "ramdisk"),
        image_location=None if location is None else location.text(),
        cmdline=table.optional_text("cmdline"),
        disk_path=disk,
        boot=boot,
    )


def _image(table: Table, role: str, *, path_key: str | None = None) -> GuestImage | None:
    path, address = _path(table, path_key or f"{role}_path"), table.find(f"{role}_load_addr")
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
