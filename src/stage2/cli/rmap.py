"""`stage2 rmap`: which addresses reach some memory."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from ..errors import ConfigError
from .memory import Base, Core, RegisterValues, Roots, Source, inspected, parse_range, progress_bar


def rmap(
    source: Source,
    /,
    *,
    hpa: str | None = None,
    gpa: str | None = None,
    root: Roots = None,
    register: RegisterValues = None,
    base: Base = None,
    core: Core = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Tell which GVAs and GPAs reach some memory, through all roots of tables that are known.

    Parameters
    ----------
    hpa
        The memory, by host physical address: ADDRESS, START:SIZE or START-END.
    gpa
        In place of --hpa: the memory by guest physical address, of the stage 2 that each stage 1 is under.
    root
        FORMAT@ADDRESS[,control=value], once a stage; without it all roots that registers and source tell, and if those
        tell none, all likely ones that `stage2 find` finds.
    json_output
        Print one JSON object a line.
    """
    from ..render.memory_json import json_line, reach_json
    from ..render.memory_map import reach_lines

    if (hpa is None) == (gpa is None):
        raise ConfigError("say which memory is meant: one of --hpa and --gpa")
    by_hpa = None if hpa is None else parse_range("--hpa", hpa)
    by_gpa = None if gpa is None else parse_range("--gpa", gpa)
    with inspected(source, root, register, base, core) as found:
        with progress_bar("reading tables") as progress:
            reached = list(found.reach(hpa=by_hpa, gpa=by_gpa, progress=progress))
        if json_output:
            sys.stdout.writelines(json_line(reach_json(one)) + "\n" for one in reached)
        else:
            sys.stdout.writelines(line + "\n" for line in reach_lines(reached))
            if not reached:
                print(f"Nothing reaches {hpa or gpa} through {', '.join(one.name for one in found.roots)}.")
    return 0
