"""The directive `public-names`: every name of the package root, by what it is about.

The list is the package's own, so a name that is added there is in the reference at the next build.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import stage2

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Address spaces": ("space",),
    "Tables and walks": ("tables",),
    "Host memory": ("memory",),
    "A guest's memory": ("guest",),
    "VMs and hosts": ("vm", "config", "engines"),
    "Memory that others made": ("inspect",),
    "Formats and processors": ("formats", "processor"),
    "TLBs": ("tlb",),
    "The hypervisor itself": ("hypervisor",),
    "Addresses, flags and errors": ("address", "flags", "ranges", "errors"),
}
"""Heading -> rooms of the package, in the order in which they are read."""
OTHERS = "Others"


def groups() -> dict[str, list[str]]:
    """Heading -> the public names under it; every name stands under one."""
    found: dict[str, list[str]] = {heading: [] for heading in (*GROUPS, OTHERS)}
    for name in stage2.__all__:
        if name.startswith("__"):
            continue
        room = str(getattr(getattr(stage2, name), "__module__", "")).removeprefix("stage2.").partition(".")[0]
        found[next((heading for heading, rooms in GROUPS.items() if room in rooms), OTHERS)].append(name)
    return {heading: names for heading, names in found.items() if names}


def _directive(name: str) -> Iterator[str]:
    thing = getattr(stage2, name)
    if inspect.isclass(thing):
        yield f".. autoclass:: stage2.{name}"
        yield "   :members:"
        # A record's fields are among the arguments of its class; members of an enumeration stand nowhere else.
        if issubclass(thing, Enum):
            yield "   :undoc-members:"
    else:
        yield f".. {'autofunction' if inspect.isroutine(thing) else 'autodata'}:: stage2.{name}"
    yield ""


class PublicNames(SphinxDirective):
    """Takes no argument: a section for every group, with what autodoc says of each name."""

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        for heading, names in groups().items():
            lines += [f"## {heading}", "", "```{eval-rst}"]
            for name in sorted(names):
                lines += _directive(name)
            lines += ["```", ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
