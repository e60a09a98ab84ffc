"""`stage2 map`: all that tables map, as ranges."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..errors import ConfigError
from .memory import Base, Core, RegisterValues, Source, StageRoots, Switched, inspected, parse_range, progress_bar
from .page import require_page
from .picture import require_svg

if TYPE_CHECKING:
    from ..inspect.inspection import Inspection
    from ..inspect.mapping import MapPart


def map_(
    source: Source,
    /,
    *,
    of: Literal["gva", "gpa"] | None = None,
    wx: Switched = False,
    user: Switched = False,
    device: Switched = False,
    span: Annotated[str | None, Parameter(name="--range")] = None,
    root: StageRoots = None,
    register: RegisterValues = None,
    base: Base = None,
    core: Core = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
    csv: Switched = False,
    svg: Path | None = None,
    html: Path | None = None,
) -> int:
    """List all that tables map: ranges GVA -> GPA -> HPA with permissions, sizes of leaves and memory types.

    Parameters
    ----------
    of
        Whose addresses: gva through stage 1 (and the stage 2 below it), gpa through stage 2 alone. Without it gva where
        a stage 1 is known.
    wx
        Only what is writable and executable, for anybody.
    user
        Only what user mode may access.
    device
        Only devices: what the tables map as device or uncached memory, and what is not in the memory at all.
    span
        Only these input addresses: START:SIZE or START-END.
    json_output
        Print one JSON object a line.
    csv
        Print comma-separated values.
    svg
        File that gets a picture of the map.
    html
        Page for browsers that gets the map, to look things up in.
    """
    from ..inspect.filters import Wanted
    from ..render.memory_json import map_json_lines
    from ..render.memory_map import csv_lines, map_lines

    if json_output and csv:
        raise ConfigError("--json and --csv: say one of them")
    wanted = Wanted(wx=wx, user=user, device=device)
    asked = None if span is None else parse_range("--range", span)
    require_svg(svg)
    require_page(html)
    with inspected(source, root, register, base, core) as found:
        kind = of or found.kind
        with progress_bar(f"reading the tables of {found.route(kind).roots[0].name}") as progress:
            parts = (wanted.of(part, found.source) for part in found.map_parts(kind, asked, progress))
            if svg is not None or html is not None:
                _draw(found, kind, parts, svg, html)
            else:
                lines = map_json_lines(parts) if json_output else csv_lines(parts) if csv else map_lines(parts)
                sys.stdout.writelines(line + "\n" for line in lines)
    return 0


def _draw(found: Inspection, kind: str, parts: Iterator[MapPart], svg: Path | None, html: Path | None) -> None:
    """Write the picture and the page of a map."""
    from ..inspect.filters import devices_in
    from ..inspect.mapping import gathered
    from ..render.memory_map_page import memory_map_page
    from ..render.picture.memory_axes import MOST_HELD
    from ..render.picture.memory_map import Drawing, memory_map_svg
    from ..whole_file import write_whole

    route = found.route(kind)
    held, left_out = gathered(parts, MOST_HELD)
    if held is None:
        raise ConfigError(f"nothing to draw: {route} maps nothing of what is asked for")
    roots = [f"{'GVAs' if root.stage == 1 else 'GPAs'} go through {root}" for root in route.roots]
    drawing = Drawing(found.source.name, roots, left_out)
    if svg is not None:
        write_whole(svg, memory_map_svg(held, drawing))
    if html is not None:
        write_whole(html, memory_map_page(held, devices_in(held, found.source), found.source.name, roots, left_out))
