"""Ranges and regions as JSON, wherever they are told: one shape for one thing."""

from __future__ import annotations

from typing import Any

from ..address import Range
from ..flags import MappingFlags, MapType
from .region import MemoryRegion


def range_json(space: str, span: Range) -> dict[str, Any]:
    """A range of addresses; `end` is the first one behind it."""
    return {"space": space, "start": span.start, "end": span.end}


def facts_json(map_type: MapType, flags: MappingFlags) -> dict[str, Any]:
    """What every region has, whoever tells of it: its type and what it allows, as in walks."""
    # Tables come with numpy, which what is shown as text does without.
    from ..tables.result import permission_text

    return {"type": map_type.value, "permissions": permission_text(int(flags.permissions))}


def region_facts(region: MemoryRegion) -> dict[str, Any]:
    """The same with where it is."""
    return {"range": range_json("GPA", region.range), **facts_json(region.map_type, region.flags)}


def region_type_json(map_type: MapType, flags: MappingFlags) -> dict[str, Any]:
    """A region's type and flags as every JSON has them: upstream's numbers, and the names beside them."""
    number = map_type.number
    return {
        "flags": int(flags),
        "flags_text": flags.short,
        "map_type": map_type.value if number is None else number,
        **facts_json(map_type, flags),
    }
