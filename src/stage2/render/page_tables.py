"""Page tables that a crash's text dumps: which entry is absent, and how to have the last one explained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from ..crash.page_tables import DumpedEntry, PageTables
from .levels import level_text
from .tables import facts, indented, text, unbroken


def page_table_sentences(tables: PageTables) -> Iterator[str]:
    """What a dump says, most important first."""
    absent, last = tables.absent, tables.last
    if absent is not None:
        why = "it is 0" if not absent.value else "bit 0 is clear"
        yield f"The entry {_called(tables, absent)} is absent: {why}."
    if last is not None and absent is not None:
        yield f"The last entry that is there is {_called(tables, last)}."
    elif last is not None and last.name == "pte":
        yield "Every entry on the way is there."
    elif last is not None:
        yield f"The dump ends with {_called(tables, last)}, which is there: a block, or no table that Linux follows."
    elif absent is not None and absent.name == "pgd":
        yield "It stands in the root table: no entry is left to explain."
    else:
        yield "No entry above it is dumped."
    if tables.unknown:
        more = f"; with them: stage2 explain entry --format FORMAT --level LEVEL {last.value:#x}" if last else ""
        yield f"Format and levels of these entries are not known: {tables.unknown}{more}."


def entry_command(tables: PageTables) -> str | None:
    """The command that explains the last entry that is there; None where the format is not known, or there is none."""
    last = tables.last
    if tables.fmt is None or last is None or last.level is None:
        return None
    return f"stage2 explain entry --format {tables.fmt.name} --level {last.level} {last.value:#x}"


def render_page_tables(tables: PageTables) -> list[RenderableType]:
    """A heading, the sentences and the entries."""
    of = "" if tables.address is None else f" of {tables.address:#x}"
    named = "" if tables.fmt is None else f" ({tables.fmt.name})"
    rows = []
    for entry in tables.entries:
        where = "" if entry.level is None else f"  {level_text(tables.fmt, entry.level)}"
        rows.append((entry.name, f"{entry.value:#018x}{where}"))
    parts: list[RenderableType] = [
        Text(),
        text(f"page tables{of}{named}", "bold"),
        *(text(sentence) for sentence in page_table_sentences(tables)),
    ]
    if (command := entry_command(tables)) is not None:
        # On a line of its own it can be copied whole.
        parts += [text("What it says:"), unbroken(command)]
    return [*parts, indented(facts(rows))]


def page_tables_json(tables: PageTables) -> dict[str, Any]:
    """The same as a JSON object."""
    return {
        "address": tables.address,
        "format": None if tables.fmt is None else tables.fmt.name,
        "entries": [
            {
                "name": entry.name,
                "level": entry.level,
                "value": entry.value,
                "value_hex": f"{entry.value:#x}",
                "present": entry.present,
            }
            for entry in tables.entries
        ],
        "absent": None if tables.absent is None else tables.absent.name,
        "sentences": list(page_table_sentences(tables)),
        "command": entry_command(tables),
    }


def _called(tables: PageTables, entry: DumpedEntry) -> str:
    return entry.name if entry.level is None else f"{entry.name} at {level_text(tables.fmt, entry.level)}"
