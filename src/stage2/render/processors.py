"""`--cpu list`: the processors that have a name, and the parts of which they are made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from ..processor import Parts, Processor
from .adaptive import PROSE, Adaptive, Field
from .tables import rows_under, stack, text


def render_processors(processors: Sequence[Processor]) -> Group:
    """The processors of one architecture, then what may be changed of them."""
    parts = processors[0].parts
    rows = []
    for processor in processors:
        missing = [name for name in parts.features if name not in processor.features]
        features = "all" if not missing else " ".join(name for name in parts.features if name in processor.features)
        numbers = [str(processor.numbers[name]) for name in parts.numbers]
        rows.append((processor.name, processor.vendor, *numbers, features or "none", processor.source))
    columns = [
        Field("--cpu"), Field("vendor"), *(Field(name, right=True) for name in parts.numbers),
        Field("features", wraps=True), Field("from", wraps=True),
    ]  # fmt: skip
    changes = "Parts: change one with NAME,part=value or NAME,+part,-part"
    return stack((
        text(f"Processors of {parts.arch}", "italic"), rows_under(columns, rows), Text(),
        text(changes, "italic"), _parts_table(parts), Text(),
    ))  # fmt: skip


def _parts_table(parts: Parts) -> Adaptive:
    rows = [
        (f"{name}=N", f"{number.meaning}, {number.least} to {number.most}", number.manual)
        for name, number in parts.numbers.items()
    ]
    rows += [(name, feature.meaning, feature.manual) for name, feature in parts.features.items()]
    columns = (Field("part"), Field("meaning", wraps=True, least=PROSE), Field("software finds it in", wraps=True))
    return rows_under(columns, rows)


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
