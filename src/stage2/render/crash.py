"""What a crash's text was understood to say, and each fault in it, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ..crash.names import LEVEL
from ..crash.reading import Event
from ..formats.syndrome import FaultReport
from .explain import fault_json, render_fault
from .tables import stack, text


def render_crash(told: Sequence[tuple[Event, FaultReport]], ignored: Sequence[str]) -> Group:
    """Every fault after the registers it is told by, and what was left aside."""
    parts: list[RenderableType] = []
    for number, (event, report) in enumerate(told, 1):
        if number > 1:
            parts.append(Text())
        which = f"fault {number} of {len(told)}, line {event.line}: " if len(told) > 1 else ""
        parts.append(text(which + _given(event), "dim"))
        parts += [text(note, "yellow") for note in event.notes]
        parts.append(render_fault(report))
    if ignored:
        parts += [Text(), text("Ignored, it says nothing of a fault: " + ", ".join(ignored) + ".", "dim")]
    return stack(parts)


def _given(event: Event) -> str:
    return ", ".join(f"{key}={value}" if key == LEVEL else f"{key}={value:#x}" for key, value in event.values.items())


def crash_json(told: Sequence[tuple[Event, FaultReport]], ignored: Sequence[str]) -> dict[str, Any]:
    """The first fault as `fault_json` has it, with all of them under `events`."""
    events = [
        {
            **fault_json(report),
            "line": event.line,
            "given": {
                name: number
                for key, value in event.values.items()
                for name, number in ((key, value), (f"{key}_hex", f"{value:#x}"))
            },
            "notes": list(event.notes),
        }
        for event, report in told
    ]
    return {**events[0], "events": events, "ignored": list(ignored)}
