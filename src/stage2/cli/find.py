"""`stage2 find`: the roots of tables in a memory."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from ..errors import ConfigError
from .memory import Base, Source, open_memory_source, progress_bar

_MOST = 32


def find(
    source: Source,
    /,
    *,
    formats: Annotated[list[str] | None, Parameter(name="--format", negative="")] = None,
    arch: Literal["riscv64", "aarch64", "x86_64"] | None = None,
    most: int = _MOST,
    registers: bool = True,
    base: Base = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Find the roots of tables in a memory, of every format, best first, each with a score and its reasons.

    Parameters
    ----------
    formats
        Look for this format alone (arm-s2-4k-40, sv48x4, ept4). May be given several times.
    arch
        Look for the formats of this architecture alone; without it the source's, or all where it tells none.
    most
        How many roots are told.
    registers
        Take the source's registers into account: what they name comes first, and which roots are alive is told.
    json_output
        Print JSON instead of text.
    """
    from ..inspect.find.finder import find as search
    from ..render.found_roots import found_json, render_found
    from ..render.json_text import json_text
    from ..render.plain import plain
    from ..render.tables import print_renderable

    if most < 1:
        raise ConfigError(f"--most {most}: at least one root is to be told")
    with open_memory_source(source, base) as memory, progress_bar("looking over the memory") as progress:
        found = search(
            memory, formats=tuple(formats or ()), arch=arch, most=most, registers=registers, progress=progress
        )
    for notice in found.notices:
        print(f"stage2: notice: {plain(notice)}", file=sys.stderr)
    if json_output:
        print(json_text("find", found_json(found)))
    else:
        print_renderable(render_found(found, source))
    return 0
