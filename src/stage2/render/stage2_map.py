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
            f"{piece.span.start:#x}",
            f"{piece.span.end:#x}",
            text(piece.kind.value, _STYLES[piece.kind]),
            piece.flags.short if piece.flags else "",
            _host_address(piece),
            range_reason(piece),
        )
        for piece in found.pieces[:_MAX_PIECES]
    ]
    parts: list[RenderableType] = [
        text(f"Stage-2 map of {title}", "bold"),
        indented(facts([("window", f"{format_size(found.window.size)}: {found.window_reason}")])),
        Text(),
        indented(table(("GPA", "end", "kind", "flags", "HPA", "why"), rows, right=("GPA", "end", "HPA"))),
    ]
    if len(found.pieces) > len(rows):
        parts.append(indented(text(f"and {len(found.pieces) - len(rows):,} more (--json has all)")))
    parts += [text(f"Conflict: {one.message}{_places(one.places)}", "red") for one in found.conflicts]
    parts += [text(str(notice)) for notice in found.notices]
    return stack(parts)


def range_reason(piece: MapRange) -> str:
    """Who has a range, and why, with the places that say so."""
    assumed = " (assumed)" if piece.assumed else ""
    return f"{piece.name}: {piece.reason}{assumed}{_places(piece.places)}"


def _places(places: Sequence[AnyPlace]) -> str:
    return f" [{', '.join(str(place) for place in places)}]" if places else ""


def _host_address(piece: MapRange) -> str:
    if piece.hpa is None:
        return "any" if piece.kind is RangeKind.RAM else ""
    return "= GPA" if piece.hpa == piece.span.start else f"{piece.hpa:#x}"


def map_json(found: Stage2Map) -> Json:
    """A map as a JSON object."""
    return {
        "window": range_json("GPA", found.window),
        "window_reason": found.window_reason,
        "ranges": [map_range_json(piece) for piece in found.pieces],
        "mappings": [
            {
                "range": range_json("GPA", piece.span),
                "hpa": piece.hpa,
                "kind": piece.kind.value,
                "flags_text": piece.flags.short,
            }
            for piece in found.mappings
        ],
        "conflicts": [_conflict_json(conflict) for conflict in found.conflicts],
        "notices": [
            {"file": notice.place.file, "line": notice.place.line, "key": notice.place.key, "text": notice.text}
            for notice in found.notices
        ],
    }


def map_range_json(piece: MapRange) -> Json:
    """A range of a map as a JSON object."""
    return {
        "range": range_json("GPA", piece.span),
        "size": piece.span.size,
        "kind": piece.kind.value,
        "hpa": piece.hpa,
        "flags": int(piece.flags),
        "flags_text": piece.flags.short,
        "name": piece.name,
        "reason": piece.reason,
        "assumed": piece.assumed,
        "step": piece.step,
        "places": [_place_json(place) for place in piece.places],
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
