"""What a crash's text was understood to say, and each fault in it, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ..crash.names import LEVEL
from ..crash.page_tables import PageTables, understand
from ..crash.reading import Event, Reading
from ..formats.syndrome import FaultReport
from .explain import fault_json, render_fault
from .page_tables import page_tables_json, render_page_tables
from .tables import stack, text

_CALLED = {"esr": "the ESR", "error": "the error code"}


def render_crash(told: Sequence[tuple[Event, FaultReport]], reading: Reading) -> Group:
    """Every fault after the registers it is told by, and what was left aside."""
    parts: list[RenderableType] = []
    for number, (event, report) in enumerate(told, 1):
        if number > 1:
            parts.append(Text())
        which = f"fault {number} of {len(told)}, line {event.line}: " if len(told) > 1 else ""
        parts.append(text(which + _given(event), "dim"))
        parts += [text(note, "yellow") for note in event.notes]
        parts.append(render_fault(report))
        if (tables := _tables(event, report)) is not None:
            parts += render_page_tables(tables)
    asides = [f"Not needed beside {_CALLED[key]}: {', '.join(names)}." for key, names in reading.repeated.items()]
    if reading.ignored:
        asides.append(f"Ignored, it says nothing of a fault: {', '.join(reading.ignored)}.")
    if asides:
        parts += [Text(), *(text(aside, "dim") for aside in asides)]
    return stack(parts)


def _tables(event: Event, report: FaultReport) -> PageTables | None:
    if event.dump is None or not event.dump.entries:
        return None
    return understand(event.dump, report.arch, report.gva)


def _given(event: Event) -> str:
    return ", ".join(f"{key}={value}" if key == LEVEL else f"{key}={value:#x}" for key, value in event.values.items())


def crash_json(told: Sequence[tuple[Event, FaultReport]], reading: Reading) -> dict[str, Any]:
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
            "page_tables": None if (tables := _tables(event, report)) is None else page_tables_json(tables),
        }
        for event, report in told
    ]
    repeated = [name for names in reading.repeated.values() for name in names]
    return {**events[0], "events": events, "ignored": list(reading.ignored), "repeated": repeated}
