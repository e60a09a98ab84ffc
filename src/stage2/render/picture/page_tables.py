"""Tables as a page has them: runs of entries as numbers, and what is to be said of them, in words made here.

The page looks up and counts; every sentence and every field of an entry comes from the explained walk's own text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.text import Text

from ...formats.describe import FieldValue, describe_entry
from ...formats.outcome import LEAF, TABLE, EntryKind
from ...formats.record import Format
from ...processor import Processor
from ...prove.decoding import joined
from ...prove.source import TableSource
from ...prove.world import Scanned
from ...tables.explain import Walk, explain_stage
from ...tables.mapping import ATTRIBUTES, LEVEL_FIELD
from ...tables.regime import Regime
from ...tables.result import Mapped, permission_text
from ..levels import level_text
from ..walk import WalkView, entry_text, region_text, result_lines
from .entries import OUTSIDE, Entries, Run, Shape, entries_of

MOST_ROWS = 4096
"""Limit: joined ranges of a space that stand for entries that are left out."""
_MOST_READ = 1 << 18
"""Limit: ranges and scattered leaves that are joined to see how many are left."""
GPA_HOLE, HPA_HOLE = "{gpa}", "{hpa}"
"""What stands for addresses in sentences: names come from outside, but not into these."""


@dataclass(frozen=True, slots=True)
class Tabled:
    """A space's tables for a page.

    Args:
        data: as JSON.
        left_out: what is not there, a sentence; empty if all is.
    """

    data: dict[str, Any]
    left_out: str


class Shapes:
    """What is said of entries, each text once for all spaces of a page."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}

    def number(self, shape: dict[str, Any]) -> int:
        """The number of a text."""
        key = repr(shape)
        if key not in self._numbers:
            self._numbers[key] = len(self.listed)
            self.listed.append(shape)
        return self._numbers[key]


def tabled(scanned: Scanned, processor: Processor | None, shapes: Shapes, most: int) -> Tabled:
    """A space's tables.

    Args:
        scanned: a VM's space.
        processor: what they are for; None for no particular one.
        shapes: gets what is to be said.
        most: runs that there may be.
    """
    regime, source = scanned.space.regime, scanned.source
    fmt = regime.format
    entries = entries_of(regime, source, most)
    numbers = [shapes.number(_told(shape, regime, source, processor)) for shape in entries.shapes]
    wide = explain_stage(source, regime, 1 << fmt.input_bits)
    whole = explain_stage(source, regime, 0)
    nowhere = not whole.steps and entries.shapes[entries.levels[-1].runs[0].shape].kind != OUTSIDE
    data: dict[str, Any] = {
        "format": f"{fmt.name}: {fmt.title}",
        "root": f"{regime.root:x}",
        "bits": fmt.input_bits,
        "wide": _lines(WalkView(wide, regime, processor=processor)),
        # A root that hardware cannot use: no entry is read.
        "always": _lines(WalkView(whole, regime, processor=processor)) if nowhere else None,
        "entry": fmt.entry_size,
        "levels": [
            {
                "name": level_text(fmt, number),
                "shift": fmt.level_shift(number),
                "index": fmt.index_bits(number),
                "words": [f"{fmt.pack_address(step):x}" for step in _steps(fmt, number)],
                "steps": [f"{step:x}" for step in _steps(fmt, number)],
                "until": None if level.until is None else f"{level.until:x}",
                "runs": ";".join(_run(run, numbers) for run in level.runs),
            }
            for number, level in enumerate(entries.levels)
        ],
        "rows": None,
    }
    left_out = ""
    if entries.until is not None:
        data["rows"], left_out = _left_out(entries, scanned)
    return Tabled(data, left_out)


def _steps(fmt: Format, level: int) -> tuple[int, int, int]:
    return 0, fmt.leaf_size(level), fmt.table_size


def _run(run: Run, numbers: Sequence[int]) -> str:
    parts = [run.first, run.count, run.grows, run.word, run.output, numbers[run.shape]]
    return " ".join(f"{part:x}" for part in (parts if run.hpa is None else [*parts, run.hpa]))


def _told(shape: Shape, regime: Regime, source: TableSource, processor: Processor | None) -> dict[str, Any]:
    """All that is said of entries of a shape."""
    walk = explain_stage(source, regime, shape.address)
    view = WalkView(walk, regime, processor=processor)
    if shape.kind == OUTSIDE:
        return {"kind": "outside", "lines": _lines(view)}
    step = next(one for one in walk.steps if one.level == shape.level)
    meaning = entry_text(view, step)
    hole = shape.kind in (LEAF, TABLE)
    told: dict[str, Any] = {
        "kind": EntryKind(shape.kind).name.lower(),
        "meaning": meaning.removesuffix(f"{step.output:#x}") if hole else meaning,
        "address": hole,
        "allows": permission_text(step.permissions) if hole else None,
        "fields": _fields(shape, regime),
    }
    if shape.kind != TABLE:
        told["lines"] = _lines(view)
    return told


def _lines(view: WalkView) -> list[str]:
    """How a walk ended, with holes for its addresses; the region is not said here."""
    walk: Walk = view.walk
    found = [line.plain for line in result_lines(view) if isinstance(line, Text)]
    found[0] = found[0].replace(f"GPA {walk.address:#x}", f"GPA {GPA_HOLE}")
    if isinstance(walk.result, Mapped):
        found[0] = found[0].replace(f"HPA {walk.result.hpa:#x}", f"HPA {HPA_HOLE}")
    return [line for line in found if line != region_text(None)]


def _fields(shape: Shape, regime: Regime) -> list[list[Any]]:
    """Bits, name, meaning, whether it is reserved, and whether it is told at zero: of every field of an entry.

    Those that hold a part of the address are there whatever it is, and the page reads them out of the entry.
    """

    def described(entry: int) -> list[FieldValue]:
        return describe_entry(regime.format, entry, shape.level, shape.kind, regime.controls)

    def varies(value: FieldValue) -> bool:
        high, _, low = value.bits.rpartition(":")
        return bool(shape.varies >> int(low) & (1 << (int(high or low) - int(low) + 1)) - 1)

    fixed = [one for one in described(shape.word) if not varies(one)]
    at_zero = {one.bits for one in described(shape.word & ~shape.varies)}
    moving = [one for one in described(shape.word | shape.varies) if varies(one)] if shape.varies else []
    every = sorted([*fixed, *moving], key=lambda one: int(one.bits.rpartition(":")[2]))
    return [[one.bits, one.name, one.meaning, one.reserved, one.bits in at_zero or not varies(one)] for one in every]


def _left_out(entries: Entries, scanned: Scanned) -> tuple[list[list[str]] | None, str]:
    """The joined ranges that stand for what is left out, if they are few, and a sentence."""
    until, regime = entries.until, entries.regime
    assert until is not None, "something is left out"
    fmt = regime.format
    levels = ", ".join(f"{level_text(fmt, number)} from GPA {at:#x} on" for number, at in entries.left_out.items())
    found = scanned.scan
    said = (
        f"Left out, so that this page stays small: the entries of {levels} "
        f"(the space has {len(found.tables):,} tables with {found.leaves:,} leaves)"
    )
    many = len(found.rows) + sum(kind.leaves for kind in found.scattered)
    rows = found.rows
    if found.scattered and many < _MOST_READ:
        rows = np.concatenate([rows, *(leaves for kind in found.scattered for leaves in scanned.rows_of(kind))])
        rows = joined(rows[np.argsort(rows[:, 0])])
    rows = rows[rows[:, 0] + rows[:, 2] > until]
    if many >= _MOST_READ or len(rows) > MOST_ROWS:
        return None, f"{said}, and their joined ranges, which are many. `stage2 walk` tells of any address."
    told = []
    for start, hpa, size, attributes in rows.tolist():
        granted = permission_text(fmt.permissions(attributes & ATTRIBUTES, regime.controls))
        told.append([f"{start:x}", f"{hpa:x}", f"{size:x}", granted, level_text(fmt, attributes >> LEVEL_FIELD)])
    return told, f"{said}. The joined ranges are here instead, and `stage2 walk` tells the entries of any address."
