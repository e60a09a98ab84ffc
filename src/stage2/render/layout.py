"""A kernel's layout as tables, JSON and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType

from ..address import Range, align_up
from ..check.finding import Finding
from ..config.platform import PlatformConfig
from ..flags import MappingFlags
from ..hypervisor.image import Image
from ..hypervisor.layout import AXVISOR, CACHE_LINE, KernelLayout, Part, section_load
from .bands import Band, Column, bands_svg
from .findings import finding_json, render_findings
from .plain import about, counted
from .tables import facts, stack, table, text

_MAX_SYMBOLS = 40
_KINDS = {".percpu": "per-cpu", "boot stack": "stack"}


def render_layout(layout: KernelLayout, image: Image | None, findings: Sequence[Finding]) -> RenderableType:
    """The parts of a kernel, what they cost in alignment, and what is wrong with them."""
    rows = [
        ("from", layout.origin if image is not None else f"the platform's base address; {_sizes(layout)}"),
        ("addresses", f"{layout.span}, {about(layout.span.size)}"),
        ("loaded at", _loaded(layout, image)),
        ("alignment", f"{about(layout.wasted)} lie unused between the parts"),
        ("CPUs", f"{layout.smp} cop{'y' if layout.smp == 1 else 'ies'} of .percpu"),
    ]
    if image is not None:
        what = f"ELF{image.bits} for {image.arch}, entry {image.entry:#x}"
        script = "AxVisor's linker script" if image.is_axvisor else "not AxVisor's linker script"
        rows.insert(1, ("image", f"{what}, {counted(len(image.symbols), 'symbol')}, {script}"))
    parts: list[RenderableType] = [text("The hypervisor's kernel", "bold"), facts(rows), text("")]
    parts.append(table(
        ("part", "start", "end", "size", "load", "rights", "align", "unused before"),
        [_row(part) for part in layout.parts],
        right=("size", "align", "unused before"),
    ))  # fmt: skip
    if image is not None and image.segments:
        parts += [text(""), text("Segments", "bold"), table(
            ("start", "end", "load", "in file", "rights", "align"),
            [
                (f"{s.start:#x}", f"{s.end:#x}", f"{s.load:#x}", f"{s.file_size:#x}", s.flags or "-", f"{s.align:#x}")
                for s in image.segments
            ],
        )]  # fmt: skip
    if findings:
        parts += [text(""), render_findings(findings)]
    return stack(parts)


def _sizes(layout: KernelLayout) -> str:
    assumed = sum(part.assumed for part in layout.parts)
    if assumed == len(layout.parts):
        return "sizes are assumed"
    return "some sizes are assumed" if assumed else "sizes as the platform file says"


def _loaded(layout: KernelLayout, image: Image | None) -> str:
    if layout.hpa is not None:
        return f"HPA {layout.hpa}"
    movable = image is not None and image.movable
    return "wherever its loader puts it" if movable else "nobody says where: give the host with --platform"


def _row(part: Part) -> tuple[str, ...]:
    return (
        part.name, f"{part.span.start:#x}", f"{part.span.end:#x}",
        f"{part.span.size:#x}" + (" assumed" if part.assumed else ""),
        "?" if part.load is None else f"{part.load:#x}", rights(part.flags), f"{part.align:#x}", f"{part.waste:#x}",
    )  # fmt: skip


def rights(flags: MappingFlags) -> str:
    """`R-X`, `RW-`."""
    letters = ((MappingFlags.READ, "R"), (MappingFlags.WRITE, "W"), (MappingFlags.EXECUTE, "X"))
    return "".join(letter if flags & flag else "-" for flag, letter in letters)


def layout_json(
    layout: KernelLayout,
    image: Image | None,
    findings: Sequence[Finding],
    platform: PlatformConfig | None = None,
) -> dict[str, Any]:
    """The same for programs: sections, symbols and segments of the image, or the computed parts as sections.

    Args:
        layout: of the image, or computed.
        image: the ELF file, if there is one.
        findings: what is wrong.
        platform: where the image is loaded, if that is known.
    """
    found: dict[str, Any] = {
        "file": None if image is None else image.file,
        "arch": None if image is None else image.arch,
        "start": layout.span.start,
        "end": layout.span.end,
        "load": layout.load,
        "smp": layout.smp,
        "wasted": layout.wasted,
        "sections": [],
        "symbols": {},
        "segments": [],
        "parts": [
            {
                "name": part.name, "start": part.span.start, "end": part.span.end, "load": part.load,
                "size": part.span.size, "align": part.align, "flags": rights(part.flags), "unused_before": part.waste,
                "assumed": part.assumed,
            }
            for part in layout.parts
        ],
        "findings": [finding_json(finding) for finding in findings],
    }  # fmt: skip
    if image is None:
        found["sections"] = [
            {key: part[key] for key in ("name", "start", "end", "load", "size", "align", "flags", "assumed")}
            for part in found["parts"]
        ]
        found["symbols"] = _computed_symbols(layout)
        return found
    found["sections"] = [
        {
            "name": s.name, "start": s.start, "end": s.end, "load": section_load(s, image, platform), "size": s.size,
            "align": s.align, "flags": s.flags, "file_size": s.file_size, "type": s.kind,
        }
        for s in image.sections
    ]  # fmt: skip
    found["symbols"] = dict(sorted(image.symbols.items(), key=lambda item: (item[1], item[0])))
    found["segments"] = [
        {
            "start": s.start, "end": s.end, "load": s.load, "size": s.size, "file_size": s.file_size, "align": s.align,
            "flags": s.flags,
        }
        for s in image.segments
    ]  # fmt: skip
    return found


def _computed_symbols(layout: KernelLayout) -> dict[str, int]:
    """What the linker script would define at the ends of the computed parts."""
    found = {"_skernel": layout.span.start}
    for demand in AXVISOR:
        part = layout.part(demand.name)
        if part is not None:
            found[demand.start_symbol], found[demand.end_symbol] = part.span.start, part.span.end
    return found | {"_ekernel": layout.span.end}


def layout_svg(layout: KernelLayout, findings: Sequence[Finding] = ()) -> str:
    """The picture: the parts in virtual memory; the bytes that alignment leaves unused are bands too."""
    bands: list[Band] = []
    for part in layout.parts:
        if bands and part.span.start < bands[-1].span.end:
            continue
        if part.waste and bands:
            gap = Range(part.span.start - part.waste, part.span.start)
            bands.append(Band(gap, "gap", "unused"))
        note = "" if part.load is None else f"{rights(part.flags)}  HPA {part.load:#x}"
        if part.name == ".percpu" and layout.smp > 1:
            note += f"  {layout.smp} CPUs of {align_up(part.span.size // layout.smp, CACHE_LINE):#x}"
        bands.append(Band(part.span, _kind(part), part.name, note, _is_marked(part, findings)))
    title = f"Kernel layout: {layout.origin if layout.origin != 'computed' else f'computed, {_sizes(layout)}'}"
    return bands_svg(
        title,
        (Column("hypervisor virtual addresses", tuple(bands)),),
        description=f"{counted(len(layout.parts), 'part')} in {layout.span}.",
    )


def _kind(part: Part) -> str:
    if part.name in _KINDS:
        return _KINDS[part.name]
    if part.flags & MappingFlags.EXECUTE:
        return "code"
    return "data" if part.flags & MappingFlags.WRITE else "constants"


def _is_marked(part: Part, findings: Sequence[Finding]) -> bool:
    parties = (party for finding in findings for party in finding.parties)
    return any(party.name in (part.name, f"section {part.name}") for party in parties)
