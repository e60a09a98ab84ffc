"""How the hypervisor's kernel lies in memory: its parts in order, where each is linked and loaded, what it may do.

The order is that of AxVisor's linker script. A layout is read from an image (`of_image`), or computed from a platform
when there is none (`of_platform`), so that checks, proofs and tables know what the hypervisor occupies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..address import KIB, MIB, SIZE_4K, Range, align_up
from ..config.platform import PlatformConfig
from ..errors import ConfigError
from ..flags import MappingFlags
from .image import Image, Section
from .percpu import CACHE_LINE

R = MappingFlags.READ
RW = R | MappingFlags.WRITE
RX = R | MappingFlags.EXECUTE


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
        waste: bytes between the part before it and this one.
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
        origin: the file it is from, or "computed".
    """

    parts: tuple[Part, ...]
    span: Range
    load: int | None
    smp: int
    origin: str

    @property
    def hpa(self) -> Range | None:
        """The physical addresses that the hypervisor occupies."""
        return None if self.load is None else Range.sized(self.load, self.span.size)

    @property
    def wasted(self) -> int:
        """Bytes between its parts."""
        return sum(part.waste for part in self.parts)

    def part(self, name: str) -> Part | None:
        """The part of a name."""
        return next((part for part in self.parts if part.name == name), None)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a kernel's parts in bytes, where no image says; the defaults are those of a typical AxVisor build."""

    text: int = 1 * MIB
    rodata: int = 256 * KIB
    data: int = 64 * KIB
    tdata: int = 0
    tbss: int = 0
    percpu: int = 4 * KIB
    boot_stack: int = 256 * KIB
    bss: int = 1 * MIB

    def of(self, name: str, smp: int) -> int:
        """Bytes of a part."""
        if name == ".percpu":
            return align_up(self.percpu, CACHE_LINE) * smp
        return int(getattr(self, name.removeprefix(".").replace(" ", "_")))


def of_platform(platform: PlatformConfig, *, smp: int = 1, sizes: Sizes | None = None) -> KernelLayout:
    """The layout of a kernel that nobody has linked yet, from the platform's base address.

    Args:
        platform: says where the kernel is (`kernel-base-paddr`, `kernel-base-vaddr`).
        smp: how many CPUs have a copy of `.percpu`.
        sizes: of its parts; typical ones by default.

    Raises:
        ConfigError: the platform does not say where the kernel is, or no CPU.
    """
    if platform.kernel_paddr is None:
        raise ConfigError(
            "has no kernel-base-paddr: where the hypervisor's kernel lies is not known", file=platform.file
        )
    if smp < 1:
        raise ConfigError(f"--smp {smp}: a machine has at least one CPU")
    wanted = sizes or Sizes()
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
        size = wanted.of(demand.name, smp)
        span = Range(start, start + size) if size else None
        if span is not None:
            parts.append(Part(demand.name, span, start - offset, demand.flags, demand.align, start - at, assumed=True))
            at = span.end
    return KernelLayout(tuple(parts), Range(base, align_up(at, SIZE_4K)), platform.kernel_paddr, smp, "computed")


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
        parts = [_from_section(section, platform) for section in _in_order(image.sections)]
    if not parts:
        raise ConfigError("nothing of it takes memory: no section is loaded", file=image.file)
    parts = _with_waste(parts)
    start = image.symbols.get(FIRST, parts[0].span.start)
    end = max(image.symbols.get(LAST, 0), *(part.span.end for part in parts), start + 1)
    span = Range(start, align_up(end, SIZE_4K))
    return KernelLayout(tuple(parts), span, load_address(start, image, platform), smp, image.file)


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


def _from_section(section: Section, platform: PlatformConfig | None) -> Part:
    flags = R
    flags |= MappingFlags.WRITE if "W" in section.flags else MappingFlags(0)
    flags |= MappingFlags.EXECUTE if "X" in section.flags else MappingFlags(0)
    load = section.load
    if platform is not None and platform.phys_virt_offset is not None:
        load = section.start - platform.phys_virt_offset
    return Part(section.name, section.span, load, flags, section.align)


def _in_order(sections: Sequence[Section]) -> list[Section]:
    """Sections that take memory of their own: `.tbss` takes none, it only says how much each thread gets."""
    own = [s for s in sections if s.in_memory and not ("T" in s.flags and s.kind == "NOBITS")]
    return sorted(own, key=lambda section: section.start)


def _with_waste(parts: list[Part]) -> list[Part]:
    found: list[Part] = []
    for part in sorted(parts, key=lambda part: (part.span.start, part.span.end)):
        gap = max(part.span.start - found[-1].span.end, 0) if found else 0
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


def load_address(address: int, image: Image, platform: PlatformConfig | None = None) -> int | None:
    """The HPA of a virtual address of an image: by the platform's offset, else by the program headers."""
    if platform is not None and platform.phys_virt_offset is not None:
        return address - platform.phys_virt_offset
    for segment in image.segments:
        if segment.start <= address < segment.end:
            return address - segment.start + segment.load
    # Zeroed thread-local data, and `.percpu` where it runs, are in no segment: they lie as far off as the image does.
    first = image.symbols.get(FIRST)
    if first is None or not first <= address < image.symbols.get(LAST, first):
        return None
    return next((address - s.start + s.load for s in image.segments if s.start <= first < s.end), None)
