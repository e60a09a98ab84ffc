"""How good a root is, and why, in sentences: what was counted in all tables below it, weighed.

The same bytes decode under several formats. What tells them apart are the leaves: pages that nobody could read, memory
that would not be cached, or be for one CPU alone, leaves that lead to tables of a level too few, reserved bits. Each
makes a format less likely by a factor; what is mapped makes a root more likely, whatever the format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log2

from ...address import SIZE_4K, format_size
from ...formats.record import Format
from .column import Column
from .frames import Floats

_WHOLE = 20
"""log2 of the pages from which on a root is as large as it need be for full marks (4 GiB)."""
_FEW = 8
"""Leaves from which on it tells something that none of them is writable."""
BASE, SIZE, NAMED = 0.6, 0.25, 0.15
"""What a sound root has; what size adds; what is added where something names it."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the tables of a root say.

    Args:
        quality: how well all entries fit the format, 0 to 1.
        size: how much is mapped, 0 to 1.
        reasons: sentences without a full stop, the weightiest first.
    """

    quality: float
    size: float
    reasons: tuple[str, ...]

    @property
    def score(self) -> float:
        """0 to 1, where nothing names the root."""
        return self.quality * (BASE + SIZE * self.size)


def judged(fmt: Format, totals: Floats) -> Judgement:
    """Judge a root.

    Args:
        fmt: the format.
        totals: what is counted in the root and below it.
    """
    leaves, size = float(totals[Column.LEAVES]), float(totals[Column.BYTES])
    if not leaves:
        return Judgement(0.0, 0.0, ("nothing is mapped",))
    quality = 1.0
    told = [(0.0, _extent(totals))]
    for part, weight, sentence in _doubts(fmt, totals):
        if part <= 0:
            continue
        factor = 1 - weight * min(part, 1.0)
        quality *= factor
        told.append((factor, sentence))
    ordered = [sentence for _, sentence in sorted(told, key=lambda pair: pair[0])]
    return Judgement(quality, min(1.0, log2(1 + size / SIZE_4K) / _WHOLE), tuple(ordered))


def _extent(totals: Floats) -> str:
    tables, size = int(totals[Column.TABLES]), int(totals[Column.BYTES])
    share = totals[Column.INSIDE] / totals[Column.LEAVES]
    where = (
        "all inside the memory" if share == 1
        else f"{share:.1%} of the leaves inside the memory" if share else "none of it inside the memory"
    )  # fmt: skip
    return f"{tables:,} table{'s' * (tables != 1)}, {format_size(size)} mapped, {where}"


def _doubts(fmt: Format, totals: Floats) -> Iterator[tuple[float, float, str]]:
    """What speaks against a format: the part of the entries that is so, how much that weighs, and a sentence."""
    counted = {column: float(totals[column]) for column in Column}
    leaves, present = counted[Column.LEAVES], counted[Column.PRESENT]
    inside = max(counted[Column.INSIDE], 1.0)
    wrong, lost = counted[Column.WRONG], counted[Column.LOST]
    yield wrong / present * 2, 0.9, f"{_of(wrong, present)} entries {_has(wrong)} reserved bits"
    yield lost / present * 2, 0.9, f"{_of(lost, present)} entries {_leads(lost)} to what is no table"
    remains = counted[Column.REMAINS]
    yield (
        remains / (present + remains), 0.5,
        f"{remains:,.0f} word{'s' * (remains != 1)} between the entries mean nothing to hardware",
    )  # fmt: skip
    outside, pairs = 1 - counted[Column.INSIDE] / leaves, counted[Column.PAIRS]
    ragged = 1 - counted[Column.EVEN] / pairs if pairs else 1.0
    # Devices are mapped in stretches; words that are no entries lead anywhere.
    yield outside, 0.1 + 0.5 * ragged, "some leaves lead outside the memory, as to devices"
    yield float(outside == 1), 0.5, "no leaf leads into the memory"
    closed = counted[Column.CLOSED]
    yield closed / leaves, 0.95, f"{_of(closed, leaves)} leaves let nobody read"
    if leaves >= _FEW:
        yield float(counted[Column.WRITABLE] == 0), 0.5, "no leaf is writable"
    if fmt.stage == 2:
        read_only = leaves - counted[Column.WRITABLE]
        yield (
            read_only / leaves,
            0.3,
            f"{_of(read_only, leaves)} leaves {_is(read_only)} read-only, which is rare at stage 2",
        )
    uncached, unshared = counted[Column.UNCACHED], counted[Column.UNSHARED]
    yield uncached / inside, 0.5, f"{_of(uncached, inside)} leaves into the memory are not cached"
    yield unshared / inside, 0.4, f"{_of(unshared, inside)} leaves into the memory are for one CPU alone"
    if fmt.stage == 1 and counted[Column.USER] == leaves and not fmt.high_half:
        yield 1.0, 0.15, "every page is a user page"
    unused, pointers = counted[Column.UNUSED], max(counted[Column.POINTERS], 1.0)
    yield unused / pointers, 0.3, f"{_of(unused, pointers)} tables were never walked"
    astray = counted[Column.TO_TABLES] / leaves
    yield (astray if astray > 0.3 else 0.0), 0.8, f"{astray:.0%} of the leaves lead to tables: a level is missing"
    if pairs >= 16:
        yield (
            1 - counted[Column.EVEN] / pairs,
            0.12,
            "some leaves beside each other do not lead to pages beside each other",
        )


def _of(some: float, all_of_them: float) -> str:
    return f"{some:,.0f} of {all_of_them:,.0f}"


def _is(count: float) -> str:
    return "is" if count == 1 else "are"


def _has(count: float) -> str:
    return "has" if count == 1 else "have"


def _leads(count: float) -> str:
    return "leads" if count == 1 else "lead"
