"""Who reaches an address: from host or guest memory back to all input addresses, through all roots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..address import Range
from ..prove.packing import U64Array
from .listing import Progress
from .mapping import MapPart, MapRange, map_parts
from .root import Root
from .source import MemorySource
from .through import NOWHERE


@dataclass(frozen=True, slots=True)
class Reach:
    """Addresses of one root that reach a stretch of memory.

    Args:
        root: through which.
        range: the addresses, cut to what was asked.
    """

    root: Root
    range: MapRange


def reach(
    source: MemorySource,
    roots: Sequence[Root],
    wanted: Range,
    kind: str = "hpa",
    progress: Progress | None = None,
) -> Iterator[Reach]:
    """All input addresses that lead to some memory, root by root.

    Args:
        source: host physical memory.
        roots: through which; those of stage 1 with the stage 2 that they are under.
        wanted: the addresses.
        kind: what they are: "hpa", or "gpa" for roots that go through GPAs.
        progress: told of long work.

    Raises:
        SourceError: tables lead to each other in circles, or the source can no longer be read.
    """
    for root in roots:
        first, second = (root, root.under) if root.stage == 1 else (None, root)
        if kind == "gpa" and second is None:
            continue
        for part in map_parts(source, first, second, progress=progress):
            for found in _overlapping(part, wanted, kind).told():
                yield Reach(root, found)


def _overlapping(part: MapPart, wanted: Range, kind: str) -> MapPart:
    """The ranges that lead to some of the addresses, cut to them."""
    where = part.output if kind == "hpa" else part.middle
    last = where + (part.size - np.uint64(1))
    hit = (where <= np.uint64(wanted.end - 1)) & (last >= np.uint64(wanted.start))
    if kind == "hpa":
        hit &= part.output != np.uint64(NOWHERE)
    some = part.only(hit)
    if not len(some):
        return some
    where, last = where[hit], last[hit]
    low = np.maximum(where, np.uint64(wanted.start))
    size = np.minimum(last, np.uint64(wanted.end - 1)) - low + np.uint64(1)
    offset = low - where
    return replace(
        some, start=some.start + offset, middle=some.middle + offset, output=_moved(some.output, offset), size=size
    )


def _moved(output: U64Array, offset: U64Array) -> U64Array:
    return np.where(output == np.uint64(NOWHERE), output, output + offset)
