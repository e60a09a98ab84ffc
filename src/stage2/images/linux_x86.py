"""Linux on x86-64 by its 64-bit boot protocol: the kernel out of a bzImage, and what is told to it.

Linux, Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header", "64-bit Boot Protocol") and zero-page.rst. The
kernel is taken out of its own unpacker, which the protocol allows: it starts where its ELF header says, with RSI the
address of `boot_params`, flat segments, and tables that map memory to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..address import GIB, SIZE_2M, SIZE_4K, Range
from ..errors import ImageError
from ..ranges import RangeMap
from .kernel import KernelImage, inspect

_SECTOR = 512
_HEADER_AT, _HEADER_SIZE_AT = 0x1F1, 0x201
"""Where the setup header begins, and the byte that says how far beyond 0x202 it goes."""
_SETUP_SECTS, _VERSION, _XLOADFLAGS = 0x1F1, 0x206, 0x236
_PAYLOAD_OFFSET, _PAYLOAD_LENGTH = 0x248, 0x24C
_TYPE_OF_LOADER, _LOADFLAGS, _RAMDISK_IMAGE, _RAMDISK_SIZE, _CMD_LINE_PTR = 0x210, 0x211, 0x218, 0x21C, 0x228
_CMDLINE_SIZE = 0x238
_ACPI_RSDP_ADDR, _E820_ENTRIES, _E820_TABLE = 0x070, 0x1E8, 0x2D0
_OLDEST = 0x20C
"""Version of the protocol that brought the 64-bit entry."""
_KERNEL_64 = 1 << 0
_UNKNOWN_LOADER = 0xFF
_LOADED_HIGH = 1 << 0
_E820_MOST, _E820_SIZE = 128, 20
_USABLE, _RESERVED = 1, 2

# --- where things are put, below 640 KiB as a PC's firmware does ------------------------------------------------------
GDT, BOOT_PARAMS, TABLES, COMMAND_LINE = 0x1000, 0x2000, 0x3000, 0x2_0000
"""GPAs."""
GDT_BYTES = b"".join(word.to_bytes(8, "little") for word in (0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF))
"""__BOOT_CS is 0x10, __BOOT_DS 0x18, as the protocol has them."""
CODE_SELECTOR, DATA_SELECTOR = 0x10, 0x18
LEGACY = Range(0xA_0000, 0x10_0000)
"""Where a PC has no RAM that an operating system may use."""
_MAPPED = 4 * GIB
"""What the first tables map to itself."""
_P, _RW, _PS = 1 << 0, 1 << 1, 1 << 7


@dataclass(frozen=True, slots=True)
class BzImage:
    """A kernel and the header that is handed on to it.

    Args:
        kernel: the ELF file inside.
        header: the setup header, from 0x1f1 on.
        cmdline_most: bytes that the command line may have.
    """

    kernel: KernelImage
    header: bytes
    cmdline_most: int


def unpack_bzimage(data: bytes) -> BzImage:
    """The kernel inside a bzImage.

    Raises:
        ImageError: it is damaged, too old, has no 64-bit entry, or is packed with what is not unpacked here.
    """

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    version = number(_VERSION, 2)
    if version < _OLDEST or not number(_XLOADFLAGS, 2) & _KERNEL_64:
        raise ImageError(f"the bzImage has no 64-bit entry (boot protocol {version >> 8}.{version & 0xFF:02})")
    end = 0x202 + number(_HEADER_SIZE_AT, 1)
    start = (number(_SETUP_SECTS, 1) + 1) * _SECTOR + number(_PAYLOAD_OFFSET, 4)
    payload = data[start : start + number(_PAYLOAD_LENGTH, 4)]
    if not payload or len(payload) != number(_PAYLOAD_LENGTH, 4):
        raise ImageError("the bzImage is damaged: its kernel lies outside the file")
    kernel = inspect(payload)
    if kernel.arch != "x86_64" or not kernel.absolute or kernel.entry is None:
        raise ImageError(f"the bzImage holds no x86-64 ELF kernel, but: {kernel.kind}")
    return BzImage(kernel, data[_HEADER_AT:end], number(_CMDLINE_SIZE, 4))


def boot_params(image: BzImage, *, memory: Sequence[Range], ramdisk: Range | None, rsdp: int) -> bytes:
    """The page that the kernel is given ("zero page").

    Args:
        image: the kernel.
        memory: RAM, GPAs.
        ramdisk: where it lies, below 4 GiB.
        rsdp: GPA of the ACPI tables' root pointer.

    Raises:
        ImageError: memory is in too many pieces, or the ramdisk lies too high.
    """
    page = bytearray(SIZE_4K)
    page[_HEADER_AT : _HEADER_AT + len(image.header)] = image.header

    def put(at: int, size: int, value: int) -> None:
        page[at : at + size] = value.to_bytes(size, "little")

    put(_TYPE_OF_LOADER, 1, _UNKNOWN_LOADER)
    put(_LOADFLAGS, 1, page[_LOADFLAGS] | _LOADED_HIGH)
    put(_CMD_LINE_PTR, 4, COMMAND_LINE)
    put(_ACPI_RSDP_ADDR, 8, rsdp)
    if ramdisk is not None:
        if ramdisk.end > _MAPPED:
            raise ImageError(f"the ramdisk at {ramdisk} is to be below 4 GiB")
        put(_RAMDISK_IMAGE, 4, ramdisk.start)
        put(_RAMDISK_SIZE, 4, ramdisk.size)
    held: RangeMap[int] = RangeMap()
    held.add(LEGACY, _RESERVED)
    entries = list(held)
    entries += [(piece, _USABLE) for span in memory for piece in held.gaps(span)]
    if len(entries) > _E820_MOST:
        raise ImageError(f"memory is in {len(entries)} pieces; Linux is told of {_E820_MOST} at most")
    put(_E820_ENTRIES, 1, len(entries))
    for index, (span, kind) in enumerate(sorted(entries, key=lambda entry: entry[0].start)):
        at = _E820_TABLE + index * _E820_SIZE
        put(at, 8, span.start)
        put(at + 8, 8, span.size)
        put(at + 16, 4, kind)
    return bytes(page)


def identity_tables() -> bytes:
    """Long-mode tables, to be put at `TABLES`, that map the first 4 GiB to themselves by 2 MiB pages."""
    pages = [bytearray(SIZE_4K) for _ in range(2 + _MAPPED // GIB)]

    def put(page: int, index: int, entry: int) -> None:
        pages[page][8 * index : 8 * index + 8] = entry.to_bytes(8, "little")

    put(0, 0, (TABLES + SIZE_4K) | _P | _RW)
    for gigabyte in range(_MAPPED // GIB):
        put(1, gigabyte, (TABLES + (2 + gigabyte) * SIZE_4K) | _P | _RW)
        for index in range(GIB // SIZE_2M):
            put(2 + gigabyte, index, gigabyte * GIB + index * SIZE_2M | _PS | _P | _RW)
    return b"".join(bytes(page) for page in pages)
