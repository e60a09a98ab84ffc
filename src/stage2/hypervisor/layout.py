"""How the hypervisor's kernel lies in memory: its parts in order, where each is linked and loaded, what it may do.

The order is that of AxVisor's linker script. A layout is read from an image (`of_image`), or computed from a platform
when there is none (`of_platform`), so that checks, proofs and tables know what the hypervisor occupies.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..address import SIZE_2M, SIZE_4K, Range, align_down, align_up
from ..config.kernel_sizes import KernelSizes
from ..config.platform import PlatformConfig
from ..errors import ConfigError
from ..flags import MappingFlags

if TYPE_CHECKING:
    from .image import Image, Section

R = MappingFlags.READ
RW = R | MappingFlags.WRITE
RX = R | MappingFlags.EXECUTE
CACHE_LINE = 64
"""Per-CPU areas are a multiple of this apart, so that no two CPUs write to one line."""
COMPUTED = "computed"
"""The origin of a layout that no file has."""
_HVA_LIMIT = (1 << 64) - SIZE_4K


@dataclass(frozen=True, slots=True)
class Demand:
    """What AxVisor's linker script demands of one part.

    Args:
        name: of the part, mostly that of its section.
        flags: what the kernel may do there.
        align: of its start, in bytes.
        start_symbol, end_symbol: what the script calls its ends.
        section: the output section that it is, or is part of.
        why: what it holds, in a few words.
    """

    name: str
    flags: MappingFlags
    align: int
    start_symbol: str
    end_symbol: str
    section: str
    why: str


AXVISOR: tuple[Demand, ...] = (
    Demand(".text", RX, SIZE_4K, "_stext", "_etext", ".text", "code, .text.boot first"),
    Demand(".rodata", R, SIZE_4K, "_srodata", "_erodata", ".rodata", "constants"),
    Demand(".data", RW, SIZE_4K, "_sdata", "_edata", ".data", "initialised data, the boot page table, .got"),
    Demand(".tdata", RW, 16, "_stdata", "_etdata", ".tdata", "initial thread-local data"),
    Demand(".tbss", RW, 16, "_stbss", "_etbss", ".tbss", "zeroed thread-local data"),
    Demand(".percpu", RW, SIZE_4K, "_percpu_start", "_percpu_end", ".percpu", "per-CPU data, a copy for each CPU"),
    Demand("boot stack", RW, SIZE_4K, "boot_stack", "boot_stack_top", ".bss", "the first CPU's stack"),
    Demand(".bss", RW, SIZE_4K, "_sbss", "_ebss", ".bss", "zeroed data"),
)
"""The parts in order (AxVisor's scripts/lds/linker.lds.S)."""
FIRST, LAST = "_skernel", "_ekernel"
INNER = frozenset({".tdata", ".tbss", ".percpu"})
"""Parts that lie before `_edata`, so inside what `_sdata` and `_edata` enclose."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the kernel in memory.

    Args:
        name: `.text`, `boot stack`.
        span: its virtual addresses.
        load: HPA of its first byte; None where nothing tells.
        flags: what the kernel may do there.
        align: what its start is to be a multiple of.
        waste: bytes between the part before it and this one, if they stand together (less than 2 MiB apart).
        assumed: its size is not known but taken.
    """

    name: str
    span: Range
    load: int | None
    flags: MappingFlags
    align: int
    waste: int = 0
    assumed: bool = False

    @property
    def hpa(self) -> Range | None:
        """Its physical addresses."""
        return None if self.load is None else Range.sized(self.load, self.span.size)


@dataclass(frozen=True, slots=True)
class KernelLayout:
    """Where the kernel is.

    Args:
        parts: in order of their virtual addresses; none overlap in a sound image.
        span: all of it, from `_skernel` to `_ekernel`, whole pages.
        load: HPA of the first byte; None where neither image nor platform tells.
        smp: how many CPUs have a copy of `.percpu`.
        origin: the file it is from, or `COMPUTED`.
    """

    parts: tuple[Part, ...]
    span: Range
    load: int | None
    smp: int
    origin: str

    @property
    def title(self) -> str:
        """What it is called where it is one party among others."""
        return "the hypervisor's image" + (" (computed)" if self.origin == COMPUTED else "")

    @property
    def hpa(self) -> Range | None:
        """The physical addresses that the hypervisor occupies; from the first to the last of them, if its parts are
        loaded apart."""
        if self.load is None:
            return None
        spans = [found for part in self.parts if (found := part.hpa) is not None]
        offset = self.span.start - self.load
        if all(part.load is None or part.span.start - part.load == offset for part in self.parts):
            return Range.sized(self.load, self.span.size)
        start, end = min(span.start for span in spans), max(span.end for span in spans)
        return Range(align_down(start, SIZE_4K), align_up(end, SIZE_4K))

    @property
    def wasted(self) -> int:
        """Bytes between its parts."""
        return sum(part.waste for part in self.parts)

    def part(self, name: str) -> Part | None:
        """The part of a name."""
        return next((part for part in self.parts if part.name == name), None)


def of_platform(platform: PlatformConfig, *, smp: int | None = None, sizes: KernelSizes | None = None) -> KernelLayout:
    """The layout of a kernel that nobody has linked yet, from the platform's base address.

    Args:
        platform: says where the kernel is (`kernel-base-paddr`, `kernel-base-vaddr`).
        smp: how many CPUs have a copy of `.percpu`; as the sizes say by default.
        sizes: of its parts; those of the platform by default.

    Raises:
        ConfigError: the platform does not say where the kernel is, or it reaches beyond 64 bits.
    """
    if platform.kernel_paddr is None:
        raise ConfigError(
            "has no kernel-base-paddr, so where the hypervisor's kernel lies is not known: add it to [plat]",
            file=platform.file,
        )
    wanted = sizes or platform.kernel_sizes
    copies = wanted.smp if smp is None else smp
    base = (
        platform.kernel_paddr + (platform.phys_virt_offset or 0)
        if platform.kernel_vaddr is None
        else platform.kernel_vaddr
    )
    offset = base - platform.kernel_paddr
    parts: list[Part] = []
    at = base
    for demand in AXVISOR:
        # The script ends .text and .rodata on a page: no page has the rights of two parts.
        apart = bool(parts) and parts[-1].flags != demand.flags
        start = align_up(at, max(demand.align, SIZE_4K if apart else 1))
        field = demand.name.removeprefix(".").replace(" ", "_")
        size = int(getattr(wanted, field))
        if demand.name == ".percpu":
            size = align_up(size, CACHE_LINE) * copies
        if not size:
            continue
        if start + size >= _HVA_LIMIT:
            raise ConfigError(
                f"the hypervisor's kernel at {base:#x} reaches beyond 64-bit addresses: kernel-base-vaddr or "
                "phys-virt-offset is too high",
                file=platform.file,
            )
        assumed = field not in wanted.given
        parts.append(
            Part(demand.name, Range.sized(start, size), start - offset, demand.flags, demand.align, start - at, assumed)
        )
        at = start + size
    end = align_up(max(at, base + 1), SIZE_4K)
    return KernelLayout(tuple(parts), Range(base, end), platform.kernel_paddr, copies, COMPUTED)


def of_image(
    image: Image, platform: PlatformConfig | None = None, *, smp: int = 1, axvisor: bool = False
) -> KernelLayout:
    """The layout of an image, by the linker script's symbols, or by its sections where it is not AxVisor's.

    Args:
        image: the ELF file.
        platform: gives load addresses through its offset; without one the program headers do.
        smp: how many CPUs `.percpu` has copies for.
        axvisor: take it for AxVisor's even if `_skernel` is missing.

    Raises:
        ImageError, ConfigError: nothing of it takes memory.
    """
    parts = _by_symbols(image, platform) if axvisor or image.is_axvisor else []
    if not parts:
        parts = [*_by_sections(image, platform), *_without_section(image, platform)]
    if not parts:
        raise ConfigError("nothing of it takes memory: no section is loaded", file=image.file)
    parts = _with_waste(parts)
    start = image.symbols.get(FIRST, parts[0].span.start)
    end = max(image.symbols.get(LAST, 0), *(part.span.end for part in parts), start + 1)
    span = Range(start, align_up(end, SIZE_4K))
    return KernelLayout(tuple(parts), span, load_address(start, image, platform), smp, image.file)


def open_image(
    path: str | os.PathLike[str],
    platform: PlatformConfig | None = None,
    *,
    arch: str | None = None,
    smp: int | None = None,
    axvisor: bool = False,
) -> tuple[Image, KernelLayout]:
    """An image in a file, with its layout on a host.

    Args:
        path: the ELF file.
        platform: the host; None where it is not known.
        arch: the architecture that the machine is known to have besides; None for any.
        smp: how many CPUs `.percpu` has copies for; as the platform says by default, else 1.
        axvisor: as for `of_image`.

    Raises:
        ImageError, ConfigError: it cannot be read, is no ELF file, a damaged one, or one for another architecture.
    """
    from .image import read_image

    image = read_image(path)
    if platform is not None and platform.arch not in (None, image.arch):
        raise ConfigError(f"{image.file} is for {image.arch}, and the platform {platform.file} is {platform.arch}")
    if arch not in (None, image.arch):
        raise ConfigError(f"{image.file} is for {image.arch}, and --arch says {arch}")
    copies = smp or (1 if platform is None else platform.kernel_sizes.smp)
    return image, of_image(image, platform, smp=copies, axvisor=axvisor)


def _by_symbols(image: Image, platform: PlatformConfig | None) -> list[Part]:
    """Parts whose two symbols are there; `.data` ends where the first part inside it begins."""
    found = []
    for demand in AXVISOR:
        start, end = image.symbols.get(demand.start_symbol), image.symbols.get(demand.end_symbol)
        if start is None or end is None or end <= start:
            continue
        if demand.name == ".data":
            inside = [
                image.symbols[d.start_symbol] for d in AXVISOR if d.name in INNER and d.start_symbol in image.symbols
            ]
            end = min([end, *(address for address in inside if address > start)])
        found.append(
            Part(demand.name, Range(start, end), load_address(start, image, platform), demand.flags, demand.align)
        )
    return found


def _by_sections(image: Image, platform: PlatformConfig | None) -> list[Part]:
    """A part for each section that takes memory of its own: `.tbss` takes none, it only says how much each thread gets.

    `.percpu` is linked at 0; it lies where it is loaded.
    """
    found = []
    for section in image.sections:
        if not section.in_memory or ("T" in section.flags and section.kind == "NOBITS"):
            continue
        load, start = section_load(section, image, platform), section.start
        if section.name == ".percpu" and start == 0 and load is not None:
            start = load + _offset(image)
        found.append(Part(section.name, Range.sized(start, section.size), load, _flags(section.flags), section.align))
    return found


def _without_section(image: Image, platform: PlatformConfig | None) -> list[Part]:
    """What segments have behind their last section: memory that the loader zeroes, or all of an image without any."""
    found = []
    for segment in image.segments:
        inside = [s.end for s in image.sections if s.in_memory and segment.start <= s.start and s.end <= segment.end]
        start = max(inside, default=segment.start)
        if start < segment.end:
            span, load = Range(start, segment.end), load_address(start, image, platform)
            found.append(Part("no section", span, load, _flags(segment.flags), 1))
    return found


def _flags(letters: str) -> MappingFlags:
    return R | (RW if "W" in letters else R) | (RX if "X" in letters else R)


def _offset(image: Image) -> int:
    """Virtual minus physical address of the image as linked."""
    return next((s.start - s.load for s in image.segments if s.start <= image.entry < s.end), 0)


def _with_waste(parts: list[Part]) -> list[Part]:
    found: list[Part] = []
    for part in sorted(parts, key=lambda part: (part.span.start, part.span.end)):
        gap = max(part.span.start - found[-1].span.end, 0) if found else 0
        gap = gap if gap < SIZE_2M else 0
        found.append(Part(part.name, part.span, part.load, part.flags, part.align, gap, part.assumed))
    return found


def copy_size(image: Image) -> int:
    """Bytes of one CPU's copy of `.percpu`, as far apart as copies lie; 0 without any.

    AxVisor's script makes the section as large as all copies together; a symbol marks the end of the first one.
    """
    section = image.section(".percpu")
    if section is None or not section.size:
        return 0
    first, last = image.symbols.get("_percpu_load_start"), image.symbols.get("_percpu_load_end")
    marked = None if first is None or last is None else last - first
    return align_up(marked if marked and 0 < marked <= section.size else section.size, CACHE_LINE)


def section_load(section: Section, image: Image, platform: PlatformConfig | None = None) -> int | None:
    """The HPA of a section: by the platform, else by the program headers; None for what takes no memory."""
    if "A" not in section.flags:
        return None
    if section.name == ".percpu" and section.start == 0:
        return section.load
    placed = _by_platform(section.start, image, platform)
    return section.load if placed is None and not image.movable else placed


def load_address(address: int, image: Image, platform: PlatformConfig | None = None) -> int | None:
    """The HPA of a virtual address of an image: by the platform, else by the program headers.

    An image that may be loaded anywhere has one on a platform only, from kernel-base-paddr on.
    """
    placed = _by_platform(address, image, platform)
    if placed is not None or image.movable:
        return placed
    for segment in image.segments:
        if segment.start <= address < segment.end:
            return address - segment.start + segment.load
    # Zeroed thread-local data, and `.percpu` where it runs, are in no segment: they lie as far off as the image does.
    first = image.symbols.get(FIRST)
    if first is None or not first <= address < image.symbols.get(LAST, first):
        return None
    return next((address - s.start + s.load for s in image.segments if s.start <= first < s.end), None)


def _by_platform(address: int, image: Image, platform: PlatformConfig | None) -> int | None:
    """By the platform's offset; None where it says nothing, or where that would be before the first HPA, as it is for
    what is linked at physical addresses."""
    if platform is None:
        return None
    if image.movable:
        return None if platform.kernel_paddr is None else address + platform.kernel_paddr
    if platform.phys_virt_offset is None or address < platform.phys_virt_offset:
        return None
    return address - platform.phys_virt_offset
