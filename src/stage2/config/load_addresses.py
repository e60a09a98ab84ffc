"""Whether a guest's entry point and load addresses are in memory that is fit for them."""

from __future__ import annotations

from collections.abc import Sequence

from ..address import Range
from ..flags import MappingFlags, MapType
from ..place import Rewrite
from ..ranges import RangeMap
from ..space.region import MemoryRegion
from .conflict import Claim, ConflictError, Refuse, raise_it
from .kernel_config import KernelConfig
from .locator import hex_groups
from .wording import shown


def check_addresses(
    kernel: KernelConfig, regions: Sequence[MemoryRegion], refuse: Refuse = raise_it, *, written: KernelConfig
) -> None:
    """Check the addresses of `[kernel]`.

    Args:
        kernel: they are in.
        regions: the guest's memory; where they overlap, the first one counts.
        written: the same as the file has it, before anything moved.
        refuse: what is done with an entry point that is not executable memory, or a load address that is no RAM.
    """
    index: RangeMap[MemoryRegion] = RangeMap(merge=False)
    for region in regions:
        if not index.overlapping(region.range):
            index.add(region.range, region)
    if problem := _entry_problem(kernel.entry_point, index, regions):
        claim = Claim("entry point", kernel.entry_place, Range.sized(kernel.entry_point, 1))
        told = f"entry point {kernel.entry_point:#x} is {problem}"
        begin = kernel.kernel.load_addr
        fits = begin is not None and not _entry_problem(begin, index, regions)
        meant = written.kernel.load_addr
        rewrite = Rewrite(kernel.entry_place, hex_groups(meant)) if meant is not None and fits else None
        refuse(ConflictError("entry-point", told, (claim,), rewrite=rewrite))
    for image in kernel.images:
        if image.load_addr is not None and (problem := _load_problem(image.load_addr, index, regions)):
            claim = Claim(image.role, image.place, Range.sized(image.load_addr, 1))
            told = f"the {image.role} is to be loaded at {image.load_addr:#x}, {problem}"
            refuse(ConflictError("load-address", told, (claim,)))


def _entry_problem(entry: int, index: RangeMap[MemoryRegion], regions: Sequence[MemoryRegion]) -> str:
    """Why a guest cannot begin at an address; empty where it can."""
    found = index.find(entry)
    if found is None:
        return f"outside the guest's memory; {_ram_list(regions)}"
    if not found[1].map_type.may_execute:
        return f"in {_named(found[1])}; {_ram_list(regions)}"
    if not found[1].flags & MappingFlags.EXECUTE:
        return (
            f"in {_named(found[1])}, which is not executable ({found[1].flags.short}): "
            "add flag bit 2 (0x4) to the region"
        )
    return ""


def _load_problem(address: int, index: RangeMap[MemoryRegion], regions: Sequence[MemoryRegion]) -> str:
    """Why nothing can be loaded at an address; empty where it can."""
    found = index.find(address)
    if found is None:
        return f"outside the guest's memory; {_ram_list(regions)}"
    if found[1].map_type is MapType.ROM:
        return f"in {_named(found[1])}: a ROM holds the image that [[rom]] names and no other"
    return "" if found[1].map_type.is_ram else f"in {_named(found[1])}; {_ram_list(regions)}"


def _named(region: MemoryRegion) -> str:
    return f"{region.map_type.noun} {shown(region.label)} {region.range} of {region.place}"


def _ram_list(regions: Sequence[MemoryRegion]) -> str:
    ram = [str(region.range) for region in regions if region.map_type.is_ram]
    if not ram:
        return "it has no RAM at all"
    return "its RAM is " + ", ".join(ram[:4]) + (f" and {len(ram) - 4} more" if len(ram) > 4 else "")
