"""What a guest image is, judged by its own header: architecture, where it wants to lie, how much memory it needs."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ..errors import ImageError
from .wrappers import MAX_IMAGE, unwrap

_MAX_SEGMENTS = 64
_LINUX_HEADER = 64
_LINUX_BANNER = b"Linux version "
BZIMAGE = "Linux bzImage (x86_64)"
_ELF_MACHINES = {"EM_RISCV": "riscv64", "EM_AARCH64": "aarch64", "EM_X86_64": "x86_64"}


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of an image.

    Args:
        address: offset from the load address, or an absolute GPA for ELF.
        data: its bytes.
        size: bytes of memory it needs, at least as many; the rest is zero.
    """

    address: int
    data: bytes
    size: int


@dataclass(frozen=True, slots=True)
class LinuxHeader:
    """What the header of a Linux Image says of its place.

    Args:
        text_offset: bytes from an aligned base to where it must lie.
        image_size: bytes of memory that it takes, 0 where an old kernel does not say.
        flags: as its architecture defines them.
    """

    text_offset: int
    image_size: int
    flags: int


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A guest image.

    Args:
        kind: for people: "Linux Image (riscv64)", "ELF", "raw binary".
        arch: architecture by its header, None when it says nothing.
        segments: what to copy.
        absolute: True when segment addresses are GPAs, as in ELF.
        entry: GPA of the first instruction, where the image says so.
        header: of a Linux Image; None for anything else.
        wrappers: what was taken off it, outermost first.
    """

    kind: str
    arch: str | None
    segments: tuple[Segment, ...]
    absolute: bool = False
    entry: int | None = None
    header: LinuxHeader | None = None
    wrappers: tuple[str, ...] = ()

    @property
    def is_linux(self) -> bool:
        """Whether it holds Linux's banner, or is packed in Linux's own way; others have the header of an Image too."""
        return self.kind == BZIMAGE or any(_LINUX_BANNER in segment.data for segment in self.segments)


def inspect(data: bytes) -> KernelImage:
    """What an image is.

    Raises:
        ImageError: it is empty, or its own header is contradictory.
    """
    if not data:
        raise ImageError("the image is empty")
    inner = unwrap(data)
    image = _understood(inner.data)
    return replace(image, wrappers=inner.layers)


def _understood(data: bytes) -> KernelImage:
    if data[:4] == b"\x7fELF":
        return _elf(data)
    for read in (_riscv_linux, _arm64_linux, _x86_linux):
        image = read(data)
        if image is not None:
            return image
    return KernelImage("raw binary", None, (Segment(0, data, len(data)),))


def _u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _riscv_linux(data: bytes) -> KernelImage | None:
    """Linux, Documentation/arch/riscv/boot-image-header.rst."""
    if len(data) < _LINUX_HEADER or data[0x38:0x3C] != b"RSC\x05":
        return None
    return _linux("riscv64", data)


def _arm64_linux(data: bytes) -> KernelImage | None:
    """Linux, Documentation/arch/arm64/booting.rst."""
    if len(data) < _LINUX_HEADER or data[0x38:0x3C] != b"ARM\x64":
        return None
    return _linux("aarch64", data)


def _x86_linux(data: bytes) -> KernelImage | None:
    """Linux, Documentation/arch/x86/boot.rst."""
    if data[0x202:0x206] != b"HdrS":
        return None
    return KernelImage(BZIMAGE, "x86_64", (Segment(0, data, len(data)),))


def _linux(arch: str, data: bytes) -> KernelImage:
    """Both headers have text_offset, image_size and flags at the same places."""
    header = LinuxHeader(_u64(data, 0x08), _u64(data, 0x10), _u64(data, 0x18))
    if header.image_size > MAX_IMAGE:
        raise ImageError(f"the Linux header asks for {header.image_size:#x} bytes of memory")
    segment = Segment(0, data, max(header.image_size, len(data)))
    return KernelImage(f"Linux Image ({arch})", arch, (segment,), header=header)


def _elf(data: bytes) -> KernelImage:
    try:
        elf = ELFFile(io.BytesIO(data))
        if elf.elfclass != 64 or not elf.little_endian:
            order = "little" if elf.little_endian else "big"
            raise ImageError(f"the ELF file is {elf.elfclass}-bit, {order}-endian; guests are 64-bit, little-endian")
        arch = _ELF_MACHINES.get(elf["e_machine"])
        if arch is None:
            raise ImageError(f"the ELF file is for {elf['e_machine']}; guests are {', '.join(_ELF_MACHINES.values())}")
        if elf.num_segments() > _MAX_SEGMENTS:
            raise ImageError(f"the ELF file has {elf.num_segments()} segments; {_MAX_SEGMENTS} are the limit")
        segments = []
        total = 0
        for segment in elf.iter_segments("PT_LOAD"):
            start, size, memory = segment["p_offset"], segment["p_filesz"], segment["p_memsz"]
            if start + size > len(data) or memory < size or memory > MAX_IMAGE:
                raise ImageError(f"the ELF segment at {segment['p_paddr']:#x} is damaged: it lies outside the file")
            total += memory
            # Segments may name the same bytes again and again: bound their sum, not only each of them.
            if total > MAX_IMAGE:
                raise ImageError(f"the ELF file's segments need more than {MAX_IMAGE:#x} bytes together")
            if memory:
                segments.append(Segment(segment["p_paddr"], data[start : start + size], memory))
        entry = _physical(
            elf["e_entry"], [(s["p_vaddr"], s["p_paddr"], s["p_memsz"]) for s in elf.iter_segments("PT_LOAD")]
        )
    except (ELFError, KeyError, ValueError, OverflowError, UnicodeDecodeError) as error:
        raise ImageError(f"the ELF file is damaged: {error}") from None
    if not segments:
        raise ImageError("the ELF file has nothing to load: an object file has to be linked first")
    return KernelImage("ELF", arch, tuple(segments), absolute=True, entry=entry)


def _physical(entry: int, segments: list[tuple[int, int, int]]) -> int:
    """The entry as a physical address, when it is given as a virtual one."""
    for virtual, physical, size in segments:
        if virtual <= entry < virtual + size:
            return entry - virtual + physical
    return entry
