"""`--cpu list`: the processors that have a name, and the parts of which they are made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..processor import Parts, Processor


def render_processors(processors: Sequence[Processor]) -> Group:
    """The processors of one architecture, then what may be changed of them."""
    parts = processors[0].parts
    table = Table(title=f"Processors of {parts.arch}", title_justify="left", box=None, pad_edge=False)
    for column in ("--cpu", "vendor", *parts.numbers, "features", "from"):
        table.add_column(column, overflow="fold")
    for processor in processors:
        missing = [name for name in parts.features if name not in processor.features]
        features = "all" if not missing else " ".join(name for name in parts.features if name in processor.features)
        numbers = [str(processor.numbers[name]) for name in parts.numbers]
        table.add_row(processor.name, processor.vendor, *numbers, features or "none", processor.source)
    return Group(table, Text(""), _parts_table(parts), Text(""))


def _parts_table(parts: Parts) -> Table:
    table = Table(box=None, pad_edge=False, title="Parts: change one with NAME,part=value or NAME,+part,-part",
                  title_justify="left")  # fmt: skip
    for column in ("part", "meaning", "software finds it in"):
        table.add_column(column, overflow="fold")
    for name, number in parts.numbers.items():
        table.add_row(f"{name}=N", f"{number.meaning}, {number.least} to {number.most}", number.manual)
    for name, feature in parts.features.items():
        table.add_row(name, feature.meaning, feature.manual)
    return table


def processors_json(architectures: Iterable[Sequence[Processor]]) -> list[dict[str, Any]]:
    """The processors of some architectures for programs."""
    return [
        {
            "name": processor.name,
            "arch": processor.arch,
            "vendor": processor.vendor,
            "features": {name: name in processor.features for name in processor.parts.features},
            "numbers": dict(processor.numbers),
            "source": processor.source,
        }
        for processors in architectures
        for processor in processors
    ]
