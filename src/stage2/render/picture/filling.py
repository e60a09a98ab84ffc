"""How much of a box is filled: what tables have of its addresses, in few steps of its height."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ...address import Range

STEPS = 4
"""How full a stretch can be; the last is full."""
_STRIPE = 2.0
"""Pixels, at least, of a stretch."""


@dataclass(frozen=True, slots=True)
class Fill:
    """A stretch of a box: where it begins below the box's upper edge, its height, and how full it is, of STEPS."""

    y: float
    height: float
    step: int


def fills(span: Range, height: float, cells: Sequence[tuple[Range, int]]) -> tuple[Fill, ...]:
    """The stretches of a box that have something in them.

    Args:
        span: its addresses.
        height: of the box, in pixels.
        cells: stretches of addresses in order, each with the bytes of it that are there.
    """
    stripes = max(1, int(height / _STRIPE))
    bytes_of = [0.0] * stripes
    for cell, size in cells:
        part = cell.intersection(span)
        if part is not None:
            share = size / cell.size
            for number, both in _stripes(span, part, stripes):
                bytes_of[number] += share * both
    each, stripe = span.size / stripes, height / stripes
    # What is full but for rounding is full; whatever is there is seen.
    steps = [0 if not one else max(1, int(STEPS * one / each + 1e-9)) for one in bytes_of]
    found: list[Fill] = []
    at = 0
    for step, run in groupby(steps):
        count = len(list(run))
        if step:
            found.append(Fill(at * stripe, count * stripe, min(step, STEPS)))
        at += count
    return tuple(found)


def _stripes(span: Range, part: Range, stripes: int) -> Iterator[tuple[int, float]]:
    """The stripes that a part of a span meets, with the bytes of it in each."""
    first = (part.start - span.start) * stripes // span.size
    last = (part.end - 1 - span.start) * stripes // span.size
    for number in range(first, last + 1):
        begin = span.start + number * span.size / stripes
        end = span.start + (number + 1) * span.size / stripes
        yield number, min(part.end, end) - max(part.start, begin)
