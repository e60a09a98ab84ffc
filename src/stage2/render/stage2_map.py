"""The stage-2 map that will be, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from ..address import format_size
from ..forecast.map_ranges import AnyPlace, Conflict, MapRange, RangeKind, Stage2Map
from ..images.host_parts import TreePlace
from ..space.json_shapes import range_json
from .tables import facts, indented, stack, table, text

Json = dict[str, object]

_MAX_PIECES = 1000
"""Limit: rows of one table that are printed; JSON has them all."""
_STYLES = {RangeKind.RAM: "green", RangeKind.PASSTHROUGH: "yellow", RangeKind.HOLE: "dim"}


def render_map(found: Stage2Map, title: str) -> RenderableType:
    """A map: every range with its reason, then why upstream would refuse the VM, and what else is to be known.

    Args:
        found: the map.
        title: whose it is.
    """
    rows = [
        (
            f"{one.span.start:#x}",
            f"{one.span.end:#x}",
            text(one.kind.value, _STYLES[one.kind]),
            one.flags.short if one.flags else "",
            _host_address(one),
            range_reason(one),
        )
        for one in found.ranges[:_MAX_PIECES]
    ]
    parts: list[RenderableType] = [
        text(f"Stage-2 map of {title}", "bold"),
        indented(facts([("window", f"{format_size(found.window.size)}: {found.window_reason}")])),
        Text(),
        indented(table(("GPA", "end", "kind", "flags", "HPA", "why"), rows, right=("GPA", "end", "HPA"))),
    ]
    if len(found.ranges) > len(rows):
        parts.append(indented(text(f"and {len(found.ranges) - len(rows):,} more (--json has all)")))
    parts += [text(f"Conflict: {one.message}{_places(one.places)}", "red") for one in found.conflicts]
    parts += [text(str(notice)) for notice in found.notices]
    return stack(parts)


def range_reason(one: MapRange) -> str:
    """Who has a range, and why, with the places that say so."""
    assumed = " (assumed)" if one.assumed else ""
    return f"{one.name}: {one.reason}{assumed}{_places(one.places)}"


def _places(places: Sequence[AnyPlace]) -> str:
    return f" [{', '.join(str(place) for place in places)}]" if places else ""


def _host_address(one: MapRange) -> str:
    if one.hpa is None:
        return "any" if one.kind is RangeKind.RAM else ""
    return "= GPA" if one.hpa == one.span.start else f"{one.hpa:#x}"


def map_json(found: Stage2Map) -> Json:
    """A map as a JSON object."""
    return {
        "window": range_json("GPA", found.window),
        "window_reason": found.window_reason,
        "ranges": [map_range_json(one) for one in found.ranges],
        "mappings": [
            {
                "range": range_json("GPA", one.span),
                "hpa": one.hpa,
                "kind": one.kind.value,
                "flags_text": one.flags.short,
            }
            for one in found.mappings
        ],
        "conflicts": [_conflict_json(conflict) for conflict in found.conflicts],
        "notices": [
            {"file": notice.place.file, "line": notice.place.line, "key": notice.place.key, "text": notice.text}
            for notice in found.notices
        ],
    }


def map_range_json(one: MapRange) -> Json:
    """A range of a map as a JSON object."""
    return {
        "range": range_json("GPA", one.span),
        "size": one.span.size,
        "kind": one.kind.value,
        "hpa": one.hpa,
        "flags": int(one.flags),
        "flags_text": one.flags.short,
        "name": one.name,
        "reason": one.reason,
        "assumed": one.assumed,
        "step": one.step,
        "places": [_place_json(place) for place in one.places],
    }


def _conflict_json(conflict: Conflict) -> Json:
    return {
        "message": conflict.message,
        "parties": [{"name": name, "range": range_json("GPA", span)} for name, span in conflict.parties],
        "overlap": None if conflict.overlap is None else range_json("GPA", conflict.overlap),
        "places": [_place_json(place) for place in conflict.places],
    }


def _place_json(place: AnyPlace) -> Json:
    if isinstance(place, TreePlace):
        return {"file": place.file, "line": None, "node": place.path}
    return {"file": place.file, "line": place.line, "node": None}
