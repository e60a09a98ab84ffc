"""Results that show themselves in IPython and Jupyter: `%load_ext stage2.notebook`.

What a cell ends with is shown as the command line would show it: a walk step by step, tables as tables, kernel layouts
as pictures. The formatters are registered here by type, so that nothing below imports a renderer. Hosts, address
spaces, page tables and proofs show themselves without this (`self_drawn`); page tables get every entry beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from .formats.syndrome import FaultReport
from .hypervisor.layout import KernelLayout
from .inspect.audit.every import Audit
from .inspect.difference import Difference
from .inspect.inspection import Inspection
from .inspect.mapping import MapPart
from .inspect.translate import Translations
from .render.audit import render_audit
from .render.explain import EntryView, render_entry, render_fault
from .render.html import preformatted
from .render.layout import layout_svg
from .render.memory_map import map_lines, render_difference, translation_lines
from .render.plain import counted
from .render.report import render_vm_report
from .render.table_dump import render_page_table
from .render.tables import render_text, stack, table, text
from .render.walk import WalkView, compact_walk, render_walk
from .tables.explain import Walk
from .tables.mapping import Edit
from .tables.pagetable import PageTable
from .vm.report import VmReport

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["load_ipython_extension"]

WIDTH = 100
"""Columns of text in a cell's output."""
MOST_LINES = 200
"""Limit: ranges or addresses that a cell's output has; the rest is counted."""


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register how our results are shown; IPython calls this for `%load_ext stage2.notebook`."""
    formatter = shell.display_formatter
    assert formatter is not None, "every shell that runs cells has one"
    plain, rich, pictures = (formatter.formatters[kind] for kind in ("text/plain", "text/html", "image/svg+xml"))
    for kind, render in _TEXTS.items():
        plain.for_type(kind, _as_text(render))
        rich.for_type(kind, _as_html(render))
    rich.for_type(PageTable, _page_table_html)
    pictures.for_type(PageTable, lambda _: None)  # it is in the other
    for kind, draw in _PICTURES.items():
        pictures.for_type(kind, draw)


def edit_table(edit: Edit) -> RenderableType:
    """What an edit did to the tables, and the TLB invalidations that it owes."""
    heading = f"{counted(edit.tables_added, 'table')} added, {counted(edit.tables_freed, 'table')} freed"
    if not edit.owed:
        return text(f"{heading}; nothing is owed to the TLBs")
    rows = [
        (operation.name, "all" if operation.gpa is None else str(operation.gpa), operation.manual)
        for operation in edit.owed
    ]
    return stack([text(f"{heading}; owed to the TLBs:"), table(("operation", "GPAs", "manual"), rows)])


def map_part(part: MapPart) -> RenderableType:
    """Ranges of a map, the first of them if they are many."""
    return _first(map_lines([part.only(slice(MOST_LINES))]), len(part), "range")


def translations(found: Translations) -> RenderableType:
    """Where addresses lead, the first of them if they are many."""
    nested = bool((found.gpa != found.input).any())
    return _first(translation_lines(islice(found, MOST_LINES), nested=nested), len(found), "address", "addresses")


def inspection(found: Inspection) -> RenderableType:
    """A memory's roots, and what it could not tell."""
    rows = [(root.name, root.regime.format.name, f"{root.regime.root:#x}", root.where) for root in found.roots]
    heading = text(f"{found.source.name}: {counted(len(rows), 'root')}", "bold")
    roots = [table(("name", "format", "root", "from"), rows)] if rows else []
    return stack([heading, *roots, *(text(one) for one in found.notices)])


def _first(lines: Iterator[str], count: int, one: str, many: str | None = None) -> RenderableType:
    told = [text(line) for line in lines]
    rest = count - MOST_LINES
    return stack([*told, text(f"and {rest:,} more, of {counted(count, one, many)}")] if rest > 0 else told)


def _page_table(page_table: PageTable) -> RenderableType:
    return text(render_page_table(page_table.memory, page_table.regime).rstrip("\n"))


def _page_table_html(page_table: PageTable) -> str:
    """The picture of the tables, and behind a click every entry."""
    entries = preformatted(_page_table(page_table), WIDTH)
    return f"{page_table._repr_svg_() or ''}<details><summary>every entry</summary>{entries}</details>"


def _as_text(render: Callable[[Any], RenderableType]) -> Callable[[Any, Any, bool], None]:
    """IPython's form of a formatter of plain text."""

    def show(thing: Any, printer: Any, cycle: bool) -> None:
        printer.text(render_text(render(thing), width=WIDTH).rstrip("\n"))

    return show


def _as_html(render: Callable[[Any], RenderableType]) -> Callable[[Any], str]:
    """The same as HTML; rich's own way of showing things in Jupyter would show them a second time."""

    def show(thing: Any) -> str:
        return preformatted(render(thing), WIDTH)

    return show


_TEXTS: dict[type, Callable[[Any], RenderableType]] = {
    Audit: render_audit,
    Difference: render_difference,
    Edit: edit_table,
    EntryView: render_entry,
    FaultReport: render_fault,
    Inspection: inspection,
    MapPart: map_part,
    PageTable: _page_table,
    Translations: translations,
    VmReport: render_vm_report,
    Walk: compact_walk,
    WalkView: render_walk,
}
_PICTURES: dict[type, Callable[[Any], str]] = {KernelLayout: layout_svg}
