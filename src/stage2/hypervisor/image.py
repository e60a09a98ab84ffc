"""A hypervisor's image as its ELF file tells of it: sections, segments, symbols."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ..address import Range
from ..errors import ImageError

MAX_FILE = 256 << 20
"""Bytes of a file that are read, also once it is unpacked."""
MAX_SECTIONS = 4096
MAX_SYMBOLS = 1_000_000
_ARCHITECTURES = {"EM_X86_64": "x86_64", "EM_386": "x86_64", "EM_AARCH64": "aarch64", "EM_RISCV": "riscv64"}
"""An ELF32 of the 80386 is how a 64-bit hypervisor is packed for a multiboot loader."""
_SHF_WRITE, _SHF_ALLOC, _SHF_EXECINSTR, _SHF_TLS = 1, 2, 4, 1 << 10
_FLAG_LETTERS = ((_SHF_ALLOC, "A"), (_SHF_WRITE, "W"), (_SHF_EXECINSTR, "X"), (_SHF_TLS, "T"))
_PF_X, _PF_W, _PF_R = 1, 2, 4
_DAMAGED = (ELFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError, AssertionError)
"""What pyelftools raises on a file that lies about itself."""
_SYMBOL_TYPES = frozenset({"STT_NOTYPE", "STT_OBJECT", "STT_FUNC", "STT_TLS"})


@dataclass(frozen=True, slots=True)
class Section:
    """A section.

    Args:
        name: its name.
        start: its virtual address, as linked.
        size: bytes in memory.
        load: the physical address that a segment, or the platform's offset, gives it; None where nothing does.
        align: what its address is to be a multiple of; 1 for anything.
        flags: of `A` (takes memory), `W` (writable), `X` (executable), `T` (thread-local).
        file_size: bytes in the file; 0 for what is only zeroed.
        kind: the ELF type without its prefix: `PROGBITS`, `NOBITS`.
    """

    name: str
    start: int
    size: int
    load: int | None
    align: int
    flags: str
    file_size: int
    kind: str

    @property
    def end(self) -> int:
        return self.start + self.size

    @property
    def in_memory(self) -> bool:
        """Whether it takes memory when the image runs."""
        return "A" in self.flags and self.size > 0

    @property
    def span(self) -> Range:
        """Its virtual addresses."""
        return Range(self.start, self.end)


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header of type LOAD.

    Args:
        start: virtual address.
        load: physical address.
        size: bytes in memory.
        file_size: bytes in the file.
        align: page size that it counts on.
        flags: of `R`, `W`, `X`.
    """

    start: int
    load: int
    size: int
    file_size: int
    align: int
    flags: str

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class Image:
    """A hypervisor's image.

    Args:
        file: as the user named it.
        arch: "x86_64", "aarch64" or "riscv64".
        bits: 32 or 64, of the file's own layout.
        entry: virtual address of the first instruction.
        sections: all but the empty first one, in the file's order.
        segments: what is loaded, in the file's order.
        symbols: name to value; of names that occur several times, the first global one.
        percpu: the bytes of `.percpu`, which every CPU's area begins with.
        movable: it is linked at 0 to be loaded anywhere, and moves itself.
    """

    file: str
    arch: str
    bits: int
    entry: int
    sections: tuple[Section, ...]
    segments: tuple[Segment, ...]
    symbols: dict[str, int]
    percpu: bytes = b""
    movable: bool = False

    def section(self, name: str) -> Section | None:
        """The section of a name."""
        return next((section for section in self.sections if section.name == name), None)

    @property
    def is_axvisor(self) -> bool:
        """Whether it was linked by AxVisor's script, as its first symbol says."""
        return "_skernel" in self.symbols


def is_elf(path: Path) -> bool:
    """Whether a file begins as an ELF file, or as a gzip-packed one, does."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(4) == b"\x7fELF" or path.suffix == ".gz"
    except OSError:
        return False


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read an ELF file, or a gzip-packed one.

    Raises:
        ImageError: it cannot be read, is no ELF file, is damaged, or is of no architecture known here.
    """
    name = os.fspath(path)
    data = _bytes_of(Path(path))
    if data[:2] == b"MZ":
        raise ImageError("is a PE file (EFI): give the ELF file that it was made from", file=name)
    if data[:4] != b"\x7fELF":
        raise ImageError("is no ELF file: the hypervisor's image as the linker wrote it is wanted", file=name)
    try:
        return _read(ELFFile(BytesIO(data)), name, len(data))
    except ImageError:
        raise
    except _DAMAGED as error:
        why = "an offset or a size in it is too large" if isinstance(error, OverflowError) else str(error)
        raise ImageError(f"is a damaged ELF file: {why or type(error).__name__}", file=name) from None


def _bytes_of(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ImageError("is a folder or a device: a file is wanted", file=str(path))
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}", file=str(path)) from None
    if not data:
        raise ImageError("is empty", file=str(path))
    if data[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(wbits=31)
        try:
            data = unpacker.decompress(data, MAX_FILE + 1)
        except zlib.error as error:
            raise ImageError(f"is a damaged gzip file: {error}", file=str(path)) from None
        if not unpacker.eof and len(data) <= MAX_FILE:
            raise ImageError("is a damaged gzip file: it is cut short", file=str(path))
    if len(data) > MAX_FILE:
        raise ImageError(f"is larger than {MAX_FILE >> 20} MiB, which no hypervisor's image is", file=str(path))
    return data


def _read(elf: ELFFile, name: str, file_bytes: int) -> Image:
    arch = _require_known(elf, name)
    if elf.num_sections() > MAX_SECTIONS or elf.num_segments() > MAX_SECTIONS:
        raise ImageError(
            f"has {elf.num_sections()} sections and {elf.num_segments()} segments. Limit: {MAX_SECTIONS}", file=name
        )
    segments = tuple(_segment(found) for found in elf.iter_segments() if found["p_type"] == "PT_LOAD")
    sections = tuple(_section(found, segments) for found in elf.iter_sections() if found["sh_type"] != "SHT_NULL")
    _require_addresses(sections, segments, name)
    percpu = elf.get_section_by_name(".percpu")
    size = 0 if percpu is None or percpu["sh_type"] == "SHT_NOBITS" else percpu["sh_size"]
    if size > file_bytes:
        raise ImageError(f"is a damaged ELF file: .percpu of {size:#x} bytes is larger than the file", file=name)
    content = b"" if percpu is None or not size else bytes(percpu.data())
    movable = elf["e_type"] == "ET_DYN" and min((s.load for s in segments if s.size), default=1) == 0
    return Image(name, arch, elf.elfclass, elf["e_entry"], sections, segments, _symbols(elf, name), content, movable)


def _require_addresses(sections: Sequence[Section], segments: Sequence[Segment], name: str) -> None:
    """Refuse what would reach beyond 64-bit addresses."""
    ends = [(f"section {section.name}", section.end) for section in sections if section.in_memory]
    ends += [("a LOAD segment", max(segment.end, segment.load + segment.size)) for segment in segments]
    for what, end in ends:
        if end > 1 << 64:
            raise ImageError(f"is a damaged ELF file: {what} reaches beyond 64-bit addresses", file=name)


def _require_known(elf: ELFFile, name: str) -> str:
    """The architecture of an image that can be looked at.

    Raises:
        ImageError: it is of another architecture or width, or no linked program.
    """
    machine = elf["e_machine"]
    arch = _ARCHITECTURES.get(machine)
    what = str(machine).removeprefix("EM_") if isinstance(machine, str) else f"machine number {machine}"
    if arch is None:
        known = ", ".join(sorted(set(_ARCHITECTURES.values())))
        raise ImageError(f"is an ELF file for {what}: images for {known} are known", file=name)
    if elf.elfclass == 32 and machine != "EM_386":
        raise ImageError(f"is a 32-bit ELF file for {what}: a 64-bit one is wanted", file=name)
    if not elf.little_endian:
        raise ImageError("is a big-endian ELF file: a little-endian one is wanted", file=name)
    kinds = {"ET_REL": "is an object file: link it first", "ET_CORE": "is a core dump, not an image"}
    if elf["e_type"] in kinds:
        raise ImageError(kinds[elf["e_type"]], file=name)
    return arch


def _segment(found: Any) -> Segment:
    flags = "".join(letter for bit, letter in ((_PF_R, "R"), (_PF_W, "W"), (_PF_X, "X")) if found["p_flags"] & bit)
    return Segment(
        found["p_vaddr"], found["p_paddr"], found["p_memsz"], found["p_filesz"], max(found["p_align"], 1), flags
    )


def _section(found: Any, segments: tuple[Segment, ...]) -> Section:
    flags, start, size = found["sh_flags"], found["sh_addr"], found["sh_size"]
    nobits = found["sh_type"] == "SHT_NOBITS"
    load = None
    if flags & _SHF_ALLOC:
        inside = (s for s in segments if s.start <= start and start + size <= s.end and s.size)
        holder = next(inside, None)
        load = None if holder is None else start - holder.start + holder.load
    kind = str(found["sh_type"]).removeprefix("SHT_")
    letters = "".join(letter for bit, letter in _FLAG_LETTERS if flags & bit)
    return Section(found.name, start, size, load, max(found["sh_addralign"], 1), letters, 0 if nobits else size, kind)


def _symbols(elf: ELFFile, name: str) -> dict[str, int]:
    """Defined symbols of the full table, global ones before local ones of the same name."""
    found: dict[str, tuple[bool, int]] = {}
    for section in elf.iter_sections():
        if not isinstance(section, SymbolTableSection) or section["sh_type"] != "SHT_SYMTAB":
            continue
        if section.num_symbols() > MAX_SYMBOLS:
            raise ImageError(f"has {section.num_symbols()} symbols. Limit: {MAX_SYMBOLS}", file=name)
        for symbol in section.iter_symbols():
            # `$x`, `$d` tell a disassembler code from data (AAELF64, 5.5.4 "Mapping symbols"); they name nothing.
            if not symbol.name or symbol.name.startswith("$") or symbol["st_shndx"] == "SHN_UNDEF":
                continue
            if symbol["st_info"]["type"] not in _SYMBOL_TYPES:
                continue
            is_global = symbol["st_info"]["bind"] != "STB_LOCAL"
            if symbol.name not in found or (is_global and not found[symbol.name][0]):
                found[symbol.name] = is_global, symbol["st_value"]
    return {symbol: value for symbol, (_, value) in found.items()}
