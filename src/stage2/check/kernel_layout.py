"""What is wrong with the image of a hypervisor, or with where it lies: the rules S2101 to S2111.

Sections, segments and symbols are held against what AxVisor's linker script demands (`hypervisor.layout.AXVISOR`), and
the whole image against the host: its RAM, its devices, and the memory that VMs have at fixed addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..address import Range, is_aligned
from ..config.platform import PlatformConfig
from ..hypervisor.image import Image, Section
from ..hypervisor.layout import AXVISOR, COMPUTED, FIRST, LAST, Demand, KernelLayout, copy_size
from .finding import Finding, Location, Party, Rule, Severity

OVERLAP = Rule(
    "S2101", Severity.ERROR, "parts of the image overlap",
    "Whoever is loaded last wins, and the other part is damaged before the first instruction.",
)  # fmt: skip
ALIGNMENT = Rule(
    "S2102", Severity.ERROR, "a part of the image is not aligned",
    "A page holds two parts then, and has the rights of both.",
)  # fmt: skip
ORDER = Rule(
    "S2103", Severity.ERROR, "parts of the image are not in the linker script's order",
    "The start and end symbols enclose something else than the hypervisor's code takes for granted.",
)  # fmt: skip
MISSING = Rule(
    "S2104", Severity.ERROR, "a symbol or section of the linker script is missing",
    "The hypervisor asks for it when it maps itself, and does not start.",
)  # fmt: skip
WX_SEGMENT = Rule(
    "S2105", Severity.ERROR, "a segment is writable and executable",
    "Whoever can write to the hypervisor's data can make it run what he wrote.",
)  # fmt: skip
WX_SECTION = Rule(
    "S2106", Severity.ERROR, "a section is writable and executable",
    "Whoever can write to the hypervisor's data can make it run what he wrote.",
)  # fmt: skip
TBSS_IN_FILE = Rule(
    "S2107", Severity.WARNING, ".tbss occupies bytes of the file",
    "Thread-local data that begins as zero is stored as zeros, and shifts what stands behind it.",
)  # fmt: skip
PERCPU_SMALL = Rule(
    "S2108", Severity.ERROR, "the per-CPU area is smaller than a copy for each CPU",
    "The last CPUs' variables lie in what follows, mostly in .bss, and are overwritten.",
)  # fmt: skip
BEYOND_RAM = Rule(
    "S2109", Severity.ERROR, "the image reaches beyond the host's RAM",
    "The loader has nowhere to put it: the machine does not start.",
)  # fmt: skip
IN_VM_MEMORY = Rule(
    "S2110", Severity.ERROR, "the image lies in a VM's identical memory",
    "The guest can read and change the hypervisor.",
)  # fmt: skip
IN_DEVICE = Rule(
    "S2111", Severity.ERROR, "the image lies in the window of a device",
    "Reads and writes of the hypervisor's own memory reach the device.",
)  # fmt: skip

RULES = (
    OVERLAP, ALIGNMENT, ORDER, MISSING, WX_SEGMENT, WX_SECTION, TBSS_IN_FILE, PERCPU_SMALL, BEYOND_RAM, IN_VM_MEMORY,
    IN_DEVICE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Claim:
    """Host memory that a VM has at a fixed address.

    Args:
        name: `VM linux, RAM ram0`.
        span: its HPAs.
        location: where it is declared.
    """

    name: str
    span: Range
    location: Location | None = None


def check_image(image: Image, layout: KernelLayout, *, axvisor: bool = False) -> list[Finding]:
    """What is wrong with an image in itself.

    Args:
        image: the ELF file.
        layout: the same, as parts in memory.
        axvisor: what AxVisor's linker script demands is demanded, whatever the image's symbols.
    """
    demanded = axvisor or image.is_axvisor
    found = [*_overlaps(image), *_loads(image), *_writable_code(image), *_tbss(image)]
    found += _missing(image, demanded=demanded)
    if demanded:
        found += [*_alignments(image), *_order(image), *_enclosed(image, layout), *_percpu(image, layout)]
    else:
        found += _section_alignments(image)
    return found


def check_place(layout: KernelLayout, platform: PlatformConfig | None, claims: Sequence[Claim] = ()) -> list[Finding]:
    """What is wrong with where a kernel lies on a host.

    Args:
        layout: where it lies.
        platform: the host; None where it is not known.
        claims: what VMs have at fixed addresses.
    """
    span = layout.hpa
    if span is None:
        return []
    who = Party(layout.title, span)
    at = (Location(layout.origin),) if layout.origin != COMPUTED else ()
    found = []
    if platform is not None:
        where = _base_of(platform)
        if not any(ram.covers(span) for ram in platform.memory):
            ram = ", ".join(str(part) for part in platform.memory)
            found.append(Finding(
                BEYOND_RAM, f"{who} is not in the host's RAM {ram}", (who,), None, at + where,
                "change kernel-base-paddr, or make the image smaller",
            ))  # fmt: skip
        windows = _windows(platform)
        for device in windows:
            if device.overlaps(span):
                other = Party("the device window", device)
                found.append(Finding(
                    IN_DEVICE, f"{who} overlaps {other} in {span.intersection(device)}", (who, other),
                    span.intersection(device), at + where, "move the image, or correct [devices]",
                ))  # fmt: skip
    for claim in claims:
        if claim.span.overlaps(span):
            other = Party(claim.name, claim.span)
            places = at if claim.location is None else (*at, claim.location)
            found.append(Finding(
                IN_VM_MEMORY, f"{who} overlaps {other} in {span.intersection(claim.span)}", (who, other),
                span.intersection(claim.span), places, "move the VM's memory, or the image",
            ))  # fmt: skip
    return found


def _base_of(platform: PlatformConfig) -> tuple[Location, ...]:
    """Where the platform file says where the kernel is."""
    if platform.file is None:
        return ()
    return (Location(platform.file, None if platform.kernel_place is None else platform.kernel_place.line),)


def _windows(platform: PlatformConfig) -> list[Range]:
    """Device windows, each once: virtio's and PCI's are often in `mmio-regions` too."""
    found: list[Range] = []
    for window in (*platform.mmio, *platform.virtio_mmio, *platform.pci_ranges):
        if not any(other.covers(window) for other in found):
            found.append(window)
    return found


# --- the rules one by one -----------------------------------------------------------------------------------------
def _section_party(section: Section) -> Party:
    return Party(f"section {section.name}", section.span, "HVA")


def _placed(image: Image) -> list[Section]:
    """Sections with memory of their own at their own address, in order; `.percpu` is linked at 0, and loaded elsewhere
    than that."""
    own = [s for s in image.sections if s.in_memory and not ("T" in s.flags and s.kind == "NOBITS")]
    return sorted((s for s in own if not (s.name == ".percpu" and s.start == 0)), key=lambda s: (s.start, s.end))


def _here(image: Image) -> tuple[Location, ...]:
    return (Location(image.file),)


def _overlaps(image: Image) -> Iterator[Finding]:
    reach: Section | None = None
    for section in _placed(image):
        if reach is not None and section.start < reach.end and section.kind != "NOTE" and reach.kind != "NOTE":
            first, second = _section_party(reach), _section_party(section)
            both = Range(section.start, min(reach.end, section.end))
            yield Finding(
                OVERLAP, f"{first} overlaps {second} in {both}", (first, second), both, _here(image),
                "correct the addresses in the linker script",
            )  # fmt: skip
        if reach is None or section.end > reach.end:
            reach = section


def _loads(image: Image) -> Iterator[Finding]:
    """Segments that are loaded over each other, though their virtual addresses may differ."""
    spans = sorted(Range.sized(segment.load, segment.size) for segment in image.segments if segment.size)
    for first, second in pairwise(spans):
        both = first.intersection(second)
        if both is not None:
            parties = Party("a LOAD segment", first), Party("a LOAD segment", second)
            yield Finding(
                OVERLAP, f"{parties[0]} overlaps {parties[1]} in {both}", parties, both, _here(image),
                "correct the load addresses (AT) in the linker script",
            )  # fmt: skip


def _writable_code(image: Image) -> Iterator[Finding]:
    for segment in image.segments:
        if "W" in segment.flags and "X" in segment.flags and segment.size:
            who = Party("a LOAD segment", Range(segment.start, segment.end), "HVA")
            yield Finding(
                WX_SEGMENT, f"{who} is writable and executable ({segment.flags})", (who,), None, _here(image),
                "link with separate segments for code and data (PHDRS, or -z separate-code)",
            )  # fmt: skip
    for section in image.sections:
        if section.in_memory and "W" in section.flags and "X" in section.flags:
            who = _section_party(section)
            yield Finding(
                WX_SECTION, f"{who} is writable and executable ({section.flags})", (who,), None, _here(image),
                "keep data out of it, and link without -N (--omagic), which makes code writable",
            )  # fmt: skip


def _tbss(image: Image) -> Iterator[Finding]:
    section = image.section(".tbss")
    if section is not None and section.file_size:
        who = _section_party(section)
        yield Finding(
            TBSS_IN_FILE, f"{who} has {section.file_size:#x} bytes in the file", (who,), None, _here(image),
            "declare it NOBITS (mark its contents `(NOLOAD)`, or keep initialised data out of it)",
        )  # fmt: skip


def _missing(image: Image, *, demanded: bool) -> Iterator[Finding]:
    """Errors for an image that is AxVisor's; one note for all others together."""
    symbols = [FIRST, *(s for d in AXVISOR for s in (d.start_symbol, d.end_symbol)), LAST]
    lacking = [f"symbol {name}" for name in symbols if name not in image.symbols]
    lacking += [f"section {name}" for name in dict.fromkeys(d.section for d in AXVISOR) if image.section(name) is None]
    if not demanded:
        if lacking:
            yield Finding(
                MISSING, f"not linked by AxVisor's script: {len(lacking)} of its symbols and sections are not there",
                locations=_here(image), severity=Severity.NOTE,
                fix="`stage2 layout --layout axvisor` demands them all",
            )  # fmt: skip
        return
    optional = {"section .tdata", "section .tbss"}
    for name in lacking:
        if name in optional:
            continue
        yield Finding(
            MISSING, f"{name} is missing", (Party(name),), None, _here(image), "define it in the linker script"
        )


def _aligned(image: Image, what: str, address: int, align: int) -> Iterator[Finding]:
    if not is_aligned(address, align):
        who = Party(what, Range(address, address + 1), "HVA")
        yield Finding(
            ALIGNMENT, f"{what} begins at {address:#x}, which is no multiple of {align:#x}", (who,), None, _here(image),
            f"write `. = ALIGN({align:#x});` before it",
        )  # fmt: skip


def _alignments(image: Image) -> Iterator[Finding]:
    for demand in AXVISOR:
        start = image.symbols.get(demand.start_symbol)
        if start is not None:
            yield from _aligned(image, f"{demand.name} ({demand.start_symbol})", start, demand.align)


def _section_alignments(image: Image) -> Iterator[Finding]:
    for section in _placed(image):
        yield from _aligned(image, f"section {section.name}", section.start, section.align)


def _order(image: Image) -> Iterator[Finding]:
    def place(demand: Demand) -> tuple[int, int] | None:
        start, end = image.symbols.get(demand.start_symbol), image.symbols.get(demand.end_symbol)
        return None if start is None or end is None else (start, end)

    known = [(demand, at) for demand in AXVISOR if (at := place(demand)) is not None]
    for demand, (start, end) in known:
        if end < start:
            who = Party(demand.name, Range(end, start), "HVA")
            yield Finding(
                ORDER, f"{demand.end_symbol} ({end:#x}) stands before {demand.start_symbol} ({start:#x})", (who,), None,
                _here(image), "correct the linker script",
            )  # fmt: skip
    for (first, (start, _)), (second, (then, _)) in pairwise(known):
        if then < start:
            parties = (
                Party(first.name, Range(start, start + 1), "HVA"),
                Party(second.name, Range(then, then + 1), "HVA"),
            )
            yield Finding(
                ORDER, f"{second.name} ({then:#x}) stands before {first.name} ({start:#x})", parties, None,
                _here(image), f"put {second.name} behind {first.name}",
            )  # fmt: skip


def _enclosed(image: Image, layout: KernelLayout) -> Iterator[Finding]:
    """Parts that `_skernel` and `_ekernel` leave out, and an entry point elsewhere than in the code."""
    first, last = image.symbols.get(FIRST), image.symbols.get(LAST)
    if first is not None and last is not None and first < last:
        whole = Range(first, last)
        for part in layout.parts:
            if not whole.covers(part.span):
                who = Party(part.name, part.span, "HVA")
                yield Finding(
                    ORDER, f"{who} is not within {FIRST} and {LAST}, {whole}", (who,), None, _here(image),
                    f"put it between {FIRST} and {LAST}",
                )  # fmt: skip
    text = layout.part(".text")
    # A multiboot header may give the entry as a physical address.
    spans = [] if text is None else [span for span in (text.span, text.hpa) if span is not None]
    if spans and not any(span.contains(image.entry) for span in spans):
        who = Party(".text", spans[0], "HVA")
        yield Finding(
            ORDER, f"the entry point {image.entry:#x} is not in {who}", (who,), None, _here(image),
            "name the code's first symbol with ENTRY(), and put .text.boot first in .text",
        )  # fmt: skip


def _percpu(image: Image, layout: KernelLayout) -> Iterator[Finding]:
    start, end = image.symbols.get("_percpu_start"), image.symbols.get("_percpu_end")
    one = copy_size(image)
    if start is None or end is None or end < start or not one:
        return
    needed = one * layout.smp
    if end - start < needed:
        who = Party("the per-CPU area", Range(start, end), "HVA")
        yield Finding(
            PERCPU_SMALL,
            f"{who} has {end - start:#x} bytes; {layout.smp} CPUs with {one:#x} bytes each need {needed:#x}",
            (who,), None, _here(image), "reserve ALIGN(size, 64) times SMP behind _percpu_start",
        )  # fmt: skip
