"""Which entry of stage 2 is to blame for a misconfiguration."""

from __future__ import annotations

from ...formats.outcome import FaultKind
from ...tables.explain import Step, Walk
from ...tables.result import Fault


def misconfigured_at_stage_2(walk: Walk) -> Step | None:
    """The step that ended the walk, if stage 2 ended it by a misconfigured entry."""
    fault = walk.result
    if not isinstance(fault, Fault) or fault.stage != 2 or fault.kind is not FaultKind.MISCONFIGURATION:
        return None
    last = walk.steps[-1]
    return last.under[-1] if last.stage == 1 else last
