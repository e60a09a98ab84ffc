"""Which entry is to blame for a misconfiguration."""

from __future__ import annotations

from ...formats.outcome import FaultKind
from ...tables.explain import Step, Walk
from ...tables.result import Fault


def misconfigured(walk: Walk) -> Step | None:
    """The step of either stage that ended the walk, if a misconfigured entry did."""
    fault = walk.result
    if not isinstance(fault, Fault) or fault.kind is not FaultKind.MISCONFIGURATION:
        return None
    last = walk.steps[-1]
    return last.under[-1] if fault.stage == 2 and last.stage == 1 else last


def misconfigured_at_stage_2(walk: Walk) -> Step | None:
    """The same, if stage 2 ended it."""
    last = misconfigured(walk)
    return last if last is not None and last.stage == 2 else None
