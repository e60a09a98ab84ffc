"""`stage2 diff`: how the mappings of two memories, or of two moments of one, differ."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from .memory import Base, Core, RegisterValues, StageRoots, inspected, parse_range


def diff(
    before: Annotated[str, Parameter(name="A", show_default=False)],
    after: Annotated[str, Parameter(name="B", show_default=False)],
    /,
    *,
    of: Literal["gva", "gpa"] | None = None,
    span: Annotated[str | None, Parameter(name="--range")] = None,
    root: StageRoots = None,
    root_b: Annotated[list[str] | None, Parameter(name="--root-b", negative="")] = None,
    register: RegisterValues = None,
    base: Base = None,
    core: Core = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Tell which mappings were added, removed, or changed in permission, target, size of leaves or memory type.

    Parameters
    ----------
    before, after
        Two sources of any kind that `stage2 map` takes: two dumps, two snapshots, a dump and the running machine.
    of
        Whose addresses are compared: gva or gpa. Without it gva where the first knows a stage 1.
    span
        Only these input addresses: START:SIZE or START-END.
    root_b
        The same for the second source.
    json_output
        Print JSON instead of text.
    """
    from ..render.json_text import json_text
    from ..render.memory_json import difference_json
    from ..render.memory_map import render_difference
    from ..render.tables import print_renderable

    asked = None if span is None else parse_range("--range", span)
    with (
        inspected(before, root, register, base, core) as first,
        inspected(after, root_b or root, register, base, core) as second,
    ):
        found = first.difference(second, of, asked)
        if json_output:
            print(json_text("diff", difference_json(found)))
        else:
            print_renderable(render_difference(found))
    return 0
