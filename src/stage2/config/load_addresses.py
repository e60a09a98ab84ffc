"""Whether a guest's entry point and load addresses are in memory that is fit for them."""

from __future__ import annotations

from collections.abc import Sequence

from ..flags import MappingFlags, MapType
from ..ranges import RangeMap
from ..space.region import MemoryRegion
from .document import shown
from .kernel_config import GuestImage, KernelConfig


def check_addresses(kernel: KernelConfig, regions: Sequence[MemoryRegion]) -> None:
    """Check the addresses of `[kernel]`.

    Raises:
        ConfigError: the entry point is not executable memory, or a load address is no RAM.
    """
    index: RangeMap[MemoryRegion] = RangeMap(merge=False)
    for region in regions:
        index.add(region.range, region)
    found = index.find(kernel.entry_point)
    problem = f"entry point {kernel.entry_point:#x} is"
    if found is None:
        raise kernel.entry_place.error(f"{problem} outside the guest's memory; {_ram_list(regions)}")
    if not found[1].map_type.may_execute:
        raise kernel.entry_place.error(f"{problem} in {_named(found[1])}; {_ram_list(regions)}")
    if not found[1].flags & MappingFlags.EXECUTE:
        raise kernel.entry_place.error(
            f"{problem} in {_named(found[1])}, which is not executable ({found[1].flags.short}): "
            "add flag bit 2 (0x4) to the region"
        )
    for image in kernel.images:
        _check_image(image, index, regions)


def _check_image(image: GuestImage, index: RangeMap[MemoryRegion], regions: Sequence[MemoryRegion]) -> None:
    if image.load_addr is None:
        return
    found = index.find(image.load_addr)
    problem = f"the {image.role} is to be loaded at {image.load_addr:#x},"
    if found is None:
        raise image.place.error(f"{problem} outside the guest's memory; {_ram_list(regions)}")
    if found[1].map_type is MapType.ROM:
        raise image.place.error(
            f"{problem} in {_named(found[1])}: a ROM holds the image that [[rom]] names and no other"
        )
    if not found[1].map_type.is_ram:
        raise image.place.error(f"{problem} in {_named(found[1])}; {_ram_list(regions)}")


def _named(region: MemoryRegion) -> str:
    return f"{region.map_type.noun} {shown(region.label)} {region.range} of {region.place}"


def _ram_list(regions: Sequence[MemoryRegion]) -> str:
    ram = [str(region.range) for region in regions if region.map_type.is_ram]
    if not ram:
        return "it has no RAM at all"
    return "its RAM is " + ", ".join(ram[:4]) + (f" and {len(ram) - 4} more" if len(ram) > 4 else "")
