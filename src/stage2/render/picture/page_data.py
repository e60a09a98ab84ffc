"""What a page of a memory map knows, as JSON: spaces, host memory and owners, and the tables where there are some."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from ...address import Range
from ...processor import Processor
from ...prove.world import World
from ...space.region import MemoryRegion
from ..plain import plain
from ..walk import owner_text, region_text
from .entries import LEAST_RUNS, MOST_RUNS
from .page_tables import Shapes, Tabled, tabled
from .parties import Kind, Party, Space

MOST_OWNERS = 16_384
"""Limit: ranges of host memory of which the owner is told."""
NO_ADDRESS = "No host memory is behind it."
_UNCHOSEN = "Memory that has no one address yet may come to lie there too."


def page_tables(world: World, processors: Sequence[Processor | None], shapes: Shapes) -> list[Tabled]:
    """The tables of all VMs of a world, as much as there is room for.

    Args:
        world: it.
        processors: what the tables of each are for.
        shapes: gets what is said of their entries.
    """
    most = max(LEAST_RUNS, MOST_RUNS // max(1, len(world.vms)))
    return [tabled(vm, processor, shapes, most) for vm, processor in zip(world.vms, processors, strict=True)]


def page_data(
    vms: Sequence[Space],
    host: Sequence[Party],
    regions: Sequence[Sequence[MemoryRegion]],
    world: World | None,
    tables: Sequence[Tabled],
    shapes: Shapes,
) -> str:
    """The JSON, which can stand in an element of HTML.

    Args:
        vms, host: what is drawn.
        regions: what each VM declares.
        world: its tables and owners; None where there are no tables.
        tables, shapes: of `page_tables`; none where there are no tables.
    """
    owners, owners_until = _owners(world)
    data = {
        "kinds": {kind.name.lower(): kind.value for kind in Kind},
        "vms": [
            {
                "title": plain(vm.title),
                "parties": [_party(party) for party in vm.parties],
                "regions": [
                    [*_span(one.range), plain(region_text(one))] for one in sorted(mine, key=lambda one: one.start)
                ],
                "tables": tables[number].data if tables else None,
            }
            for number, (vm, mine) in enumerate(zip(vms, regions, strict=True))
        ],
        "host": [_party(party) for party in host],
        "owners": owners,
        "ownersUntil": owners_until,
        "shapes": shapes.listed,
        "undeclared": region_text(None),
        "nowhere": NO_ADDRESS,
        "unchosen": _UNCHOSEN,
    }
    # Nothing of it ends the element that it stands in, whatever a name says.
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _owners(world: World | None) -> tuple[list[list[str]] | None, str | None]:
    """Who owns which host memory, and from where on that is left out."""
    if world is None or world.owners is None:
        return None, None
    every = [(span, owner_text(str(owner))) for span, owner in world.owners]
    until = f"{every[MOST_OWNERS][0].start:x}" if len(every) > MOST_OWNERS else None
    return [[*_span(span), plain(said)] for span, said in every[:MOST_OWNERS]], until


def _party(party: Party) -> dict[str, Any]:
    return {
        "span": _span(party.span),
        "kind": party.kind.name.lower(),
        "name": plain(party.name),
        "behind": [
            {
                "gpa": _span(link.gpa),
                "hpa": None if link.hpa is None else _span(link.hpa),
                "said": plain(link.chosen),
                "scattered": link.scattered,
            }
            for link in party.behind
        ],
    }


def _span(span: Range) -> list[str]:
    return [f"{span.start:x}", f"{span.end:x}"]


def left_out(titles: Iterable[str], tables: Sequence[Tabled]) -> list[str]:
    """What a page does not have, a sentence for each VM of which something is missing."""
    return [f"{title}: {one.left_out}" for title, one in zip(titles, tables, strict=False) if one.left_out]
