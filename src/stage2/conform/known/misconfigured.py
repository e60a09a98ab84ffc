"""Which entry is to blame for a misconfiguration."""

from __future__ import annotations

from ...formats.outcome import FaultKind
from ...tables.explain import Step, Walk
from ...tables.result import Fault


def misconfigured(walk: Walk) -> Step | None:
    """The step that ended the walk, if it was a misconfigured entry, of either stage."""
    fault = walk.result
    if not isinstance(fault, Fault) or fault.kind is not FaultKind.MISCONFIGURATION:
        return None
    last = walk.steps[-1]
    return last.under[-1] if last.stage == 1 and fault.stage == 2 else last


def misconfigured_at_stage_2(walk: Walk) -> Step | None:
    """The same, if the entry was one of stage 2."""
    last = misconfigured(walk)
    return last if last is not None and last.stage == 2 else None
