"""What is found in a memory, as JSON objects: mappings, translations, who reaches what, and what changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ..inspect.difference import Change, Difference
from ..inspect.kinds import Kind
from ..inspect.mapping import MapPart, MapRange
from ..inspect.reach import Reach
from ..inspect.through import NOWHERE
from ..inspect.translate import Translation
from ..tables.result import Fault, permission_text
from .json_text import with_hex


def json_line(found: dict[str, Any]) -> str:
    """An object as one line, with hexadecimal text beside addresses."""
    return json.dumps(with_hex(found), separators=(", ", ": "))


def map_range_json(found: MapRange) -> dict[str, Any]:
    """One range of a map; null where there is no such address."""
    return {"gva": found.gva, "gpa": found.gpa, "hpa": found.hpa, "size": found.size, **_kind_json(found)}


def _kind_json(found: MapRange | Kind) -> dict[str, Any]:
    """What is said of the leaves of a range."""
    return {
        "permissions": permission_text(found.permissions),
        "leaf": found.leaf,
        "memory_type": found.memory_type,
    }


def map_json_lines(parts: Iterable[MapPart]) -> Iterator[str]:
    """A line of JSON a range; millions take seconds."""
    for part in parts:
        kinds, which = part.kinds()
        rest = [json.dumps(_kind_json(kind))[1:] for kind in kinds]
        empty = '"gva": null, "gva_hex": null, ' if part.first is None else '"gpa": null, "gpa_hex": null, '
        for start, middle, output, size, kind in part.told_numbers(which):
            hpa = f'"hpa": {output}, "hpa_hex": "{hex(output)}"'
            if output == NOWHERE:
                hpa = '"hpa": null, "hpa_hex": null'
            if part.first is None:
                head = f'{empty}"gpa": {start}, "gpa_hex": "{hex(start)}"'
            elif part.second is None:
                head = f'"gva": {start}, "gva_hex": "{hex(start)}", {empty[:-2]}'
            else:
                head = f'"gva": {start}, "gva_hex": "{hex(start)}", "gpa": {middle}, "gpa_hex": "{hex(middle)}"'
            yield f'{{{head}, {hpa}, "size": {size}, {rest[kind]}'


def translation_json(found: Translation) -> dict[str, Any]:
    """Where one address leads; null where there is none."""
    return {
        "input": found.input,
        "gpa": found.gpa,
        "hpa": found.hpa,
        "permissions": found.allows,
        "fault": None if found.fault is None else fault_text(found.fault),
    }


def fault_text(fault: Fault) -> str:
    """Why addresses do not translate, without one of them."""
    return fault.what() + (" (reading a stage-1 table)" if fault.on_table else "") + f": {fault.kind.meaning}"


def reach_json(found: Reach) -> dict[str, Any]:
    """One range of addresses that reach what was asked for."""
    return {
        "root": found.root.regime.root,
        "format": found.root.regime.format.name,
        "gva": found.range.gva,
        "gpa": found.range.gpa,
        "hpa": found.range.hpa,
        "size": found.range.size,
        "permissions": found.range.allows,
        "name": found.root.name,
    }


def difference_json(found: Difference) -> dict[str, Any]:
    """What was added, removed and changed."""
    return {
        "added": [map_range_json(one) for one in found.added],
        "removed": [map_range_json(one) for one in found.removed],
        "changed": [_change_json(one) for one in found.changed],
        "same_bytes": found.same,
    }


def _change_json(change: Change) -> dict[str, Any]:
    return {
        **map_range_json(change.after),
        "before": map_range_json(change.before),
        "what": list(change.what),
    }
