"""What kernels come wrapped in: taken off where that can be done here, refused by name where it cannot.

Linux, Documentation/arch and drivers/firmware/efi/libstub/zboot-header.S; U-Boot, include/image.h; each format's own
magic number.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..errors import ImageError
from .fdt import is_source

MAX_IMAGE = 1 << 30
"""Bytes of the largest image, unpacked."""
_MAX_MEMBERS = 64
_MAX_LAYERS = 4
_GZIP, _XZ, _BZIP2, _LZMA = b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh", b"\x5d\0\0"
_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes((kind, 0x2A, 0x4D, 0x18)) for kind in range(0x50, 0x60)))
"""A frame, or one that is skipped (RFC 8878, 3.1)."""
_MAX_FRAMES = 1 << 16
"""Of a zstd file: packers that use several threads write many."""
_ZSTD_STEP = 4096


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """What was inside.

    Args:
        data: the innermost bytes.
        layers: what was taken off, outermost first, for people.
    """

    data: bytes
    layers: tuple[str, ...]


def unwrap(data: bytes) -> Unwrapped:
    """Take off compressions and wrappers until something else is there.

    Raises:
        ImageError: one is damaged, unpacks to too much, or is nested too deep; or it is something that is known and
            no kernel, or that nothing here unpacks.
    """
    layers: list[str] = []
    while True:
        found = _layer(data)
        if found is None:
            refuse_others(data)
            return Unwrapped(data, tuple(layers))
        if len(layers) == _MAX_LAYERS:
            raise ImageError(f"the image is wrapped more than {_MAX_LAYERS} times: {', '.join(layers)}")
        name, data = found
        layers.append(name)
        if not data:
            raise ImageError(f"the {name} holds nothing")


def _layer(data: bytes) -> tuple[str, bytes] | None:
    """The outermost wrapper's name and what is in it; None where there is none."""
    for magic, name, unpack in _COMPRESSIONS:
        if data.startswith(magic):
            return name, unpack(data)
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        return _zboot(data)
    if data[:4] == b"\x27\x05\x19\x56":
        return _uimage(data)
    return None


def _zboot(data: bytes) -> tuple[str, bytes]:
    """A kernel that unpacks itself as an EFI application: offset and size of the payload at 8, its kind at 24."""
    start, size = (int.from_bytes(data[at : at + 4], "little") for at in (8, 12))
    kind = data[24:56].split(b"\0")[0].decode("ascii", "replace")
    if not size or start + size > len(data):
        raise ImageError("the EFI zboot image is damaged: its payload lies outside the file")
    payload = data[start : start + size]
    if kind in ("lzo", "lz4"):
        raise ImageError(f"the EFI zboot image is packed with {kind}, which is not unpacked here: build it with gzip")
    if _layer(payload) is None:
        raise ImageError(f"the EFI zboot image is damaged: its payload, said to be {kind!r}, is not packed")
    return "EFI zboot image", payload


_UIMAGE_HEADER = 64
_UIMAGE_KERNEL, _UIMAGE_NO_LOAD = 2, 14
_UIMAGE_PACKED = {0: None, 1: "gzip", 2: "bzip2", 3: "lzma", 4: "lzo", 5: "lz4", 6: "zstd"}


def _uimage(data: bytes) -> tuple[str, bytes]:
    """U-Boot's legacy image: big-endian header with its own checksum, the payload behind it."""
    if len(data) < _UIMAGE_HEADER:
        raise ImageError("the U-Boot image is cut short within its header")
    head = data[:_UIMAGE_HEADER]
    if zlib.crc32(head[:4] + bytes(4) + head[8:]) != int.from_bytes(head[4:8], "big"):
        raise ImageError("the U-Boot image is damaged: its header's checksum is wrong")
    size, kind, packed = int.from_bytes(head[12:16], "big"), head[30], head[31]
    if kind not in (_UIMAGE_KERNEL, _UIMAGE_NO_LOAD):
        raise ImageError(f"the U-Boot image is of type {kind}, no kernel (2): extract what it holds with dumpimage")
    payload = data[_UIMAGE_HEADER : _UIMAGE_HEADER + size]
    if len(payload) != size:
        raise ImageError(f"the U-Boot image is cut short: {size:#x} bytes are to follow its header")
    if zlib.crc32(payload) != int.from_bytes(head[24:28], "big"):
        raise ImageError("the U-Boot image is damaged: its data's checksum is wrong")
    name = _UIMAGE_PACKED.get(packed, f"compression {packed}")
    if name is not None and _layer(payload) is None:
        raise ImageError(f"the U-Boot image is packed with {name}, which is not unpacked here: pack it with gzip")
    return "U-Boot image", payload


# --- compressions ---------------------------------------------------------------------------------------------------


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool:
        """Whether the end was reached."""

    @property
    def unused_data(self) -> bytes:
        """What stands behind it."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """At most so many bytes."""


def _members(
    name: str, magic: bytes, make: Callable[[], _Unpacker], errors: tuple[type[Exception], ...]
) -> Callable[[bytes], bytes]:
    """An unpacker of files with one member or several; what stands behind the last is padding."""

    def unpack(data: bytes) -> bytes:
        unpacked = b""
        for _ in range(_MAX_MEMBERS):
            unpacker = make()
            try:
                unpacked += unpacker.decompress(data, MAX_IMAGE - len(unpacked) + 1)
            except errors as error:
                raise ImageError(f"the {name} file is damaged: {error}") from None
            if len(unpacked) > MAX_IMAGE:
                raise ImageError(f"the {name} file unpacks to more than {MAX_IMAGE:#x} bytes")
            if not unpacker.eof:
                raise ImageError(f"the {name} file is cut short")
            data = unpacker.unused_data
            if not data.startswith(magic):
                return unpacked
        raise ImageError(f"the {name} file has more than {_MAX_MEMBERS} members")

    return unpack


def _unzstd(data: bytes) -> bytes:
    """Frames one after the other; what stands behind the last is padding, or the size that Linux appends."""
    import zstandard

    make = zstandard.ZstdDecompressor(max_window_size=MAX_IMAGE).decompressobj
    pieces, total, at = [], 0, 0
    for _ in range(_MAX_FRAMES):
        frame = make()
        try:
            # A few bytes at a time: no call can be told how much it may unpack.
            while not frame.eof and at < len(data):
                fed = data[at : at + _ZSTD_STEP]
                piece = frame.decompress(fed)
                at += len(fed) - len(frame.unused_data)
                total += len(piece)
                if total > MAX_IMAGE:
                    raise ImageError(f"the zstd file unpacks to more than {MAX_IMAGE:#x} bytes")
                pieces.append(piece)
        except zstandard.ZstdError as error:
            raise ImageError(f"the zstd file is damaged: {error}") from None
        if not frame.eof:
            raise ImageError("the zstd file is cut short")
        if not data.startswith(_ZSTD, at):
            return b"".join(pieces)
    raise ImageError(f"the zstd file has more than {_MAX_FRAMES} frames")


_NEVER = b"\xff" * 8
"""What no file begins with: an lzma file has one member."""


def _lzma_alone() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE)


def _refused(name: str, hint: str) -> Callable[[bytes], bytes]:
    def unpack(_data: bytes) -> bytes:
        raise ImageError(f"the image is packed with {name}, which is not unpacked here: {hint}")

    return unpack


_COMPRESSIONS: tuple[tuple[bytes | tuple[bytes, ...], str, Callable[[bytes], bytes]], ...] = (
    (_GZIP, "gzip file", _members("gzip", _GZIP, lambda: zlib.decompressobj(wbits=31), (zlib.error,))),
    (_XZ, "xz file", _members("xz", _XZ, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), (lzma.LZMAError,))),
    (_BZIP2, "bzip2 file", _members("bzip2", _BZIP2, bz2.BZ2Decompressor, (OSError, ValueError))),
    (_ZSTD, "zstd file", _unzstd),
    (_LZMA, "lzma file", _members("lzma", _NEVER, _lzma_alone, (lzma.LZMAError,))),
    (b"\x04\x22\x4d\x18", "lz4 file", _refused("lz4", "unpack it with `lz4 -d`")),
    (b"\x02\x21\x4c\x18", "lz4 file", _refused("lz4", "unpack it with `lz4 -d`")),
    (b"\x89LZO\0\r\n\x1a\n", "lzo file", _refused("lzo", "unpack it with `lzop -d`")),
)  # fmt: skip
"""Magic number, name and unpacker."""


# --- what is known and is no kernel -----------------------------------------------------------------------------------

_OTHERS = (
    (0, b"ANDROID!", "an Android boot image", "take the kernel out with unpack_bootimg"),
    (0, b"\xd7\xb7\xab\x1e", "an Android table of device trees", "it is no kernel"),
    (0, b"VNDRBOOT", "an Android vendor boot image", "take the kernel out with unpack_bootimg"),
    (0, b"070701", "a cpio archive", "give it as ramdisk_path"),
    (0, b"070702", "a cpio archive", "give it as ramdisk_path"),
    (0, b"hsqs", "a squashfs file system", "it is no kernel"),
    (0x438, b"\x53\xef", "an ext4 file system", "it is no kernel"),
    (0x8001, b"CD001", "an ISO image", "take the kernel out of it"),
    (0, b"QFI\xfb", "a qcow2 disk image", "take the kernel out of it"),
    (0, b"KDMV", "a VMDK disk image", "take the kernel out of it"),
    (0x200, b"EFI PART", "a disk image", "take the kernel out of it"),
    (257, b"ustar", "a tar archive", "take the kernel out of it"),
    (0, b"PK\x03\x04", "a zip archive", "take the kernel out of it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "take the kernel out of it"),
    (0, b"!<arch>\n", "an archive (a .deb package, or a library)", "take the kernel out of it"),
    (0, b"\xed\xab\xee\xdb", "an RPM package", "take the kernel out of it"),
    (0, b"\xcf\xfa\xed\xfe", "a Mach-O file", "it is no kernel for these machines"),
    (0, b"version https://git-lfs", "a pointer to a file in Git LFS", "fetch the file itself with `git lfs pull`"),
    (0, b"<!DOCTYPE", "an HTML page", "the download went wrong: get the file itself"),
    (0, b"<html", "an HTML page", "the download went wrong: get the file itself"),
    (0, b"#!", "a script", "it is no kernel"),
    (0x24, b"\x18\x28\x6f\x01", "a zImage of 32-bit Arm", "guests are 64-bit"),
)  # fmt: skip
"""Offset, magic number, what it is, and what to do."""

_TEXTS = (
    (re.compile(rb":[0-9A-Fa-f]{10,}\r?\n"), "the text of an Intel HEX file", "ihex"),
    (re.compile(rb"S[0-3][0-9A-Fa-f]{8,}\r?\n"), "the text of an S-record file", "srec"),
)
"""First line, what it is, and objcopy's name for it."""


def refuse_others(data: bytes) -> None:
    """Refuse what is known and no kernel, before it would be taken for raw instructions.

    Raises:
        ImageError: it is; the text names it.
    """
    for at, magic, name, hint in _OTHERS:
        if data[at : at + len(magic)] == magic:
            raise ImageError(f"the image is {name}: {hint}")
    if data[:4] == b"\xd0\x0d\xfe\xed":
        if b"\0images\0" in data[:4096] or b"images\0" in data[:4096]:
            raise ImageError(
                "the image is a FIT image: take the kernel out with `dumpimage -T flat_dt -p 0 -o Image FILE`"
            )
        raise ImageError("the image is a device tree blob: give it as dtb_path")
    if is_source(data):
        raise ImageError("the image is the text of a device tree: compile it with dtc and give it as dtb_path")
    for pattern, name, source in _TEXTS:
        if pattern.match(data):
            raise ImageError(f"the image is {name}: convert it with `objcopy -I {source} -O binary FILE Image`")
    if data[:2] == b"MZ" and not _has_linux_header(data):
        at = int.from_bytes(data[0x3C:0x40], "little")
        if data[at : at + 4] == b"PE\0\0":
            if b".linux\0\0" in data[at : at + 4096]:
                raise ImageError(
                    "the image is a unified kernel image (UKI): take the kernel out with "
                    "`objcopy -O binary --only-section=.linux`"
                )
            raise ImageError("the image is an EFI application, no kernel: there is no EFI firmware here")


def _has_linux_header(data: bytes) -> bool:
    """Whether the file that looks like an EFI application is Linux as well, which its own header tells."""
    return data[0x38:0x3C] in (b"ARM\x64", b"RSC\x05") or data[0x202:0x206] == b"HdrS"
