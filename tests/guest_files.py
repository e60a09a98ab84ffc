"""Guest images and device trees as people have them, tiny and made here, by what they are."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable

import zstandard

from stage2.images.fdt import Node, flatten

BASE = 0x8000_0000
CODE = b"\x01\x02\x03\x04" * 64


def linux(magic: bytes, *, text_offset: int = 0, image_size: int = 0x1000, flags: int = 0, efi: bool = False) -> bytes:
    """A Linux Image's header with some code behind it (booting.rst, boot-image-header.rst)."""
    head = bytearray(64)
    head[0:2] = b"MZ" if efi else b"\0\0"
    struct.pack_into("<QQQ", head, 8, text_offset, image_size, flags)
    head[0x38:0x3C] = magic
    return bytes(head) + CODE


def arm64(**facts: int) -> bytes:
    return linux(b"ARM\x64", **facts)  # type: ignore[arg-type]


def riscv64(**facts: int) -> bytes:
    return linux(b"RSC\x05", **facts)  # type: ignore[arg-type]


def zboot(payload: bytes, kind: str) -> bytes:
    """An EFI application that unpacks the kernel in it (zboot-header.S)."""
    head = bytearray(0x40)
    head[0:8] = b"MZ\0\0zimg"
    struct.pack_into("<II", head, 8, len(head), len(payload))
    head[24 : 24 + len(kind)] = kind.encode()
    return bytes(head) + payload


def uimage(payload: bytes, packed: int = 0, kind: int = 2) -> bytes:
    """U-Boot's legacy image (include/image.h)."""
    head = bytearray(64)
    struct.pack_into(">I", head, 0, 0x27051956)
    struct.pack_into(">I", head, 12, len(payload))
    struct.pack_into(">I", head, 24, zlib.crc32(payload))
    head[28:32] = bytes((5, 22, kind, packed))
    struct.pack_into(">I", head, 4, zlib.crc32(bytes(head)))
    return bytes(head) + payload


def bzimage() -> bytes:
    """The setup header of a bzImage (x86/boot.rst)."""
    data = bytearray(0x400)
    data[0:2] = b"MZ"
    data[0x202:0x206] = b"HdrS"
    return bytes(data)


def efi_application(*sections: bytes) -> bytes:
    """PE headers and no Linux."""
    data = bytearray(0x400)
    data[0:2] = b"MZ"
    struct.pack_into("<I", data, 0x3C, 0x80)
    data[0x80:0x84] = b"PE\0\0"
    for number, name in enumerate(sections):
        data[0x188 + 40 * number : 0x190 + 40 * number] = name.ljust(8, b"\0")
    return bytes(data)


def elf(machine: int, *, bits: int = 2, order: int = 1, segments: int = 1) -> bytes:
    """An ELF64 file with so many segments of 64 bytes at BASE."""
    head = b"\x7fELF" + bytes((bits, order, 1)) + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, BASE, 64, 0, 0, 64, 56, segments, 0, 0, 0)
    body = b"".join(struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, 64, 64, 4096) for _ in range(segments))
    return head + body


def fit() -> bytes:
    """A FIT image is a device tree with a node `images`."""
    root = Node("")
    root.child("images").child("kernel-1").set("data", b"\0" * 8)
    root.child("configurations").set("default", "conf-1")
    return flatten(root)


def at(offset: int, magic: bytes) -> bytes:
    """A file with something at an offset."""
    return bytes(offset) + magic + bytes(64)


def tree(change: Callable[[Node], object] | None = None, reserved: tuple[tuple[int, int], ...] = ()) -> bytes:
    """The tree of a machine with 4 MiB of RAM at BASE and a serial port that is emulated."""
    root = Node("")
    root.set("#address-cells", 2).set("#size-cells", 2)
    root.child("chosen")
    root.child("memory@80000000").set("device_type", "memory").set_u64("reg", BASE, 0x40_0000)
    cpus = root.child("cpus").set("#address-cells", 1).set("#size-cells", 0)
    cpus.child("cpu@0").set("device_type", "cpu").set("reg", 0)
    soc = root.child("soc").set("#address-cells", 1).set("#size-cells", 1)
    # Addresses of the bus are 0x1000_0000 below those of the CPU.
    soc.set("compatible", "simple-bus").set("ranges", [0, 0, 0x1000_0000, 0x1000_0000])
    soc.child("serial@0").set("compatible", "ns16550a").set("reg", [0, 0x100])
    if change is not None:
        change(root)
    return flatten(root, reserved)


GZIP, XZ, BZ2, ZSTD = gzip.compress, lzma.compress, bz2.compress, zstandard.ZstdCompressor().compress


def lzma_alone(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE)
